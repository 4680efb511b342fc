"""Suggests the parameters of a trial, as a function of what is known of others. Imports no torch."""
import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from tools.sweep.sampling.seen import KEY, Seen
from tools.sweep.space import Parameter, Space
from utils.config.blocks import as_block
from utils.errors import ConfigError


def suggest(sampler: str | dict, space: Space, seen: Sequence[Seen], number: int, seed: int,
            maximize: bool) -> dict[str, Any]:
    """The values of trial `number`, by key; only of parameters that are used. Equal arguments, equal values.

    `sampler`: "random", "tpe", or a block with the name of a class in optuna.samplers. `seen`: what is known
    when it is asked. `maximize`: whether large values are good ones.
    """
    if as_block(sampler)["type"] == "random":
        return _random(space, number, seed)
    from tools.sweep.sampling.optuna_study import ask  # imports Optuna

    return ask(sampler, space, seen, derive_seed(seed, number, "sampler"), maximize)


def check_sampler(sampler: str | dict, space: Space) -> None:
    """Raises ConfigError for a sampler that is unknown, lacks its package, or does not fit the space."""
    block = as_block(sampler)
    name, args = block.get("type"), block.get("args") or {}
    if not isinstance(name, str) or not isinstance(args, dict) or set(block) - {"type", "args"}:
        raise ConfigError.at(KEY, "is neither a name nor a block, {type: tpe, args: {...}}.")
    if name not in ("grid", "random"):
        from tools.sweep.sampling.optuna_study import check

        return check(sampler, space, [_random(space, number, seed=0) for number in range(12)])
    if args:
        raise ConfigError.at(f"{KEY}.args", f"{name} takes no arguments. Leave them out.")
    for parameter in space.parameters if name == "grid" else ():
        if parameter.listed() is None:
            raise ConfigError.at(f"sweep.parameters.{parameter.key}", "a grid takes a list of values, or a "
                                 "range with a step. Or take another sampler: random, tpe.")


def derive_seed(seed: int, number: int, purpose: str) -> int:
    """A 64-bit seed for `purpose` of trial `number`; as `utils.random.derive`, which needs torch."""
    digest = blake2b(repr((seed, number, purpose)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _random(space: Space, number: int, seed: int) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for parameter in space.parameters:
        if space.active(parameter, chosen):
            chosen[parameter.key] = _value(parameter, derive_seed(seed, number, parameter.key))
    return chosen


def _value(parameter: Parameter, draw: int) -> Any:
    """The value that belongs to a 64-bit random number."""
    listed, low, high = parameter.listed(), parameter.low, parameter.high
    if listed is not None:
        return listed[draw * len(listed) >> 64]
    if parameter.is_integer and not parameter.log:
        return low + (draw * (high - low + 1) >> 64)
    margin = 0.5 if parameter.is_integer else 0.0  # each whole number has as much room as the others
    low, high, part = low - margin, high + margin, draw / 2**64
    if parameter.log:
        value = math.exp(math.log(low) + part * (math.log(high) - math.log(low)))
    else:
        value = low + part * (high - low)
    value = round(value) if parameter.is_integer else float(value)
    return min(max(value, parameter.low), parameter.high)  # rounding may lead outside
