"""Writes the defaults of the project's own parts into a config, so that a later default changes no run.

A complete config has a table `default_values`: the keys that were not written, with their values. A part is
built with such a value only where it is not today's default: a constructor sees what it always saw.
"""
import copy
import sys
from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple

from base.base_data_loader import PROVIDED, DataSplits
from base.build import default_per
from base.registries import KINDS, SAMPLERS, SCHEDULERS, TRANSFORMS
from base.trainer_options import TrainerOptions
from utils.config.blocks import args_of, as_block, holds_blocks
from utils.config.values import default_values, flatten, is_same, mask_tree, value_at
from utils.config.registry import Registry
from utils.config.signature import Signature
from utils.config.syntax import DEFAULT_VALUES
from utils.errors import ConfigError, is_ours

# Arguments that are not kept, by section: the program fills them in, or chooses them for the machine.
_LEFT_OPEN = {"dataset": ("split", "train"), "scheduler": ("T_max", "total_steps"),
              "optimizer": ("fused", "foreach", "differentiable")}
# Keys of blocks besides `type` and `args`, with what gives their defaults, by section.
_BLOCK_KEYS = {"loss": {"scale": lambda block: 1.0},
               "optimizer": {key: lambda block: True for key in ("decay_bias_and_norm", "keep_frozen")},
               "scheduler": {"per": default_per}}
_ENGINE = (DataSplits, TrainerOptions)


class CompleteConfig(NamedTuple):
    """`config`: what the parts are built from. `complete`: what a run keeps, with every default."""

    config: dict
    complete: dict


class _Default(NamedTuple):
    """The default of a key. `former`: in the version that wrote the config. `of_engine`: not of a plug-in."""

    today: Any
    former: Any
    of_engine: bool


def complete_config(config: Mapping, earlier: Mapping | None = None,
                    former: Mapping[str, Mapping] | None = None, engine_only: bool = False) -> CompleteConfig:
    """Adds the defaults of the engine's own keys and of the project's plug-ins, where they are plain values.

    The arguments of libraries stay as written.

    Args:
        config: as written, see `written_config`. What is no block of something that there is stays as it is.
        earlier: the complete config of the run that is continued. Its defaults count, not those of today.
        former: the defaults in an earlier version (`format_1.DEFAULTS`), for what `earlier` lacks.
        engine_only: leaves out the defaults of plug-ins, but for defaults that an argument has lost since.
    """
    built, complete, found = copy.deepcopy(dict(config)), copy.deepcopy(dict(config)), {}
    kept = default_values(earlier or {})
    for path, kind, defaults in _tables(config, former or {}):
        same = earlier is None or _type_at(earlier, path) == kind
        for key, default in defaults.items():
            name = _dotted((*path, key))
            value = kept.get(name, default.former) if same or default.of_engine else default.former
            if value is _MISSING or (engine_only and not default.of_engine and default.today is not _MISSING):
                continue
            found[name] = value
            _put(complete, (*path, key), value)
            if not is_same(value, default.today):
                _put(built, (*path, key), value)
    return CompleteConfig(built, {**complete, DEFAULT_VALUES: copy.deepcopy(found)})


def in_tables(config: Mapping) -> dict:
    """The config with `{type: NAME}` for NAME."""
    config = copy.deepcopy(dict(config))
    for path, _, block in _blocks(copy.deepcopy(config)):
        if "type" in block:
            _put(config, (*path, "type"), block["type"])
    return config


def flat_config(config: Mapping, hidden: Container[str] = ()) -> dict[str, Any]:
    """`flatten`, masked, and the same however blocks were written: defaults leave traces in their form."""
    return flatten(_names_in_lists(mask_tree(in_tables(config), hidden)))


def _names_in_lists(config: Any) -> Any:
    """The config with NAME for `{type: NAME}` in lists, and without empty `args`."""
    if isinstance(config, list):
        return [item["type"] if isinstance(item, dict) and item.keys() == {"type"} else item
                for item in map(_names_in_lists, config)]
    return ({key: _names_in_lists(item) for key, item in config.items() if key != "args" or item}
            if isinstance(config, dict) else config)


_MISSING = object()


def _tables(config: Mapping,
            former: Mapping[str, Mapping]) -> Iterator[tuple[tuple, Any, dict[str, _Default]]]:
    """(path, type of its block, defaults of what is not written) of every table of arguments in a config."""
    if isinstance(options := _given(config, "data_loader"), dict):
        yield ("data_loader",), None, _unwritten(options, Signature(DataSplits, PROVIDED), former)
    if isinstance(transforms := _given(config, "transforms"), dict) and "joint" not in transforms:
        earlier = former.get("transforms", {}).get("joint")
        yield ("transforms",), None, {"joint": _Default(None, earlier, True)}
    for path, registry, block in _blocks(config):
        try:
            signature = registry.signature(registry.get(block["type"]))
            unwritten = _unwritten_keys(path, block, former)
        except (ConfigError, KeyError, TypeError, ValueError):  # nothing that could be built
            continue
        yield path, block["type"], unwritten
        if isinstance(args := _given(block, "args"), dict):
            left_open = _LEFT_OPEN.get(path[0], ())
            yield (*path, "args"), block["type"], _unwritten(args, signature, former, left_open)


