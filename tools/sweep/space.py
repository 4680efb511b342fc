"""The space of a sweep: parameters of the config, with the values that each may take. Imports no torch."""
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from utils.config.values import is_same


@dataclass(frozen=True)
class Parameter:
    """A key of the config, and the values that it may take: a list of choices, or a range.

    Args:
        key: such as "optimizer.args.lr".
        values: the choices, of any kind that a config may hold; None for a range.
        low, high: the ends of a range, both included; None for choices.
        log: whether the range is even in the logarithm.
        step: the distance of a range's values from `low` on; None for all numbers, or all whole numbers.
        is_integer: whether a range is of whole numbers.
        when: values of other parameters, by key; all are needed for this one to be used.
    """

    key: str
    values: tuple | None = None
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: int | float | None = None
    is_integer: bool = False
    when: Mapping[str, Any] = field(default_factory=dict)

    def listed(self) -> tuple | None:
        """All values: the choices, or those of a range with a step; None for a range without."""
        if self.values is not None or self.step is None:
            return self.values
        number = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return tuple(self.low + i * self.step for i in range(number))

    def ends(self) -> tuple:
        """The values at the ends: all choices, or the smallest and the largest value."""
        listed = self.listed()
        return listed if self.values is not None else (self.low, listed[-1] if listed else self.high)


@dataclass(frozen=True)
class Space:
    """Parameters in the order in which they are chosen.

    The type of a block comes before its arguments, and a condition before what depends on it.
    """

    parameters: tuple[Parameter, ...] = ()

    def active(self, parameter: Parameter, chosen: Mapping[str, Any]) -> bool:
        """Whether a parameter is used beside the values chosen for those before it."""
        return all(key in chosen and is_same(chosen[key], value) for key, value in parameter.when.items())

    def grid(self) -> list[dict[str, Any]]:
        """Every combination, the first parameter changing slowest. Ranges need a step (see `listed`)."""
        points: list[dict[str, Any]] = [{}]
        for parameter in self.parameters:
            points = [{**point, parameter.key: value} if used else point for point in points
                      for used in [self.active(parameter, point)]
                      for value in (parameter.listed() if used else (None,))]
        return points
