"""Finds samples that are in two splits: validation on training samples measures memory, not learning."""
import itertools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset, IterableDataset

from base.base_data_loader import DataSplits
from base.data.arrays import ArrayDataset, as_arrays
from base.data.bad_samples import BadSample, read_sample
from base.data.nested import bytes_of, raw_rows


class Overlap(NamedTuple):
    """How many of the validation samples that were read are among the training samples that were read.

    `repeats`: most samples occur more than once by nature, as with few numbers. Then the count means nothing.
    """

    shared: int
    num_val: int
    num_train: int
    repeats: bool


def find_overlap(data: DataSplits, split: str = "val", limit_s: float = 1.0) -> Overlap | None:
    """Counts bit-equal samples, targets included, as the datasets return them, before any transform.

    Reads as many as it can of train and `split` in `limit_s` seconds. None if one is not there or a stream.
    """
    datasets = [data.dataset("train"), data.dataset(split)]
    if any(dataset is None or isinstance(dataset, IterableDataset) for dataset in datasets):
        return None
    val, train = _fingerprints(data, split, limit_s / 4), _fingerprints(data, "train", limit_s)
    known = set(train)
    return Overlap(sum(mark in known for mark in val), len(val), len(train),
                   repeats=2 * len(known) < len(train))


def _fingerprints(data: DataSplits, split: str, limit_s: float) -> list[int]:
    """A fingerprint of each sample of a split, in order, until the time is over."""
    dataset, arrays = data.dataset(split), as_arrays(data.dataset(split))
    end = time.monotonic() + limit_s
    samples = itertools.takewhile(lambda sample: time.monotonic() < end,
                                  _samples(dataset, arrays, data.indices(split)))
    return [hash(b"".join(bytes_of(sample))) for sample in samples]


def _samples(dataset: Dataset, arrays: ArrayDataset | None, indices: torch.Tensor) -> Iterator[Any]:
    for some in indices.split(256):
        if arrays:
            yield from zip(*(raw_rows(array.reshape(len(some), -1)) for array in arrays.__getitems__(some)),
                           strict=True)
        else:
            samples = (read_sample(dataset.__getitem__, index, dataset) for index in some.tolist())
            # training reports what cannot be read
            yield from (sample for sample in samples if not isinstance(sample, BadSample))
