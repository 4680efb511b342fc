"""Reads configs: YAML or JSON, `extends`, `key.path=value`; every value remembers the line it was written on.

A config is a plain dict. Beside it goes `places`, a dict from key path to Place, for error messages only.
"""
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from utils.errors import ConfigError

COMMAND_LINE = "command line"
KeyPath = tuple[str, ...]  # ("optimizer", "args", "lr"); list items by their index, ("metrics", "0", "args", "k")


class Place(NamedTuple):
    """Where a value was written, and how: `Place("configs/mnist.yaml:14", "off")`."""

    source: str
    text: str | None = None


class _Loader(yaml.SafeLoader):
    """SafeLoader with the numbers of YAML 1.2: `1e-3` is a float, `010` and `1:30` are text, so are dates."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes whatever _Loader would take for a number."""


_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*\.[0-9_]*)([eE][-+]?[0-9]+)?$"  # 0.5  .5  1.  1.5e-3
    r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"  # 1e-3
    r"|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)$|0x[0-9a-fA-F_]+$|0b[01_]+$")
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
_OURS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OURS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def load_config(file: str | os.PathLike, overrides: list[str] = ()) -> tuple[dict, dict]:
    """The config in `file`, with what it extends and the `key.path=value` overrides, as (config, places).

    Raises ConfigError for a missing or broken file, a duplicate key, a circular `extends`, a malformed override.
    """
    return apply_overrides(*_load_file(Path(file), ()), overrides)


def apply_overrides(config: dict, places: dict, overrides: list[str]) -> tuple[dict, dict]:
    """`config` with `key.path=value` arguments merged in (values are parsed as YAML), and its places."""
    tree: dict = {}
    tree_places: dict = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        path = tuple(key.split("."))
        if not equals or not all(path):
            raise ConfigError(f"{COMMAND_LINE}: cannot read '{override}'. Overrides look like optimizer.args.lr=0.01")
        nested, inner_places = parse_yaml(text, COMMAND_LINE)
        for part in reversed(path):
            nested = {part: nested}
        nested_places = {path + inner: place for inner, place in inner_places.items()}
        nested_places |= {path[:end]: Place(COMMAND_LINE) for end in range(1, len(path) + 1) if path[:end] not in nested_places}
        tree, tree_places = merge_with_places((tree, tree_places), (nested, nested_places))
    return merge_with_places((config, places), (tree, tree_places))


def merge_with_places(base: tuple[Any, dict], new: tuple[Any, dict]) -> tuple[Any, dict]:
    """`merge` for (config, places) pairs: what was replaced loses its places."""
    replaced: list[KeyPath] = []
    value = merge(base[0], new[0], (), replaced)
    kept = {path: place for path, place in base[1].items() if not any(path[:len(gone)] == gone for gone in replaced)}
    return value, {**kept, **new[1]}


def merge(base: Any, new: Any, path: KeyPath = (), replaced: list[KeyPath] | None = None) -> Any:
    """`new` laid over `base`, neither changed: dicts merge key by key, everything else is replaced.

    A block that names another `type` replaces the one below it whole; a string is short for `{type: string}`.
    Items of a list are reached by their index (`metrics.0.args.k=5`). The paths of what was replaced go into `replaced`.
    """
    if isinstance(base, list) and isinstance(new, dict) and new and all(str(key).isdigit() for key in new):
        if beyond := [key for key in new if int(key) >= len(base)]:
            raise ConfigError(f"{COMMAND_LINE}  {'.'.join(path)}: the list has {len(base)} items; there is no item {beyond[0]}")
        return [merge(item, new[str(i)], (*path, str(i)), replaced) if str(i) in new else item for i, item in enumerate(base)]
    if isinstance(base, dict) and "type" in base and isinstance(new, str):
        new = {"type": new}
    if isinstance(base, str) and isinstance(new, dict) and new.keys() - {"type"}:
        base = {"type": base}
    tables = isinstance(base, dict) and isinstance(new, dict)
    if tables and path in (("optimizer",), ("scheduler",)) and is_single(base) != is_single(new):
        tables = False  # from one optimizer to several, or back
    if not tables or ("type" in base and new.get("type", base["type"]) != base["type"]):
        if replaced is not None:
            replaced.append(path)
        return new
    merged = {key: merge(base[key], value, (*path, key), replaced) if key in base else value for key, value in new.items()}
    return {**base, **merged}


def is_single(block: dict) -> bool:
    """Whether a table is (part of) one optimizer or scheduler, and not several by their names."""
    return bool(block.keys() & {"type", "args", "per", "groups", "decay_bias_and_norm"}) or not block


