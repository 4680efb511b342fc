"""Compares the lengths of learning-rate schedulers with the run: one that never ends was meant otherwise."""
import logging
from collections.abc import Iterable, Iterator, Mapping

from torch.optim import lr_scheduler

from utils.errors import ConfigError
from utils.training.schedule import Schedule

log = logging.getLogger(__name__)
_FAR = 3  # a length this many times too long or too short is reported; trial runs and warm-ups are not
# The attributes that hold the lengths. After those of _ENDING the rate is 0, rises again or fails.
_LENGTHS = {
    lr_scheduler.OneCycleLR: "total_steps", lr_scheduler.CosineAnnealingLR: "T_max",
    lr_scheduler.PolynomialLR: "total_iters", lr_scheduler.CosineAnnealingWarmRestarts: "T_0",
    lr_scheduler.LinearLR: "total_iters", lr_scheduler.ConstantLR: "total_iters",
    lr_scheduler.CyclicLR: "total_size", lr_scheduler.StepLR: "step_size",
    lr_scheduler.MultiStepLR: "milestones", lr_scheduler.SequentialLR: "_milestones"}
_ENDING = (lr_scheduler.OneCycleLR, lr_scheduler.CosineAnnealingLR, lr_scheduler.PolynomialLR)


def check_lengths(schedules: Iterable[Schedule], may_end_early: bool, resumed: bool) -> None:
    """Warns of schedulers whose length is far from the number of times that the run steps them.

    Args:
        may_end_early: whether the run may stop before its last epoch; a schedule may then be shorter than it.
        resumed: whether the run was begun before. It only gets a warning.

    Raises ConfigError in a new run for a OneCycleLR that fails before the run's end.
    """
    for schedule in schedules:
        for scheduler, per in schedule.schedulers:
            for fails, message in _misfits(scheduler, per, schedule.lengths, may_end_early):
                if fails and not resumed:
                    raise ConfigError.at("scheduler", message)
                log.warning("scheduler: %s", message)


def _misfits(scheduler, per: str, num_calls_of: Mapping[str, int | None],
             may_end_early: bool) -> Iterator[tuple[bool, str]]:
    """(whether it fails within the run, message) of a scheduler, else of those inside it.

    `num_calls_of`: how often it is stepped with each value of `per`, as far as that is known.
    """
    if not (num_calls := num_calls_of[per]):
        return
    argument = next((name for kind, name in _LENGTHS.items() if isinstance(scheduler, kind)), "")
    length = getattr(scheduler, argument, None)
    if has_milestones := argument.endswith("milestones"):
        length = min(length or (), default=None)
    if isinstance(length, (int, float)):
        fails = isinstance(scheduler, lr_scheduler.OneCycleLR) and length < num_calls
        short = isinstance(scheduler, _ENDING) and not may_end_early and length * _FAR < num_calls
        never_ends = length >= num_calls if has_milestones else length > _FAR * num_calls
        if fails or short or never_ends:
            yield fails, _describe(scheduler, argument.lstrip("_"), length, per, num_calls_of)
            return
    for inner, part in _inner(scheduler, num_calls):
        yield from _misfits(inner, per, {per: part}, may_end_early)


def _inner(scheduler, num_calls: int) -> Iterator[tuple]:
    """The schedulers inside a sequence or chain, and how often each is stepped."""
    members = getattr(scheduler, "_schedulers", ())
    starts, ends = [0] * len(members), [num_calls] * len(members)
    if isinstance(scheduler, lr_scheduler.SequentialLR):
        starts = [0, *scheduler._milestones]
        # the next one takes over at its milestone
        ends = [end - 1 for end in scheduler._milestones] + ends[:1]
    return ((member, end - start) for member, start, end in zip(members, starts, ends, strict=True)
            if end > start)


def _describe(scheduler, what: str, length: int, per: str, num_calls_of: Mapping[str, int | None]) -> str:
    said = f"the first of its {what} is" if what == "milestones" else f"its {what} is"
    what = "step_size_up and step_size_down" if what == "total_size" else what
    name, num_calls, other = type(scheduler).__name__, num_calls_of[per], {"step": "epoch"}.get(per, "step")
    otherwise = num_calls_of.get(other)
    fix = f"Set {what} {'below' if what == 'milestones' else 'for'} {num_calls}"
    if otherwise and otherwise / _FAR <= length <= otherwise * _FAR:
        fix = f"Set per: {other}, with which it is stepped {otherwise} times"
    elif what in ("T_max", "total_steps"):
        fix = f"Leave {what} out: it is then {num_calls}"
    return f"{name} is stepped {num_calls} times (per: {per}), and {said} {length}. {fix}."
