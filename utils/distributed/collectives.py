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
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as torch_dist

from utils.errors import ConfigError, Interrupted, TrainingError, exit_code
from utils.launch import expected_rank, expected_world_size, forbid_restart, is_launched

log = logging.getLogger(__name__)
TIMEOUT_S = 300.0
_FOR_START = timedelta(seconds=TIMEOUT_S)
_FOR_LAUNCHER_S = 1.0
_SLOWEST_DISK = timedelta(hours=1)


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
    """The body runs on the main process first, then on all others: a download happens once, and who comes later finds it.

    Every process has to come here; the body must not wait for the others, as collectives do.
    """
    _Shared.num_waits += 1
    key = f"main_first/{_Shared.num_waits}"  # known before the body, which may have a main_first of its own
    if not is_main():
        _wait_for(key)  # no collective: a download may take its time
    yield
    if is_main() and world_size() > 1:
        _Shared.store.set(key, "done")


def _wait_for(key: str) -> None:
    while not _Shared.store.check([key]):
        try:
            _Shared.store.wait([key], timedelta(seconds=1))
        except torch_dist.DistStoreError:  # not yet
            if _Shared.store.add("failures", 0):
                raise torch_dist.DistError("another process has failed") from None


def wait_for_main() -> None:
    """Returns when the main process has got here, for which its disk may take longer than other collectives may wait."""
    if world_size() > 1:
        _Shared.patient = _Shared.patient or torch_dist.new_group(backend="gloo", timeout=_SLOWEST_DISK)
        torch_dist.barrier(_Shared.patient)


_REDUCIBLE = (torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32,
              torch.float64, torch.complex64, torch.complex128)


def all_reduce(tensor: torch.Tensor, operation: Literal["sum", "mean", "max", "min"] = "sum") -> torch.Tensor:
    """The sum (mean, largest, smallest) of every process's `tensor`, element by element, on each process.

    All have the same shape and dtype, which a sum keeps: of bools it tells whether any is true. A mean of integers is a
    float. A new tensor; the given one stays as it is. No gradient flows through. Raises TypeError for a dtype that
    processes cannot add up.
    """
    result = tensor.detach().clone(memory_format=torch.contiguous_format)  # elements meet by their place in memory
    if operation == "mean":
        result = result.to(torch.result_type(result, 1.0))
    if result.dtype not in _REDUCIBLE:
        raise TypeError(f"all_reduce: processes cannot add up {result.dtype}. Convert it first: tensor.float(), or .int()")
    if world_size() > 1:
        kind = torch_dist.ReduceOp.SUM if operation == "mean" else getattr(torch_dist.ReduceOp, operation.upper())
        torch_dist.all_reduce(result, kind)
    return result / world_size() if operation == "mean" else result


