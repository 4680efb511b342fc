"""A signal asks the loop to stop; the loop checks for it, saves and ends."""
import gc
import os
import signal

from utils.moved import former_names_of

__getattr__ = former_names_of(__name__)

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


if hasattr(os, "register_at_fork"):
    # a child must not free inherited objects: old iterators with their threads, connections to processes
    os.register_at_fork(after_in_child=gc.freeze)


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
            signal.signal(getattr(signal, name), signal.SIG_IGN)
