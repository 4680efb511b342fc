"""The environment variables that a launcher (`launch` or torchrun) sets for a process. Needs no torch."""
import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import ConfigError, exit_code

log = logging.getLogger(__name__)
LAUNCHED_BY = "LAUNCHED_BY_TRAIN_PY"  # variable of the processes that `launch` starts: its own process ID
# A process sends its launcher this signal when it fails with that exit code and must not be restarted.
END_SIGNALS = {code: getattr(signal, name)
               for code, name in {1: "SIGALRM", 2: "SIGUSR2"}.items() if hasattr(signal, name)}


def has_launcher() -> bool:
    """Whether torchrun or `launch` has started this process, as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_launched() -> bool:
    """Whether this process is one of several: it has a launcher, or RANK and WORLD_SIZE were set by hand."""
    size = os.environ.get("WORLD_SIZE", "")
    return has_launcher() or ("RANK" in os.environ and size.isdecimal() and int(size) > 1)


def expected_world_size() -> int:
    """The number of processes, as the launcher says. Known before the process group exists."""
    return int(os.environ.get("WORLD_SIZE", 1)) if is_launched() else 1


def expected_rank() -> int:
    """The future rank of this process. Known before the process group exists."""
    return int(os.environ.get("RANK", 0)) if is_launched() else 0


def local_rank() -> int | None:
    """The rank of this process on its machine; None without a launcher."""
    return int(os.environ.get("LOCAL_RANK", 0)) if is_launched() else None


def is_launched_by_us() -> bool:
    """Whether `launch` started this process, and not torchrun itself."""
    return is_launched() and os.environ.get(LAUNCHED_BY) == str(_PARENT)


def launch_id() -> str | None:
    """A name of this launch, unchanged after a restart; None without a launcher."""
    if not has_launcher():
        return None
    given = os.environ["TORCHELASTIC_RUN_ID"]
    return given if given != "none" else f"{socket.gethostname()}:{_PARENT}:{_start_time(_PARENT)}"


def launcher_died() -> bool:
    """Whether the launcher is gone, so that it can neither end this process nor see it end."""
    return os.getppid() != _PARENT and has_launcher()  # the cheap check first: called at every step


def end_with_launcher() -> None:
    """Requests a SIGTERM for this process when the launcher ends, even while it only computes. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG
        if launcher_died():
            sys.exit(1)


_PARENT = os.getppid()


def _start_time(process_number: int) -> str:
    """When a process began, in ticks since boot; process IDs alone are reused. Linux only."""
    try:
        return Path(f"/proc/{process_number}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


@contextmanager
def before_group(joins: bool) -> Iterator[None]:
    """Context: one process of each machine reports a ConfigError that all have, and ends the launcher.

    Raises ConfigError if this process is one of several and does not join (`joins`) the others, or cannot.
    """
    try:
        if is_launched():
            _require_joining(joins)
        yield
    except ConfigError as error:
        if not has_launcher():
            raise
        if local_rank() == 0:  # on each machine, because a machine may lack what the others have
            log.error("%s", error)
            forbid_restart(exit_code(error))
        else:
            time.sleep(30)  # rank 0 reports the error meanwhile, and the launcher ends this process
        sys.exit(exit_code(error))


def _require_joining(joins: bool) -> None:
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if not joins and has_launcher():
        raise ConfigError("torchrun has started several of these, and without --distributed each would "
                          "work by itself. Add --distributed to the command of train.py; test.py and "
                          "--verify-resume go without torchrun.")
    if not joins:
        raise ConfigError(f"RANK and WORLD_SIZE say that this is one of {expected_world_size()} processes, "
                          "and without --distributed each would work by itself. Add --distributed to the "
                          "command of train.py; for a single process unset RANK and WORLD_SIZE.")
    if missing and not has_launcher():
        raise ConfigError(f"RANK and WORLD_SIZE are set, and {' and '.join(missing)} not: the processes "
                          "would not find each other. Set them to the address of the machine of rank 0, and "
                          "to a free port there.")


def forbid_restart(code: int) -> None:
    """Tells the launcher to end, since a restart would fail again; with this exit code if it is `launch`."""
    restarts_left = (int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
                     - int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)))
    if restarts_left < 1 or launcher_died():
        return
    if not is_launched_by_us():
        log.error("torchrun would start this again, to the same end; it is sent SIGTERM")
    os.kill(_PARENT, END_SIGNALS[code] if is_launched_by_us() else signal.SIGTERM)
    time.sleep(10)  # the launcher ends this process meanwhile