def all_gather(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Every process's `tensor` `[N_r, ...]`, by rank. N_r may differ, the other dimensions and the dtype are the same.

    0-dim ones stay so. No gradient flows through. Raises ValueError, on all of them, where they do not fit together.
    """
    if world_size() == 1:
        return [tensor.detach().clone()]
    if tensor.ndim == 0:
        return [gathered[0] for gathered in all_gather(tensor[None])]
    lengths, *kinds = zip(*all_gather_object((len(tensor), list(tensor.shape[1:]), str(tensor.dtype))), strict=True)
    if any(kind.count(kind[0]) < len(kind) for kind in kinds):
        raise ValueError(f"all_gather: processes may differ in the first dimension only, not in {kinds}")
    padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
    padded[: len(tensor)] = tensor.detach()
    gathered = [torch.empty_like(padded) for _ in lengths]
    torch_dist.all_gather([_as_bytes(whole) for whole in gathered], _as_bytes(padded))
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
    """Gives `tensors` the values that they have on the process `source`, in place; one message for all of a dtype.

    Sparse ones are left as they are.
    """
    if world_size() == 1:
        return
    kinds: dict[tuple, list[torch.Tensor]] = {}
    for tensor in (tensor for tensor in tensors if tensor.layout == torch.strided):
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor.detach())
    for group in kinds.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        torch_dist.broadcast(_as_bytes(flat), source)
        if rank() != source:
            for tensor, values in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
                tensor.copy_(values.view_as(tensor))


def _as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor, uint8: what every backend can move, of whatever dtype it is."""
    return tensor.view(-1).view(torch.uint8)


def agree(*requests: int) -> tuple[int, ...]:
    """For each request the largest that any process makes: what one asks for, all do."""
    return tuple(all_reduce(torch.tensor([int(r) for r in requests]), "max").tolist()) if world_size() > 1 else requests


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
        num_made, now = self._num_calls, time.monotonic()
        if self._vote is not None:
            self._arrives.wait()
            *agreed, fewest = self._vote.tolist()
            self._num_calls = -fewest
        affordable = int(num_made * self.PERIOD_S / max(now - self._sent, 1e-6))
        most = min(2 * self._num_calls, self.MOST_CALLS)  # the first calls may come at once, while the GPU has not begun
        asked = [0 if done else request for request, done in zip(requests, agreed, strict=True)]
        self._vote = torch.tensor([*asked, -min(max(affordable, 1), most)])  # the slowest decides, as the largest of -n
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

    Without `wait` it returns at once; call `wait()` on what it returns before `tensor` changes. No gradient flows through.
    Raises ValueError where there is no such other process.
    """
    return _to_another(torch_dist.isend, tensor.detach().contiguous(), to, wait)


def receive(into: torch.Tensor, source: int, wait: bool = True):
    """Fills `into` with the next tensor of this shape and dtype that the process `source` sends here; returns `into`.

    Without `wait` it returns at once; call `wait()` on what it returns before you look at `into`. Raises ValueError where
    there is no such other process, and for an `into` that is not contiguous.
    """
    if not into.is_contiguous():
        raise ValueError("receive: `into` has to be contiguous; give a torch.empty of this shape, and copy from it")
    work = _to_another(torch_dist.irecv, into.detach(), source, wait)
    return into if wait else work


def _to_another(operation, tensor: torch.Tensor, other: int, wait: bool):
    if other == rank() or not 0 <= other < world_size():
        raise ValueError(f"process {rank()} of {world_size()} has no other process {other}")
    work = operation(tensor, other)
    return work.wait() if wait else work


# -- the group ---------------------------------------------------------------------------------------------------------

def num_restarts() -> int:
    """How often the launcher has started this group again. A collective: each machine counts its own failures only."""
    return agree(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) if is_launched() else 0)[0]


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
    try:
        whole, number, size = next(torch_dist.rendezvous("env://", timeout=_FOR_START))
        _Shared.store = store = _store_of_start(whole, number, size)
        torch_dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=timeout,
                                      device_id=device if device.type == "cuda" else None)
        try:
            yield
        except Interrupted:  # all at the same step, with everything saved
            wait_for_main()  # else it would be ended when another process has
            torch_dist.destroy_process_group()
            raise
        wait_for_main()
    except Interrupted:
        raise
    except BaseException as error:
        _give_up(error)
    torch_dist.destroy_process_group()


class _Shared:
    """What the processes of the group share: a key-value store; a group for a background thread, one for slow disks."""

    store = background = patient = None
    num_waits = 0


def _store_of_start(whole, number: int, size: int):
    """A part of the launcher's store in which only these processes write, when all are there; loading torch may take a while.

    torchrun gives each start the same store, where addresses of the dead still stand. So the main process makes a name for
    the start, and tells it to whom it finds; one who is alive confirms.
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
            raise torch_dist.DistError(f"timed out: {store.add('joined', 0)} of {size - 1} other processes have come")
        time.sleep(0.02)
    store.set("complete", "")
    return store


def lost_touch(error: BaseException) -> bool:
    """Whether an error says no more than that another process has died, or does not answer."""
    said = str(error) if type(error) is RuntimeError else ""
    return isinstance(error, torch_dist.DistError) or "/gloo/" in said or "Connection closed by peer" in said or "NCCL" in said


def _give_up(error: BaseException) -> None:
    """Says what went wrong, if no other process has, and ends. No clean-up: after a failed collective it may wait for ever."""
    if lost_touch(error) and "imed out" not in str(error):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_FOR_LAUNCHER_S)  # if one has died the launcher knows more, and ends this process meanwhile
    try:
        is_first = _Shared.store.add("failures", 1) == 1
    except Exception:  # the store is gone with the process that held it
        is_first = True
    if is_first:
        _tell(error)
        logging.shutdown()
        if isinstance(error, (ConfigError, TrainingError)):
            forbid_restart(exit_code(error))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code(error))


def _tell(error: BaseException) -> None:
    who = f"process {expected_rank()} of {expected_world_size()}"
    if isinstance(error, (ConfigError, TrainingError)):
        log.error("%s", error)
    elif lost_touch(error):
        reason = str(error).splitlines()[0][:300]
        log.error("%s lost touch with another one, which has died, or does not answer: %s", who, reason)
    else:
        log.error("%s failed", who, exc_info=error)


# -- launching -----------------------------------------------------------------------------------------------------------

def run_processes(program: Sequence[str], num_processes: int, max_restarts: int, run_id: str,
                  hear: Callable[[Callable[[int], None]], None]) -> tuple[int | None, list[int]]:
    """torchrun's elastic agent at work: `python PROGRAM...` in so many processes on this machine, until they end.

    `hear(end)` sets up signal handlers, which call `end(number)` to end the processes with that signal. Returns the number,
    if there was one, and the exit codes of the processes that failed.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.ERROR)  # it tells of every signal that it sends
    patient = "shutdown_timeout" in {field.name for field in fields(LaunchConfig)}  # older torch always waits 30 seconds
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=num_processes, run_id=run_id, rdzv_backend="c10d",
            rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=max_restarts,
            logs_specs=DefaultLogsSpecs(log_dir=folder), signals_to_handle="SIGQUIT",  # the others are heard by `hear`
            **{"shutdown_timeout": 3600} if patient else {})  # a checkpoint may take its time

        def end(number: int):
            raise SignalException(f"signal {number}", signal.Signals(number))

        hear(end)
        try:
            elastic_launch(config, sys.executable)(*program)
        except SignalException as ended:
            return int(ended.sigval), []
        except ChildFailedError as failed:
            return None, [failure.exitcode for failure in failed.failures.values()]
    return None, []
