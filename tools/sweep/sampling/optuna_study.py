"""Asks samplers of Optuna, in memory: the study is built anew for each trial, of what the ledger holds.

Choices and values with a step are given to Optuna by their index: any value may be a choice, the choices may
grow, and `true`, `1` and `1.0` differ.
"""
import importlib
import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from tools.sweep.sampling.seen import FINISHED, KEY, PAUSED, Seen
from tools.sweep.space import Parameter, Space
from utils.config.blocks import as_block
from utils.config.signature import Signature
from utils.config.suggestions import suggest_name
from utils.config.values import is_same
from utils.errors import ConfigError

# They keep notes beside the trials, in a study that lives as long as the search.
_WITH_NOTES = ("CmaEsSampler", "NSGAIISampler", "NSGAIIISampler", "QMCSampler", "GridSampler",
               "PartialFixedSampler")
_FAILURES = (ImportError, RuntimeError, TypeError, ValueError)


def check(sampler: str | dict, space: Space, points: Sequence[Mapping[str, Any]]) -> None:
    """Asks a sampler once, after trials at some points. Raises ConfigError if that is not possible."""
    build_sampler(sampler, seed=0)
    seen = [Seen(number, point, FINISHED, float(number)) for number, point in enumerate(points)]
    try:
        ask(sampler, space, seen, seed=0, maximize=False)
    except _FAILURES as error:
        raise ConfigError.at(KEY, f"{as_block(sampler)['type']} cannot search this space: {error}") from error


def build_sampler(sampler: str | dict, seed: int) -> Any:
    """The sampler of Optuna, with a seed of its own. Raises ConfigError."""
    block = as_block(sampler)
    name, args = block["type"], block.get("args") or {}
    optuna = import_optuna(name)
    name = "TPESampler" if name == "tpe" else name
    found = [known for known in optuna.samplers.__all__ if _is_sampler(optuna, known)]
    usable = [known for known in found if known not in _WITH_NOTES]
    if name not in usable:
        what = (f"{name} keeps notes in a study of its own, which a search that may be killed has not."
                if name in found else
                f"there is no sampler {name!r}.{suggest_name(name, ['grid', 'random', 'tpe', *usable])}")
        raise ConfigError.at(KEY, f"{what} There are: grid, random, tpe, {', '.join(usable)}.")
    made = getattr(optuna.samplers, name)
    signature = Signature(made, provided=("seed",))
    if faults := signature.faults(args):
        raise ConfigError.of(fault.below((*KEY.split("."), "args")) for fault in faults)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is experimental
            return made(**signature.convert(args), seed=seed % 2**32)
    except _FAILURES as error:
        raise ConfigError.at(f"{KEY}.args", f"{name}: {error}") from error


def _is_sampler(optuna: Any, name: str) -> bool:
    found = getattr(optuna.samplers, name)
    return (inspect.isclass(found) and issubclass(found, optuna.samplers.BaseSampler)
            and not inspect.isabstract(found))


def import_optuna(name: str = "") -> Any:
    """The package, quiet. `name`: of the sampler that needs it. Raises ConfigError if it is missing."""
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise ConfigError.at(KEY, f"{name!r} needs the package optuna: pip install optuna. Or take a sampler "
                                  "that needs none: grid, random.") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def ask(sampler: str | dict, space: Space, seen: Sequence[Seen], seed: int, maximize: bool) -> dict[str, Any]:
    """What a sampler, new and seeded, suggests for a study of the trials seen."""
    made, chosen = build_sampler(sampler, seed), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's, which concern its own interface
        trial = build_study(space, seen, maximize, made).ask()
        for parameter in space.parameters:
            if space.active(parameter, chosen):
                chosen[parameter.key] = _suggested(trial, parameter)
    return chosen


def build_study(space: Space, seen: Sequence[Seen], maximize: bool, sampler: Any = None) -> Any:
    """A study in memory of the trials seen, without those whose values the space no longer has."""
    optuna = import_optuna()
    direction = "maximize" if maximize else "minimize"
    study = optuna.create_study(direction=direction, sampler=sampler or optuna.samplers.RandomSampler(0))
    distributions = {parameter.key: _distribution(optuna, parameter) for parameter in space.parameters}
    by_key = {parameter.key: parameter for parameter in space.parameters}
    trials = [_trial(optuna, known, by_key, distributions) for known in seen]
    study.add_trials([trial for trial in trials if trial is not None])
    return study


def _trial(optuna: Any, known: Seen, by_key: Mapping[str, Parameter], distributions: Mapping) -> Any:
    state = optuna.trial.TrialState
    try:
        params = {key: _encoded(by_key[key], value) for key, value in known.params.items()}
    except (KeyError, ValueError):
        return None
    shown = {"params": params, "distributions": {key: distributions[key] for key in params}}
    if known.state == FINISHED and (known.value is None or math.isnan(known.value)):
        return None
    if known.state == FINISHED:
        return optuna.trial.create_trial(state=state.COMPLETE, value=known.value, **shown)
    if known.state == PAUSED:
        values = {} if known.value is None else {known.epoch: known.value}
        return optuna.trial.create_trial(state=state.PRUNED, intermediate_values=values, **shown)
    return optuna.trial.create_trial(state=state.RUNNING, **shown)


def _distribution(optuna: Any, parameter: Parameter) -> Any:
    if parameter.values is not None:
        return optuna.distributions.CategoricalDistribution([str(i) for i in range(len(parameter.values))])
    if listed := parameter.listed():
        return optuna.distributions.IntDistribution(0, len(listed) - 1)
    made = optuna.distributions
    kind = made.IntDistribution if parameter.is_integer else made.FloatDistribution
    return kind(parameter.low, parameter.high, log=parameter.log)


def _suggested(trial: Any, parameter: Parameter) -> Any:
    """The value that a trial of Optuna's gets."""
    if parameter.values is not None:
        labels = [str(i) for i in range(len(parameter.values))]
        return parameter.values[int(trial.suggest_categorical(parameter.key, labels))]
    if listed := parameter.listed():
        return listed[trial.suggest_int(parameter.key, 0, len(listed) - 1)]
    suggested = trial.suggest_int if parameter.is_integer else trial.suggest_float
    return suggested(parameter.key, parameter.low, parameter.high, log=parameter.log)


def _encoded(parameter: Parameter, value: Any) -> Any:
    """The value as Optuna gets it. Raises ValueError if the parameter has it not."""
    if (listed := parameter.listed()) is not None:
        index = next((i for i, other in enumerate(listed) if is_same(value, other)), None)
        if index is None:
            raise ValueError(value)
        return str(index) if parameter.values is not None else index
    if not isinstance(value, (int, float)) or not parameter.low <= value <= parameter.high:
        raise ValueError(value)
    return value
