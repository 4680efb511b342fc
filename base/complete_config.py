"""Writes the defaults of the project's own parts into a config, so that a later default changes no run."""
import copy
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from base.base_data_loader import PROVIDED, DataSplits
from base.build import as_block
from base.registries import (
    DATASETS,
    LOSSES,
    METRICS,
    MODELS,
    OPTIMIZERS,
    SCHEDULERS,
    TRAINERS,
    TRANSFORMS,
    WRITERS,
)
from base.trainer_options import TrainerOptions
from utils.config.loading import is_single, value_at
from utils.config.registry import Registry
from utils.config.signature import Signature
from utils.errors import ConfigError, is_ours

# Arguments that mean something else when they are written: the program fills them in, or chooses them for the
# machine.
_LEFT_OPEN = {"split", "train", "T_max", "total_steps", "mode", "fused", "foreach", "differentiable"}
# Keys of blocks besides `type` and `args`, with their defaults, by section.
_BLOCK_KEYS = {"optimizer": {"decay_bias_and_norm": True}, "scheduler": {"per": "epoch"}}
_ENGINE = (DataSplits, TrainerOptions)


class CompleteConfig(NamedTuple):
    """A config with every default in it, and the keys of these defaults (`trainer.args.ema`)."""

    config: dict
    defaults: list[str]


def complete_config(config: Mapping, earlier: CompleteConfig | None = None,
                    engine: Mapping[str, Any] | None = None) -> CompleteConfig:
    """Adds the defaults of the engine's own keys and of the project's plug-ins, where they are plain values.

    The arguments of libraries stay as written.

    Args:
        config: what is no block of something that there is stays as it is.
        earlier: the config of the run that is continued. Its values count where they were defaults.
        engine: the engine's defaults in an earlier version, by name; today's by default.
    """
    work = _Completion(earlier, engine or {})
    full = dict(config)
    if isinstance(options := config.get("data_loader") or {}, dict):
        full["data_loader"] = work.table(options, ("data_loader",), Signature(DataSplits, PROVIDED))
    single = {"dataset": DATASETS, "model": MODELS, "loss": LOSSES, "trainer": TRAINERS}
    for section, registry in single.items():
        full[section] = work.block(registry, config.get(section), (section,))
    if isinstance(transforms := config.get("transforms"), dict):
        full["transforms"] = {key: work.blocks(TRANSFORMS, blocks, ("transforms", key))
                              for key, blocks in transforms.items()}
    for section, registry in {"metrics": METRICS, "writers": WRITERS}.items():
        full[section] = work.blocks(registry, config.get(section), (section,))
    for section, registry in {"optimizer": OPTIMIZERS, "scheduler": SCHEDULERS}.items():
        given = config.get(section)
        named = isinstance(given, dict) and not is_single(given)
        blocks = given if named else {section: given}
        blocks = {name: work.blocks(registry, block, (section, name) if named else (section,))
                  for name, block in blocks.items()}
        full[section] = blocks if named else blocks[section]
    return CompleteConfig(full, work.found)


class _Completion:
    """One pass over a config; `found`: the keys that were added."""

    def __init__(self, earlier: CompleteConfig | None, engine: Mapping[str, Any]):
        self.earlier, self.engine = earlier, engine
        self.known = set(earlier.defaults) if earlier else set()
        self.found: list[str] = []

    def blocks(self, registry: Registry, given: Any, path: tuple) -> Any:
        """A block, or the blocks of a list."""
        if not isinstance(given, list):
            return self.block(registry, given, path)
        return [self.block(registry, block, (*path, number)) for number, block in enumerate(given)]

    def block(self, registry: Registry, given: Any, path: tuple) -> Any:
        """A block with its defaults; a bare name stays one if it has none."""
        try:
            block = dict(as_block(given))
            signature = registry.signature(registry.get(block["type"]))
        except (ConfigError, KeyError, TypeError, ValueError):  # nothing that could be built
            return given
        if self.earlier and self._earlier_type(path) != block["type"]:
            self.known -= {key for key in self.known if key.startswith(f"{_dotted(path)}.")}
        for key, default in _BLOCK_KEYS.get(path[0], {}).items():
            self.add(block, path, key, default)
        if args := self.table(block.get("args") or {}, (*path, "args"), signature):
            block["args"] = args
        return given if block == as_block(given) else block

    def table(self, given: Mapping, path: tuple, signature: Signature) -> dict:
        """Arguments with the defaults of `signature`."""
        args = dict(given)
        for name, parameter in signature.free().items():
            owner, default = signature.owners[name], parameter.default
            written = list(default) if type(default) is tuple else default
            if name not in _LEFT_OPEN and _is_own(owner) and _gives(written, default, name, signature):
                self.add(args, path, name, self.engine.get(name, written) if owner in _ENGINE else written)
        return args

    def add(self, table: dict, path: tuple, key: str, default: Any) -> None:
        """Adds a default to a table that has not got the key; in a run that is continued, the earlier one."""
        if key in table:
            return
        name = _dotted((*path, key))
        if name in self.known:
            default = value_at(self.earlier.config, name)
        table[key] = copy.deepcopy(default)
        self.found.append(name)

    def _earlier_type(self, path: tuple) -> str | None:
        try:
            return as_block(value_at(self.earlier.config, _dotted(path))).get("type")
        except (KeyError, IndexError, TypeError, ValueError):  # there was none
            return None


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
