"""Many processes as one: the only file that knows torch.distributed. Every helper works with one process, too.

    from utils import dist
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
    Shared.num_waits += 1
    key = f"main_first/{Shared.num_waits}"  # known before the body, which may have a main_first of its own
    if not is_main():
        _wait_for(key)  # no collective: a download may take its time
    yield
    if is_main() and world_size() > 1:
        Shared.store.set(key, "done")


def _wait_for(key: str) -> None:
    while not Shared.store.check([key]):
        try:
            Shared.store.wait([key], timedelta(seconds=1))
        except torch_dist.DistStoreError:  # not yet
            if Shared.store.add("failures", 0):
                raise torch_dist.DistError("another process has failed") from None


def wait_for_main() -> None:
    """Returns when the main process has got here, for which its disk may take longer than other collectives may wait."""
    if world_size() > 1:
        Shared.patient = Shared.patient or torch_dist.new_group(backend="gloo", timeout=SLOWEST_DISK)
        torch_dist.barrier(Shared.patient)


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


# -- a part of the weights for each process (FSDP2) -----------------------------------------------------------------------


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


class Shared:
    """What the processes of the group share: a key-value store; a group for a background thread, one for slow disks."""

    store = background = patient = None
    num_waits = 0


# -- launching -----------------------------------------------------------------------------------------------------------


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
