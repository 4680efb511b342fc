"""Stops before the last epoch: requests to processes by a signal or the clock, and how training then ends."""
import os
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

from utils.distributed import collectives as dist
from utils.distributed.environment import launcher_died
from utils.errors import Interrupted
from utils.signals import NAMES


class AgreedRequests(NamedTuple):
    """The requests to any process: a signal's number or 0, whether max_time is up, whether a save is due."""

    signal_number: int
    to_stop: bool
    to_save: bool


def poll_requests(trainer, agree: Callable = dist.agree) -> AgreedRequests:
    """Combines the requests of all processes (signal or clock), so that all act alike after the same step."""
    signal_number = trainer.stop_request.signal_number or (signal.SIGTERM if launcher_died() else 0)
    return AgreedRequests(*agree(signal_number, trainer.stop_request.time_is_up,
                                 trainer.save_interval.time_is_up))


def stop_if_requested(trainer, requests: AgreedRequests, budget: bool = True) -> None:
    """Saves a checkpoint and raises Interrupted after a signal, or when max_time is over."""
    if why := trainer.stop_request.reason(trainer.position.step, requests.signal_number,
                                          budget and requests.to_stop):
        trainer.run.store.join()
        dist.wait_for_main()
        if any(dist.agree(trainer.unsaved or trainer.run.store.num_failures > 0)):
            trainer.save("last.pt")
        trainer.run.store.finish()
        where = f"{why}: saved at {trainer.position}. To go on: python train.py -r {trainer.run.folder}"
        raise Interrupted(where, trainer.stop_request.signal_number)


class StopRequest:
    """Set by a signal handler or by the clock, read by the loop. The handler itself never stops the run.

    A SIGINT after another signal ends the process at once. No file is damaged, because files are written
    under temporary names. `max_time_s` counts from `listening` on; None means no limit. `at_step` is the last
    step of this start. `crash_at_step` simulates a crash: after that step the process kills itself.
    """

    def __init__(self, max_time_s: float | None = None):
        self.signal_number: int | None = None
        self.at_step: int | None = None
        self.crash_at_step: int | None = None
        self.max_time_s, self.started = max_time_s, time.monotonic()

    @contextmanager
    def listening(self):
        """While this is open, SIGINT, SIGTERM, SIGHUP and SIGUSR1 only set the request."""
        self.started = time.monotonic()
        numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
        handled = [number for number in numbers
                   if signal.getsignal(number) not in (signal.SIG_IGN, None)]  # nohup stays nohup
        before = {number: signal.signal(number, self._handle) for number in handled}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def time_is_up(self) -> bool:
        """Whether max_time is over."""
        return self.max_time_s is not None and time.monotonic() - self.started >= self.max_time_s

    def reason(self, step: int, signal_number: int, time_is_up: bool) -> str | None:
        """Why the loop should end after `step`, as text, or None. All processes agree on the arguments."""
        if step == self.crash_at_step:
            os.kill(os.getpid(), signal.SIGKILL)
        if signal_number:
            self.signal_number = signal_number
            return f"signal {signal_number}"
        if time_is_up:
            return f"the max_time of {self.max_time_s:g} s is spent"
        if self.at_step is not None and step >= self.at_step:
            return f"step {self.at_step:,} is done"
        return None

    def _handle(self, number, frame) -> None:
        if number == signal.SIGINT and self.signal_number is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal_number = number
