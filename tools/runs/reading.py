"""Finds runs and reads what they wrote: summary.json, environment.jsonl and test.json."""
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tools.diff import best_point
from tools.runs.run_state import state_after
from utils.config.loading import read_text
from utils.config.syntax import parse_yaml
from utils.config.values import flatten, masked, value_at, written_config
from utils.errors import ConfigError
from utils.run_record import OUTCOMES, RECORD, keys_from_environment, records_of
from utils.training.monitor import Monitor, parse_monitor

SUMMARY, CONFIG, METRICS, SCORES = "summary.json", "config.yaml", "metrics.jsonl", "test.json"
_BLOCKS = ("dataset", "model", "loss", "optimizer", "scheduler", "trainer")
_ITEM = re.compile(r"(.+)\.\d+(\.type)?")  # of a list
_DEPTH = 4  # --out, sweep, experiment, run
_LIMIT = 20_000_000  # bytes of a JSON file; ours have a few thousand


@dataclass
class Run:
    """What a run's files tell. `name`: its path below the folder that was asked for.

    `monitor`: such as "max val/accuracy"; None without one. `best`: the monitored value at its best epoch;
    NaN if it never was a number; None if there was no evaluation, or no monitor. `scores`: of the last
    evaluation. `test`: from test.json. `config`: flat. `started`: in seconds since 1970.
    """

    folder: Path
    name: str
    state: str
    reason: str | None
    monitor: str | None
    best: float | None
    epoch: int | None
    scores: dict[str, float | None]
    test: dict[str, float | None]
    config: dict[str, Any]
    started: float
    duration_s: float | None
    records: list[dict]

    @property
    def starts(self) -> list[dict]:
        """The records of its starts."""
        return [record for record in self.records if _is_start(record)]

    @property
    def commit(self) -> str | None:
        """The start of the commit's name, with + for uncommitted changes."""
        start = next(reversed(self.starts), {})
        commit = start.get("git_commit")
        return commit[:8] + "+" * bool(start.get("git_diff")) if isinstance(commit, str) else None


def read_runs(folder: Path) -> list[Run]:
    """The runs in a folder and its folders, newest start first. Raises ConfigError if there are none."""
    found = [_read_run(path, folder, files) for path, files in _walk(folder, _DEPTH, set())]
    if not found:
        why = "there are no runs in it" if folder.is_dir() else "there is no such folder"
        raise ConfigError(f"{folder}: {why}. A run is a folder with {SUMMARY} or {CONFIG}, such as "
                          "saved/digits_lenet/2026-01-31_12-00-00.")
    return sorted(found, key=lambda run: (run.started, run.name), reverse=True)


def read_run(path: Path, root: Path = Path("saved")) -> Run:
    """The run that a path means, also relative to `root`; of an experiment the newest one."""
    for folder in (path, root / path):
        if folder.is_dir():
            run = read_runs(folder)[0]
            return replace(run, name="/".join(run.folder.absolute().parts[-2:]))
    raise ConfigError(f"{path}: is no run, and no folder with runs.")


def read_folder(folder: Path, state: str | None = None) -> Run:
    """The run in this folder. `state`: of a run that this process has locked, which must not be asked for."""
    with os.scandir(folder) as entries:
        files = {entry.name: entry for entry in entries if entry.is_file()}
    return _read_run(folder, folder, files, state)


def _walk(folder: Path, depth: int, seen: set) -> Iterator[tuple[Path, Mapping[str, os.DirEntry]]]:
    """Run folders with their regular files; does not look inside a run, nor twice into a folder."""
    try:
        with os.scandir(folder) as entries:
            entries = [entry for entry in entries if not entry.name.startswith(".")]
        stat = os.stat(folder)
    except OSError:  # it is not there, or may not be read
        return
    if (stat.st_dev, stat.st_ino) in seen:  # a link back
        return
    seen.add((stat.st_dev, stat.st_ino))
    files = {entry.name: entry for entry in entries if entry.is_file()}
    if SUMMARY in files or CONFIG in files:
        yield folder, files
    elif depth:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(folder / entry.name, depth - 1, seen)


def _read_run(folder: Path, root: Path, files: Mapping[str, os.DirEntry], state: str | None = None) -> Run:
    records = records_of(folder) if RECORD in files else []
    summary = read_json(files.get(SUMMARY))
    config = summary.get("config")
    if isinstance(config, dict):
        config = _in_one_form(config)
        monitor, best, epoch = _best_of(summary, config, folder)
    else:
        config, monitor, best, epoch = _read_slowly(folder, files)
    last, said = next(reversed(records), {}), summary.get("state")
    state = state or state_after(records, folder)
    if state == "unknown" and not records and said in OUTCOMES:
        state = said
    last = last if last.get("outcome") in OUTCOMES else summary if state == said else {}
    reason = last.get("reason")
    return Run(
        folder, os.path.relpath(folder, root) if folder != root else folder.absolute().name, state,
        reason if isinstance(reason, str) else None, monitor, best, epoch,
        _numbers(summary.get("scores")),
        {name: value for name, value in _numbers(read_json(files.get(SCORES))).items()
         if name.partition("/")[0] == "test"},
        config, _started(records, folder), _duration(records, state, files), records)


