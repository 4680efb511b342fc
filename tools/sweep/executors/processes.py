"""Runs trials as processes of this machine."""
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tools.sweep.executors.outcome import Outcome

SAVE_S = 30
_CHILD = Path(__file__).with_name("child.py")


class Processes:
    """Some trials at once on this machine; each ends, after a save, when this process ends.

    Several GPUs are dealt out: each place for a trial has one of them, in turns.

    Args:
        parallel: how many at once.
    """

    def __init__(self, parallel: int = 1):
        self._parallel = parallel
        self._gpus = visible_gpus()
        self._running: dict[int, tuple[int, subprocess.Popen]] = {}
        self._stopped = False

    def start(self, number: int, argv: list[str], env: Mapping[str, str], log: Path) -> None:
        """Starts `python *argv`; see Executor."""
        place = min({*range(self._parallel)} - {place for place, _ in self._running.values()})
        env = {**os.environ, **env}
        if len(self._gpus) > 1:
            env["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        stdin = subprocess.DEVNULL if sys.platform == "linux" else subprocess.PIPE
        with log.open("ab") as output:
            # a session of its own: Ctrl-C reaches this process first, which lets it save
            process = subprocess.Popen([sys.executable, _CHILD, str(os.getpid()), *argv], stdin=stdin,
                                       stdout=output, stderr=output, env=env, start_new_session=True)
        self._running[number] = place, process

    def poll(self) -> list[tuple[int, Outcome]]:
        """The trials that have ended; a signal that no code of train.py stands for means lost."""
        ended = [(number, process.returncode) for number, (_, process) in self._running.items()
                 if process.poll() is not None]
        for number, _ in ended:
            process = self._running.pop(number)[1]
            if process.stdin:
                process.stdin.close()
        node = socket.gethostname()
        return [(number, Outcome(code, node) if code >= 0 else
                 Outcome(None, node, f"killed by {signal.Signals(-code).name}")) for number, code in ended]

    def stop(self) -> None:
        """SIGTERM to all, and SIGKILL at the second call."""
        for _, process in self._running.values():
            process.kill() if self._stopped else process.terminate()
        self._stopped = True

    def capacity(self) -> int:
        """How many can run at once."""
        return self._parallel

    def close(self) -> None:
        """Ends what is left, after a save; kills what does not end within SAVE_S."""
        for _, process in self._running.values():
            process.terminate()
        until = time.monotonic() + SAVE_S
        for _, process in self._running.values():
            try:
                process.wait(max(until - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


def visible_gpus() -> list[str]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them; loads no torch."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    found = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return [str(number) for number, line in enumerate(
        line for line in found.stdout.splitlines() if line.startswith("GPU "))]
