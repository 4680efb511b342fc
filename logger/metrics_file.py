"""metrics.jsonl, a line per log point and per epoch, and summary.json. Both are always written."""
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.run_files import replace_file

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
        line = {"step": step, "epoch": epoch, **_without_nan(values)}
        self._waiting.append(json.dumps(line) + "\n")
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
                log.warning("%s: cannot be written: %s. Training continues; the lines wait in memory until "
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


class SummaryFile:
    """Replaces `summary.json` at the start of a run, after each evaluation and at the end.

    It holds `state` (running, finished, stopped, failed), `reason`, `epoch`, `step`, `best`, the `scores` of
    the last evaluation, and the flat `config`. After a kill it still says "running": environment.jsonl and
    the lock of the run know more.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        self.path, self._config, self._scores = folder / "summary.json", dict(config), {}
        self._refused = False

    def write(self, state: str, progress: Mapping[str, Any], scores: Mapping[str, float] | None = None,
              reason: str | None = None) -> None:
        """Writes the file. A failure is logged once, and ends nothing."""
        if scores is not None:
            self._scores = {"epoch": progress["epoch"], **_without_nan(scores)}
        content = {"state": state, "reason": reason, **progress, "scores": self._scores,
                   "config": self._config}
        try:
            replace_file(self.path, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            if not self._refused:
                log.warning("%s: cannot be written: %s", self.path, error.strerror or error)
            self._refused = True


def _without_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    """The values with None for what JSON cannot hold."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
