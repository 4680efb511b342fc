"""What a sweep does next: a function of its trials, so that a restart and a rehearsal decide alike."""
from dataclasses import dataclass

from tools.sweep.trials import Study, Trial, ranked


@dataclass(frozen=True)
class Start:
    """A run of a trial trains until the trial's rung."""

    trial: int
    run: int


@dataclass(frozen=True)
class Promote:
    """A paused trial is to reach a higher rung."""

    trial: int
    level: int


@dataclass(frozen=True)
class New:
    """The sampler chooses the values of a trial."""

    trial: int


def next_step(study: Study) -> Start | Promote | New | None:
    """What is next: what was begun, a promotion, a new trial; None if there is nothing, or only to wait.

    When all trials are spent and none of them is whole, the best of those on the highest rung is promoted to
    the full length.
    """
    return _begun(study) or _promotable(study) or _new(study) or _rescue(study)


def _begun(study: Study) -> Start | None:
    for trial in study.trials:
        if trial.failed or study.is_there(trial):
            continue
        epochs, is_last = study.rungs[trial.level], trial.level == len(study.rungs) - 1
        for number, run in enumerate(trial.runs):
            if not run.running and not run.finished and (is_last or run.epoch < epochs):
                return Start(trial.number, number)
    return None


def _promotable(study: Study) -> Promote | None:
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), Algorithm 2."""
    for level in range(len(study.rungs) - 2, -1, -1):
        there = ranked(_at(study, level), study.maximize, study.rungs[level])
        for _, trial in there[:len(there) // study.factor]:
            if trial.level == level and not trial.finished:
                return Promote(trial.number, level + 1)
    return None


def _at(study: Study, level: int) -> list[Trial]:
    """The trials that have reached a rung, whether they went further or not."""
    return [trial for trial in study.trials if trial.level >= level and trial.reached(study.rungs[level])]


def _new(study: Study) -> New | None:
    return New(len(study.trials)) if len(study.trials) < study.planned else None


def _rescue(study: Study) -> Promote | None:
    if study.running or any(trial.finished for trial in study.trials):
        return None
    for level in range(len(study.rungs) - 2, -1, -1):
        paused = [trial for trial in _at(study, level) if trial.level == level]
        for _, trial in ranked(paused, study.maximize, study.rungs[level])[:1]:
            return Promote(trial.number, len(study.rungs) - 1)
    return None
