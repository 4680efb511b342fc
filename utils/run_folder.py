"""Run folders, `saved/<name>/<run>/`: making a new one, finding an old one, recording the environment."""
import json
import logging
import os
import platform
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from importlib import metadata
from pathlib import Path

import torch

from utils.checkpoint.loading import step_of
from utils.distributed import collectives as dist
from utils.distributed.environment import launch_id
from utils.errors import ConfigError
from utils.git import git, uncommitted_changes
from utils.run_files import append_line, replace_file

log = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
_ENVIRONMENT = "environment.jsonl"
_PACKAGES = ("torch", "torchvision", "numpy", "torchmetrics", "tensorboard")


def folder_name_fault(name: str) -> str | None:
    """Why `name` is not valid for an experiment or a run; None if it is."""
    if not re.fullmatch(r"\w[\w.+=-]*", name):
        return f"{name!r} names a folder: letters, digits and _ . + = - only, no slashes"


def new_run(out: Path, name: str, run_name: str | None, suffix: str = "") -> Path:
    """Makes and returns `out/name/run_name`. The default run name is the start time and the suffix.

    Reuses a folder that an earlier start left without a checkpoint. Raises ConfigError if the run exists
    already or the folder cannot be made.
    """
    if run_name and (fault := folder_name_fault(run_name)):
        raise ConfigError(f"--run-name: {fault}")
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    numbered = (f"{stamp}-{i}{suffix}" for i in range(2, 100))
    candidates = [run_name] if run_name else [f"{stamp}{suffix}", *numbered]
    for candidate in candidates:
        run = out / name / candidate
        try:
            run.mkdir(parents=True)
            return run
        except FileExistsError:
            if run_name:
                require_unused(run)
                return run
        except OSError as error:
            raise ConfigError(f"{run}: cannot be made: {error.strerror}. "
                              "Choose another folder with --out.") from error
    raise ConfigError(f"{run} is there already: too many runs began in this second")


def require_unused(run: Path) -> None:
    """Raises ConfigError if a run has begun to train."""
    if any(run.glob(f"{CHECKPOINTS}/*.pt")) or (run / "metrics.jsonl").exists():
        raise ConfigError(f"{run} is there already. Continue it with: python train.py -r {run}\n"
                          "or choose another --run-name.")


def find_checkpoints(path: Path, prefer: tuple[str, ...]) -> Iterator[Path]:
    """Yields the checkpoints that `path` can mean: a file, those of a run, or of an experiment's newest run.

    In a run the names in `prefer` come first, then most steps first. A ConfigError lists what is there.
    """
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        near = next(parent for parent in path.absolute().parents if parent.is_dir())
        others = ", ".join(sorted(p.name for p in near.iterdir() if not p.name.startswith("."))[:10])
        raise ConfigError(f"{path}: there is no such file or folder. In {near}: {others or 'nothing'}")
    run = (path.parent if path.name == CHECKPOINTS else
           path if (path / CHECKPOINTS).is_dir() else newest_run(path))
    there = set((run / CHECKPOINTS).glob("*.pt"))
    if not there:
        raise ConfigError(f"{run / CHECKPOINTS}: holds no checkpoint")
    preferred = [run / CHECKPOINTS / name for name in prefer if run / CHECKPOINTS / name in there]
    yield from preferred
    yield from sorted(there - {*preferred}, key=lambda file: (-step_of(file), file.name))  # often unused


def list_runs(experiment: Path) -> list[Path]:
    """The runs of an experiment that hold checkpoints, newest start first."""
    runs = {file.parent.parent for file in experiment.glob(f"*/{CHECKPOINTS}/*.pt")}
    return sorted(runs, key=lambda run: (_start_time(run), run.name), reverse=True)


def newest_run(experiment: Path) -> Path:
    """The run of an experiment that started last. Raises ConfigError if there is none."""
    runs = list_runs(experiment)
    if not runs:
        inner = sorted({str(file.parents[2]) for file in experiment.glob(f"*/*/{CHECKPOINTS}/*.pt")})
        hint = f" Did you mean one of these? {', '.join(inner)}" if inner else ""
        raise ConfigError(f"{experiment}: neither a run, with {CHECKPOINTS}/ in it, "
                          f"nor an experiment with runs.{hint}")
    return runs[0]


def run_of(checkpoint: Path) -> Path | None:
    """The run folder of a checkpoint; None if the checkpoint was moved out of its run."""
    folder = checkpoint.absolute().parent
    if folder.name != CHECKPOINTS:
        return None
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else folder.parent


def run_of_launch(experiment: Path, launch: str) -> Path | None:
    """The run that processes of this launch have started or resumed; None if they have not got that far."""
    ours = {file.parent: start["started_s"] for file in experiment.glob(f"*/{_ENVIRONMENT}")
            for start in _starts(file.parent)[-1:] if start.get("launch") == launch}
    return max(ours, key=ours.get, default=None)  # an earlier launch may have had the same name


def has_saved(run: Path, launch: str) -> bool:
    """Whether this launch has written a last.pt: it differs from the one at the launch's first start."""
    found = next((start.get("last_checkpoint") for start in _starts(run)
                  if start.get("launch") == launch), None)
    return file_stamp(run / CHECKPOINTS / "last.pt") != found


def file_stamp(file: Path) -> str | None:
    """A text that differs when the file was replaced or written again; None if there is none."""
    return f"{file.stat().st_ino}-{file.stat().st_mtime_ns}" if file.exists() else None


def _start_time(run: Path) -> float:
    starts = _starts(run)
    return starts[0]["started_s"] if starts else run.stat().st_mtime


def _starts(run: Path) -> list[dict]:
    """The records of a run's starts; [] if they are missing, or cut off by a full disk."""
    try:
        return [json.loads(line) for line in (run / _ENVIRONMENT).read_text().splitlines()]
    except (OSError, ValueError):
        return []


def environment(device: str) -> dict:
    """Describes this start in plain values; "git_diff" is the text of uncommitted changes."""
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


def record_environment(run: Path, start: dict) -> None:
    """Appends `environment` to the run's environment.jsonl; uncommitted changes go to a .diff beside it."""
    _warn_of_threads(run / _ENVIRONMENT, start["num_threads"])
    record = {**start, "last_checkpoint": file_stamp(run / CHECKPOINTS / "last.pt")}
    if diff := start["git_diff"]:
        record["git_diff"] = f"code_{datetime.fromtimestamp(start['started_s']):%Y-%m-%d_%H-%M-%S}.diff"
    append_line(run / _ENVIRONMENT, json.dumps(record))
    if diff:
        replace_file(run / record["git_diff"], diff + "\n", errors="surrogateescape")


def _warn_of_threads(file: Path, num_threads: int) -> None:
    """Logs a warning if the start before had another number of threads: sums differ in their last bits."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    before = json.loads(lines[-1]).get("num_threads", num_threads) if lines else num_threads
    if before != num_threads:
        log.warning("torch computes with %d threads, and did with %d before: the last bits of numbers may "
                    "differ. OMP_NUM_THREADS=%d gives the same ones.", num_threads, before, before)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
