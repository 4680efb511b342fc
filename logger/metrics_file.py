"""metrics.jsonl: one JSON line per log point and per epoch. It is always written."""
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)


class MetricsFile:
    """Appends lines to `metrics.jsonl`. Its state is the number of lines: loading it cuts off later lines.

    Nothing in the file depends on the machine or the time, so equal runs write equal files. Lines that cannot
    be written wait in memory. They are retried with the next line, before a checkpoint, and at the end.
    """

    def __init__(self, folder: Path):
        self.path = folder / "metrics.jsonl"
        self.num_lines = 0  # including the waiting lines
        self._waiting: list[str] = []
        self._refused = False  # whether the last attempt to write failed
        self._sound_size: int | None = None  # bytes up to the last whole line, if half a line may follow

    def write(self, values: Mapping[str, float], epoch: int, step: int) -> None:
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._waiting.append(json.dumps({"step": step, "epoch": epoch, **plain}) + "\n")
        self.num_lines += 1
        self._write_waiting()

    def close(self) -> None:
        """Ends the file. Tries a last time to write the waiting lines."""
        self._write_waiting()
        if self._waiting:
            log.warning("%s: could not be written to the end: the last %d of its %d lines are lost",
                        self.path, len(self._waiting), self.num_lines)

    def state_dict(self) -> dict:
        self._write_waiting()  # a checkpoint must not count lines that a kill would lose
        return {"num_lines": self.num_lines}

    def load_state_dict(self, state: dict) -> None:
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
        kept = whole[: state["num_lines"]]
        if len(kept) < state["num_lines"]:
            log.warning("%s: has %d of the %d lines that the checkpoint counts; the others are lost",
                        self.path, len(kept), state["num_lines"])
        self.num_lines = len(kept)
        if (size := sum(map(len, kept))) < len(content):
            os.truncate(self.path, size)  # needs no disk space

    def _write_waiting(self) -> None:
        if not self._waiting:
            return
        try:
            self._append("".join(self._waiting).encode())
        except OSError as error:
            if not self._refused:
                log.warning("%s: cannot be written: %s. Training goes on; the lines wait in memory until "
                            "they can be.", self.path, error.strerror or error)
            self._refused = True
            return
        if self._refused:
            log.info("%s: can be written again; nothing is missing", self.path)
        self._waiting, self._refused = [], False

    def _append(self, lines: bytes) -> None:
        """Appends whole lines. They replace the rest of a failed attempt. Raises OSError."""
        with open(self.path, "ab") as file:
            if self._sound_size is None:
                self._sound_size = file.tell()
            elif file.tell() > self._sound_size:  # not if it was replaced: zeros would fill it
                file.truncate(self._sound_size)
            file.write(lines)
        self._sound_size = None
