"""Starts the processes of a run on this machine; and what a process learns from its launcher: this one, or torchrun.

The launcher is torchrun's elastic agent in either case. It shares environment variables, exit codes and signals with its
processes; nothing of torch is needed to know about them.
"""
import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from utils.errors import ConfigError, exit_code
from utils.signals import NAMES, ignore_signals

log = logging.getLogger(__name__)
_OWN = "LAUNCHED_BY_TRAIN_PY"  # in the environment of processes that `launch` has started: its process number
# What a process tells its launcher by, when it fails for good with that exit code.
_END = {code: getattr(signal, name) for code, name in {1: "SIGALRM", 2: "SIGUSR2"}.items() if hasattr(signal, name)}


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


def is_launched_by_us() -> bool:
    """Whether `launch` did it, and not torchrun itself."""
    return is_launched() and os.environ.get(_OWN) == str(_PARENT)


def launch_id() -> str | None:
    """What tells this launch from others, the same after a restart; None where nothing has launched this process."""
    if not is_launched():
        return None
    given = os.environ["TORCHELASTIC_RUN_ID"]
    return given if given != "none" else f"{socket.gethostname()}:{_PARENT}:{_birth(_PARENT)}"


def launcher_died() -> bool:
    """Whether the launcher of this process is gone, so that nobody would hear of its end or end it."""
    return os.getppid() != _PARENT and is_launched()  # in this order: it is asked at every step


def end_with_launcher() -> None:
    """From here on the end of the launcher is a SIGTERM to this process, also where it waits for nobody. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG
        if launcher_died():
            sys.exit(1)


_PARENT = os.getppid()


def _birth(process_number: int) -> str:
    """When a process began, in ticks since the machine did: its number alone is given out again some day. Linux only."""
    try:
        return Path(f"/proc/{process_number}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


@contextmanager
def before_group(joins: bool) -> Iterator[None]:
    """Within it a ConfigError, which all processes of a machine come upon alike, is told by one, and ends the launcher, too.

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
        if local_rank() == 0:  # on each machine, which may lack what the others have
            log.error("%s", error)
            forbid_restart(exit_code(error))
        else:
            time.sleep(30)  # until it has said so, and the launcher ends this process
        sys.exit(exit_code(error))


def forbid_restart(code: int) -> None:
    """What went wrong would do so again: the launcher is told to end, with this exit code if it is ours."""
    restarts_left = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) - int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if restarts_left < 1 or launcher_died():
        return
    if not is_launched_by_us():
        log.error("torchrun would start this again, to the same end; it is sent SIGTERM")
    os.kill(_PARENT, _END[code] if is_launched_by_us() else signal.SIGTERM)
    time.sleep(10)  # it ends us meanwhile


# -- launching -----------------------------------------------------------------------------------------------------------

def launch(program: Sequence[str], num_processes: int, max_restarts: int) -> int:
    """Runs `python PROGRAM...` in `num_processes` processes on this machine by torchrun's elastic agent; the exit code.

    When one dies the others are ended and all start again, up to `max_restarts` times. A signal is handed on; a second one
    ends all at once. 0 where all ended well; 2 after a user's mistake, which is not tried again; 128 + signal; else 1.
    """
    from utils import dist

    os.environ.setdefault("OMP_NUM_THREADS", str(max(_num_cores() // num_processes, 1)))
    os.environ[_OWN] = str(os.getpid())
    run_id = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").addFilter(_Report(max_restarts))
    ended_by, codes = dist.run_processes(program, num_processes, max_restarts, run_id, _hear)
    ignore_signals()
    if ended_by is not None:
        return next((code for code, number in _END.items() if number == ended_by), 128 + ended_by)
    return _common(codes)


def _hear(end: Callable[[int], None]) -> None:
    """From here on a signal calls `end`; a SIGINT after it ends all at once."""
    heard = []

    def handle(number, frame):
        heard.append(number)
        if len(heard) == 1:
            end(number)
        elif number == signal.SIGINT:
            log.error("ended by SIGINT")
            _kill_children()
            os._exit(128 + number)

    for number in [getattr(signal, name) for name in NAMES if hasattr(signal, name)] + [*_END.values()]:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup stays nohup
            signal.signal(number, handle)


class _Report(logging.Filter):
    """Says of a process that failed in words what the agent says in its own, and what follows."""

    def __init__(self, max_restarts: int):
        super().__init__()
        self.max_restarts, self.num_failures = max_restarts, 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not (isinstance(record.msg, str) and record.msg.startswith("failed (exitcode") and len(record.args or ()) >= 2):
            return True
        code, number = record.args[:2]
        self.num_failures += 1
        follows = f"; restart {self.num_failures} of {self.max_restarts}" if self.num_failures <= self.max_restarts else (
            ", and no restart is left" if self.max_restarts else "")
        if follows or code not in (1, 2) and not _agreed(code):  # else it has said so itself
            log.error("process %d %s%s", number, _how(code), follows)
        return False


def _common(codes: Collection[int]) -> int:
    """The exit code for those of the processes that failed, of which some did so only because others had."""
    agreed = {code for code in codes if _agreed(code)}
    return 0 if not codes else 2 if 2 in codes else min(agreed) if agreed == {*codes} else 1


def _agreed(code: int) -> bool:
    """Whether a process ended by a signal as it should: with all the others, and everything saved."""
    return 128 < code < 192


def _how(code: int) -> str:
    number = -code if code < 0 else code - 128
    if number in {*signal.Signals}:
        return f"was {'killed' if code < 0 else 'ended'} by {signal.Signals(number).name}"
    return "failed" if code in (1, 2) else f"failed with exit code {code}"


def _kill_children() -> None:
    """Ends the processes that are left after a second signal. Linux only; elsewhere they notice that they are alone."""
    for file in Path("/proc/self/task").glob("*/children"):
        for number in file.read_text().split():
            try:
                os.killpg(int(number), signal.SIGKILL)  # of a session of its own, with its loader workers
            except (ProcessLookupError, PermissionError):
                pass


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
