"""The process group: joining it, leaving it, and reporting the failure of a process."""
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as torch_dist

from utils.distributed.collectives import Shared, agree, wait_for_main
from utils.distributed.environment import expected_rank, expected_world_size, forbid_restart, is_launched
from utils.errors import ConfigError, FailedStep, Interrupted, TrainingError, exit_code
from utils.signals import set_handler
from utils.torch_messages import is_lost_connection, is_timeout

log = logging.getLogger(__name__)
TIMEOUT_S = 300.0
_FOR_START = timedelta(seconds=TIMEOUT_S)
_FOR_LAUNCHER_S = 1.0


def num_restarts() -> int:
    """How often the launcher restarted this group. A collective: a machine counts only its own failures."""
    return agree(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) if is_launched() else 0)[0]


@contextmanager
def process_group(joins: bool, device: torch.device, timeout_s: float | None = None) -> Iterator[None]:
    """Context: if it `joins`, this process belongs to the process group: gloo, with nccl on CUDA.

    A collective fails if it waits longer than `timeout_s` (five minutes) for another process. Any error ends
    this process here, and with it the group: the first to fail reports why, the others stay silent.
    """
    if not joins:
        yield
        return
    backend, timeout = ("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                        timedelta(seconds=timeout_s or TIMEOUT_S))
    try:
        whole, number, size = next(torch_dist.rendezvous("env://", timeout=_FOR_START))
        Shared.store = store = _store_of_start(whole, number, size)
        torch_dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=timeout,
                                      device_id=device if device.type == "cuda" else None)
        if sys.version_info < (3, 12) and hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_let_backend_threads_finish)
        try:
            yield
        except Interrupted:  # all processes are at the same step, with everything saved
            wait_for_main()  # else the launcher would end this process when another one ends
            torch_dist.destroy_process_group()
            raise
        wait_for_main()
    except Interrupted:
        raise
    except BaseException as error:
        _abort(error)
    torch_dist.destroy_process_group()


def _let_backend_threads_finish() -> None:
    """Waits, before loader workers are forked, until gloo's threads have released the last message's tensors.

    To release them they enter the interpreter and take a lock of CPython. Up to Python 3.11 a child that is
    forked in that moment waits for this lock for ever: PyOS_AfterFork_Child replaces it too late.
    """
    time.sleep(0.02)


def _store_of_start(whole, number: int, size: int):
    """The part of the launcher's store that belongs to this start; waits for all processes.

    Loading torch may take long. torchrun gives each start the same store, with addresses of dead processes in
    it. So the main process names the start and sends the name to the processes it finds; a live one confirms.
    """
    token = os.urandom(8).hex()
    whole.set(f"here/{number}", token)
    if number != 0:
        whole.wait([f"start of/{token}"], _FOR_START)
        store = torch_dist.PrefixStore(whole.get(f"start of/{token}").decode(), whole)
        store.add("joined", 1)
        store.wait(["complete"], _FOR_START)
        return store
    store, until = torch_dist.PrefixStore(token, whole), time.monotonic() + _FOR_START.total_seconds()
    while store.add("joined", 0) < size - 1:
        for other in range(1, size):
            if whole.check([f"here/{other}"]):
                whole.set(f"start of/{whole.get(f'here/{other}').decode()}", token)
        if time.monotonic() > until:
            raise torch_dist.DistError(f"timed out: {store.add('joined', 0)} of {size - 1} "
                                       "other processes have come")
        time.sleep(0.02)
    store.set("complete", "")
    return store


def is_peer_failure(error: BaseException) -> bool:
    """Whether an error means only that another process has died or does not answer."""
    return isinstance(error, torch_dist.DistError) or is_lost_connection(error)


def _abort(error: BaseException) -> None:
    """Reports the error, if no other process has, and exits without clean-up, which could wait for ever."""
    if is_peer_failure(error) and not is_timeout(error):
        set_handler(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_FOR_LAUNCHER_S)  # if a process has died, the launcher reports it and ends this one
    try:
        is_first = Shared.store.add("failures", 1) == 1
    except Exception:  # the process that held the store is gone
        is_first = True
    if is_first:
        _report_failure(error)
        logging.shutdown()
        if isinstance(error, (ConfigError, TrainingError)) and not isinstance(error, FailedStep):
            forbid_restart(exit_code(error))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code(error))


def _report_failure(error: BaseException) -> None:
    who = f"process {expected_rank()} of {expected_world_size()}"
    if isinstance(error, (ConfigError, TrainingError)):
        log.error("%s", error)
    elif is_peer_failure(error):
        reason = str(error).splitlines()[0][:300]
        log.error("%s lost touch with another one, which has died, or does not answer: %s", who, reason)
    else:
        log.error("%s failed", who, exc_info=error)
