"""`train.py --diff A B`: the differences between two configs, or two runs."""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from utils.config.loading import default_values, flatten, load_config
from utils.config.sections import with_defaults
from utils.config.syntax import format_value
from utils.errors import ConfigError


def run_tool(args, reading=None) -> str:
    """The text that `--diff A B` prints."""
    return diff(*args.diff)


def diff(one: Path, other: Path) -> str:
    """The differences between two configs or runs, as a table. For runs also in environment and results."""
    files = [_config_of(path) for path in (one, other)]
    configs = [with_defaults(load_config(file)[0]) for file in files]
    rows, runs = _differing_rows(*map(_leaves_of, configs)), [file.parent for file in files]
    kept = [_kept_defaults(file) for file in files]
    common = kept[0].keys() & kept[1].keys()
    rows += _differing_rows(*({key: values[key] for key in values if key in common} for values in kept))
    if all((run / "metrics.jsonl").exists() for run in runs):
        rows += _differing_rows(*map(_environment_of, runs)) + _differing_rows(*map(_results_of, runs))
    if not rows:
        return f"{one} and {other} do not differ."
    rows = [("", str(one), str(other)), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{key:<{widths[0]}}  {first:<{widths[1]}}  {second}" for key, first, second in rows)


def _kept_defaults(file: Path) -> dict[str, str]:
    """The defaults in the complete config of a run that were not written; {} for another config."""
    content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.name == "config.yaml" else {}
    return {key: format_value(value) for key, value in default_values(content).items()}


def _leaves_of(config: dict) -> dict[str, str]:
    return {key: format_value(value) for key, value in flatten(_in_short(config)).items()}


def _in_short(config: Any) -> Any:
    """A config with NAME for `{type: NAME}`."""
    if isinstance(config, list):
        return [_in_short(item) for item in config]
    if not isinstance(config, dict):
        return config
    return config["type"] if config.keys() == {"type"} else {k: _in_short(v) for k, v in config.items()}


def _differing_rows(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    keys = {**first, **second}
    return [(key, str(first.get(key, "-")), str(second.get(key, "-")))
            for key in keys if first.get(key) != second.get(key)]


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
    """Part of the record of a run's last start."""
    try:
        start = json.loads((run / "environment.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}
    known = {key: start.get(key) for key in ("git_commit", "git_diff", "python", "device", "num_processes")}
    return known | dict(start.get("packages") or {})


def _results_of(run: Path) -> dict[str, Any]:
    """The values of a run's last epoch, and the results of test.py."""
    values: dict[str, Any] = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            point = json.loads(line)
        except ValueError:  # incomplete, because of a full disk
            continue
        if any(name.startswith("train/") for name in point):
            values = ({name: value for name, value in point.items() if "/" in name}
                      | {"epoch": point.get("epoch")})
    try:
        return values | {k: v for k, v in json.loads((run / "test.json").read_text()).items() if "/" in k}
    except (OSError, ValueError):
        return values
