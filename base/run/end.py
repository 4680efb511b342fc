"""How a run ends, for its record: finished, stopped or failed, where, and with which best value."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from logger.run_log import RunLog, SilentRun
from utils.run_record import outcome_of
from utils.training.monitor import Monitor
from utils.training.progress import Position


class Progress(Protocol):
    """What `progress_of` needs of a trainer."""

    position: Position
    monitor: Monitor | None


def progress_of(trainer: Progress) -> dict[str, Any]:
    """Epochs, steps and the best value so far, as `{"epoch": 3, "step": 66, "best": {...} or None}`."""
    monitor, best = trainer.monitor, None
    if monitor is not None and monitor.best_epoch:
        best = {"name": monitor.name, "value": monitor.best, "epoch": monitor.best_epoch}
    return {"epoch": trainer.position.epoch, "step": trainer.position.step, "best": best}


@contextmanager
def recorded(trainer: Progress, run: RunLog | SilentRun) -> Iterator[None]:
    """Inside, a trainer trains into `run`. Its start, and how it ended, are recorded in the run's folder."""
    run.summarize(progress_of(trainer))
    try:
        yield
    except BaseException as error:
        run.end(*outcome_of(error), progress_of(trainer))
        raise
    run.end(*outcome_of(None), progress_of(trainer))
