"""`python` for many short programs: a server that has imported the libraries already, and a client that stands in for python.

    python tests/warm_python.py SOCKET                          # the server; it ends with its standard input
    python tests/warm_python.py SOCKET train.py -c FILE         # what `python train.py -c FILE` does, 3 s of CPU time sooner

Every program is a process of its own: forked from the server, which has imported nothing of the project, in the client's
folder and environment. So it finds the files that are there when it begins, and leaves nothing behind. Other than the programs
of tests/warm.py it can be started by a shell, is warm in what it starts itself, and ends without taking the libraries down.
"""
import contextlib
import gc
import importlib
import json
import os
import sys


def ask(address: str, arguments: list[str]) -> int:
    """The client: has the server run `python ARGUMENTS`, and returns the exit code, or dies of the signal that ended it."""
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        request = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(server, [len(request).to_bytes(8, "big")], [1, 2])
        server.sendall(request)
        code = int(server.recv(8) or b"1")
    if code < 0:
        os.kill(os.getpid(), -code)
    return code


def serve(address: str) -> None:
    """The server: a process for each client, until standard input ends."""
    import select
    import socket

    for module in ("torch.utils.tensorboard", "torchmetrics", "torchvision.transforms.v2"):
        importlib.import_module(module)

    gc.freeze()  # the collector of a fork needs not touch, and so copy, all that was imported
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
            client, _ = server.accept()
            if not os.fork():
                server.close()
                answer(client)
            client.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    os._exit(0)  # without taking the libraries down, which takes longer than many a program


def answer(client) -> None:
    """Runs what a client asks for in a further process, and tells it the exit code; does not return."""
    import socket

    size, outputs, *_ = socket.recv_fds(client, 8, 2)
    request = b""
    while len(request) < int.from_bytes(size, "big"):
        request += client.recv(1 << 16)
    if not (program := os.fork()):
        client.close()
        for number, output in enumerate(outputs, start=1):
            os.dup2(output, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        run(*json.loads(request))
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    client.sendall(str(code).encode())
    os._exit(0)


def run(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """`python ARGUMENTS`, where these begin with a file, `-m MODULE` or `-c CODE`; does not return."""
    import runpy
    import shutil
    import traceback

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = shutil.which("python") or sys.executable  # what the program starts is warm, too
    code = 0
    try:
        if arguments[0] == "-m":
            sys.argv, sys.path[0] = arguments[1:], folder
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv, sys.path[0] = ["-c", *arguments[2:]], folder
            exec(compile(arguments[1], "<block>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.abspath(arguments[0]))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[2:]:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
    serve(sys.argv[1])
