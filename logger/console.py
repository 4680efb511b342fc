"""Messages of a run: as plain text on the console, with time and level in run.log."""
import logging
import logging.handlers
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from utils.errors import printable, unwritable


class _Console(logging.Handler):
    """Writes messages to stdout, warnings and errors to stderr, without breaking a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        try:
            tqdm.write(self.format(record), file=stream)
            stream.flush()
        except (OSError, ValueError):
            pass  # `... | head`, a closed terminal, an ASCII console: the run continues, run.log has it


class _Formatter(logging.Formatter):
    """Formats a message without control characters, which a name in a config or a file may have."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _ConsoleFormatter(_Formatter):
    """Formats a message that was logged with `extra={"on_console": TEXT}` as this text."""

    def format(self, record: logging.LogRecord) -> str:
        text = getattr(record, "on_console", None)
        return super().format(logging.makeLogRecord({**vars(record), "msg": text, "args": ()})
                              if text is not None else record)


class _RunLogFile(logging.FileHandler):
    """Writes run.log. If the disk is full, the run continues, and the console has the message."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def setup_logging(level: int = logging.INFO, rank: int = 0) -> None:
    """Sends all logging to the console, at `level`. A `rank` above 0 sends only its own (`_only_its_own`)."""
    console = _Console(level)
    console.setFormatter(_ConsoleFormatter(_mark(rank) + "%(message)s"))
    console.addFilter(_only_its_own if rank else lambda record: True)
    console.addFilter(lambda record: not getattr(record, "only_in_file", False))
    early = logging.handlers.MemoryHandler(  # until there is a run.log
        capacity=10_000, flushLevel=logging.CRITICAL + 1)
    logging.basicConfig(level=min(level, logging.INFO), handlers=[console, early], force=True)
    logging.captureWarnings(True)
    for noisy in ("PIL", "matplotlib", "tensorflow", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _mark(rank: int) -> str:
    return f"[process {rank}] " if rank else ""


def _only_its_own(record: logging.LogRecord) -> bool:
    """Passes errors, and warnings of plug-ins and libraries. The main process logs the rest for all."""
    ours = record.name.split(".")[0] in ("base", "utils", "logger", "tools", "train")
    return record.levelno >= (logging.ERROR if ours else logging.WARNING)


def log_to_file(file: Path, rank: int = 0) -> logging.Handler | None:
    """Appends all logging to `file` too, also earlier messages; INFO and above even if the console is quiet.

    A process with a `rank` above 0 sends only its own messages, marked with the rank, and only if it can
    reach the folder. Returns the handler. Raises ConfigError if the file cannot be opened.
    """
    if rank and not file.parent.is_dir():
        return None
    try:
        handler = _RunLogFile(file, encoding="utf-8")
    except OSError as error:
        raise unwritable(file, error) from error
    handler.setFormatter(_Formatter(f"%(asctime)s %(levelname)-7s {_mark(rank)}%(message)s"))
    handler.addFilter(_only_its_own if rank else lambda record: True)
    root = logging.getLogger()
    for early in [h for h in root.handlers if isinstance(h, logging.handlers.MemoryHandler)]:
        early.setTarget(handler)
        early.close()  # flushes
        root.removeHandler(early)
    root.addHandler(handler)
    return handler


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Inside, messages also go to run.log in `folder`."""
    handler = log_to_file(folder / "run.log")
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
