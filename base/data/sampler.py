"""Which samples make up each batch: their order, a function of (seed, epoch), and each process's part."""
from collections.abc import Iterable, Iterator
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


class Count(int):
    """The number of a batch's samples for this process; `total` is the number for all processes together.

    `chosen` are the samples that this process has: its own, or one that does not count.
    """

    # pickle passes the number first, and the attributes later
    def __new__(cls, own: int, total: int | None = None, chosen: Chosen | None = None):
        count = super().__new__(cls, own)
        count.total, count.chosen = total, chosen
        return count

    def piece(self, piece: slice) -> "Count":
        """The count of a piece of the batch."""
        size = piece.stop - piece.start
        return Count(size, size, self.chosen and Chosen(self.chosen.epoch, self.chosen.indices[piece]))


class PositionSampler(Sampler[Chosen]):
    """This process's part of every batch; set `epoch` and `start` before iterating.

    The order is a function of `(seed, epoch)` only. Starting at batch `start` skips indices, not data. If a
    batch has fewer samples than there are processes, a process without one gets its first sample, which does
    not count (see `count`). `with_chosen`: whether counts carry the chosen samples.
    """

    def __init__(self, indices: torch.Tensor, batch_size: int, seed: int, *, shuffle: bool, drop_last: bool,
                 rank_slice: RankSlice = RankSlice(), with_chosen: bool = True):
        self.indices, self.batch_size, self.seed, self.shuffle, self.rank_slice = (
            indices, batch_size, seed, shuffle, rank_slice)
        self.num_used = len(indices) // batch_size * batch_size if drop_last else len(indices)
        self.with_chosen = with_chosen
        self.epoch = self.start = 0
        self._order: tuple[int, np.ndarray] | None = None  # of the current epoch
        self._counts: dict[int, Count] = {}  # by the size of the batch

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

    def count(self, number: int) -> Count:
        """The sample counts of batch `number`."""
        total = min(self.batch_size, self.num_used - number * self.batch_size)
        if total not in self._counts:
            own = self.rank_slice.of(total)
            self._counts[total] = Count(own.stop - own.start, total)
        count = self._counts[total]
        return Count(count, total, self.chosen(number)) if self.with_chosen else count

    def counted(self, batches: Iterable[Any]) -> Iterator[tuple[Count, Any]]:
        """`batches`, from number `start` on, each with its count."""
        counts = map(self.count, range(self.start, len(self)))
        # `batches` comes first in zip, so that a loader notices its end
        return ((count, batch) for batch, count in zip(batches, counts))
