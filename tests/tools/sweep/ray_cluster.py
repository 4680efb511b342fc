"""A Ray cluster of nodes on this machine, and its processes."""
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}


class Cluster:
    """Nodes that live until `close`, with a token of their own: a test must not meet another cluster."""

    def __init__(self, folder: Path):
        self.temp = tempfile.TemporaryDirectory(prefix="r", dir="/tmp")  # names of sockets are short
        token = folder / "token"
        token.write_text("a" * 32)
        self.env = {**TOKEN, "RAY_AUTH_TOKEN_PATH": str(token)}
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.nodes, self.log = [], folder / "nodes.log"
        self.add("--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self.temp.name}")

    @property
    def address(self) -> str:
        return f"{socket.gethostbyname(socket.gethostname())}:{self.port}"

    def add(self, *options: str) -> int:
        """Starts a node with one CPU; returns the pid that its processes have as their parent."""
        command = [Path(sys.executable).with_name("ray"), "start", "--num-cpus=1", "--block", *options]
        with self.log.open("ab") as log:
            node = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **self.env},
                                    start_new_session=True)
        self.nodes.append(node)
        wait_for(lambda: raylet_of(node.pid) or node.poll() is not None, 60)
        assert node.poll() is None, self.log.read_text()
        return node.pid

    def close(self) -> None:
        for node in self.nodes:
            pids = [node.pid, *descendants(node.pid)]
            for pid in pids:
                kill(pid)
            node.wait()
        self.temp.cleanup()


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def parents() -> dict[int, int]:
    """The parent of each process."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
        except OSError:
            pass
    return found


def descendants(pid: int) -> list[int]:
    found, of = [pid], parents()
    for one in found:
        found += [child for child, parent in of.items() if parent == one]
    return found[1:]


def raylet_of(pid: int) -> int | None:
    """The raylet among a node's processes."""
    for child in descendants(pid):
        try:
            if "raylet/raylet" in Path(f"/proc/{child}/cmdline").read_text():
                return child
        except OSError:
            pass
    return None


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, timeout: float = 30):
    until = time.monotonic() + timeout
    while not (value := condition()) and time.monotonic() < until:
        time.sleep(0.05)
    return value
