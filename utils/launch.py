"""Starts the processes of a run on this machine; and what a process learns from its launcher: this one, or torchrun.

Nothing of torch is needed here: a launcher and its processes share environment variables, exit codes and a store.
"""
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from utils.errors import ConfigError, exit_code
from utils.signals import NAMES, ignore_signals

log = logging.getLogger(__name__)
GRACE_S = 10.0  # for the others to end, when one has died
_POLL_S = 0.05


# -- what a process learns ---------------------------------------------------------------------------------------------

def is_launched() -> bool:
    """Whether this process is one of several that torchrun, or `launch`, has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def expected_world_size() -> int:
    """How many processes there are going to be, as the launcher says, before there is a group."""
    return int(os.environ.get("WORLD_SIZE", 1)) if is_launched() else 1


def expected_rank() -> int:
    """The number that this process is going to have, before there is a group."""
    return int(os.environ.get("RANK", 0)) if is_launched() else 0


def local_rank() -> int | None:
    """The number of this process among those on its machine; None where nothing has launched it."""
    return int(os.environ.get("LOCAL_RANK", 0)) if is_launched() else None


def launch_id() -> str | None:
    """What tells this launch from others, the same after a restart; None where nothing has launched this process."""
    if not is_launched():
        return None
    given = os.environ["TORCHELASTIC_RUN_ID"]
    return given if given != "none" else f"{socket.gethostname()}:{_PARENT}:{_birth(_PARENT)}"


def launcher_died() -> bool:
    """Whether the launcher of this process is gone, so that nobody would hear of its end or end it."""
    return is_launched() and os.getppid() != _PARENT


_PARENT = os.getppid()


def _birth(process_number: int) -> str:
    """When a process began, in ticks since the machine did: its number alone is given out again some day. Linux only."""
    try:
        return Path(f"/proc/{process_number}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


@contextmanager
def before_group(joins: bool) -> Iterator[None]:
    """Within it a ConfigError, which all processes come upon alike, is told by one of them, and ends the launcher as well.

    Raises one where torchrun has started this process and it does not join (`joins`) the others.
    """
    try:
        if is_launched() and not joins:
            raise ConfigError("torchrun has started several of these, and without --distributed each would work by itself. "
                              "Add --distributed to the command of train.py; test.py and --verify-resume go without torchrun.")
        yield
    except ConfigError as error:
        if not is_launched():
            raise
        if expected_rank() == 0:
            log.error("%s", error)
        if local_rank() == 0:
            forbid_restart()
        sys.exit(exit_code(error))


def forbid_restart() -> None:
    """What went wrong would do so again: torchrun, which knows of no such end, is told to end. `launch` knows by itself."""
    restarts_left = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) - int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if restarts_left > 0 and not launcher_died():
        log.error("torchrun would start this again, to the same end; it is sent SIGTERM")
        os.kill(_PARENT, signal.SIGTERM)
        time.sleep(GRACE_S)  # it ends us meanwhile


# -- launching -----------------------------------------------------------------------------------------------------------

def launch(program: Sequence[str], num_processes: int, max_restarts: int, store) -> int:
    """Runs `python PROGRAM...` in `num_processes` processes on this machine, as torchrun would; the exit code.

    When one dies the others are ended and all start again, up to `max_restarts` times. A signal is handed on, a SIGINT
    after it ends all at once. 0 where all ended well; 2 after a user's mistake, which is not tried again; 128 + signal;
    else 1. The processes meet in the `store`; see `dist.serve_store`.
    """
    environment = {
        "OMP_NUM_THREADS": max(_num_cores() // num_processes, 1), **os.environ,
        "WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes, "GROUP_RANK": 0,
        "MASTER_ADDR": store.host, "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True,
        "TORCHELASTIC_RUN_ID": f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"}
    with _hearing() as heard:
        for attempt in range(max_restarts + 1):
            group = _Group(program, num_processes, {**environment, "TORCHELASTIC_RESTART_COUNT": attempt}, heard)
            group.wait()
            code = group.exit_code()
            if code in (0, 2) or heard or attempt == max_restarts or store.check(["hopeless"]):
                group.tell(", and no restart is left" if max_restarts and attempt == max_restarts else "")
                return code
            log.error("%s; restart %d of %d", group.description(), attempt + 1, max_restarts)


class _Group:
    """The processes of one start. Each is in a session of its own: a Ctrl-C reaches the launcher alone, which hands it on."""

    def __init__(self, program: Sequence[str], num_processes: int, environment: dict, heard: list[int]):
        self._heard, self._num_handed_on = heard, len(heard)
        self._first: dict[int, int] = {}  # the processes whose end is that of the others, and how they ended
        self._silent: list[int] = []  # that had to be killed
        self._processes = [
            subprocess.Popen([sys.executable, *program], start_new_session=True, env={
                name: str(value) for name, value in {**environment, "RANK": number, "LOCAL_RANK": number}.items()})
            for number in range(num_processes)]

    def wait(self) -> None:
        """Until all have ended, which they have to do soon after the first that failed."""
        deadline = float("inf")
        while running := {number: process for number, process in enumerate(self._processes) if process.poll() is None}:
            for number in self._heard[self._num_handed_on:]:
                self._num_handed_on += 1
                self._send(signal.SIGKILL if self._num_handed_on > 1 and number == signal.SIGINT else number, running)
            failed = {number: code for number, code in self._codes().items() if code and not _agreed(code)}
            if failed and not self._first:
                self._first, deadline = failed, time.monotonic() + GRACE_S
            if self._first and not self._silent:  # again and again: as long as the loop listens, it only takes note
                self._send(signal.SIGTERM, running)
            if time.monotonic() > deadline:
                deadline, self._silent = float("inf"), sorted(running)
                self._send(signal.SIGKILL, running)
            time.sleep(_POLL_S)
        self._first = self._first or {number: code for number, code in self._codes().items() if code}

    def exit_code(self) -> int:
        """Of them all; see `launch`."""
        codes = set(self._first.values())
        agreed = [code for code in codes if _agreed(code)]
        if self._heard and all(code < 0 or _agreed(code) for code in codes) and codes:
            return 128 + self._heard[0]
        return 2 if 2 in codes else max(agreed, default=1 if codes else 0) if len(agreed) == len(codes) else 1

    def description(self) -> str:
        """Who died of what."""
        kinds = [f"process {number} {_how(code)}" for number, code in sorted(self._first.items())]
        return ", ".join(kinds + [f"process {number} did not answer" for number in self._silent])

    def tell(self, remark: str) -> None:
        """Says what the processes could not say themselves."""
        codes = self._first.values()
        if self._heard and codes and all(code < 0 for code in codes):
            log.error("ended by %s", signal.Signals(self._heard[0]).name)
        elif self._silent or any(code < 0 for code in codes) or codes and remark:
            log.error("%s%s", self.description(), remark)

    def _codes(self) -> dict[int, int]:
        return {number: process.returncode for number, process in enumerate(self._processes) if process.returncode is not None}

    def _send(self, number: int, running: dict[int, subprocess.Popen]) -> None:
        for process in running.values():
            if number == signal.SIGKILL and os.name == "posix":
                os.killpg(process.pid, number)  # with its loader workers; it was not waited for, so the number is its own
            else:
                process.send_signal(number)


def _agreed(code: int) -> bool:
    """Whether a process ended by a signal as it should: with all the others, and everything saved."""
    return 128 < code < 192


def _how(code: int) -> str:
    if code < 0 or _agreed(code):
        return f"was {'killed' if code < 0 else 'ended'} by {signal.Signals(-code if code < 0 else code - 128).name}"
    return "failed"


@contextmanager
def _hearing() -> Iterator[list[int]]:
    """Within it signals are no more than noted down; after it, when all is done, not even that."""
    heard: list[int] = []
    for number in [getattr(signal, name) for name in NAMES if hasattr(signal, name)]:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup stays nohup
            signal.signal(number, lambda number, frame: heard.append(number))
    try:
        yield heard
    finally:
        ignore_signals()


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
