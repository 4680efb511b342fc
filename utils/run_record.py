"""The record of a run, environment.jsonl: a line for each start, with its environment, and for each end."""
import json
import logging
import os
import platform
import sys
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from utils.distributed.environment import launch_id
from utils.errors import ConfigError, Interrupted, TrainingError, describe_error
from utils.git import git, uncommitted_changes
from utils.run_files import append_line, replace_file

log = logging.getLogger(__name__)
RECORD = "environment.jsonl"
OUTCOMES = ("finished", "stopped", "failed")
_PACKAGES = ("torch", "torchvision", "numpy", "torchmetrics", "tensorboard")


def environment(device: str) -> dict:
    """Describes this start in plain values; "git_diff" is the text of uncommitted changes."""
    import torch  # here: records are read without it

    from utils.distributed import collectives as dist

    now = datetime.now().astimezone()
    return {
        "started": now.isoformat(timespec="seconds"),
        "started_s": now.timestamp(),
        "command": [sys.executable, *sys.argv],
        "folder": os.getcwd(),
        "git_commit": git("rev-parse", "HEAD"),
        "git_diff": uncommitted_changes(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "device": device,
        "num_processes": dist.world_size(),
        "launch": launch_id(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
    }


def record_start(run: Path, start: Mapping[str, Any]) -> None:
    """Appends the record of a start: `environment` and more. Uncommitted changes go to a .diff file."""
    _warn_of_threads(run, start["num_threads"])
    record = dict(start)
    if diff := start["git_diff"]:
        record["git_diff"] = f"code_{datetime.fromtimestamp(start['started_s']):%Y-%m-%d_%H-%M-%S}.diff"
    append_line(run / RECORD, json.dumps(record))
    if diff:
        replace_file(run / record["git_diff"], diff + "\n", errors="surrogateescape")


def _warn_of_threads(run: Path, num_threads: int) -> None:
    """Logs a warning if the start before had another number of threads: sums differ in their last bits."""
    before = next((start.get("num_threads") for start in reversed(starts_of(run))), None)
    if before not in (None, num_threads):
        log.warning("torch computes with %d threads, and did with %d before: the last bits of numbers may "
                    "differ. OMP_NUM_THREADS=%d gives the same ones.", num_threads, before, before)


def record_end(run: Path, outcome: str, reason: str | None, progress: Mapping[str, Any]) -> None:
    """Appends how a start ended: `outcome` is one of OUTCOMES. A failure to write is logged."""
    record = {"ended": datetime.now().astimezone().isoformat(timespec="seconds"), "outcome": outcome,
              "reason": reason, **progress}
    try:
        append_line(run / RECORD, json.dumps(record))
    except OSError as error:
        log.warning("%s: the end could not be recorded: %s", run / RECORD, error.strerror or error)


def starts_of(run: Path) -> list[dict]:
    """The records of a run's starts; [] if they are missing."""
    return [record for record in records_of(run) if isinstance(record.get("started_s"), (int, float))]


def keys_from_environment(run: Path) -> set[str]:
    """The config keys whose values came from environment variables in some start: they are not shown."""
    kept = [start.get("from_environment") for start in starts_of(run)]
    return {str(key) for keys in kept if isinstance(keys, list) for key in keys}


def run_id(run: Path) -> str | None:
    """The id of a run, which every start records; None for one of an earlier version."""
    return next((str(start["run_id"]) for start in reversed(starts_of(run)) if start.get("run_id")), None)


def outcome_of(error: BaseException | None) -> tuple[str, str | None]:
    """How a start that this error ends has ended, one of OUTCOMES, and the reason."""
    if error is None:
        return "finished", None
    if isinstance(error, Interrupted):
        return "stopped", error.reason
    known = isinstance(error, (ConfigError, TrainingError))
    return "failed", (str(error) if known else describe_error(error)).partition("\n")[0]


def is_finished(run: Path) -> bool:
    """Whether the last record is the end of all training. Without one the checkpoint has to be read."""
    return next(reversed(records_of(run)), {}).get("outcome") == "finished"


def records_of(run: Path) -> list[dict]:
    """All records of a run; a line that a full disk or a kill cut off is left out."""
    try:
        lines = (run / RECORD).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [record for line in lines if isinstance(record := _parse(line), dict)]


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
