"""One sample at a time: its place in the order, its randomness, its transforms, its way into a batch."""
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler

from utils.random import derive, permutation, seed_cpu

Transform = Callable[[Any], Any]


class PositionSampler(Sampler[list]):
    """Batches of `(epoch, index)` pairs; set `epoch` and `start` before iterating.

    The order is a function of `(seed, epoch)` alone. Entering at batch `start` skips indices, never data.
    """

    def __init__(self, indices: torch.Tensor, batch_size: int, seed: int, *, shuffle: bool, drop_last: bool):
        self.indices, self.batch_size, self.seed, self.shuffle = indices, batch_size, seed, shuffle
        self.num_used = len(indices) // batch_size * batch_size if drop_last else len(indices)
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return -(-self.num_used // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self.indices
        if self.shuffle:
            order = order[permutation(derive(self.seed, "epoch", self.epoch), len(order))]
        for first in range(self.start * self.batch_size, self.num_used, self.batch_size):
            chosen = order[first : min(first + self.batch_size, self.num_used)]
            yield [(self.epoch, index) for index in chosen.tolist()]


class Samples(Dataset):
    """A dataset with its transforms, keyed by `(epoch, index)`, which also seeds all randomness of the sample."""

    def __init__(self, dataset: Dataset, transforms: list[Transform], seed: int):
        self.dataset, self.transforms, self.seed = dataset, transforms, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        seed_cpu(derive(self.seed, "sample", epoch, index))
        return transformed(self.dataset[index], self.transforms)


class Stream(IterableDataset):
    """An IterableDataset with its transforms; `(epoch, index)` seeds what it draws, `set_epoch` tells it where it has one."""

    def __init__(self, dataset: IterableDataset, transforms: list[Transform], seed: int, batch_size: int):
        self.dataset, self.transforms, self.seed, self.batch_size = dataset, transforms, seed, batch_size
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[Any]:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(self.epoch)
        samples = iter(self.dataset)
        for index in itertools.count():
            seed_cpu(derive(self.seed, "sample", self.epoch, index))
            try:
                sample = next(samples)
            except StopIteration:
                return
            if index >= self.start * self.batch_size:
                yield transformed(sample, self.transforms)


class CountingCollate:
    """Collates samples to `(how many, batch)`: averages over samples need the number, whatever a batch looks like."""

    def __init__(self, collate: Callable[[list], Any]):
        self.collate = collate

    def __call__(self, samples: list) -> tuple[int, Any]:
        return len(samples), self.collate(samples)


def transformed(sample: Any, transforms: list[Transform]) -> Any:
    """`sample` with its input through `transforms`; an input that is still a PIL image becomes uint8 `[C, H, W]`."""

    def apply(value):
        for transform in transforms:
            value = transform(value)
        return _image_to_tensor(value) if hasattr(value, "getbands") else value

    return on_input(sample, apply)


def on_input(sample: Any, function: Callable[[Any], Any]) -> Any:
    """`sample` with `function` applied to its input: the first of a tuple or list, else (a dict, say) the whole."""
    if isinstance(sample, (tuple, list)) and sample:
        first = function(sample[0])
        return type(sample)(first, *sample[1:]) if hasattr(sample, "_fields") else type(sample)([first, *sample[1:]])
    return function(sample)


def _image_to_tensor(image) -> torch.Tensor:
    pixels = np.array(image)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def to_device(batch: Any, device: torch.device) -> Any:
    """Tensors on `device`, whatever tuples, lists and dicts they are in."""
    if isinstance(batch, Mapping):
        return type(batch)({key: to_device(value, device) for key, value in batch.items()})
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(to_device(value, device) for value in batch)
    return batch.to(device, non_blocking=True) if hasattr(batch, "to") else batch
