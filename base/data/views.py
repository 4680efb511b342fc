"""Samples by their number: their place in the order, their randomness, their transforms, their way into a batch."""
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from base.arrays import as_arrays
from utils.random import derive, has_drawn, permutation, seed_cpu

Transform = Callable[[Any], Any]


class Part(NamedTuple):
    """Which of the processes that share every batch this one is: number `rank` of `world_size`."""

    rank: int = 0
    world_size: int = 1

    def of(self, total: int) -> slice:
        """What it takes of `total` things in a row: as many as the others, give or take one."""
        return slice(total * self.rank // self.world_size, total * (self.rank + 1) // self.world_size)


class Chosen(NamedTuple):
    """The samples of a batch: `indices` int64 `[B]` of epoch `epoch`."""

    epoch: int
    indices: np.ndarray


class Count(int):
    """How many samples of a batch are for this process; `total` of them are for all processes together.

    `chosen` are those that this process has got: its own, or one that does not count.
    """

    # pickle gives the number first, and what belongs to it later
    def __new__(cls, own: int, total: int | None = None, chosen: Chosen | None = None):
        count = super().__new__(cls, own)
        count.total, count.chosen = total, chosen
        return count

    def part(self, part: slice) -> "Count":
        """That of a piece of the batch."""
        size = part.stop - part.start
        return Count(size, size, self.chosen and Chosen(self.chosen.epoch, self.chosen.indices[part]))


class PositionSampler(Sampler[Chosen]):
    """This process's part of every batch; set `epoch` and `start` before iterating.

    The order is a function of `(seed, epoch)` alone. Entering at batch `start` skips indices, never data. Where a batch has
    fewer samples than there are processes, those without one get its first, which does not count (see `count`).
    `tells_chosen`: whether counts come with the samples they count.
    """

    def __init__(self, indices: torch.Tensor, batch_size: int, seed: int, *, shuffle: bool, drop_last: bool,
                 part: Part = Part(), tells_chosen: bool = True):
        self.indices, self.batch_size, self.seed, self.shuffle, self.part = indices, batch_size, seed, shuffle, part
        self.num_used = len(indices) // batch_size * batch_size if drop_last else len(indices)
        self.tells_chosen = tells_chosen
        self.epoch = self.start = 0
        self._order: tuple[int, np.ndarray] | None = None  # of the epoch under way
        self._counts: dict[int, Count] = {}  # by the size of the batch

    def __len__(self) -> int:
        return -(-self.num_used // self.batch_size)

    def __iter__(self) -> Iterator[Chosen]:
        return map(self.chosen, range(self.start, len(self)))

    def chosen(self, number: int) -> Chosen:
        """What this process gets of batch `number`."""
        if self._order is None or self._order[0] != self.epoch:
            order = permutation(derive(self.seed, "epoch", self.epoch), len(self.indices)) if self.shuffle else slice(None)
            self._order = self.epoch, self.indices[order].numpy()
        first = number * self.batch_size
        indices = self._order[1][first : min(first + self.batch_size, self.num_used)]
        if self.part.world_size > 1:
            own = self.part.of(len(indices))
            indices = indices[own] if own.stop > own.start else indices[:1]
        return Chosen(self.epoch, indices)

    def count(self, number: int) -> Count:
        """The samples of batch `number`."""
        total = min(self.batch_size, self.num_used - number * self.batch_size)
        if total not in self._counts:
            own = self.part.of(total)
            self._counts[total] = Count(own.stop - own.start, total)
        count = self._counts[total]
        return Count(count, total, self.chosen(number)) if self.tells_chosen else count

    def counted(self, batches: Iterable[Any]) -> Iterator[tuple[Count, Any]]:
        """`batches`, those from number `start` on, each with its count."""
        counts = map(self.count, range(self.start, len(self)))
        return ((count, batch) for batch, count in zip(batches, counts))  # in this order, so that a loader learns of its end


class Samples(Dataset):
    """A dataset with its transforms, asked for the samples of a batch; `(epoch, index)` seeds all randomness of each.

    Seeding takes as long as a small sample. So a batch is first read without; where that drew a number after all, it is read
    again with, as is every batch from then on. What draws and covers its tracks (`torch.random.fork_rng`), or asks for the
    seed, shows in the first two samples, which are read in both ways.
    """

    def __init__(self, dataset: Dataset, transforms: list[Transform], seed: int):
        self.dataset, self.transforms, self.seed = dataset, transforms, seed
        self.draws: bool | None = None  # not known yet

    def __getitems__(self, chosen: Chosen) -> list:
        if not self.draws:
            seed = derive(self.seed, "batch", chosen.epoch, int(chosen.indices[0]))
            seed_cpu(seed)
            samples = [transformed(self.dataset[index], self.transforms) for index in chosen.indices.tolist()]
            drawn = has_drawn(seed)
            if self.draws is None and not drawn:
                drawn = not all(_same(self._seeded(chosen.epoch, index), sample)
                                for index, sample in zip(chosen.indices[:2].tolist(), samples, strict=False))
            self.draws = drawn
            if not drawn:
                return samples
        return [self._seeded(chosen.epoch, index) for index in chosen.indices.tolist()]

    def _seeded(self, epoch: int, index: int) -> Any:
        seed_cpu(derive(self.seed, "sample", epoch, index))
        return transformed(self.dataset[index], self.transforms)


def _same(one: Any, other: Any) -> bool:
    """Whether two samples are equal, as far as anybody can tell."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    return one is other or (isinstance(one, (str, bytes, int, float)) and one == other)


class Batches(Dataset):
    """A dataset that gives whole batches: `fetch` makes one from indices. The first of them seeds all randomness of it."""

    def __init__(self, fetch: Callable[[Any], Any], seed: int):
        self.fetch, self.seed = fetch, seed
        arrays = as_arrays(fetch.__self__) if hasattr(fetch, "__self__") else None  # which draw nothing
        self.draws = arrays is None
        self.resident = arrays is not None and arrays.resident  # where no worker process should reach
        self.row_bytes = [] if arrays is None else arrays.row_bytes

    def __getitems__(self, chosen: Chosen) -> Any:
        if self.draws:
            seed_cpu(derive(self.seed, "batch", chosen.epoch, int(chosen.indices[0])))
            return self.fetch(chosen.indices.tolist())
        return self.fetch(chosen.indices)


class BatchLoader:
    """In place of a DataLoader for whole batches without workers: there is nothing to collate, and nobody to ask.

    Small batches of arrays are gathered some at a time, and handed out as views, where each of these begins as well aligned
    as a tensor of its own: kernels may compute other bits for others.

    `pin_memory`: whether batches are copied into page-locked memory, from where they go to a GPU while others are computed.
    """

    AT_ONCE_BYTES, MOST_AT_ONCE, ALIGNED_BYTES = 2**20, 64, 64

    def __init__(self, dataset: Batches, batch_sampler: PositionSampler, pin_memory: bool):
        self.dataset, self.batch_sampler, self.pin_memory = dataset, batch_sampler, pin_memory

    def __iter__(self) -> Iterator[Any]:
        all_chosen, at_once = iter(self.batch_sampler), 1
        while chosen := list(itertools.islice(all_chosen, at_once)):
            yield from self._together(chosen) if len(chosen) > 1 else [self._ready(chosen[0])]
            at_once = self._at_once(len(chosen[0].indices))

    def _at_once(self, num_samples: int) -> int:
        """How many batches of so many samples to gather together."""
        sizes = [num_bytes * num_samples for num_bytes in self.dataset.row_bytes]
        if self.dataset.draws or any(size % self.ALIGNED_BYTES for size in sizes):
            return 1
        return min(max(self.AT_ONCE_BYTES // max(sum(sizes), 1), 1), self.MOST_AT_ONCE)

    def _together(self, chosen: list[Chosen]) -> Iterator[tuple]:
        arrays = self._ready(Chosen(chosen[0].epoch, np.concatenate([each.indices for each in chosen])))
        sizes = [len(each.indices) for each in chosen]
        return zip(*(array.split(sizes) for array in arrays), strict=True)

    def _ready(self, chosen: Chosen) -> Any:
        batch = self.dataset.__getitems__(chosen)
        return _pinned(batch) if self.pin_memory else batch


def as_it_is(batch: Any) -> Any:
    """The collate function of whole batches."""
    return batch


def _pinned(batch: Any) -> Any:
    return on_tensors(batch, lambda value: value.pin_memory() if isinstance(value, torch.Tensor) and value.is_cpu else value)


def transformed(sample: Any, transforms: list[Transform]) -> Any:
    """`sample` with its input through `transforms`; an input that is still a PIL image becomes uint8 `[C, H, W]`."""

    def apply(value):
        for transform in transforms:
            value = transform(value)
        return _image_to_tensor(value) if hasattr(value, "getbands") else value

    return on_input(sample, apply)


def on_input(sample: Any, function: Callable[[Any], Any]) -> Any:
    """`sample` with `function` applied to its input: the first of a tuple or list, else (a dict, say) the whole."""
    if isinstance(sample, (tuple, list)) and sample:
        first = function(sample[0])
        return type(sample)(first, *sample[1:]) if hasattr(sample, "_fields") else type(sample)([first, *sample[1:]])
    return function(sample)


def _image_to_tensor(image) -> torch.Tensor:
    pixels = np.array(image)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def on_tensors(batch: Any, function: Callable[[Any], Any]) -> Any:
    """`batch` with `function` applied to every tensor, whatever tuples, lists and dicts it is in."""
    if isinstance(batch, Mapping):
        return type(batch)({key: on_tensors(value, function) for key, value in batch.items()})
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(on_tensors(value, function) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)([on_tensors(value, function) for value in batch])
    return function(batch) if hasattr(batch, "to") else batch


def to_device(batch: Any, device: torch.device) -> Any:
    """Tensors on `device`; a copy to an accelerator is waited for by what uses it there, not by the host."""
    return on_tensors(batch, lambda tensor: tensor.to(device, non_blocking=device.type != "cpu"))
