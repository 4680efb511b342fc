"""Many processes as one: the only file that knows torch.distributed. Every helper works with one process, too.

    from utils import dist
    total = dist.all_reduce(num_correct)         # the sum over all processes, on each of them
    if dist.is_main():
        print(total)
"""
import importlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as torch_dist

from utils.errors import ConfigError, Interrupted, TrainingError, exit_code

log = logging.getLogger(__name__)
TIMEOUT_S = 300.0
_FOR_EVER = timedelta(days=7)
_SLOWEST_DISK = timedelta(hours=1)  # in the background processes wait for each other's writing
_NO_RESTART = signal.SIGQUIT if os.name == "posix" else signal.SIGTERM  # from a worker to the launcher


# -- who am I ------------------------------------------------------------------------------------------------------

def rank() -> int:
    """The number of this process in the group, 0 to world_size - 1; 0 where it is alone."""
    return torch_dist.get_rank() if _grouped() else 0


def world_size() -> int:
    """How many processes there are in the group; 1 without a group."""
    return torch_dist.get_world_size() if _grouped() else 1


def is_main() -> bool:
    """Whether this is the process that writes files and talks: rank 0."""
    return rank() == 0


def _grouped() -> bool:
    return torch_dist.is_available() and torch_dist.is_initialized()


# -- collectives: every process has to call them, in the same order ------------------------------------------------------

def barrier() -> None:
    """Returns when every process has got here."""
    if world_size() > 1:
        all_reduce(torch.zeros(1))  # on the CPU, whatever the device: nothing of a GPU's queue has to be done


@contextmanager
def main_first() -> Iterator[None]:
    """The body runs on the main process first, then on all others: a download happens once, and who comes later finds it."""
    if not is_main():
        _wait_for_main()
    yield
    if is_main():
        _let_others_go()


def all_reduce(tensor: torch.Tensor, operation: Literal["sum", "mean", "max", "min"] = "sum") -> torch.Tensor:
    """The sum (mean, largest, smallest) of every process's `tensor`, element by element, on each process.

    All have the same shape and dtype. A new tensor; the given one stays as it is. No gradient flows through.
    """
    result = tensor.detach().clone()
    if world_size() > 1:
        kind = torch_dist.ReduceOp.SUM if operation == "mean" else getattr(torch_dist.ReduceOp, operation.upper())
        torch_dist.all_reduce(result, kind)
    return result / world_size() if operation == "mean" else result


