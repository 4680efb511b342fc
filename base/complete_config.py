"""Writes the defaults of the project's own parts into a config, so that a later default changes no run.

A complete config has a list `default_keys`: the keys in it that nobody wrote. Their values are kept, but a
part is built with them only where they differ from today's defaults: a constructor sees what it always saw.
"""
import copy
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from base.base_data_loader import PROVIDED, DataSplits
from base.build import as_block
from base.registries import (
    DATASETS, LOSSES, METRICS, MODELS, OPTIMIZERS, SCHEDULERS, TRAINERS, TRANSFORMS, WRITERS)
from base.trainer_options import TrainerOptions
from utils.config.loading import is_single, value_at
from utils.config.registry import Registry
from utils.config.signature import Signature
from utils.errors import ConfigError, is_ours

# Arguments that are not kept, by section: the program fills them in, or chooses them for the machine.
_LEFT_OPEN = {"dataset": ("split", "train"), "scheduler": ("T_max", "total_steps"),
              "optimizer": ("fused", "foreach", "differentiable")}
# Keys of blocks besides `type` and `args`, with their defaults, by section.
_BLOCK_KEYS = {"optimizer": {"decay_bias_and_norm": True}, "scheduler": {"per": "epoch"}}
_ENGINE = (DataSplits, TrainerOptions)
_SINGLE = {"dataset": DATASETS, "model": MODELS, "loss": LOSSES, "trainer": TRAINERS}
_SEVERAL = {"metrics": METRICS, "writers": WRITERS, "optimizer": OPTIMIZERS, "scheduler": SCHEDULERS}


class CompleteConfig(NamedTuple):
    """`config`: what the parts are built from. `complete`: what a run keeps, with every default."""

    config: dict
    complete: dict


class _Table(NamedTuple):
    """A table in a config. `type`: of the block that it belongs to. `defaults`: see `_unwritten`."""

    path: tuple
    type: Any
    defaults: dict[str, tuple]


def complete_config(config: Mapping, earlier: Mapping | None = None,
                    engine: Mapping[str, Any] | None = None) -> CompleteConfig:
    """Adds the defaults of the engine's own keys and of the project's plug-ins, where they are plain values.

    The arguments of libraries stay as written.

    Args:
        config: as written, see `written_config`. What is no block of something that there is stays as it is.
        earlier: the complete config of the run that is continued. Its defaults count, not those of today.
        engine: the engine's defaults in an earlier version, by name; they count, too.
    """
    built, complete, keys = copy.deepcopy(dict(config)), copy.deepcopy(dict(config)), []
    kept = flat_defaults(earlier or {})
    for table in _tables(config, engine or {}):
        same = earlier is None or _type_at(earlier, table.path) == table.type
        for key, (today, former) in table.defaults.items():
            path = (*table.path, key)
            value = kept.get(_dotted(path), former) if same else former
            keys.append(_dotted(path))
            _put(complete, path, value)
            if (type(value), value) != (type(today), today):
                _put(built, path, value)
    return CompleteConfig(built, {**complete, "default_keys": keys})


def written_config(config: Mapping, source: Mapping | None = None) -> dict:
    """What was written of a complete config: without the keys in its `default_keys`.

    `source`: the config in which these keys were defaults; a value that is another one by now was written.
    """
    written = copy.deepcopy({key: value for key, value in config.items() if key != "default_keys"})
    for name, value in flat_defaults(source or config).items():
        *above, key = name.split(".")
        table = _value_at(written, ".".join(above)) if above else written
        if isinstance(table, dict) and key in table and table[key] == value:
            del table[key]
            if not table and above[-1] == "args":
                del _value_at(written, ".".join(above[:-1]))["args"]
    return written