def _unwritten_keys(path: tuple, block: Mapping, former: Mapping[str, Mapping]) -> dict[str, _Default]:
    """The defaults of a block's own keys that are not written.

    The schedulers of a sequence, and a single loss, have none.
    """
    earlier, found = former.get(path[0], {}), {}
    keys = {} if "schedulers" in path or path == ("loss",) else _BLOCK_KEYS.get(path[0], {})
    for key in keys.keys() - block.keys():
        today = keys[key](block)
        found[key] = _Default(today, earlier.get(key, today), True)
    return found


def _given(table: Mapping, key: str) -> Any:
    """The value of a key; an empty table if it is null or not there."""
    value = table.get(key)
    return {} if value is None else value


def _blocks(config: Mapping) -> Iterator[tuple[tuple, Registry, dict]]:
    """(path, registry, block) of every block of a config."""
    found = [((section,), registry, config.get(section)) for section, registry in KINDS.items()
             if section not in ("transforms", "data_loader")]
    if isinstance(transforms := config.get("transforms"), dict):
        found += [(("transforms", key), TRANSFORMS, blocks) for key, blocks in transforms.items()]
    found.append((("data_loader", "sampler"), SAMPLERS, value_at(config, "data_loader.sampler")))
    while found:
        path, registry, given = found.pop(0)
        if isinstance(given, list):
            found += [((*path, number), registry, block) for number, block in enumerate(given)]
        elif isinstance(given, str):
            yield path, registry, as_block(given)
        elif holds_blocks(path, given):
            found += [((*path, name), registry, block) for name, block in given.items()]
        elif isinstance(given, dict):
            yield path, registry, given
            found += [((*path, *at), registry, block) for at, block in registry.inner_blocks(given)]
            if registry is SCHEDULERS and "schedulers" in args_of(given):
                found.append(((*path, "args", "schedulers"), registry, given["args"]["schedulers"]))


def _unwritten(args: Mapping, signature: Signature, former: Mapping[str, Mapping],
               left_open: tuple[str, ...] = ()) -> dict[str, _Default]:
    """The defaults of the project's own arguments that are not written; _MISSING for no plain value."""
    found = {}
    for name, parameter in signature.free().items():
        owner, default = signature.owners[name], parameter.default
        today = list(default) if type(default) is tuple else default
        today = today if _gives(today, default, name, signature) else _MISSING
        file = getattr(sys.modules.get(getattr(owner, "__module__", "")), "__file__", None)
        if name not in (*args, *left_open) and is_ours(file or ""):  # of this project, and of no library
            earlier = former.get(owner.__name__, {})
            found[name] = _Default(today, earlier.get(name, today), owner in _ENGINE)
    return found


def _put(config: dict, path: tuple, value: Any) -> None:
    """Sets a value in a config. A bare name on the way becomes `{type: NAME}`, what is missing a table."""
    table: Any = config
    for part in path[:-1]:
        inner = table[part] if isinstance(table, list) else table.get(part)
        if not isinstance(inner, (dict, list)):
            inner = {"type": inner} if isinstance(inner, str) else {}
            table[part] = inner
        table = inner
    table[path[-1]] = copy.deepcopy(value)


def _type_at(config: Mapping, path: tuple) -> Any:
    """The type of the block at `path`, or above it if that is its `args`."""
    block = value_at(config, _dotted(path[:-1] if path[-1] == "args" else path))
    return block if isinstance(block, str) else block.get("type") if isinstance(block, dict) else None


def _dotted(path: tuple) -> str:
    return ".".join(map(str, path))


def _gives(written: Any, default: Any, name: str, signature: Signature) -> bool:
    """Whether a config that holds `written` gives the argument its default: not for every tuple, say."""
    if not _is_plain(written):
        return False
    read = signature.convert({name: written})[name]
    return type(read) is type(default) and read == default


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        plain = all(type(key) in (str, int, float, bool) and str(key)[:1] != "~" and _is_plain(value[key])
                    for key in value)
        return type(value) is dict and plain
    if isinstance(value, list):
        return type(value) is list and all(map(_is_plain, value))
    return type(value) in (bool, int, float, type(None)) or (type(value) is str and "${" not in value)