def all_gather(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Every process's `tensor` `[N_r, ...]`, by rank. N_r may differ, the other dimensions and the dtype are the same."""
    if world_size() == 1:
        return [tensor.detach().clone()]
    if tensor.ndim == 0:
        return [gathered[0] for gathered in all_gather(tensor[None])]
    lengths = all_gather_object(len(tensor))
    padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
    padded[: len(tensor)] = tensor.detach()
    gathered = [torch.empty_like(padded) for _ in lengths]
    torch_dist.all_gather(gathered, padded)
    return [whole[:length] for whole, length in zip(gathered, lengths, strict=True)]


def all_gather_object(value: Any) -> list:
    """Every process's `value`, by rank; anything that can be pickled. For a few values now and then, not for tensors."""
    if world_size() == 1:
        return [value]
    gathered = [None] * world_size()
    torch_dist.all_gather_object(gathered, value)
    return gathered


def broadcast_object(value: Any = None, source: int = 0) -> Any:
    """The `value` of the process `source`, on each process; what the others give does not matter."""
    if world_size() == 1:
        return value
    box = [value]
    torch_dist.broadcast_object_list(box, src=source)
    return box[0]


def broadcast_(tensors: Sequence[torch.Tensor], source: int = 0) -> None:
    """Gives `tensors` the values that they have on the process `source`, in place; one message for all of a dtype."""
    if world_size() == 1:
        return
    kinds: dict[tuple, list[torch.Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor.detach())
    for group in kinds.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        torch_dist.broadcast(flat, source)
        if rank() != source:
            for tensor, values in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
                tensor.copy_(values.view_as(tensor))


def agree(*requests: int) -> tuple[int, ...]:
    """For each request the largest that any process makes: what one asks for, all do."""
    return tuple(all_reduce(torch.tensor(requests), "max").tolist()) if world_size() > 1 else requests


class Ballot:
    """`agree` for a loop, at no cost worth mentioning: votes travel while steps run, at most every tenth of a second.

    Call it once a step on every process. It returns what was agreed, some steps late; zeros where no vote has come in.
    With one process it returns the requests as they are. A context: leaving it waits for the last vote.
    """

    PERIOD_S, MOST_CALLS = 0.1, 50

    def __init__(self):
        self._vote = self._arrives = None
        self._num_left, self._num_calls, self._sent = 1, 1, time.monotonic()

    def __call__(self, *requests: int) -> tuple[int, ...]:
        if world_size() == 1:
            return requests
        agreed = [0] * len(requests)
        self._num_left -= 1
        if self._num_left > 0:
            return tuple(agreed)
        if self._vote is not None:
            self._arrives.wait()
            *agreed, self._num_calls = self._vote.tolist()
        now = time.monotonic()
        affordable = int(self._num_calls * self.PERIOD_S / max(now - self._sent, 1e-6))
        self._vote = torch.tensor([*requests, min(max(affordable, 1), self.MOST_CALLS)])
        self._arrives = torch_dist.all_reduce(self._vote, torch_dist.ReduceOp.MAX, async_op=True)
        self._num_left, self._sent = self._num_calls, now
        return tuple(agreed)

    def __enter__(self) -> "Ballot":
        return self

    def __exit__(self, kind, *error) -> None:
        if self._arrives is not None and kind is None:
            self._arrives.wait()


# -- a part of the weights for each process (FSDP2) -----------------------------------------------------------------------

def fully_shard(modules: Sequence[torch.nn.Module], device: torch.device, dtype: torch.dtype | None = None,
                cpu_offload: bool = False, reshard_after_forward: bool = True) -> None:
    """Leaves each process its part of the parameters of `modules`, a module and, before it, submodules of its.

    Parameters become DTensors of the same names. A module's are gathered for its forward and backward pass, by its
    `__call__`, and computed with in `dtype`, if one is given; gradients are averaged in fp32 and stay in parts.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    mesh = init_device_mesh(device.type, (world_size(),))
    precision = MixedPrecisionPolicy(dtype, torch.float32, torch.float32) if dtype else MixedPrecisionPolicy()
    for module in modules:
        fully_shard(module, mesh=mesh, reshard_after_forward=reshard_after_forward, mp_policy=precision,
                    offload_policy=CPUOffloadPolicy() if cpu_offload else OffloadPolicy())


def distribute(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a `tensor` that every process has whole, as a DTensor laid out as `like`. Sends nothing."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def background_group():
    """A second group, for a thread: collectives of two threads in one group would get mixed up. The first call is one."""
    if _Shared.background is None:
        _Shared.background = torch_dist.new_group(backend="gloo", timeout=_SLOWEST_DISK)
    return _Shared.background


def checkpointing():
    """The module torch.distributed.checkpoint, imported where somebody asks for it."""
    for name in ("api", "metadata", "staging", "storage"):
        importlib.import_module(f"torch.distributed.checkpoint.{name}")
    return importlib.import_module("torch.distributed.checkpoint")


# -- from one process to another -------------------------------------------------------------------------------------

def send(tensor: torch.Tensor, to: int, wait: bool = True):
    """Sends `tensor` to the process `to`, which has to `receive` it.

    Without `wait` it returns at once; call `wait()` on what it returns before `tensor` changes. Raises ValueError where
    there is no such other process.
    """
    return _to_another(torch_dist.isend, tensor, to, wait)


def receive(into: torch.Tensor, source: int, wait: bool = True):
    """Fills `into` with the next tensor of this shape and dtype that the process `source` sends here; returns `into`.

    Without `wait` it returns at once; call `wait()` on what it returns before you look at `into`. Raises ValueError where
    there is no such other process.
    """
    work = _to_another(torch_dist.irecv, into, source, wait)
    return into if wait else work


def _to_another(operation, tensor: torch.Tensor, other: int, wait: bool):
    if other == rank() or not 0 <= other < world_size():
        raise ValueError(f"process {rank()} of {world_size()} has no other process {other}")
    work = operation(tensor, other)
    return work.wait() if wait else work


# -- the group ---------------------------------------------------------------------------------------------------------

def is_launched() -> bool:
    """Whether this process is one of several that torchrun, or `launch`, has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def expected_world_size() -> int:
    """How many processes there are going to be, as the launcher says, before there is a group."""
    return int(os.environ.get("WORLD_SIZE", 1)) if is_launched() else 1


def expected_rank() -> int:
    """The number that this process is going to have, before there is a group."""
    return int(os.environ.get("RANK", 0)) if is_launched() else 0


def local_rank() -> int | None:
    """The number of this process among those on its machine; None where nothing has launched it."""
    return int(os.environ.get("LOCAL_RANK", 0)) if is_launched() else None


def launch_id() -> str | None:
    """What tells this launch from others, the same after a restart; None where nothing has launched this process."""
    if not is_launched():
        return None
    given = os.environ["TORCHELASTIC_RUN_ID"]
    return given if given != "none" else f"{socket.gethostname()}:{os.getppid()}"


def num_restarts() -> int:
    """How often the launcher has started this group again. A collective: each machine counts its own failures only."""
    return agree(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) if is_launched() else 0)[0]


@contextmanager
def before_group(joins: bool) -> Iterator[None]:
    """Within it a ConfigError, which all processes come upon alike, is told by one of them, and ends the launcher as well.

    Raises one where torchrun has started this process and it does not join (`joins`) the others.
    """
    try:
        if is_launched() and not joins:
            raise ConfigError("torchrun has started several of these, and without --distributed each would work by itself. "
                              "Add --distributed to the command of train.py; test.py runs in one process.")
        yield
    except ConfigError as error:
        if not is_launched():
            raise
        if expected_rank() == 0:
            log.error("%s", error)
            _forbid_restart()
        sys.exit(exit_code(error))


@contextmanager
def process_group(joins: bool, device: torch.device, timeout_s: float | None = None) -> Iterator[None]:
    """Within it this process is one of those that the launcher started, if it `joins` them: gloo, with nccl on CUDA.

    A collective that waits longer than `timeout_s` (five minutes) for another process fails. Any error ends this process
    here, and with it the group: the first to fail says why, the others are silent.
    """
    if not joins:
        yield
        return
    backend, timeout = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timedelta(seconds=timeout_s or TIMEOUT_S)
    store, number, size = next(torch_dist.rendezvous("env://", timeout=timeout))
    torch_dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=timeout,
                                  device_id=device if device.type == "cuda" else None)
    _Shared.store = store
    try:
        yield
    except Interrupted:  # all at the same step, with everything saved
        torch_dist.destroy_process_group()
        raise
    except BaseException as error:
        _give_up(error, store)
    barrier()
    torch_dist.destroy_process_group()


