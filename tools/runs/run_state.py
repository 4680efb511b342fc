"""Whether a run trains at present, or how its last start ended."""
import os
import struct
import sys
from pathlib import Path

from utils.run_lock import LOCK, fcntl
from utils.run_record import OUTCOMES, records_of

# The fields of C's `struct flock`, in order, and how they are packed.
_FLOCK = {"linux": (("type", "whence", "start", "length", "process"), "hhqqi4x"),
          "darwin": (("start", "length", "process", "type", "whence"), "qqihh")}


def state_of(run: Path) -> str:
    """`running`, `finished`, `stopped`, `failed`, or `killed`: without an end, and no process has the lock.

    `unknown` if nothing can tell: after a start of version 1.0.0, or where there are no locks.
    """
    return state_after(records_of(run), run)


def state_after(records: list[dict], run: Path) -> str:
    """The state of a run whose records have been read."""
    last = next(reversed(records), {})
    if last.get("outcome") in OUTCOMES:
        return last["outcome"]
    held = is_locked(run) if last.get("locked") is True else None
    return "unknown" if held is None else "running" if held else "killed"


def is_locked(folder: Path) -> bool | None:
    """Whether another process has the lock of a run. Takes nothing. None if this system cannot tell.

    Not for the run that this process has locked: its lock would be lost.
    """
    form = _FLOCK.get(sys.platform)
    if fcntl is None or form is None:
        return None
    names, packing = form
    wanted = {"type": fcntl.F_WRLCK, "whence": os.SEEK_SET, "start": 0, "length": 0, "process": 0}
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False if not (folder / LOCK).exists() else None
    try:
        found = fcntl.fcntl(descriptor, fcntl.F_GETLK,
                            struct.pack(packing, *(wanted[name] for name in names)))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return dict(zip(names, struct.unpack(packing, found), strict=True))["type"] != fcntl.F_UNLCK
