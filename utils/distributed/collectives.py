"""Functions for the process group. They also work with one process, without a group.

    from utils.distributed import collectives as dist
    total = dist.all_reduce(num_correct)         # the sum over all processes, on each of them
    if dist.is_main():
        print(total)
"""
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as torch_dist


log = logging.getLogger(__name__)
SLOWEST_DISK = timedelta(hours=1)


# -- rank and world size -------------------------------------------------------------------------------------

def rank() -> int:
    """The rank of this process in the group, 0 to world_size - 1; 0 without a group."""
    return torch_dist.get_rank() if _grouped() else 0


def world_size() -> int:
    """The number of processes in the group; 1 without a group."""
    return torch_dist.get_world_size() if _grouped() else 1


def is_main() -> bool:
    """Whether this process is rank 0, which writes files and logs."""
    return rank() == 0


def _grouped() -> bool:
    return torch_dist.is_available() and torch_dist.is_initialized()


# -- collectives: every process has to call them, in the same order ------------------------------------------

def barrier() -> None:
    """Returns when every process has called it."""
    if world_size() > 1:
        all_reduce(torch.zeros(1))  # always on the CPU: it does not wait for the GPU's queue


@contextmanager
def main_first() -> Iterator[None]:
    """Context: the main process runs the body first, then all others: a download happens only once.

    Every process has to call it. The body must not wait for other processes, as collectives do.
    """
    Shared.num_waits += 1
    key = f"main_first/{Shared.num_waits}"  # made before the body, which may call main_first itself
    if not is_main():
        _wait_for(key)  # not a collective: a download may take longer than its timeout
    yield
    if is_main() and world_size() > 1:
        Shared.store.set(key, "done")


def _wait_for(key: str) -> None:
    while not Shared.store.check([key]):
        try:
            Shared.store.wait([key], timedelta(seconds=1))
        except torch_dist.DistStoreError:  # the key is not there yet
            if Shared.store.add("failures", 0):
                raise torch_dist.DistError("another process has failed") from None


def wait_for_main() -> None:
    """Returns when the main process has called it. Its slow disk may need longer than the usual timeout."""
    if world_size() > 1:
        Shared.patient = Shared.patient or torch_dist.new_group(backend="gloo", timeout=SLOWEST_DISK)
        torch_dist.barrier(Shared.patient)


_REDUCIBLE = (torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16,
              torch.float32, torch.float64, torch.complex64, torch.complex128)


def all_reduce(tensor: torch.Tensor, operation: Literal["sum", "mean", "max", "min"] = "sum") -> torch.Tensor:
    """Returns the sum (mean, max, min) of every process's `tensor`, element by element, on each process.

    All tensors have the same shape and dtype. A sum keeps the dtype: for bools it says whether any is true. A
    mean of integers is a float. The result is a new tensor. No gradient flows through. Raises TypeError for a
    dtype that processes cannot add.
    """
    result = tensor.detach().clone(memory_format=torch.contiguous_format)  # elements match by memory position
    if operation == "mean":
        result = result.to(torch.result_type(result, 1.0))
    if result.dtype not in _REDUCIBLE:
        raise TypeError(f"all_reduce: processes cannot add up {result.dtype}. "
                        "Convert it first: tensor.float(), or .int()")
    if world_size() > 1:
        kind = (torch_dist.ReduceOp.SUM if operation == "mean"
                else getattr(torch_dist.ReduceOp, operation.upper()))
        torch_dist.all_reduce(result, kind)
    return result / world_size() if operation == "mean" else result


