"""What a config says, and who said so: `--print-config`, `--diff`, and the part of `--explain` that needs no torch."""
import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from utils.config import Layer, Reading, flatten, load_config, place_of, report
from utils.errors import ConfigError
from utils.sections import EXTENDS, SECTIONS, with_defaults
from utils.signature import nearest
from utils.syntax import KeyPath, dump_yaml

_MISSING = object()
Rows = list[tuple[str, str]]  # what, and what of it


def tell(args, given: Reading | None) -> None:
    """Prints what train.py's `--print-config`, `--diff`, `--list` or `--explain` asks for, of the config `given`, if any.

    Raises ConfigError, after that, for what is wrong with how that is written.
    """
    try:
        print(_answer(args, given), flush=True)
    except BrokenPipeError:  # whoever reads it, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if given and given.faults:
        raise ConfigError(report(given.faults, given.places))


def _answer(args, given: Reading | None) -> str:
    if args.print_config:
        return print_config(given, args.origins)
    if args.diff:
        return diff(*args.diff)
    if args.list:
        return _room_above().list_names(args.list)
    reading = given or Reading({}, {}, [], [])
    path = path_of(args.explain, reading.config)
    rows = explain_value(reading, path)
    if path[0] in ("extends", "name", "seed"):
        rows += [("but", "it is a single value, with nothing below it")] * (len(path) > 1)
    else:
        rows += _room_above().explain(with_defaults(reading.config), path)
    width = max(len(what) for what, _ in rows)
    return "\n".join([args.explain, *(f"  {what:<{width}}  {said}" for what, said in rows if said)])


def _room_above():
    """By name, as a registry imports its folder: it takes torch, and a second, and not all answers need them."""
    return importlib.import_module("base.explain")


def print_config(reading: Reading, origins: bool = False) -> str:
    """The config that a run would have, as YAML; with `origins` a comment on each line tells where its value was written."""
    text = dump_yaml(with_defaults(reading.config), flow=False if origins else None)
    if not origins:
        return text.rstrip("\n")
    lines = text.splitlines()
    width = max(len(line) for line in lines if len(line) < 80)
    for path, node in _leaves(yaml.compose(text, Loader=yaml.SafeLoader), ()):
        line = node.start_mark.line
        if line == node.end_mark.line:  # a comment within text of several lines would be a part of it
            lines[line] = f"{lines[line]:<{width}}  # {origin(reading, path)}"
    return "\n".join(lines)


def _leaves(node: yaml.Node, path: KeyPath):
    """The path and the node of everything in a YAML document that holds nothing else."""
    if isinstance(node, yaml.MappingNode) and node.value:
        for key, value in node.value:
            yield from _leaves(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode) and node.value:
        for number, item in enumerate(node.value):
            yield from _leaves(item, (*path, str(number)))
    else:
        yield path, node


def origin(reading: Reading, path: KeyPath) -> str:
    """Where a value was written: `configs/digits.yaml:14`, `command line`, or `default`."""
    return "default" if look_up(reading.config, path) is _MISSING else place_of(reading.places, path).source


def look_up(config: Any, path: KeyPath) -> Any:
    """The value at a path; _MISSING where there is none. A bare name is short for `{type: name}`."""
    for part in path:
        if isinstance(config, dict) and part in config:
            config = config[part]
        elif isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        elif not (isinstance(config, str) and part == "type"):
            return _MISSING
    return config


def path_of(key: str, config: Any) -> KeyPath:
    """`optimizer.args.lr` as a key path. Raises ConfigError where there is no such section."""
    path = tuple(key.split("."))
    if path[0] in (*SECTIONS, "extends"):
        return path
    same = [known for known in flatten(config) if known.endswith(f".{key}")]
    hint = f" Did you mean {' or '.join(same)}?" if same else nearest(path[0], SECTIONS)
    raise ConfigError(f"--explain: there is no section '{path[0]}'.{hint} Sections: {', '.join(SECTIONS)}.")


