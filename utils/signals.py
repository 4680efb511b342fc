"""Signals ask the loop to end; the loop looks, saves, and ends."""
import gc
import os
import signal
import time
from contextlib import contextmanager

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


if hasattr(os, "register_at_fork"):
    # what a child inherits is not its own to tidy up: old iterators with their threads, what talks to other processes
    os.register_at_fork(after_in_child=gc.freeze)


class StopRequest:
    """Set by a signal's handler or by the clock, looked at by the loop; never acted upon inside the handler.

    A SIGINT after another signal ends the process at once: files are written under temporary names, so none comes to harm.
    `max_time_s` counts from `listening` on; None is for ever. `at_step` is the last step of this start. `crash_at_step`
    rehearses the worst: after that step the process kills itself.
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
        heard = [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]  # nohup stays nohup
        before = {number: signal.signal(number, self._handle) for number in heard}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def time_is_up(self) -> bool:
        """Whether max_time is spent."""
        return self.max_time_s is not None and time.monotonic() - self.started >= self.max_time_s

    def reason(self, step: int, signal_number: int, time_is_up: bool) -> str | None:
        """Why the loop should end after `step`, in words, or None; what all processes agreed on is given."""
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


def ignore_in_worker(worker_id: int) -> None:
    """For loader workers: a signal to the whole group is for the main process, which ends its workers itself."""
    ignore_signals()


def die_of_interrupts() -> None:
    """From here on, until something listens, a SIGINT ends the process as a SIGTERM does: silently, not by an exception."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ignore_signals() -> None:
    """From here on the process ends by itself: where all is done, a late signal must not make a failure of it."""
    for name in NAMES:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
