"""Calls the writers in a separate thread, so that training does not wait for them."""
import logging
import queue
import threading
from collections.abc import Iterable

import torch

from logger.writer import Writer
from utils.errors import ConfigError, describe_error

log = logging.getLogger(__name__)
MOST_WAITING = 256  # queued calls; `send` waits while there are that many


class Feeder:
    """Calls the methods of writers one after the other, in the order of `send`.

    A writer that raises an error is removed, with a warning, which `close` repeats. But an error in the first
    thing that a writer does, other than OSError, is a mistake: the next `send` or `close` raises ConfigError.

    Args:
        writers: those of the config.
        resumed: whether the run goes on; an error is then no mistake, since often there is no user who looks.
    """

    def __init__(self, writers: Iterable[Writer], resumed: bool = False):
        self.writers = list(writers)
        self._keys = {id(writer): f"writers.{number}" for number, writer in enumerate(self.writers)}
        self._proven = {id(writer) for writer in self.writers if resumed}
        self._left_out: list[str] = []
        self._calls: queue.Queue = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._error: ConfigError | None = None

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
        for earlier in self._left_out:
            log.warning("Left out before the end of the run: %s", earlier)
        self._left_out = []
        self._raise()

    def _work(self) -> None:
        # A large tensor would start a second team of OpenMP threads here, which lives as long as this thread
        # and makes every later step 1.4 times slower. The main thread keeps its number of threads.
        torch.set_num_threads(1)
        while (call := self._calls.get()) is not None:
            self._make(*call)

    def _make(self, method: str, args: tuple) -> None:
        for writer in list(self.writers):
            call = getattr(writer, method)
            if getattr(call, "__func__", None) is getattr(Writer, method):  # does nothing
                continue
            try:
                call(*args)
                self._proven.add(id(writer))
            except Exception as error:
                self.writers.remove(writer)
                self._report(writer, method, error)

    def _report(self, writer: Writer, method: str, error: Exception) -> None:
        name, refused = type(writer).__name__, isinstance(error, OSError)
        what = f"cannot write: {error.strerror or error}" if refused else f"{method}: {describe_error(error)}"
        if refused or id(writer) in self._proven or method == "close":
            log.warning("%s: %s. Training goes on without this writer.", name, what)
            self._left_out += [f"{name}: {what}"] if method != "close" else []
        else:
            self._error = self._error or ConfigError.at(
                self._keys[id(writer)], f"{name} failed in its first call, of {what}. Correct it, or take it "
                                        "out of writers.")
        log.debug("a writer failed", exc_info=error)

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
