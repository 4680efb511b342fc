"""Which samples make up each batch: their order, a function of (seed, epoch), and the share of each process."""
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from utils.random import derive, permutation


class RankSlice(NamedTuple):
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

    def piece(self, piece: slice) -> "Count":
        """The count of a piece of the batch."""
        size = piece.stop - piece.start
        return Count(size, size, self.chosen and Chosen(self.chosen.epoch, self.chosen.indices[piece]))


class PositionSampler(Sampler[Chosen]):
    """This process's part of every batch; set `epoch` and `start` before iterating.

    The order is a function of `(seed, epoch)` alone. Entering at batch `start` skips indices, never data. Where a batch has
    fewer samples than there are processes, those without one get its first, which does not count (see `count`).
    `with_chosen`: whether counts come with the samples they count.
    """

    def __init__(self, indices: torch.Tensor, batch_size: int, seed: int, *, shuffle: bool, drop_last: bool,
                 rank_slice: RankSlice = RankSlice(), with_chosen: bool = True):
        self.indices, self.batch_size, self.seed, self.shuffle, self.rank_slice = indices, batch_size, seed, shuffle, rank_slice
        self.num_used = len(indices) // batch_size * batch_size if drop_last else len(indices)
        self.with_chosen = with_chosen
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
        if self.rank_slice.world_size > 1:
            own = self.rank_slice.of(len(indices))
            indices = indices[own] if own.stop > own.start else indices[:1]
        return Chosen(self.epoch, indices)

    def count(self, number: int) -> Count:
        """The samples of batch `number`."""
        total = min(self.batch_size, self.num_used - number * self.batch_size)
        if total not in self._counts:
            own = self.rank_slice.of(total)
            self._counts[total] = Count(own.stop - own.start, total)
        count = self._counts[total]
        return Count(count, total, self.chosen(number)) if self.with_chosen else count

    def counted(self, batches: Iterable[Any]) -> Iterator[tuple[Count, Any]]:
        """`batches`, those from number `start` on, each with its count."""
        counts = map(self.count, range(self.start, len(self)))
        return ((count, batch) for batch, count in zip(batches, counts))  # in this order, so that a loader learns of its end