class _Shared:
    """What the processes of the group share: a key-value store; a second group, for a background thread."""

    store = background = None
    num_waits = 0


def _wait_for_main() -> None:
    _Shared.num_waits += 1
    _Shared.store.wait([f"main_first/{_Shared.num_waits}"], _FOR_EVER)  # no collective: a download may take its time


def _let_others_go() -> None:
    if world_size() > 1:
        _Shared.num_waits += 1
        _Shared.store.set(f"main_first/{_Shared.num_waits}", "done")


def _give_up(error: BaseException, store) -> None:
    """Says what went wrong, if no other process has, and ends. No clean-up: after a failed collective it may wait for ever."""
    try:
        is_first = store.add("failures", 1) == 1
    except Exception:  # the store is gone with the process that held it
        is_first = True
    if is_first:
        _tell(error)
    logging.shutdown()
    if isinstance(error, ConfigError) and is_first:
        _forbid_restart()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code(error))


def _tell(error: BaseException) -> None:
    who = f"process {rank()} of {world_size()}"
    if isinstance(error, (ConfigError, TrainingError)):
        log.error("%s", error)
    elif isinstance(error, torch_dist.DistError) or "gloo" in str(error).lower() or "Connection closed" in str(error):
        reason = str(error).splitlines()[0][:300]
        log.error("%s lost touch with another one, which has died, or does not answer: %s", who, reason)
    elif not isinstance(error, SystemExit):
        log.error("%s failed", who, exc_info=error)


def _forbid_restart() -> None:
    """A user's mistake would be the same the next time: the launcher is to end."""
    restarts_left = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) - int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if restarts_left > 0:
        os.kill(os.getppid(), _NO_RESTART)
        time.sleep(5)  # it ends us meanwhile


# -- launching -----------------------------------------------------------------------------------------------------------

def num_gpus() -> int:
    """The CUDA devices that this process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def launch(program: Sequence[str], num_processes: int, max_restarts: int = 0) -> int:
    """Runs `python PROGRAM...` in `num_processes` processes on this machine by torchrun's elastic agent; the exit code.

    When one of them dies the others are ended and all start again, up to `max_restarts` times. A signal is handed on to
    them. 0 where all ended well; 2 after a user's mistake, which is not tried again; 128 + signal; else 1.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(num_cores // num_processes, 1)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=num_processes, run_id=f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}",
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=max_restarts,
        signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    try:
        elastic_launch(config, sys.executable)(*program)
    except SignalException as ended:
        return 2 if ended.sigval == _NO_RESTART else 128 + ended.sigval
    except ChildFailedError as failed:
        return _code_of(failed.failures)
    return 0


def _code_of(failures: dict) -> int:
    for number, failure in sorted(failures.items()):
        if failure.exitcode < 0:  # it could not say so itself
            log.error("process %d was killed by %s", number, signal.Signals(-failure.exitcode).name)
    codes = [failure.exitcode for failure in failures.values()]
    return next((code for code in (2, *range(129, 192)) if code in codes and min(codes) > 0), 1)
