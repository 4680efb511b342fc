"""Reads the section `sweep` of a config, and finds all that is wrong with it."""
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from tools.sweep.parameters import read_space
from tools.sweep.space import Space
from utils.config.annotations import PositiveInt, at_least, mismatch
from utils.config.blocks import as_block
from utils.config.signature import UnknownKey
from utils.config.suggestions import suggest_name
from utils.config.syntax import format_value
from utils.errors import ConfigError, Fault, WrongValue
from utils.training.monitor import parse_monitor

_FOLDS = Annotated[int, at_least(2)]
_KEYS = {"parameters": dict, "repeat": dict, "sampler": str | dict, "trials": PositiveInt,
         "prune": str | dict, "run_on": str | dict, "threads_per_trial": PositiveInt,
         "monitor": Annotated[str, parse_monitor]}
_REPEAT = {"seeds": PositiveInt, "folds": _FOLDS | None}
_PRUNE = {"asha": {"min_epochs": PositiveInt, "factor": _FOLDS}, "none": {}}
# The options of `run_on`, by its type.
RUN_ON = {"processes": {"parallel": PositiveInt},
          "ray": {"address": str, "cpus_per_trial": PositiveInt,
                  "gpus_per_trial": Annotated[float, at_least(0)]}}
DEFAULTS = {"parameters": {}, "repeat": {}, "sampler": "grid", "trials": None, "prune": "none",
            "run_on": {"type": "processes"}, "threads_per_trial": None, "monitor": None}


@dataclass(frozen=True)
class Asha:
    """Successive halving without waiting: of the trials at a rung, one of `factor` is promoted.

    Rungs are at min_epochs, min_epochs * factor, ... and at the full length.
    """

    min_epochs: int = 1
    factor: int = 3


@dataclass(frozen=True)
class SweepOptions:
    """The section `sweep` of a config. `trials` is None for a grid, which has as many as it has points."""

    space: Space = Space()
    seeds: int = 1
    folds: int | None = None
    sampler: str | Mapping = "grid"
    trials: int | None = None
    prune: Asha | None = None
    run_on: Mapping[str, Any] = field(default_factory=lambda: {"type": "processes"})
    threads_per_trial: int | None = None
    monitor: str | None = None

    @property
    def repeats(self) -> list[dict[str, int]]:
        """The number of the seed and of the fold of each run of a trial; [{}] for a single run."""
        seeds = [{"seed": number} for number in range(self.seeds)] if self.seeds > 1 else [{}]
        folds = [{"fold": number} for number in range(self.folds)] if self.folds else [{}]
        return [{**seed, **fold} for seed in seeds for fold in folds]

    def rungs(self, epochs: int) -> list[int]:
        """The epochs at which a trial may be paused, and the full length."""
        found, at = [], self.prune.min_epochs if self.prune else epochs
        while at < epochs:
            found.append(at)
            at *= self.prune.factor
        return [*found, epochs]


def read_section(section: Any) -> SweepOptions:
    """The options in a config's section `sweep`. Raises one ConfigError with all faults."""
    if section is not None and not isinstance(section, Mapping):
        raise ConfigError.of([WrongValue(("sweep",), f"a table is needed; this is {format_value(section)}")])
    given = {key: value for key, value in (section or {}).items() if value is not None}
    faults = [*_key_faults(given, _KEYS, ("sweep",))]
    wrong = {fault.path[1] for fault in faults}
    full = {**DEFAULTS, **{key: value for key, value in given.items() if key not in wrong}}
    space, found = read_space(full["parameters"])
    prune, of_prune = _typed(full["prune"], _PRUNE, "prune")
    run_on, of_run_on = _typed(full["run_on"], RUN_ON, "run_on")
    repeat = full["repeat"]
    faults += [*found, *_key_faults(repeat, _REPEAT, ("sweep", "repeat")), *of_prune, *of_run_on,
               *_together(space, repeat, prune)]
    if not (space.parameters or repeat or faults):
        faults.append(Fault(("sweep",), "there is nothing to try. Write sweep.parameters or sweep.repeat, or "
                                        "give --seeds or --folds."))
    if faults:
        raise ConfigError.of(faults)
    kind, sampler = prune.pop("type"), as_block(full["sampler"])
    sampler = sampler["type"] if [*sampler] == ["type"] else sampler
    return SweepOptions(space, repeat.get("seeds", 1), repeat.get("folds"), sampler, full["trials"],
                        Asha(**prune) if kind == "asha" else None, run_on, full["threads_per_trial"],
                        full["monitor"])


def _key_faults(table: Mapping, known: Mapping[str, Any], path: tuple) -> Iterator[Fault]:
    """Faults for unknown keys of a table and for values that do not fit their annotation."""
    for key, value in table.items():
        if key not in known:
            yield UnknownKey.of((*path, key), "is unknown here.", known, f"There are: {', '.join(known)}.")
        elif wrong := mismatch(value, known[key]):
            yield WrongValue((*path, key), wrong)


def _typed(block: Any, kinds: Mapping[str, Mapping], key: str) -> tuple[dict, list[Fault]]:
    """A block `{type: NAME, option: value}`, or its bare name, as a block; and its faults."""
    block, path = dict(as_block(block)), ("sweep", key)
    kind = block.get("type")
    if kind not in kinds:
        wrong = f"{format_value(kind)} is none of: {', '.join(kinds)}.{suggest_name(kind, kinds)}"
        return block, [WrongValue((*path, "type"), wrong)]
    options = {name: value for name, value in block.items() if name != "type"}
    return block, list(_key_faults(options, kinds[kind], path))


def _together(space: Space, repeat: Mapping, prune: Mapping) -> Iterator[Fault]:
    """Faults of a parameter that the sweep itself sets."""
    set_by = {"data_loader.fold": "repeat.folds", "data_loader.folds": "repeat.folds",
              "seed": "repeat.seeds", "trainer.args.epochs": "prune"}
    sets = {f"repeat.{name}" for name in repeat} | ({"prune"} if prune.get("type") == "asha" else set())
    for parameter in space.parameters:
        if (setter := set_by.get(parameter.key)) in sets:
            yield Fault(("sweep", "parameters", parameter.key),
                        f"cannot be a parameter beside sweep.{setter}, which sets it.")
