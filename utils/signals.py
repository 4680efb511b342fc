"""A signal asks the loop to stop; the loop checks for it, saves and ends."""
import gc
import os
import signal
import threading
from collections.abc import Callable
from contextlib import contextmanager

from utils.errors import ConfigError
from utils.moved import former_names_of

__getattr__ = former_names_of(__name__)

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
_TRAINS = threading.RLock()  # held while a training of this process runs

if hasattr(os, "register_at_fork"):
    # a child must not free inherited objects: old iterators with their threads, connections to processes
    os.register_at_fork(after_in_child=gc.freeze)


@contextmanager
def only_training():
    """Inside, no other thread of this process can train."""
    if not _TRAINS.acquire(blocking=False):
        raise ConfigError("another training runs in this process, in another thread; both would seed the "
                          "same generators. Wait for its end, or train in a process of its own.")
    try:
        yield
    finally:
        _TRAINS.release()


def set_handler(number: int, handler: Callable | int | None) -> None:
    """`signal.signal`, in the main thread; elsewhere Python does not allow it, and signals are left alone."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)


def ignore_in_worker(worker_id: int) -> None:
    """For loader workers: a signal to the process group is for the main process, which ends its workers."""
    ignore_signals()


def die_of_interrupts() -> None:
    """Until handlers are installed, SIGINT ends the process like SIGTERM: silently, without an exception."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ignore_signals() -> None:
    """Ignores signals from here on: all work is done, and a late signal must not turn it into a failure."""
    for name in NAMES:
        if hasattr(signal, name):
            set_handler(getattr(signal, name), signal.SIG_IGN)
