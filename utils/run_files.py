"""Writing files of a run folder without following links, which a stranger may have put there."""
import os
from pathlib import Path

from utils.errors import ConfigError

_WRITTEN = ("config.yaml", "*.json", "*.jsonl", "*.csv", "run.log", "code_*.diff", "events.out.*")
_FOLDERS = ("checkpoints", "metrics", "nan_report")


def replace_file(file: Path, content: str | bytes, errors: str = "strict") -> None:
    """Writes a file as a whole, or not at all. A link of this name is replaced; its target stays as it is."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    unfinished.unlink(missing_ok=True)
    try:
        with open(unfinished, "xb") as opened:  # "x" follows no link
            opened.write(content if isinstance(content, bytes) else content.encode(errors=errors))
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def file_stamp(file: Path) -> str | None:
    """A text that differs when the file was replaced or written again; None if there is none."""
    return f"{file.stat().st_ino}-{file.stat().st_mtime_ns}" if file.exists() else None


def append_line(file: Path, line: str) -> None:
    """Appends to a file that is no link. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(file, flags, 0o666), "a", encoding="utf-8") as opened:
        opened.write(line + "\n")


def remove_links(run: Path) -> None:
    """Removes links where a run writes files, and leftovers of a killed `replace_file`.

    Raises ConfigError if one of its folders is a link.
    """
    for folder in (run / name for name in _FOLDERS):
        if folder.is_symlink():
            raise ConfigError(f"{folder}: is a link, and a run writes into its own folder only. "
                              "Replace the link by the folder.")
    for file in (file for pattern in _WRITTEN for file in run.glob(pattern)):
        if file.is_symlink():
            file.unlink()
    for leftover in run.glob(".*.tmp"):
        leftover.unlink()