def explain_value(reading: Reading, path: KeyPath) -> Rows:
    """What its section is for, the value at a path, where it comes from, and what it replaces."""
    value = look_up(with_defaults(reading.config), path)
    section = (path[0], EXTENDS if path[0] == "extends" else SECTIONS[path[0]].text)
    if value is _MISSING:
        return [section, ("value", "not set")]
    rows = [section, ("value", in_yaml(value)), ("from", origin(reading, path))]
    if not isinstance(value, dict):  # tables merge
        said = [(look_up(layer.config, path), place_of(layer.places, path).source) for layer in reversed(reading.layers)]
        said = [(there, source) for there, source in said if there is not _MISSING]
        gone = (*path[:-1], f"~{path[-1]}")
        deleted = [("deleted", layer.places[gone].source) for layer in reading.layers if gone in layer.places]
        rows += deleted or [("written as", in_yaml(there)) for there, _ in said[:1] if there != value]
        rows += [("instead of", f"{in_yaml(there)}, {source}") for there, source in said[not deleted:]]
    if len(files := [_file(layer) for layer in reading.layers if layer.config]) > 1:
        rows.append(("read from", ", then ".join(files)))
    return rows


def _file(layer: Layer) -> str:
    return next(iter(layer.places.values())).source.rpartition(":")[0] or "command line"


def in_yaml(value: Any) -> str:
    """A value on one line, as a config writes it; what a config has no word for as Python does."""
    try:
        text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    except yaml.YAMLError:
        return repr(value)
    return text.removesuffix("\n").removesuffix("\n...")


def diff(one: Path, other: Path) -> str:
    """How two configs differ, or two runs: also in what they ran on and what came out, as a table."""
    configs = [with_defaults(load_config(_config_of(path))[0]) for path in (one, other)]
    leaves = [{key: in_yaml(value) for key, value in flatten(config).items()} for config in configs]
    rows = _unequal(*leaves)
    runs = [_config_of(path).parent for path in (one, other)]
    if all((run / "metrics.jsonl").exists() for run in runs):
        ran_on, came_to = [_ran_on(run) for run in runs], [_came_to(run) for run in runs]
        for first, second in (ran_on, came_to):
            rows += _unequal(first, second)
    if not rows:
        return f"{one} and {other} do not differ."
    rows = [("", str(one), str(other)), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{key:<{widths[0]}}  {first:<{widths[1]}}  {second}" for key, first, second in rows)


def _unequal(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    keys = {**first, **second}
    return [(key, str(first.get(key, "-")), str(second.get(key, "-"))) for key in keys if first.get(key) != second.get(key)]


def _config_of(path: Path) -> Path:
    """The config file that a path stands for: itself, or that of a run, or of an experiment's newest run."""
    if not path.is_dir():
        return path
    if (path / "config.yaml").exists():
        return path / "config.yaml"
    runs = sorted(path.glob("*/config.yaml"), key=lambda file: file.stat().st_mtime)
    if not runs:
        raise ConfigError(f"{path}: neither a config file nor a run, with config.yaml in it, nor an experiment with runs")
    return runs[-1]


def _ran_on(run: Path) -> dict[str, Any]:
    """The record of a run's last start, in part."""
    try:
        start = json.loads((run / "environment.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}
    known = {key: start.get(key) for key in ("git_commit", "git_diff", "python", "device", "num_processes")}
    return known | dict(start.get("packages") or {})


def _came_to(run: Path) -> dict[str, Any]:
    """The values of a run's last epoch, and what test.py measured."""
    values: dict[str, Any] = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            point = json.loads(line)
        except ValueError:  # torn by a full disk
            continue
        if any(name.startswith("train/") for name in point):
            values = {name: value for name, value in point.items() if "/" in name} | {"epoch": point.get("epoch")}
    try:
        return values | {k: v for k, v in json.loads((run / "test.json").read_text()).items() if "/" in k}
    except (OSError, ValueError):
        return values
