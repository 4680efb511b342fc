"""`train.py --diff A B ...`: the differences between configs, or runs and their best epochs."""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.runs.run_state import state_of
from utils.config.loading import load_config, read_text
from utils.config.values import default_values, flatten, value_at
from utils.config.sections import with_defaults
from utils.config.syntax import format_value, parse_yaml
from utils.errors import ConfigError
from utils.run_record import starts_of
from utils.training.monitor import Monitor

Row = tuple[str, ...]  # a key and its value in each config


def run_tool(args, reading=None) -> str:
    """The text that `--diff A B ...` prints."""
    return diff(*args.diff)


def diff(*paths: Path) -> str:
    """The differences between configs or runs, as a table. For runs also in environment and results.

    The results of a run are those of its best epoch, by its own monitor. That epoch and its monitored value
    are always shown.
    """
    files = [_config_of(path) for path in paths]
    runs, contents = [file.parent for file in files], [_complete_config(file) for file in files]
    rows, shown = _config_rows(files, contents), set()
    if all((run / "metrics.jsonl").exists() for run in runs):
        monitors = [_monitor_of(content) for content in contents]
        shown = {"best epoch", *(monitor.name for monitor in monitors if monitor)}
        rows += _differing_rows([_environment_of(run) for run in runs])
        rows += _differing_rows([*map(_results_of, runs, monitors)], shown)
    names = [str(path) for path in paths]
    if all(key in shown and len({*values}) == 1 for key, *values in rows):
        same = f"{', '.join(names[:-1])} and {names[-1]} do not differ."
        return "\n".join([same, *(f"{row[0]}  {row[1]}" for row in rows)])
    return _table([("", *names), *rows])


def _config_rows(files: list[Path], contents: list[dict[str, Any]]) -> list[Row]:
    """What the configs say in different ways, and the defaults that differ among the `contents` of runs."""
    written = [_leaves_of(with_defaults(load_config(file)[0])) for file in files]
    defaults = [{key: format_value(value) for key, value in default_values(content).items()}
                for content in contents]
    common = set.intersection(*({*values} for values in defaults))
    return _differing_rows(written) + _differing_rows([{key: values[key] for key in values if key in common}
                                                       for values in defaults])


def _table(rows: list[Row]) -> str:
    widths = [max(map(len, column)) for column in [*zip(*rows, strict=True)][:-1]]
    return "\n".join("  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths)), row[-1]])
                     for row in rows)


def _complete_config(file: Path) -> dict[str, Any]:
    """The complete config of a run, with its defaults; {} for another config."""
    return parse_yaml(read_text(file), str(file)).value if file.name == "config.yaml" else {}


def _monitor_of(config: Mapping) -> Monitor | None:
    """The monitor of a complete config; None without one."""
    text = value_at(config, "trainer.args.monitor", "min val/loss")  # 1.0.0 did not write its default
    return text and Monitor(text, min_delta=value_at(config, "trainer.args.min_delta", 0.0))


def _leaves_of(config: dict) -> dict[str, str]:
    return {key: format_value(value) for key, value in flatten(_in_short(config)).items()}


def _in_short(config: Any) -> Any:
    """A config with NAME for `{type: NAME}`."""
    if isinstance(config, list):
        return [_in_short(item) for item in config]
    if not isinstance(config, dict):
        return config
    return config["type"] if config.keys() == {"type"} else {k: _in_short(v) for k, v in config.items()}


def _differing_rows(tables: list[Mapping[str, Any]], shown: set[str] = frozenset()) -> list[Row]:
    """A row for each key whose value is not the same in all tables, or that is always `shown`."""
    keys = {key: None for table in tables for key in table}
    return [(key, *(str(table.get(key, "-")) for table in tables)) for key in keys
            if key in shown or any(table.get(key) != tables[0].get(key) for table in tables)]


def _config_of(path: Path) -> Path:
    """The config file of a path: the path itself, or that of a run, or of an experiment's newest run."""
    if not path.is_dir():
        return path
    if (path / "config.yaml").exists():
        return path / "config.yaml"
    runs = sorted(path.glob("*/config.yaml"), key=lambda file: file.stat().st_mtime)
    if not runs:
        raise ConfigError(f"{path}: neither a config file nor a run, with config.yaml in it, nor an "
                          "experiment with runs")
    return runs[-1]


def _environment_of(run: Path) -> dict[str, Any]:
    """The state of a run, and part of the record of its last start."""
    start = next(reversed(starts_of(run)), {})
    keys = ("git_commit", "git_diff", "python", "device", "num_processes")
    known = {key: start.get(key) for key in keys}
    return {"state": state_of(run)} | known | dict(start.get("packages") or {})


def _results_of(run: Path, monitor: Monitor | None) -> dict[str, Any]:
    """The values of a run's best epoch (without a monitor: of its last one), and the results of test.py."""
    best = best_point(run, monitor)
    values = {name: value for name, value in best.items() if "/" in name}
    by = f"by {monitor.mode} {monitor.name}" if monitor else "the last one; there is no monitor"
    values["best epoch"] = f"{best.get('epoch', '-')}, {by}"
    try:
        return values | {k: v for k, v in json.loads((run / "test.json").read_text()).items() if "/" in k}
    except (OSError, ValueError):
        return values


def best_point(run: Path, monitor: Monitor | None) -> dict[str, Any]:
    """The line of metrics.jsonl for a run's best epoch, or last one without a monitor; {} if none."""
    best: dict[str, Any] = {}
    with open(run / "metrics.jsonl", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                point = json.loads(line)
            except ValueError:  # incomplete, because of a full disk
                continue
            if (isinstance(point, dict) and any(name.startswith("train/") for name in point)
                    and _is_best(point, monitor)):
                best = point
    return best


def _is_best(point: dict, monitor: Monitor | None) -> bool:
    """Whether an epoch is the best so far, by the rule of the run itself."""
    if monitor is None:
        return True
    value = point.get(monitor.name)
    return isinstance(value, (int, float)) and monitor.update(value, point.get("epoch", 0))
