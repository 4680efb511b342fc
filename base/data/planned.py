"""Batches as the config's `data_loader.sampler` chooses them, epoch by epoch."""
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import torch

from base.data.fingerprint import generators_kept
from base.data.sampler import Chosen, PositionSampler, RankSlice
from base.data.split_info import SplitInfo
from utils.distributed import collectives as dist
from utils.errors import ConfigError, describe_error
from utils.random import derive, seed_cpu

WHERE = "data_loader.sampler"


class EpochPlan(NamedTuple):
    """The samples of an epoch, in order: `indices` int64 `[M]` in the dataset, `repeats` as in Chosen.

    `ends` int64 `[num_batches]`: the place after each batch.
    """

    indices: np.ndarray
    repeats: np.ndarray | None
    ends: np.ndarray


class EpochPlans:
    """What a sampler makes of each epoch, a function of `(seed, epoch)`; the last one is kept.

    Args:
        sampler: called with (SplitInfo, epoch, torch.Generator). It returns positions within the train split,
            to be cut into batches, or a list of batches, each a list of positions. Global generators are
            seeded for it, too.
        dataset, indices: the train split: a dataset, and the indices of its samples.
        seed: the run's seed.
    """

    def __init__(self, sampler: Callable, dataset: Any, indices: Sequence[int] | torch.Tensor, seed: int,
                 batch_size: int, drop_last: bool):
        self.sampler, self.seed, self.batch_size, self.drop_last = sampler, seed, batch_size, drop_last
        self.info = SplitInfo(dataset, indices, batch_size, WHERE)
        self.name = getattr(getattr(sampler, "func", sampler), "__name__", type(sampler).__name__)
        self._kept: tuple[int, EpochPlan] | None = None

    def of(self, epoch: int) -> EpochPlan:
        """The plan of an epoch. Raises ConfigError if the sampler fails, or gives what cannot be read."""
        if self._kept is None or self._kept[0] != epoch:
            self._kept = None  # its memory is free for the next
            seed = derive(self.seed, "sampler", epoch)
            try:
                with generators_kept(self.info.dataset):
                    seed_cpu(seed)
                    given = self.sampler(self.info, epoch, torch.Generator().manual_seed(seed))
                    self._kept = epoch, self._plan(given)
            except ConfigError:
                raise
            except Exception as error:
                raise ConfigError.at(WHERE, f"{self.name} failed in epoch {epoch + 1}: "
                                            f"{describe_error(error)}") from error
        return self._kept[1]

    def _plan(self, given: Any) -> EpochPlan:
        given = given if isinstance(given, (np.ndarray, torch.Tensor)) else list(given)
        in_batches = len(given) > 0 and np.ndim(given[0]) > 0
        sizes = np.array([len(batch) for batch in given] if in_batches else [], dtype=np.int64)
        places = np.concatenate([np.asarray(batch) for batch in given]) if in_batches else np.asarray(given)
        if places.dtype.kind not in "iu" or places.ndim != 1 or (sizes == 0).any():
            raise ConfigError.at(WHERE, f"{self.name} gives neither positions nor batches of positions. "
                                        "Whole numbers are needed, or lists of them, none of them empty.")
        if outside := places[(places < 0) | (places >= len(self.info))][:1].tolist():
            raise ConfigError.at(WHERE, f"{self.name} gives position {outside[0]}; those of the train split "
                                        f"are 0 to {len(self.info) - 1}.")
        ends = sizes.cumsum() if in_batches else np.append(
            np.arange(self.batch_size, len(places), self.batch_size), len(places))
        short = (sizes[-1] < sizes[:-1].min(initial=sizes[-1]) if in_batches
                 else len(places) % self.batch_size)
        ends = ends[:-1] if self.drop_last and short else ends
        if not len(ends) or not len(places):
            raise ConfigError.at(WHERE, f"{self.name} gives no batch of {self.batch_size}.")
        indices = self.info.indices[places[:ends[-1]].astype(np.int64)]
        return EpochPlan(indices, _repeats(indices), ends)

    def counts(self, num_epochs: int) -> list[int]:
        """The batches in each epoch. A sampler with `same_length = True` is called for the first one only."""
        if getattr(self.sampler, "same_length", False):
            return [len(self.of(0).ends)] * num_epochs
        try:
            return [len(self.of(epoch).ends) for epoch in range(num_epochs)]
        except ConfigError as error:
            raise error.with_hint("The schedule needs the number of batches of every epoch: "
                                  "data_loader.batches_per_epoch sets it.") from error

    def require_same_everywhere(self, epoch: int) -> None:
        """Raises ConfigError naming a process to which the sampler gave another epoch. A collective."""
        if dist.world_size() == 1:
            return
        digests = dist.all_gather_object([blake2b(part.tobytes(), digest_size=8).hexdigest()
                                          for part in (self.of(epoch).indices, self.of(epoch).ends)])
        for number, digest in enumerate(digests):
            if digest != digests[0]:
                raise ConfigError.at(WHERE, f"{self.name} gave process {number} another order for epoch "
                                            f"{epoch + 1} than process 0. It has to draw from its generator, "
                                            "and depend on (split, epoch) alone.")


class PlannedSampler(PositionSampler):
    """This process's part of every batch of the epoch that it has entered, as its plan says."""

    def __init__(self, plans: EpochPlans, rank_slice: RankSlice, with_chosen: bool):
        self.plans, self.rank_slice, self.with_chosen = plans, rank_slice, with_chosen
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return len(self.plans.of(self.epoch).ends)

    def bounds(self, number: int) -> tuple[int, int]:
        ends = self.plans.of(self.epoch).ends
        return int(ends[number - 1]) if number else 0, int(ends[number])

    def between(self, first: int, last: int) -> Chosen:
        plan = self.plans.of(self.epoch)
        return Chosen(self.epoch, plan.indices, plan.repeats).part(slice(first, last))


def _repeats(indices: np.ndarray) -> np.ndarray | None:
    """How often each of the indices came before; None if no index comes twice."""
    order = np.argsort(indices, kind="stable")
    new = np.diff(indices[order], prepend=-1) != 0
    if new.all():
        return None
    places = np.arange(len(indices))
    repeats = np.empty_like(places)
    repeats[order] = places - np.maximum.accumulate(np.where(new, places, 0))
    return repeats
