"""Calls the writers in a separate thread, so that training does not wait for them."""
import inspect
import logging
import queue
import threading
from collections.abc import Iterable

import torch

from logger.writer import Writer
from utils.errors import ConfigError, describe_error

log = logging.getLogger(__name__)
MOST_WAITING = 256  # queued calls; `send` waits while there are that many
# Methods that got arguments since version 1.0.0: the first new one, how many there were before.
_NEW_ARGUMENTS = {"hparams": ("changed", 1), "close": ("outcome", 0), "images": ("captions", 3)}
# The first two calls, of these methods, come before the first step, which the imports of writers would delay.
_BEFORE_TRAINING = ("hparams", "checkpoint")


class Feeder:
    """Calls the methods of writers one after the other, in the order of `send`.

    A writer that raises an error is removed, with a warning, which `close` repeats. But an error in the first
    thing that a writer does, other than OSError, is a mistake: the next `send` or `close` raises ConfigError.

    Args:
        writers: those of the config.
        resumed: whether the run is a resumed one. An error is then only a warning: often no user looks.
    """

    def __init__(self, writers: Iterable[Writer], resumed: bool = False):
        self.writers = list(writers)
        self._keys = {id(writer): f"writers.{number}" for number, writer in enumerate(self.writers)}
        self._proven = {id(writer) for writer in self.writers if resumed}
        self._left_out: list[str] = []
        self._calls: queue.Queue = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._starting, self._resumed = threading.Lock(), resumed  # the thread of checkpoints sends, too
        self._error: ConfigError | None = None

    def send(self, method: str, *args) -> None:
        """Queues a call of `method(*args)` for every writer."""
        self._raise()
        if self.wants(method):
            self._calls.put((method, args))
            if method not in _BEFORE_TRAINING or self._calls.qsize() > len(_BEFORE_TRAINING):
                self._start()

    def wants(self, method: str) -> bool:
        """Whether a writer does something in this method."""
        return any(_has_own(writer, method) for writer in tuple(self.writers))

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="writers", daemon=True)
                self._thread.start()

    def close(self, outcome: str = "finished", reason: str | None = None) -> None:
        """Waits for all calls, then closes the writers."""
        if self._thread is not None or not self._calls.empty() or self.wants("close"):
            self._start()
            self._calls.put(("close", (outcome, reason)))
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
        new, num_before = _NEW_ARGUMENTS.get(method, (None, 0))
        for writer in filter(lambda each: _has_own(each, method), tuple(self.writers)):
            try:
                call = getattr(writer, method)
                is_former = new is not None and new not in inspect.signature(call).parameters
                if method == "hparams" and is_former and self._resumed:
                    continue
                call(*(args[:num_before] if is_former else args))
                self._proven.add(id(writer))
            except Exception as error:
                self.writers.remove(writer)
                self._report(writer, method, error)

    def _report(self, writer: Writer, method: str, error: Exception) -> None:
        name, refused = type(writer).__name__, isinstance(error, OSError)
        what = f"cannot write: {error.strerror or error}" if refused else f"{method}: {describe_error(error)}"
        if refused or id(writer) in self._proven or method == "close":
            log.warning("%s: %s. Training continues without this writer.", name, what)
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


def _has_own(writer: Writer, method: str) -> bool:
    return getattr(getattr(writer, method), "__func__", None) is not getattr(Writer, method)
