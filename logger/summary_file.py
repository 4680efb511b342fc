"""summary.json: what a run is and where it stands, in one small file."""
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.run_files import replace_file

log = logging.getLogger(__name__)


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
            plain = {name: value if math.isfinite(value) else None for name, value in scores.items()}
            self._scores = {"epoch": progress["epoch"], **plain}
        content = {"state": state, "reason": reason, **progress, "scores": self._scores,
                   "config": self._config}
        try:
            replace_file(self.path, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            if not self._refused:
                log.warning("%s: cannot be written: %s", self.path, error.strerror or error)
            self._refused = True
