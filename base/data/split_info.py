"""What samplers and folds know of a dataset: its targets and other values of each sample; none is loaded."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from base.data.arrays import as_arrays
from utils.config.suggestions import suggest_name
from utils.errors import ConfigError


class SplitInfo:
    """The train split as a sampler sees it; all values are by position within it.

    They raise ConfigError at the key `where` for what the dataset does not tell. `batch_size` is that
    of all processes together.
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int] | torch.Tensor, batch_size: int, where: str):
        self.dataset, self.batch_size, self.where = dataset, batch_size, where
        self.indices = np.asarray(indices)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def targets(self) -> np.ndarray:
        """The target of each sample, `[N, ...]`: the dataset's last array, or its `targets` or `labels`."""
        arrays = as_arrays(self.dataset)
        if arrays and len(arrays.arrays) > 1:
            return _as_array(arrays.arrays[-1])[self.indices]
        return self.values("targets", "labels")

    @property
    def classes(self) -> np.ndarray:
        """The class of each sample, int64 `[N]`: a target that is a whole number, else its place in order."""
        targets = self.targets
        if targets.ndim != 1 or targets.dtype.kind == "f":
            raise ConfigError.at(self.where, f"the targets are no classes: {targets.dtype} "
                                             f"{list(targets.shape)}. A whole number or text is needed.")
        return (targets.astype(np.int64) if targets.dtype.kind in "iu"
                else np.unique(targets, return_inverse=True)[1])

    @property
    def lengths(self) -> np.ndarray:
        """The dataset's `lengths`, `[N]`."""
        return self.values("lengths")

    def values(self, *names: str) -> np.ndarray:
        """The dataset's attribute, or the result of its method, of the first of these names, `[N, ...]`."""
        found, number = _find(self.dataset, names), len(self.dataset)
        if found is None or len(found) != number:
            known = [name for name in dir(self.dataset) if name[:1] != "_"]
            near = "" if names[0] in known else suggest_name(names[0], known)
            raise ConfigError.at(self.where, f"{type(self.dataset).__name__} does not tell its {names[0]}."
                                             f"{near} An attribute or method '{names[0]}' with {number} "
                                             "values, one for each sample, is needed.")
        return found[self.indices]


def labels_of(dataset: Dataset) -> np.ndarray | None:
    """The targets that a dataset stores, if they are whole numbers `[N]`, one for each sample; else None."""
    if isinstance(dataset, IterableDataset) or (
            as_arrays(dataset) is None and not {"targets", "labels"} & vars(dataset).keys()):
        return None  # no property is read, which might read all samples
    try:
        targets = SplitInfo(dataset, range(len(dataset)), 1, "dataset").targets
    except Exception:  # targets may be anything, such as lists of boxes
        return None
    return targets if targets.ndim == 1 and targets.dtype.kind in "iu" and len(targets) else None


def _find(dataset: Dataset, names: tuple[str, ...]) -> np.ndarray | None:
    for name in names:
        if (value := getattr(dataset, name, None)) is not None:
            return _as_array(value() if callable(value) else value)
    if isinstance(dataset, Subset):
        found = _find(dataset.dataset, names)
        return None if found is None else found[np.asarray(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        parts = [_find(part, names) for part in dataset.datasets]
        return None if any(part is None for part in parts) else np.concatenate(parts)
    return None


def _as_array(values: Any) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
