"""Which samples make up each batch: their order, a function of (seed, epoch), and each process's part."""
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from utils.random import derive, permutation


class RankSlice(NamedTuple):
    """The position of this process among those that share every batch: number `rank` of `world_size`."""

    rank: int = 0
    world_size: int = 1

    def of(self, total: int) -> slice:
        """This process's slice of `total` items in a row; slice lengths differ by one at most."""
        return slice(total * self.rank // self.world_size, total * (self.rank + 1) // self.world_size)


class Chosen(NamedTuple):
    """The samples of a batch: `indices` int64 `[B]` of epoch `epoch`."""

    epoch: int
    indices: np.ndarray


@dataclass(slots=True)
class Batch:
    """A loaded batch, and what is known of it.

    Args:
        data: what the dataset's collate function made, not yet on the model's device.
        num_samples: how many samples of this process count; 0 if it has one only because another process has
            more.
        num_total: how many samples of all processes count.
        chosen: the samples that this process has; None if no transform asks for them.
    """

    data: Any
    num_samples: int
    num_total: int
    chosen: Chosen | None = None


class PositionSampler(Sampler[Chosen]):
    """This process's part of every batch of the epoch that it has entered.

    The order is a function of `(seed, epoch)` only. Starting at batch `start` skips indices, not data. If a
    batch has fewer samples than there are processes, a process without one gets its first sample, which does
    not count. `with_chosen`: whether batches carry the chosen samples.
    """

    def __init__(self, indices: torch.Tensor, batch_size: int, seed: int, *, shuffle: bool, drop_last: bool,
                 rank_slice: RankSlice = RankSlice(), with_chosen: bool = True):
        self.indices, self.batch_size, self.seed, self.shuffle, self.rank_slice = (
            indices, batch_size, seed, shuffle, rank_slice)
        self.num_used = len(indices) // batch_size * batch_size if drop_last else len(indices)
        self.with_chosen = with_chosen
        self.epoch = self.start = 0
        self._order: tuple[int, np.ndarray] | None = None  # of the current epoch

    def enter(self, epoch: int, start: int = 0) -> None:
        """From here on iterates over this epoch, from batch `start` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return -(-self.num_used // self.batch_size)

    def __iter__(self) -> Iterator[Chosen]:
        return map(self.chosen, range(self.start, len(self)))

    def chosen(self, number: int) -> Chosen:
        """The samples that this process gets of batch `number`."""
        if self._order is None or self._order[0] != self.epoch:
            order = (permutation(derive(self.seed, "epoch", self.epoch), len(self.indices)) if self.shuffle
                     else slice(None))
            self._order = self.epoch, self.indices[order].numpy()
        first = number * self.batch_size
        indices = self._order[1][first : min(first + self.batch_size, self.num_used)]
        if self.rank_slice.world_size > 1:
            own = self.rank_slice.of(len(indices))
            indices = indices[own] if own.stop > own.start else indices[:1]
        return Chosen(self.epoch, indices)

    def batch(self, number: int, data: Any) -> Batch:
        """The loaded `data` of batch `number`."""
        own = total = min(self.batch_size, self.num_used - number * self.batch_size)
        if self.rank_slice.world_size > 1:
            own = len(range(total)[self.rank_slice.of(total)])
        return Batch(data, own, total, self.chosen(number) if self.with_chosen else None)

    def batches(self, loaded: Iterable[Any]) -> Iterator[Batch]:
        """The `loaded` data of batch `start` and those after it."""
        # `loaded` comes first in zip, so that a loader notices its end
        return (self.batch(number, data)
                for data, number in zip(loaded, range(self.start, len(self)), strict=False))