def flat_defaults(complete: Mapping) -> dict[str, Any]:
    """The defaults in a complete config, by their keys; nothing for any other config."""
    keys = complete.get("default_keys")
    keys = [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []
    values = {key: _value_at(complete, key, missing=_MISSING) for key in keys}
    return {key: value for key, value in values.items() if value is not _MISSING}


_MISSING = object()


def _tables(config: Mapping, engine: Mapping[str, Any]) -> Iterator[_Table]:
    if isinstance(config.get("data_loader") or {}, dict):
        options = Signature(DataSplits, PROVIDED)
        yield _Table(("data_loader",), None, _unwritten(config.get("data_loader") or {}, options, engine))
    for path, registry, block in _blocks(config):
        try:
            signature = registry.signature(registry.get(block["type"]))
        except (ConfigError, KeyError, TypeError, ValueError):  # nothing that could be built
            continue
        args = block.get("args") or {}
        keys = _BLOCK_KEYS.get(path[0], {}).items()
        yield _Table(path, block["type"], {key: (value, value) for key, value in keys if key not in block})
        if isinstance(args, dict):
            yield _Table((*path, "args"), block["type"],
                         _unwritten(args, signature, engine, _LEFT_OPEN.get(path[0], ())))


def _blocks(config: Mapping) -> Iterator[tuple[tuple, Registry, dict]]:
    """(path, registry, block) of every block of a config."""
    sections = (_SINGLE | _SEVERAL).items()
    found = [((section,), registry, config.get(section)) for section, registry in sections]
    if isinstance(transforms := config.get("transforms"), dict):
        found += [(("transforms", key), TRANSFORMS, blocks) for key, blocks in transforms.items()]
    while found:
        path, registry, given = found.pop(0)
        if isinstance(given, list):
            found += [((*path, number), registry, block) for number, block in enumerate(given)]
        elif isinstance(given, str):
            yield path, registry, as_block(given)
        elif isinstance(given, dict) and len(path) == 1 and path[0] in ("optimizer", "scheduler") and (
                all(isinstance(key, str) for key in given) and not is_single(given)):
            found += [((*path, name), registry, block) for name, block in given.items()]
        elif isinstance(given, dict):
            yield path, registry, given
            inner = given.get("args")
            if registry is SCHEDULERS and isinstance(inner, dict) and "schedulers" in inner:
                found.append(((*path, "args", "schedulers"), registry, inner["schedulers"]))


def _unwritten(args: Mapping, signature: Signature, engine: Mapping[str, Any],
               left_open: tuple[str, ...] = ()) -> dict[str, tuple]:
    """(default of today, of the earlier version) of the project's own arguments that are not written."""
    found = {}
    for name, parameter in signature.free().items():
        owner, default = signature.owners[name], parameter.default
        today = list(default) if type(default) is tuple else default
        if name not in (*args, *left_open) and _is_own(owner) and _gives(today, default, name, signature):
            found[name] = (today, engine.get(name, today) if owner in _ENGINE else today)
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


def _value_at(config: Any, key: str, missing: Any = None) -> Any:
    try:
        return value_at(config, key)
    except (KeyError, IndexError, TypeError, ValueError):
        return missing


def _type_at(config: Mapping, path: tuple) -> Any:
    """The type of the block at `path`, or above it if that is its `args`."""
    block = _value_at(config, _dotted(path[:-1] if path[-1] == "args" else path))
    return block if isinstance(block, str) else block.get("type") if isinstance(block, dict) else None


def _dotted(path: tuple) -> str:
    return ".".join(map(str, path))


def _is_own(owner: Any) -> bool:
    """Whether a class or function is defined in this project, and not in a library."""
    module = sys.modules.get(getattr(owner, "__module__", ""))
    return module is not None and is_ours(getattr(module, "__file__", None) or "")


def _gives(written: Any, default: Any, name: str, signature: Signature) -> bool:
    """Whether a config that holds `written` gives the argument its default: not for every tuple, say."""
    if not _is_plain(written):
        return False
    read = signature.convert({name: written})[name]
    return type(read) is type(default) and read == default


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return type(value) is dict and all(type(key) is str and _is_plain(value[key]) for key in value)
    if isinstance(value, list):
        return type(value) is list and all(map(_is_plain, value))
    return type(value) in (bool, int, float, type(None)) or (type(value) is str and "${" not in value)
