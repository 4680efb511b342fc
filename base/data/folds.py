"""k-fold cross-validation: which samples of train each fold holds out."""
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from base.data.split_info import SplitInfo
from utils.errors import ConfigError
from utils.random import permutation


class Folds(NamedTuple):
    """Fold `fold` of `num`, which are disjoint and hold every sample together; sizes differ by one at most.

    Args:
        stratify: whether every class is spread evenly, too: in two folds its numbers differ by one at most.
        group_by: an attribute or method of the dataset that gives a value for each sample. Samples of one
            value are in one fold, so sizes and classes are then even only as far as a greedy choice makes
            them: groups are placed one by one, the largest first, where most of their classes is missing.
    """

    num: int
    fold: int
    stratify: bool
    group_by: str | None

    def held_out(self, dataset: Dataset, seed: int) -> torch.Tensor:
        """Which samples the fold holds out, bool `[N]`: a function of the seed, the classes and the groups.

        Raises ConfigError for fewer samples or groups than folds.
        """
        everything = range(len(dataset))
        classes, groups = np.zeros(len(dataset), np.int64), np.arange(len(dataset))
        if self.stratify:
            info = SplitInfo(dataset, everything, 1, "data_loader.stratify")
            classes = np.unique(info.classes, return_inverse=True)[1]
        if self.group_by:
            info = SplitInfo(dataset, everything, 1, "data_loader.group_by")
            groups = np.unique(info.values(self.group_by), return_inverse=True)[1]
        num_groups = int(groups.max()) + 1
        if num_groups < self.num:
            raise ConfigError.at("data_loader.folds", f"{self.num} folds of {num_groups} "
                                 f"{'groups' if self.group_by else 'samples'} would leave some empty.")
        order = permutation(seed, num_groups).numpy()
        if self.group_by:
            return torch.from_numpy(self._of_groups(groups, classes, order) == self.fold)
        order = order[np.argsort(classes[order], kind="stable")]  # dealt out class by class
        held_out = torch.zeros(len(dataset), dtype=torch.bool)
        held_out[order[self.fold::self.num]] = True
        return held_out

    def _of_groups(self, groups: np.ndarray, classes: np.ndarray, order: np.ndarray) -> np.ndarray:
        """The fold of each sample, int64 `[N]`. In whole numbers: sums of floats differ between machines."""
        sizes, totals = np.bincount(groups), np.bincount(classes)
        members = np.split(np.argsort(groups, kind="stable"), sizes.cumsum()[:-1])
        scale = totals.max() // np.maximum(totals, 1)  # a rare class counts as much as a frequent one
        counts, folds = np.zeros((self.num, len(totals)), np.int64), np.empty_like(groups)
        for group in order[np.argsort(-sizes[order], kind="stable")]:
            own, added = np.unique(classes[members[group]], return_counts=True)
            cost = (counts[:, own] * (added * scale[own] ** 2)).sum(1)
            fold = np.lexsort((counts.sum(1), cost))[0]  # the cheapest; of equal ones the smallest
            counts[fold, own] += added
            folds[members[group]] = fold
        return folds
