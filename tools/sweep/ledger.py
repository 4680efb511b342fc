"""The ledger of a sweep, ledger.jsonl: all decisions and ends, in order; and the lock of its only writer."""
import errno
import json
import os
import socket
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.errors import ConfigError
from utils.run_lock import fcntl

LEDGER, LOCK = "ledger.jsonl", "sweep.lock"


class Ledger:
    """The events of a sweep in its folder: each is one line, on the disk before `append` returns.

    A context: takes the lock of the folder, which the system drops when the process ends, however it ends.
    Raises ConfigError if another process has it.
    """

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / LEDGER
        self._lock = self._stream = None

    def __enter__(self):
        self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            self._take()
            self._stream = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            self._cut_torn_line()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        for descriptor in (self._stream, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._stream = self._lock = None

    def append(self, event: str, **values: Any) -> dict[str, Any]:
        """Adds an event and returns it."""
        record = {"event": event, **values, "time": datetime.now().astimezone().isoformat(timespec="seconds")}
        line = json.dumps(record).encode() + b"\n"
        if os.write(self._stream, line) != len(line):
            raise OSError(errno.ENOSPC, "the line was written in part", str(self.file))
        os.fsync(self._stream)
        return record

    def _take(self) -> None:
        try:
            if fcntl:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return  # a file system without locks
            holder = os.pread(self._lock, 300, 0).decode(errors="replace").strip()
            raise ConfigError(f"{self.folder}: this sweep is being run by {holder or 'another process'}. "
                              "Wait for its end, or end it.") from error
        text = f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}\n"
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, text.encode(), 0)

    def _cut_torn_line(self) -> None:
        """Removes what a kill or a full disk left of a last line, so that the next one begins anew."""
        content = self.file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.file, whole)
            os.fsync(self._stream)


def read_events(folder: Path) -> list[Mapping[str, Any]]:
    """The events of a ledger; a torn last line is left out. Raises ConfigError for another file."""
    try:
        content = (folder / LEDGER).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError(f"{folder / LEDGER}: cannot be read: {error.strerror}") from error
    events = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            raise ConfigError(f"{folder / LEDGER}:{number}: is no line of a ledger. Restore the file, or "
                              "begin the sweep under another name: name=NAME.")
        events.append(event)
    return events
