"""What a process learns from its launcher, `launch` or torchrun, by environment variables. Needs no torch."""
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
LAUNCHED_BY = "LAUNCHED_BY_TRAIN_PY"  # in the environment of processes that `launch` has started: its process number
# What a process tells its launcher by, when it fails for good with that exit code.
END_SIGNALS = {code: getattr(signal, name) for code, name in {1: "SIGALRM", 2: "SIGUSR2"}.items() if hasattr(signal, name)}


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
    return is_launched() and os.environ.get(LAUNCHED_BY) == str(_PARENT)


def launch_id() -> str | None:
    """What tells this launch from others, the same after a restart; None where nothing has launched this process."""
    if not is_launched():
        return None
    given = os.environ["TORCHELASTIC_RUN_ID"]
    return given if given != "none" else f"{socket.gethostname()}:{_PARENT}:{_start_time(_PARENT)}"


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


def _start_time(process_number: int) -> str:
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
    os.kill(_PARENT, END_SIGNALS[code] if is_launched_by_us() else signal.SIGTERM)
    time.sleep(10)  # it ends us meanwhile
