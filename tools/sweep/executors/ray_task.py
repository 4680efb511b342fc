"""What Ray runs on a node: a program, until its end. It is sent by value, so a node needs no code of ours.

It polls, as Ray's cancelling interrupts no waiting in the system. Only plain values go back and forth.
"""
import os
import signal
import socket
import subprocess
import sys
import time
from importlib import metadata

_POLL_S = 0.1


def run_program(child: str, argv: list[str], env: dict[str, str], log: str, folder: str) -> dict:
    """Runs `python *argv` in `folder` by `child` (see child.py), its output appended to `log`.

    Returns the fields of an Outcome. An interrupt is passed on as SIGTERM, and the program then saves.
    """
    process, node = None, socket.gethostname()
    command = [sys.executable, child, str(os.getpid()), *argv]
    # elsewhere than on Linux child.py waits for the end of its stdin
    stdin = subprocess.DEVNULL if sys.platform == "linux" else subprocess.PIPE
    try:
        with open(log, "ab") as output:
            process = subprocess.Popen(command, stdin=stdin, stdout=output, stderr=output, cwd=folder,
                                       env={**os.environ, **env}, start_new_session=True)
        while process.poll() is None:
            time.sleep(_POLL_S)
    except OSError as error:
        return {"code": None, "node": node, "text": f"{error.filename}: {error.strerror}"}
    except KeyboardInterrupt:
        if process is None:
            os._exit(1)  # it may just have begun, and ends with this process
        process.terminate()
        process.wait()
    if process.returncode >= 0:
        return {"code": process.returncode, "node": node, "text": ""}
    return {"code": None, "node": node, "text": f"killed by {signal.Signals(-process.returncode).name}"}


def describe_node(folder: str, packages: list[str]) -> dict:
    """The node's name, its versions, and whether it has the folder."""
    found = {"python": sys.version.split()[0]}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return {"node": socket.gethostname(), "versions": found, "has_folder": os.path.isdir(folder)}
