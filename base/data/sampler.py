"""Which samples make up each batch: their order, a function of (seed, epoch), and each process's part."""
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from utils.random import derive, permutation


class RankSlice(NamedTuple):
    """The position of this process among all that share every batch: number `rank` of `world_size`."""

    rank: int = 0
    world_size: int = 1

    def of(self, total: int) -> slice:
        """This process's slice of `total` items in a row; slice lengths differ by one at most."""
        return slice(total * self.rank // self.world_size, total * (self.rank + 1) // self.world_size)


class Chosen(NamedTuple):
    """The samples of a batch: `indices` int64 `[B]` of epoch `epoch`.

    `repeats` int64 `[B]`: how often each of them came before in the epoch; None where no sample comes twice.
    """

    epoch: int
    indices: np.ndarray
    repeats: np.ndarray | None = None

    def part(self, places: slice | list[int]) -> "Chosen":
        """Some of the samples."""
        return Chosen(self.epoch, self.indices[places], self.repeats if self.repeats is None
                      else self.repeats[places])

    def position(self, place: int) -> tuple[int, ...]:
        """What seeds a sample: (epoch, index), and how often it came before in the epoch, unless never."""
        repeat = 0 if self.repeats is None else int(self.repeats[place])
        return (self.epoch, int(self.indices[place]), *([repeat] if repeat else []))


@dataclass(slots=True)
class Batch:
    """A loaded batch, and what is known of it.

    Args:
        data: what the dataset's collate function made, not yet on the model's device.
        num_samples: how many samples of this process count; 0 if it has one only because another process has
            more.
        num_total: how many samples of all processes count.
        chosen: the samples that this process has; None if no transform asks for them.
        left_out: the samples that it lacks because they cannot be read.
    """

    data: Any
    num_samples: int
    num_total: int
    chosen: Chosen | None = None
    left_out: Sequence[Any] = ()


class EpochOrder:
    """The order in which a split's samples are read, a function of `(seed, epoch)`; the last one is kept.

    Args:
        indices: the dataset indices of the split, int64 `[N]`; `range(N)` for a whole dataset, which then
            takes no memory.
        seed: any whole number, of the run.
    """

    def __init__(self, indices: torch.Tensor | range, seed: int):
        self.indices, self.seed = indices, seed
        self._kept: tuple[int, np.ndarray] | None = None  # the epoch, and its order

    def __len__(self) -> int:
        return len(self.indices)

    def shuffled(self, epoch: int) -> np.ndarray:
        """The indices as epoch `epoch` reads them, int64 `[N]`."""
        if self._kept is None or self._kept[0] != epoch:
            self._kept = None  # its memory is free for the next
            order = permutation(derive(self.seed, "epoch", epoch), len(self.indices))
            whole = isinstance(self.indices, range)
            self._kept = epoch, (order if whole else self.indices[order]).numpy()
        return self._kept[1]

    def unshuffled(self, first: int, last: int) -> np.ndarray:
        """The indices from place `first` up to `last`, ascending."""
        if isinstance(self.indices, range):
            return np.arange(first, last)
        return self.indices[first:last].numpy()


class PositionSampler(Sampler[Chosen]):
    """This process's part of every batch of the epoch that it has entered.

    The order is a function of `(seed, epoch)` only. Starting at batch `start` skips indices, not data. If a
    batch has fewer samples than there are processes, a process without one gets its first sample, which does
    not count. `with_chosen`: whether batches carry the chosen samples.
    """

    def __init__(self, order: EpochOrder, batch_size: int, *, shuffle: bool, drop_last: bool,
                 rank_slice: RankSlice = RankSlice(), with_chosen: bool = True):
        self.order, self.batch_size, self.shuffle, self.rank_slice = order, batch_size, shuffle, rank_slice
        self.num_used = len(order) // batch_size * batch_size if drop_last else len(order)
        self.with_chosen = with_chosen
        self.epoch = self.start = 0

    def enter(self, epoch: int, start: int = 0) -> None:
        """From here on iterates over this epoch, from batch `start` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return -(-self.num_used // self.batch_size)

    def __iter__(self) -> Iterator[Chosen]:
        return map(self.chosen, range(self.start, len(self)))

    def chosen(self, number: int) -> Chosen:
        """The samples that this process gets of batch `number`."""
        first, last = self.bounds(number)
        chosen = self.between(first, last)
        if self.rank_slice.world_size > 1:
            own = self.rank_slice.of(last - first)
            chosen = chosen.part(own if own.stop > own.start else slice(1))
        return chosen

    def bounds(self, number: int) -> tuple[int, int]:
        """The places in the epoch where batch `number` begins and ends."""
        first = number * self.batch_size
        return first, min(first + self.batch_size, self.num_used)

    def between(self, first: int, last: int) -> Chosen:
        """The samples from place `first` of the epoch up to `last`, for all processes."""
        return Chosen(self.epoch, self.order.shuffled(self.epoch)[first:last] if self.shuffle
                      else self.order.unshuffled(first, last))

    def batch(self, number: int, data: Any) -> Batch:
        """The loaded `data` of batch `number`."""
        first, last = self.bounds(number)
        own = total = last - first
        if self.rank_slice.world_size > 1:
            own = len(range(total)[self.rank_slice.of(total)])
        return Batch(data, own, total, self.chosen(number) if self.with_chosen else None)

    def batches(self, loaded: Iterable[Any]) -> Iterator[Batch]:
        """The `loaded` data of batch `start` and those after it."""
        # `loaded` comes first in zip, so that a loader notices its end
        return (self.batch(number, data)
                for data, number in zip(loaded, range(self.start, len(self)), strict=False))
