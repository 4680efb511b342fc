"""metrics.jsonl: a JSON line per log point and per epoch; always written."""
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path


class MetricsFile:
    """Appends lines to `metrics.jsonl`. Its state is the number of lines: loading it cuts off what came later.

    Holds nothing that depends on the machine or the time, so that two equal runs write equal files.
    """

    def __init__(self, folder: Path):
        self.path = folder / "metrics.jsonl"
        self.num_lines = 0

    def write(self, values: Mapping[str, float], epoch: int, step: int) -> None:
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "epoch": epoch, **plain}) + "\n")
        self.num_lines += 1

    def state_dict(self) -> dict:
        return {"num_lines": self.num_lines}

    def load_state_dict(self, state: dict) -> None:
        self.num_lines = state["num_lines"]
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        if len(lines) > self.num_lines:
            shorter = self.path.with_suffix(".jsonl.tmp")
            shorter.write_text("".join(lines[: self.num_lines]), encoding="utf-8")
            os.replace(shorter, self.path)
