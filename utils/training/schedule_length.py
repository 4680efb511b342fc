"""Compares the lengths of learning-rate schedulers with the run: one that never ends was meant otherwise."""
import logging
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch.optim import lr_scheduler

from utils.errors import ConfigError
from utils.training.schedule import Schedule

log = logging.getLogger(__name__)
_FAR = 3  # a length this many times too long or too short is reported; trial runs and warm-ups are not


class _Kind(NamedTuple):
    """A kind of scheduler. `argument` holds its length; `ends`: its rate then is 0, rises again or fails."""

    type: type
    argument: str
    ends: bool = False


_KINDS = (
    _Kind(lr_scheduler.OneCycleLR, "total_steps", ends=True),
    _Kind(lr_scheduler.CosineAnnealingLR, "T_max", ends=True),
    _Kind(lr_scheduler.PolynomialLR, "total_iters", ends=True),
    _Kind(lr_scheduler.CosineAnnealingWarmRestarts, "T_0"), _Kind(lr_scheduler.LinearLR, "total_iters"),
    _Kind(lr_scheduler.ConstantLR, "total_iters"), _Kind(lr_scheduler.CyclicLR, "total_size"),
    _Kind(lr_scheduler.StepLR, "step_size"), _Kind(lr_scheduler.MultiStepLR, "milestones"),
    _Kind(lr_scheduler.SequentialLR, "_milestones"))


class _Stretch(NamedTuple):
    """How often a scheduler is stepped; `otherwise`: how often with the `other` value of `per`, or None."""

    num_calls: int
    per: str
    other: str = ""
    otherwise: int | None = None


def check_lengths(schedules: Iterable[Schedule], may_end_early: bool, resumed: bool) -> None:
    """Warns of schedulers whose length is far from the number of times that the run steps them.

    Args:
        may_end_early: whether the run may stop before its last epoch; a schedule may then be shorter than it.
        resumed: whether the run was begun before. It only gets a warning.

    Raises ConfigError in a new run for a OneCycleLR that fails before the run's end.
    """
    for schedule in schedules:
        for scheduler, per in schedule.schedulers:
            other = "epoch" if per == "step" else "step"
            if num_calls := schedule.lengths[per]:
                stretch = _Stretch(num_calls, per, other, schedule.lengths[other])
                for fails, message in _misfits(scheduler, stretch, may_end_early):
                    if fails and not resumed:
                        raise ConfigError.at("scheduler", message)
                    log.warning("scheduler: %s", message)


def _misfits(scheduler, stretch: _Stretch, may_end_early: bool) -> Iterator[tuple[bool, str]]:
    """(whether it fails within the run, message) of a scheduler, else of those inside it."""
    kind = next((kind for kind in _KINDS if isinstance(scheduler, kind.type)), None)
    length = _length(scheduler, kind) if kind else None
    if length is not None:
        fails = isinstance(scheduler, lr_scheduler.OneCycleLR) and length < stretch.num_calls
        short = kind.ends and not may_end_early and length * _FAR < stretch.num_calls
        if fails or short or _never_ends(kind, length, stretch.num_calls):
            yield fails, _describe(scheduler, kind, length, stretch)
            return
    for inner, part in _inner(scheduler, stretch):
        yield from _misfits(inner, part, may_end_early)


def _length(scheduler, kind: _Kind) -> int | None:
    value = getattr(scheduler, kind.argument, None)
    if kind.argument.endswith("milestones"):
        value = min(value, default=None) if value else None
    return value if isinstance(value, (int, float)) else None


def _never_ends(kind: _Kind, length: int, num_calls: int) -> bool:
    return length >= num_calls if kind.argument.endswith("milestones") else length > _FAR * num_calls


def _inner(scheduler, stretch: _Stretch) -> Iterator[tuple]:
    """The schedulers inside a sequence or chain, and how often each is stepped."""
    members = getattr(scheduler, "_schedulers", ())
    starts = [0] * len(members)
    ends = [stretch.num_calls] * len(members)
    if isinstance(scheduler, lr_scheduler.SequentialLR):
        starts = [0, *scheduler._milestones]
        # the next one takes over at its milestone
        ends = [end - 1 for end in scheduler._milestones] + ends[:1]
    for member, start, end in zip(members, starts, ends, strict=True):
        if end > start:
            yield member, _Stretch(end - start, stretch.per)


def _describe(scheduler, kind: _Kind, length: int, stretch: _Stretch) -> str:
    name, what = type(scheduler).__name__, kind.argument.lstrip("_")
    said = f"the first of its {what} is" if what == "milestones" else f"its {what} is"
    what = "step_size_up and step_size_down" if what == "total_size" else what
    fix = f"Set {what} for {stretch.num_calls}"
    if stretch.otherwise and stretch.otherwise / _FAR <= length <= stretch.otherwise * _FAR:
        fix = f"Set per: {stretch.other}, with which it is stepped {stretch.otherwise} times"
    elif what in ("T_max", "total_steps"):
        fix = f"Leave {what} out: it is then {stretch.num_calls}"
    return f"{name} is stepped {stretch.num_calls} times (per: {stretch.per}), and {said} {length}. {fix}."
