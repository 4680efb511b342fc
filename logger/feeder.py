"""Calls the writers in a separate thread, so that training does not wait for them."""
import logging
import queue
import threading
from collections.abc import Iterable

import torch

from logger.writer import Writer

log = logging.getLogger(__name__)
MOST_WAITING = 256  # queued calls; `send` waits while there are that many


class Feeder:
    """Calls the methods of writers one after the other, in the order of `send`.

    A writer that raises OSError is removed, with a warning. The next `send` or `close` raises other errors.
    """

    def __init__(self, writers: Iterable[Writer]):
        self.writers = list(writers)
        self._calls: queue.Queue = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def send(self, method: str, *args) -> None:
        """Queues a call of `method(*args)` for every writer."""
        self._raise()
        if self.writers:
            self._calls.put((method, args))
            if method != "hparams":  # this one can wait: the imports of writers would delay the first step
                self._start()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="writers", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Waits for all calls, then closes the writers."""
        if self._thread is not None or not self._calls.empty():
            self._start()
            self._calls.put(("close", ()))
            self._calls.put(None)
            self._thread.join()
            self._thread, self.writers = None, []
        self._raise()

    def _work(self) -> None:
        # A large tensor would start a second team of OpenMP threads here, which lives as long as this thread
        # and makes every later step 1.4 times slower. The main thread keeps its number of threads.
        torch.set_num_threads(1)
        while (call := self._calls.get()) is not None:
            self._make(*call)

    def _make(self, method: str, args: tuple) -> None:
        for writer in list(self.writers):
            try:
                getattr(writer, method)(*args)
            except OSError as error:
                self.writers.remove(writer)
                log.warning("%s: cannot write: %s. Training goes on without this writer.",
                            type(writer).__name__, error.strerror or error)
            except Exception as error:
                self.writers.remove(writer)
                self._error = self._error or error

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
