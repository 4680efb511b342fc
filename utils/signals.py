"""Signals ask the loop to end; the loop looks, saves, and ends."""
import signal
from contextlib import contextmanager

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


class StopRequest:
    """Set by a handler, looked at by the loop; never acted upon inside the handler.

    A second SIGINT ends the process at once: files are written under temporary names, so none comes to harm.
    """

    def __init__(self):
        self.signal_number: int | None = None

    @contextmanager
    def listening(self):
        """While this is open, SIGINT, SIGTERM, SIGHUP and SIGUSR1 only set the request."""
        numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        if number == signal.SIGINT and self.signal_number is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal_number = number


def ignore_in_worker(worker_id: int) -> None:
    """For loader workers: a signal to the whole group is for the main process, which ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
