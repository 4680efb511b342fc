"""Values in a config by their key paths: to find, set, flatten, mask and compare them."""
import copy
from collections.abc import Container, Iterable, Mapping
from typing import Any

from utils.config.syntax import DATA_VALUES, DEFAULT_VALUES, KeyPath, items_of, key_in

MASK = "***"


def masked(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """A flat config, as others may see it: `MASK` in place of the values at and below `keys`."""
    hidden = tuple(keys)
    return {name: MASK if any(name == key or name.startswith(f"{key}.") for key in hidden) else value
            for name, value in config.items()}


def mask_tree(config: Any, keys: Container[str], path: str = "") -> Any:
    """A config as a tree, with `MASK` in place of what stands at `keys`."""
    if path in keys:
        return MASK
    inside = {key: mask_tree(item, keys, f"{path}.{key}" if path else str(key))
              for key, item in items_of(config)}
    return inside if isinstance(config, dict) else [*inside.values()] if isinstance(config, list) else config


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"optimizer.args.lr": 0.001, ...}`: the leaves of a config by dotted path."""
    nested = isinstance(config, dict) or any(isinstance(item, (dict, list)) for _, item in items_of(config))
    if not nested or not config:
        return {prefix: config}
    return {name: leaf for key, item in items_of(config)
            for name, leaf in flatten(item, f"{prefix}.{key}" if prefix else str(key)).items()}


def value_at(config: Any, key: str | KeyPath, missing: Any = None) -> Any:
    """The value of `optimizer.args.lr` or `metrics.0.args.k` in a config; `missing` if there is none.

    A bare name is short for `{type: name}`.
    """
    for part in key.split(".") if isinstance(key, str) else key:
        if isinstance(config, dict) and key_in(config, part) in config:
            config = config[key_in(config, part)]
        elif isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        elif not (isinstance(config, str) and part == "type"):
            return missing
    return config


def default_values(config: Mapping) -> dict[str, Any]:
    """The unwritten values in a complete config, by key (`trainer.args.ema`); {} for any other."""
    values = config.get(DEFAULT_VALUES)
    values = values if isinstance(values, dict) else {}
    return {key: value for key, value in values.items() if isinstance(key, str)}


def written_config(config: Mapping) -> dict:
    """What was written of a complete config: a default that is another value by now was written, too."""
    tables = (DATA_VALUES, DEFAULT_VALUES)
    written = copy.deepcopy({key: value for key, value in config.items() if key not in tables})
    for name, value in default_values(config).items():
        *above, key = name.split(".")
        table = value_at(written, ".".join(above)) if above else None
        if isinstance(table, dict) and key in table and is_same(table[key], value):
            del table[key]
            block = value_at(written, ".".join(above[:-1])) if above[-1] == "args" and above[:-1] else None
            if not table and isinstance(block, dict):
                del block["args"]
    return written


def is_same(one: Any, other: Any) -> bool:
    """Whether two values of a config are equal; 0 and false are not."""
    return type(one) is type(other) and one == other


def differences(old: dict, new: dict) -> dict[str, tuple[Any, Any]]:
    """`{"trainer.args.epochs": (10, 20)}`: leaves that differ between two configs (None if missing)."""
    old_leaves, new_leaves = flatten(old), flatten(new)
    keys = {**old_leaves, **new_leaves}
    return {k: (old_leaves.get(k), new_leaves.get(k)) for k in keys if old_leaves.get(k) != new_leaves.get(k)}


def set_value(config: Any, path: KeyPath, value: Any) -> Any:
    """The config with another value at a path whose tables and lists there are; changes nothing in place."""
    if not path:
        return value
    if isinstance(config, list):
        return [set_value(item, path[1:], value) if str(i) == path[0] else item
                for i, item in enumerate(config)]
    return {**config, path[0]: set_value(config[path[0]], path[1:], value)}
