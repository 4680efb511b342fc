"""Stops before the last epoch: requests by a signal or the clock, the last step or epoch of a start."""
import os
import signal
import time
from contextlib import contextmanager
from typing import NamedTuple

from utils.distributed.environment import has_launcher, launcher_died
from utils.distributed.group import num_restarts
from utils.signals import NAMES, only_training, set_handler

CRASH_AT_STEP = "CRASH_AT_STEP"  # variable: after which step a process kills itself, to rehearse a crash
_LOOK_EVERY_S = 0.1  # at the launcher; a look takes 4 microseconds


class StopRequests(NamedTuple):
    """The requests to any process: a signal's number or 0, whether max_time is up, whether a save is due."""

    signal_number: int = 0
    to_stop: bool = False
    to_save: bool = False


_NONE = StopRequests()


class StopRequest:
    """Set by a signal handler or by the clock, read by the loop. The handler itself never stops the run.

    A SIGINT after another signal ends the process at once. No file is damaged, because files are written
    under temporary names. `max_time_s` counts from `listening` on; None means no limit.
    """

    def __init__(self, max_time_s: float | None = None):
        self.signal_number: int | None = None
        self.max_time_s, self.started = max_time_s, time.monotonic()
        self.last_step: int | None = None
        self.last_epoch: int | None = None
        self._crash_at_step, self._next_look_s, self._launched = 0, 0.0, has_launcher()

    @contextmanager
    def listening(self, last_step: int | None = None, last_epoch: int | None = None):
        """While this is open, SIGINT, SIGTERM, SIGHUP and SIGUSR1 only set the request, in the main thread.

        `last_step`, `last_epoch`: the last optimizer step and the last epoch of this start.
        """
        self.started, self.last_step, self.last_epoch = time.monotonic(), last_step, last_epoch
        if not num_restarts():  # once is enough
            self._crash_at_step = int(os.environ.get(CRASH_AT_STEP, 0))
        numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in numbers}
        before = {number: handler for number, handler in before.items()
                  if handler not in (signal.SIG_IGN, None)}  # nohup stays nohup
        with only_training():
            for number in before:
                set_handler(number, self._handle)
            try:
                yield self
            finally:
                for number, handler in before.items():
                    set_handler(number, handler)

    def poll(self, to_save: bool) -> StopRequests:
        """The requests to this process. `to_save`: whether its clock asks for a checkpoint."""
        if self._launched and (now := time.monotonic()) >= self._next_look_s:
            self._next_look_s = now + _LOOK_EVERY_S
            if launcher_died() and not self.signal_number:
                self.signal_number = signal.SIGTERM
        to_stop = self.max_time_s is not None and time.monotonic() - self.started >= self.max_time_s
        if not (self.signal_number or to_stop or to_save):
            return _NONE  # in most steps
        return StopRequests(self.signal_number or 0, to_stop, to_save)

    def reason(self, agreed: StopRequests, step: int, time_limit: bool, ended_epoch: int = 0) -> str | None:
        """Why the loop should end after `step`, as text, or None. All processes agree on the arguments.

        `time_limit`: whether max_time counts; the last step, of all the run's, always does. `ended_epoch`:
        the number of the epoch whose end is reached; 0 within one.
        """
        if step == self._crash_at_step and step:
            os.kill(os.getpid(), signal.SIGKILL)
        if agreed.signal_number:
            self.signal_number = agreed.signal_number
            return f"signal {agreed.signal_number}"
        if time_limit and agreed.to_stop:
            return f"the max_time of {self.max_time_s:g} s is spent"
        if self.last_step is not None and step >= self.last_step:
            return f"step {self.last_step:,} is done"
        if self.last_epoch is not None and ended_epoch >= self.last_epoch:
            return f"epoch {self.last_epoch:,} is done"
        return None

    def _handle(self, number, frame) -> None:
        if number == signal.SIGINT and self.signal_number is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal_number = number
