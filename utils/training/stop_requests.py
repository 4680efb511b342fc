"""Ending before the last epoch: what processes are asked for by a signal or the clock, and how training then leaves."""
import signal
from collections.abc import Callable
from typing import NamedTuple

from utils import dist
from utils.errors import Interrupted
from utils.launch import launcher_died


class Asked(NamedTuple):
    """What any of the processes is asked for: a signal's number or 0, whether max_time is up, whether a save is due."""

    signal_number: int
    to_leave: bool
    to_save: bool


def asked(trainer, agree: Callable = dist.agree) -> Asked:
    """What any process is asked for, by a signal or the clock, so that all do the same after the same step."""
    signal_number = trainer.stop_request.signal_number or (signal.SIGTERM if launcher_died() else 0)
    return Asked(*agree(signal_number, trainer.stop_request.time_is_up, trainer.save_interval.time_is_up))


def leave_if_asked(trainer, asked: Asked, budget: bool = True) -> None:
    """After a signal, or when max_time is spent: saves where training stands and raises Interrupted."""
    if why := trainer.stop_request.reason(trainer.position.step, asked.signal_number, budget and asked.to_leave):
        trainer.run.store.join()
        dist.wait_for_main()
        if any(dist.agree(trainer.unsaved or trainer.run.store.num_failures > 0)):
            trainer.save("last.pt")
        trainer.run.store.finish()
        where = f"{why}: saved at {trainer.position}. To go on: python train.py -r {trainer.run.folder}"
        raise Interrupted(where, trainer.stop_request.signal_number)