def _best_of(summary: dict, config: dict, folder: Path) -> tuple[str | None, float | None, int | None]:
    """Monitor, best value and its epoch, of a summary."""
    best = summary.get("best") if isinstance(summary.get("best"), dict) else {}
    monitor = config.get("trainer.args.monitor", "")
    if monitor == "":  # a trainer's default: the summary names its value, not whether it should rise
        named = best.get("name", "val/loss")
        monitor = "min val/loss" if named == "val/loss" else _monitor_in(_read_config(folder))
    monitor = monitor if isinstance(monitor, str) and _is_monitor(monitor) else None
    value, epoch = _number(best.get("value")), _number(best.get("epoch"))
    if monitor and value is None and monitor.partition(" ")[2] in _numbers(summary.get("scores")):
        value = math.nan  # it was evaluated, and never a number
    return monitor, value, epoch


def _read_slowly(folder: Path, files: Mapping) -> tuple[dict, str | None, float | None, int | None]:
    """Flat config, monitor, best value and its epoch of a run without summary.json, as of version 1.0.0."""
    config = _read_config(folder) if CONFIG in files else {}
    monitor, value, epoch = _monitor_in(config), None, None
    if monitor and METRICS in files:
        min_delta = _number(value_at(config, "trainer.args.min_delta", 0.0)) or 0.0
        point = best_point(folder, Monitor(monitor, min_delta=min_delta))
        value, epoch = _number(point.get(monitor.partition(" ")[2])), _number(point.get("epoch"))
        value = math.nan if value is None and files[METRICS].stat().st_size else value
    hidden = keys_from_environment(folder) if RECORD in files else ()
    return _in_one_form(masked(flatten(written_config(config)), hidden)), monitor, value, epoch


def _in_one_form(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A flat config as `flat_config` gives it today: earlier summaries kept how a block was written."""
    config = {f"{key}.type" if key in _BLOCKS and isinstance(value, str) else key: value
              for key, value in flat.items() if value or not key.endswith(".args")}
    lists = dict.fromkeys(found[1] for key in config if (found := _ITEM.fullmatch(key)))
    for path in sorted(lists, key=len, reverse=True):  # inner ones first
        config = _with_bare_names(config, path)
    return config


def _with_bare_names(config: dict[str, Any], path: str) -> dict[str, Any]:
    """A flat config whose blocks without arguments in the list at `path` are names; if all are, one value."""
    below = [key for key in config if key.startswith(f"{path}.")]
    alone = {key: key.removesuffix(".type") for key in below if _ITEM.fullmatch(key) and
             not any(other != key and other.startswith(key.removesuffix("type")) for other in below)}
    if len(alone) == len(below) and all(isinstance(config[key], str) for key in below):
        config[path] = [config.pop(key) for key in below]
        return config
    return {alone.get(key, key): value for key, value in config.items()}


def _read_config(folder: Path) -> dict:
    try:
        config = parse_yaml(read_text(folder / CONFIG), str(folder / CONFIG)).value
    except ConfigError:
        return {}
    return config if isinstance(config, dict) else {}


def _monitor_in(config: dict) -> str | None:
    monitor = value_at(config, "trainer.args.monitor", "min val/loss")  # 1.0.0 did not write its default
    return monitor if isinstance(monitor, str) and _is_monitor(monitor) else None


def _is_monitor(text: str) -> bool:
    try:
        return bool(parse_monitor(text))
    except ValueError:
        return False


def _duration(records: list[dict], state: str, files: Mapping[str, os.DirEntry]) -> float | None:
    """Seconds of all starts. The last one of a killed run is counted to its last evaluation."""
    total, begun = None, None
    for record in records:
        if _is_start(record):
            begun = record["started_s"]
        elif begun is not None and (ended := _seconds(record.get("ended"))) is not None:
            total, begun = (total or 0.0) + max(ended - begun, 0.0), None
    if begun is not None and state in ("running", "killed"):
        written = [files[name].stat().st_mtime for name in (SUMMARY, METRICS) if name in files]
        ended = time.time() if state == "running" else max(written, default=begun)
        total = (total or 0.0) + max(ended - begun, 0.0)
    return total


def _started(records: list[dict], folder: Path) -> float:
    """When a run was started first; if that was not recorded, when its folder was changed last."""
    for record in records:
        if _is_start(record):
            return record["started_s"]
    return folder.stat().st_mtime


def _is_start(record: dict) -> bool:
    return _number(record.get("started_s")) is not None


def _seconds(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def read_json(file: os.PathLike | None) -> dict:
    """The table in a JSON file; {} if it is missing or cannot be read."""
    try:
        if file is None or os.stat(file).st_size > _LIMIT:
            return {}
        with open(file, encoding="utf-8", errors="replace") as opened:
            content = json.load(opened)
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _numbers(values: Any) -> dict[str, float | None]:
    """The scores in a table, by name; None for what was not finite."""
    table = values if isinstance(values, dict) else {}
    return {name: _number(value) for name, value in table.items()
            if "/" in name and (value is None or _number(value) is not None)}


def _number(value: Any) -> int | float | None:
    """A number that can be computed with; None for anything else."""
    small = type(value) is int and abs(value) < 2**53
    return value if small or type(value) is float else None
