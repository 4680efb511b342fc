"""Orders of the train split for `data_loader.sampler`: how often each sample comes, and which share a batch.

A sampler is called with the split (its `targets`, `classes`, `lengths`, `batch_size`), the number of the
epoch and a generator. It returns positions within the split, or a list of batches of positions.
"""
import numpy as np
import torch

from base import SAMPLERS
from base.data.split_info import SplitInfo
from utils.config.annotations import PositiveInt

_POOL = 50  # batches whose samples are sorted together: shorter pools pad more, longer ones mix less


@SAMPLERS.register
class Weighted:
    """Draws samples with replacement, each as often as its weight says.

    Args:
        weights: a weight for each sample: numbers, or the name of an attribute or method of the dataset.
        class_weights: in place of `weights` a number for each class, in the order of the classes.
        num_samples: samples in an epoch; by default as many as the split has.
    """

    same_length = True

    def __init__(self, weights: str | list[float] | None = None, class_weights: list[float] | None = None,
                 num_samples: PositiveInt | None = None):
        if (weights is None) == (class_weights is None):
            raise ValueError("either weights (of samples) or class_weights is needed")
        self.weights, self.class_weights, self.num_samples = weights, class_weights, num_samples

    def __call__(self, split: SplitInfo, epoch: int, generator: torch.Generator) -> np.ndarray:
        """Positions, int64 `[num_samples]`. Raises ValueError for weights that do not fit the split."""
        weights = self._weights(split).astype(np.float64)
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise ValueError("weights are finite numbers from 0 on, and not all 0")
        sums = weights.cumsum()
        drawn = torch.rand(self.num_samples or len(split), generator=generator, dtype=torch.float64).numpy()
        # torch.multinomial stops at 2**24 samples. The product may be rounded up to the whole sum.
        return np.minimum(np.searchsorted(sums, drawn * sums[-1], side="right"), weights.nonzero()[0][-1])

    def _weights(self, split: SplitInfo) -> np.ndarray:
        if isinstance(self.weights, str):
            return split.values(self.weights)
        given = np.asarray(self.weights if self.class_weights is None else self.class_weights)
        if self.class_weights is not None:
            return _one_each(given, _num_classes(split), "classes")[split.classes]
        return _one_each(given, len(split), "samples")


@SAMPLERS.register
class Balanced:
    """Draws every class equally often. Samples of a rare class come again; each once before any comes twice.

    Args:
        num_samples: samples in an epoch; by default as many as the split has.
    """

    same_length = True

    def __init__(self, num_samples: PositiveInt | None = None):
        self.num_samples = num_samples

    def __call__(self, split: SplitInfo, epoch: int, generator: torch.Generator) -> np.ndarray:
        """Positions, int64 `[num_samples]`; the numbers of two classes differ by one at most."""
        _, classes = np.unique(split.classes, return_inverse=True)
        num_classes, total = int(classes.max()) + 1, self.num_samples or len(split)
        counts = np.full(num_classes, total // num_classes)
        counts[_permutation(num_classes, generator)[:total % num_classes]] += 1
        members = np.split(np.argsort(classes, kind="stable"), np.bincount(classes).cumsum()[:-1])
        positions = np.concatenate([_drawn(own, count, generator)
                                    for own, count in zip(members, counts, strict=True)])
        return positions[_permutation(len(positions), generator)]


@SAMPLERS.register
class GroupedByLength:
    """Batches of samples of similar length, which need little padding; the dataset tells its `lengths`.

    The order is random: among samples drawn at random, some 50 batches of them, those of similar length go
    together. The samples that make no whole batch are the epoch's last.

    Args:
        max_tokens: the most that a batch may hold, padding included: its samples times their greatest length.
            By default every batch has `batch_size` samples.
    """

    def __init__(self, max_tokens: PositiveInt | None = None):
        self.max_tokens, self.same_length = max_tokens, max_tokens is None

    def __call__(self, split: SplitInfo, epoch: int, generator: torch.Generator) -> list | np.ndarray:
        """Positions int64 `[N]`, or batches of them. Raises ValueError for a sample above `max_tokens`."""
        lengths, order = split.lengths.astype(np.int64), _permutation(len(split), generator)
        if self.max_tokens:
            return self._within_budget(lengths, order, generator)
        size, last = split.batch_size, len(order) % split.batch_size
        whole, rest = np.split(order, [len(order) - last])
        pools = [pool[np.argsort(lengths[pool], kind="stable")]
                 for pool in np.split(whole, range(size * _POOL, len(whole), size * _POOL))]
        batches = np.concatenate(pools).reshape(-1, size)
        return np.concatenate([batches[_permutation(len(batches), generator)].ravel(), rest])

    def _within_budget(self, lengths: np.ndarray, order: np.ndarray, generator: torch.Generator) -> list:
        if lengths.max() > self.max_tokens:
            longest = int(lengths.argmax())
            raise ValueError(f"sample {longest} of the train split has length {lengths[longest]}, more than "
                             f"max_tokens: {self.max_tokens}")
        size, batches = max(int(self.max_tokens / max(lengths.mean(), 1)), 1) * _POOL, []
        for pool in np.split(order, range(size, len(order), size)):
            pool, first = pool[np.argsort(-lengths[pool], kind="stable")], 0
            while first < len(pool):  # the longest comes first: it tells how many fit
                last = first + self.max_tokens // max(int(lengths[pool[first]]), 1)
                batches.append(pool[first:last])
                first = last
        return [batches[number] for number in _permutation(len(batches), generator)]


def _one_each(weights: np.ndarray, number: int, what: str) -> np.ndarray:
    if len(weights) != number:
        raise ValueError(f"{len(weights)} weights for {number} {what}. One for each is needed.")
    return weights


def _permutation(length: int, generator: torch.Generator) -> np.ndarray:
    return torch.randperm(length, generator=generator).numpy()


def _drawn(members: np.ndarray, count: int, generator: torch.Generator) -> np.ndarray:
    """`count` of the members in random order, all of them once before any comes again."""
    rounds = [members[_permutation(len(members), generator)] for _ in range(-(-count // len(members)))]
    return np.concatenate([members[:0], *rounds])[:count]


def _num_classes(split: SplitInfo) -> int:
    named = getattr(split.dataset, "classes", None)
    return max(len(named) if isinstance(named, (list, tuple)) else 0, int(split.classes.max()) + 1)
