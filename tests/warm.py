"""Starts programs in processes that have imported torch already: an import takes two seconds, and the tests start dozens.

A helper imports torch, and nothing of the project, and forks for every program: a process of its own, in a session of its
own, with its own arguments, environment, files, signals, interpreter exit and exit code. What start-up costs, and what it
imports, is not to be tested so. Linux only.
"""
import functools
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import types
from pathlib import Path


def can_be_warm(args: list) -> bool:
    """Whether `python ARGS` is a command that can be begun so."""
    return sys.platform == "linux" and (args[0] in ("-c", "-m") or Path(args[0]).suffix == ".py")


def run_warm(args: list, cwd: Path, timeout: float) -> subprocess.CompletedProcess:
    """`python ARGS`, to its end or for `timeout` seconds."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = WarmProcess(args, cwd, os.environ, stdout, stderr)
        try:
            process.wait(timeout)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        for file in (stdout, stderr):
            file.seek(0)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout.read(), stderr.read())


class WarmProcess:
    """`python ARGS`, where ARGS begin with a file, -c or -m: of `subprocess.Popen` what the tests need."""

    def __init__(self, args: list, cwd: Path, env: dict, stdout, stderr):
        self.args, self.returncode = [*map(str, args)], None
        request = json.dumps([self.args, str(cwd), dict(env)]).encode()
        self._answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, open(os.devnull) as nothing:
            files = [file.fileno() for file in (nothing, stdout, stderr, theirs)]
            try:
                socket.send_fds(_helper(), [request], files)
            except BrokenPipeError:  # it was killed, perhaps for want of memory
                _helper.cache_clear()
                socket.send_fds(_helper(), [request], files)
        self.pid = int(self._answers.recv(64))

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._answers.settimeout(timeout)
            try:
                self.returncode = int(self._answers.recv(64))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout) from None
            self._answers.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


@functools.cache
def _helper() -> socket.socket:
    """Where it takes requests; it ends when this process does."""
    requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen([sys.executable, __file__], stdin=theirs, stdout=subprocess.DEVNULL, start_new_session=True)
    return requests


def serve(requests: socket.socket) -> None:
    """Forks for each request: first a process that waits for the program and tells its number and exit code, then that."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # of those that wait
    while (received := socket.recv_fds(requests, 1 << 20, 4))[0]:
        request, files = received[:2]
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if (number := os.fork()) == 0:
                return begin(*json.loads(request), files)
            answers = socket.socket(fileno=files[-1])
            answers.send(str(number).encode())
            code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
            try:
                answers.send(str(code).encode())
            finally:
                os._exit(0)
        for file in files:
            os.close(file)


def begin(args: list[str], cwd: str, env: dict, files: list[int]) -> None:
    """Makes this process what `python ARGS` would make of it."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    numpy.random.seed()  # torch and random see to it themselves
    if args[0] == "-m":
        sys.argv, sys.path[0] = args[1:], cwd
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    elif args[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *args[2:]], ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(args[1], "<string>", "exec"), vars(main))
    else:
        sys.argv, sys.path[0] = args, str(Path(args[0]).resolve().parent)
        runpy.run_path(args[0], run_name="__main__")


if __name__ == "__main__":
    import numpy
    import torch._dynamo  # noqa: F401
    import torchvision.transforms.v2  # noqa: F401

    gc.freeze()  # else the collector of each fork, when it ends, goes through all of that: half a second and more
    serve(socket.socket(fileno=0))