def dump_yaml(config: dict, flow: bool | None = False) -> str:
    """`config` as YAML that load_config reads back equal. With `flow` None, innermost tables and lists take a line each."""
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=flow)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"optimizer.args.lr": 0.001, ...}`: the leaves of a config by their dotted path."""
    if isinstance(config, dict) and config:
        items = config.items()
    elif isinstance(config, list) and any(isinstance(item, (dict, list)) for item in config):
        items = enumerate(config)
    else:
        return {prefix: config}
    return {k: v for key, item in items for k, v in flatten(item, f"{prefix}.{key}" if prefix else str(key)).items()}


def differences(old: dict, new: dict) -> dict[str, tuple[Any, Any]]:
    """`{"trainer.args.epochs": (10, 20)}`: leaves that are not the same in two configs (None where missing)."""
    old_leaves, new_leaves = flatten(old), flatten(new)
    keys = {**old_leaves, **new_leaves}
    return {k: (old_leaves.get(k), new_leaves.get(k)) for k in keys if old_leaves.get(k) != new_leaves.get(k)}


def place_of(places: dict, path: tuple) -> Place:
    """The place of `path`, or of the nearest key above it that was written somewhere."""
    path = tuple(map(str, path))
    for end in range(len(path), 0, -1):
        if path[:end] in places:
            place = places[path[:end]]
            return place if end == len(path) else Place(place.source)
    return places.get((), Place("config"))


def _load_file(file: Path, chain: tuple[Path, ...]) -> tuple[dict, dict]:
    if file.resolve() in chain:
        raise ConfigError(f"{file}: extends itself, by way of " + " -> ".join(f.name for f in chain))
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        others = sorted(p.name for p in file.parent.glob("*") if p.suffix in (".yaml", ".yml", ".json"))
        also = f" There are {', '.join(others)} in {file.parent}." if others else ""
        extended = f" ({chain[-1].name} extends it)" if chain else ""
        raise ConfigError(f"{file}: cannot be read: {error.strerror}{extended}.{also}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 text: {error}") from error
    parse = parse_json if file.suffix == ".json" else parse_yaml
    config, places = parse(text, str(file))
    if not isinstance(config, dict):
        raise ConfigError(f"{file}: a config is a table of sections (name, dataset, model, ...); this is {config!r}")
    parents = config.pop("extends", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{places[('extends',)].source}  extends: a file name or a list of them is needed")
    base: tuple[dict, dict] = ({}, {})
    for parent in parents:
        base = merge_with_places(base, _load_file(file.parent / parent, (*chain, file.resolve())))
    return merge_with_places(base, (config, places))


def parse_json(text: str, source: str) -> tuple[Any, dict]:
    """JSON text as (value, places); a duplicate key is an error. `source` names the file."""
    try:
        value = json.loads(text, object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{source}:{error.lineno}: this is not JSON: {error.msg} (column {error.colno})") from error
    except (RecursionError, _Duplicate) as error:
        parse_yaml(text.replace("\t", " "), source)  # says on which line
        raise ConfigError(f"{source}: {error}") from error
    try:
        _, places = parse_yaml(text.replace("\t", " "), source)  # nearly all JSON is YAML, but for tabs
    except ConfigError:
        places = {(): Place(source)}
    return value, places


class _Duplicate(Exception):
    """A key that stands twice in a JSON object."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict:
    keys = [key for key, _ in pairs]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise _Duplicate(f"{twice[0]}: written twice. Keep one of the two.")
    return dict(pairs)


def parse_yaml(text: str, source: str) -> tuple[Any, dict]:
    """YAML text as (value, places); a duplicate key is an error. `source` names the file, or is COMMAND_LINE."""
    places: dict = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        value = _construct(loader, node, (), source, places) if node else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = source if source == COMMAND_LINE else f"{source}:{mark.line + 1}"
        tabs = " (YAML is indented by spaces, not tabs)" if "'\\t'" in str(error.problem) else ""
        raise ConfigError(f"{where}: {error.problem or error.context}{tabs}\n{mark.get_snippet() or ''}".rstrip()) from error
    except RecursionError as error:
        raise ConfigError(f"{source}: nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: {error}") from error
    return value, places


def _construct(loader: _Loader, node: yaml.Node, path: KeyPath, source: str, places: dict) -> Any:
    where = source if source == COMMAND_LINE else f"{source}:{node.start_mark.line + 1}"
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    places[path] = Place(where, node.value if plain else None)
    if node.tag not in _PLAIN_TAGS:
        raise ConfigError(f"{where}: a config holds plain values, not {node.tag}")
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_object(node)
    if len(path) > 50:
        raise ConfigError(f"{where}: nested too deeply")
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*path, str(i)), source, places) for i, item in enumerate(node.value)]
    written = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    loader.flatten_mapping(node)  # `<<: *anchor`; comes first, so that what is written here wins
    values = {}
    for key_node, value_node in node.value:
        key = key_node.value  # as written: keys are text, as in JSON
        if not isinstance(key, str):
            raise ConfigError(f"{where}: a key is a word, not a list or a table")
        if key in values and written.count(key) > 1:
            at = source if source == COMMAND_LINE else f"{source}:{key_node.start_mark.line + 1}"
            raise ConfigError(f"{at}  {'.'.join((*path, key))}: written twice. Keep one of the two.")
        values[key] = _construct(loader, value_node, (*path, key), source, places)
    return values
