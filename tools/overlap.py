"""Samples that stand in two splits: a validation on samples of the training measures memory, not learning."""
import itertools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from base.base_data_loader import DataSplits
from base.data.arrays import ArrayDataset, as_arrays


class Overlap(NamedTuple):
    """So many of the validation samples looked at were among the training samples looked at.

    `repeats`: most samples come more than once by their nature, being few numbers, say; so it tells nothing.
    """

    shared: int
    num_val: int
    num_train: int
    repeats: bool


def find_overlap(data: DataSplits, limit_s: float = 1.0) -> Overlap | None:
    """Counts samples that are equal to the last bit, targets included, as the datasets give them, before any transform.

    Looks at as many as can be read in `limit_s` seconds. None where there is no validation, or a split is a stream.
    """
    datasets = [data.dataset("train"), data.dataset("val")]
    if any(dataset is None or isinstance(dataset, IterableDataset) for dataset in datasets):
        return None
    val, train = _fingerprints(data, "val", limit_s / 4), _fingerprints(data, "train", limit_s)
    known = set(train)
    return Overlap(sum(mark in known for mark in val), len(val), len(train), repeats=2 * len(known) < len(train))


def _fingerprints(data: DataSplits, split: str, limit_s: float) -> list[int]:
    """A fingerprint of each sample of a split, in order, until the time is up."""
    dataset, arrays = data.dataset(split), as_arrays(data.dataset(split))
    end = time.monotonic() + limit_s
    samples = itertools.takewhile(lambda sample: time.monotonic() < end, _samples(dataset, arrays, data.indices(split)))
    return [hash(b"".join(_bytes_of(sample))) for sample in samples]


def _samples(dataset: Dataset, arrays: ArrayDataset | None, indices: torch.Tensor) -> Iterator[Any]:
    for some in indices.split(256):
        if arrays:
            yield from zip(*(_raw(array.reshape(len(some), -1)) for array in arrays.__getitems__(some)), strict=True)
        else:
            yield from (dataset[index] for index in some.tolist())


def _bytes_of(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _bytes_of(item)
    elif isinstance(value, torch.Tensor):
        yield _raw(value.reshape(1, -1)).tobytes()
    else:  # NumPy arrays and PIL images; numbers and text as they are written
        yield value.tobytes() if hasattr(value, "tobytes") else repr(value).encode()


def _raw(rows: torch.Tensor) -> np.ndarray:
    """The bytes of a tensor `[N, M]`, row by row."""
    return rows.detach().cpu().contiguous().view(torch.uint8).numpy()
