"""Becomes a Python program that ends, by SIGTERM, when the process ends that started it.

    python child.py PARENT_PID PROGRAM.py [ARGUMENTS]

Linux sends the signal itself, also after a SIGKILL of the parent. Elsewhere this process stays between the
two: its stdin is a pipe, which the parent holds open and never writes. It imports little, as every trial
waits for it.
"""
import os
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1


def become(parent: int, command: list[str]) -> None:
    """Runs a command in this process's place, on Linux."""
    import ctypes  # here: it takes 5 ms

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has ended before the call
        sys.exit(128 + signal.SIGTERM)
    os.execv(command[0], command)


def run_beside(command: list[str]) -> int:
    """Runs a command, ends it at the end of stdin, passes SIGTERM on, and returns its exit code."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())

    def watch() -> None:
        sys.stdin.buffer.read()
        process.terminate()

    threading.Thread(target=watch, daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    program = [sys.executable, *sys.argv[2:]]
    if sys.platform == "linux":
        become(int(sys.argv[1]), program)
    sys.exit(run_beside(program))