def all_gather(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Returns every process's `tensor` `[N_r, ...]`, by rank. Only N_r may differ; else ValueError on all.

    The other dimensions and the dtype must be equal. 0-dim tensors stay 0-dim. No gradient flows through.
    """
    if world_size() == 1:
        return [tensor.detach().clone()]
    if tensor.ndim == 0:
        return [gathered[0] for gathered in all_gather(tensor[None])]
    lengths, *kinds = zip(*all_gather_object((len(tensor), list(tensor.shape[1:]), str(tensor.dtype))),
                          strict=True)
    if any(kind.count(kind[0]) < len(kind) for kind in kinds):
        raise ValueError(f"all_gather: processes may differ in the first dimension only, not in {kinds}")
    padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
    padded[: len(tensor)] = tensor.detach()
    gathered = [torch.empty_like(padded) for _ in lengths]
    torch_dist.all_gather([_as_bytes(whole) for whole in gathered], _as_bytes(padded))
    return [whole[:length] for whole, length in zip(gathered, lengths, strict=True)]


def all_gather_object(value: Any) -> list:
    """Returns every process's picklable `value`, by rank. For a few values now and then, not for tensors."""
    if world_size() == 1:
        return [value]
    gathered = [None] * world_size()
    torch_dist.all_gather_object(gathered, value)
    return gathered


def broadcast_object(value: Any = None, source: int = 0) -> Any:
    """Returns the `value` of the process with rank `source`; values of other processes are ignored."""
    if world_size() == 1:
        return value
    box = [value]
    torch_dist.broadcast_object_list(box, src=source)
    return box[0]


def broadcast_(tensors: Sequence[torch.Tensor], source: int = 0) -> None:
    """Copies dense `tensors` from rank `source` to all, in place; one message per dtype. Sparse ones stay."""
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


def broadcast_buffers(modules: Sequence[Any]) -> None:
    """Copies the main process's buffers, such as BatchNorm's statistics, to all: a checkpoint holds them.

    `modules` may hold other things, such as a loss that is a function.
    """
    modules = [module for module in modules if isinstance(module, torch.nn.Module)]
    broadcast_([buffer for module in modules for buffer in module.buffers()])


def _as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor as uint8, which every backend can move."""
    return tensor.view(-1).view(torch.uint8)


def agree(*requests: int) -> tuple[int, ...]:
    """For each request returns the largest value of any process: if one process requests it, all do it."""
    return (tuple(all_reduce(torch.tensor([int(r) for r in requests]), "max").tolist())
            if world_size() > 1 else requests)


# -- from one process to another -----------------------------------------------------------------------------

def send(tensor: torch.Tensor, to: int, wait: bool = True):
    """Sends `tensor` to the process with rank `to`, which has to call `receive`. No gradient flows through.

    With `wait=False` it returns at once; call `wait()` on the result before you change `tensor`. Raises
    ValueError if there is no such other process.
    """
    return _to_another(torch_dist.isend, tensor.detach().contiguous(), to, wait)


def receive(into: torch.Tensor, source: int, wait: bool = True):
    """Fills `into` with the next tensor of this shape and dtype from rank `source`; returns `into`.

    With `wait=False` it returns at once; call `wait()` on the result before you read `into`. Raises
    ValueError if there is no such other process, or if `into` is not contiguous.
    """
    if not into.is_contiguous():
        raise ValueError("receive: `into` has to be contiguous; give a torch.empty of this shape, "
                         "and copy from it")
    work = _to_another(torch_dist.irecv, into.detach(), source, wait)
    return into if wait else work


def _to_another(operation, tensor: torch.Tensor, other: int, wait: bool):
    if other == rank() or not 0 <= other < world_size():
        raise ValueError(f"process {rank()} of {world_size()} has no other process {other}")
    work = operation(tensor, other)
    return work.wait() if wait else work


# -- the group -----------------------------------------------------------------------------------------------


class Shared:
    """What the group's processes share: a key-value store, groups for a background thread and slow disks."""

    store = background = patient = None
    num_waits = 0


class Ballot:
    """`agree` for a loop, at almost no cost: votes run beside the steps, at most every tenth of a second.

    Call it once per step on every process. It returns the agreed values some steps late, and zeros if no vote
    has ended. With one process it returns the requests. As a context, it waits for the last vote on exit.
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
        most = min(2 * self._num_calls, self.MOST_CALLS)  # the first calls may be fast: the GPU has not begun
        still_open = [0 if done else request for request, done in zip(requests, agreed, strict=True)]
        self._vote = torch.tensor([*still_open, -min(max(affordable, 1), most)])  # of -n: the slowest decides
        self._arrives = torch_dist.all_reduce(self._vote, torch_dist.ReduceOp.MAX, async_op=True)
        self._num_left, self._sent = self._num_calls, now
        return tuple(agreed)

    def __enter__(self) -> "Ballot":
        return self

    def __exit__(self, kind, *error) -> None:
        if self._arrives is not None and kind is None:
            self._arrives.wait()
