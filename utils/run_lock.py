"""The lock of a run folder: two processes never write into one run."""
import errno
import logging
import os
import socket
import time
from pathlib import Path

from utils.errors import ConfigError, TrainingError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger(__name__)
LOCK = ".lock"
WAIT_S, _PAUSE_S = 120.0, 0.2
_HELD = (errno.EACCES, errno.EAGAIN)
_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class RunLock:
    """The lock of the run that this process writes, from `take` to the exit of this context.

    The system drops it when the process ends, however it ends. It is a lock of `lockf`, which belongs to the
    process: forked loader workers, which may outlive a killed run for a moment, do not have it. It would be
    lost if this process opened and closed the file a second time.

    Args:
        waits: whether to wait for another process to end, up to WAIT_S.
        awaited: a run in which a checkpoint may appear meanwhile.
    """

    def __init__(self, waits: bool = False, awaited: Path | None = None):
        self.waits, self.awaited = waits, awaited
        self.folder, self._descriptor = None, None
        self.holds = False  # not where the file system has no locks

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if self._descriptor is not None:
            os.close(self._descriptor)
        self.folder, self._descriptor, self.holds = None, None, False

    def take(self, folder: Path, waits: bool = False) -> None:
        """Locks a run. Raises ConfigError if another process has it; TrainingError if waiting was in vain."""
        if fcntl is None or self.folder is not None:
            return
        self.folder = folder
        try:
            self._descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ConfigError(f"{folder / LOCK}: is a link; a run's files are no links") from error
            return  # the folder cannot be written, which the first write reports
        waits, until = waits or self.waits, time.monotonic() + WAIT_S
        while not self._try():
            holder = os.pread(self._descriptor, 300, 0).decode(errors="replace").strip() or "another process"
            if not waits:
                raise ConfigError(f"{folder}: is being trained by {holder}. Wait for its end, or end it.")
            if time.monotonic() > until:
                raise TrainingError(f"{folder}: is still being trained by {holder}, after "
                                    f"{WAIT_S:.0f} s of waiting.")
            time.sleep(_PAUSE_S)

    def _try(self) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                return False
            if error.errno not in _UNSUPPORTED:
                raise
            log.warning("%s: this file system has no locks (%s); nothing keeps a second process from "
                        "training this run", self.folder, error.strerror)
            return True
        self.holds = True
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except OSError:  # a full disk; the lock counts, not the text
            pass
        return True
