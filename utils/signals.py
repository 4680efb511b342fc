"""Signals ask the loop to end; the loop looks, saves, and ends."""
import gc
import os
import signal

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


if hasattr(os, "register_at_fork"):
    # what a child inherits is not its own to tidy up: old iterators with their threads, what talks to other processes
    os.register_at_fork(after_in_child=gc.freeze)


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
