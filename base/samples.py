"""One sample at a time: its place in the order, its randomness, its transforms, its way into a batch."""
import copy
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


class StreamPlace:
    """Where a stream with a `state_dict` stands after a batch. The one of training is a part of the checkpoint.

    An object, and no tuple or dict: the loader's `pin_memory` leaves it alone, and so the tuples within a state.

    Args:
        epoch: the one in which this pass over the stream began.
        state: the dataset's; None at the beginning and at the end of a pass.
        over: whether the pass is over; the next epoch then begins another one.
    """

    def __init__(self, epoch: int = 0, state: Any = None, over: bool = False):
        self.epoch, self.state, self.over = epoch, state, over

    def state_dict(self) -> dict:
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        self.epoch, self.state, self.over = state["epoch"], state["state"], state["over"]


class Stream(IterableDataset):
    """The batches of an IterableDataset, as (list of transformed samples, the place after them).

    `(epoch, index)` seeds what it draws; `set_epoch` tells it, where it has one, the epoch in which its pass began. Set
    `epoch`, `start` and `place` before iterating. A dataset with `state_dict` and `load_state_dict` goes on at `place`, or
    begins at `first_state`. Any other is read from its beginning, and the batches before `start` are passed over.
    """

    def __init__(self, dataset: IterableDataset, transforms: list[Transform], seed: int, batch_size: int, *,
                 drop_last: bool, first_state: Any = None):
        self.dataset, self.transforms, self.seed, self.first_state = dataset, transforms, seed, first_state
        self.batch_size, self.drop_last = batch_size, drop_last
        self.epoch = self.start = 0
        self.place = StreamPlace()

    def __iter__(self) -> Iterator[tuple[list, StreamPlace]]:
        if self.start and self.place.over:
            return
        anew, goes_on = StreamPlace(self.epoch, self.first_state), self.place.state is not None
        first_index = self.start * self.batch_size
        batches = self._read(self.place, first_index) if goes_on else self._read(anew, 0)
        first = next(batches, None)
        if first is None and goes_on and not self.start:  # the epoch before was cut just where the data end
            batches = self._read(anew, 0)
            first = next(batches, None)
        if first is not None:
            yield first
            yield from batches

    def _read(self, place: StreamPlace, first_index: int) -> Iterator[tuple[list, StreamPlace]]:
        epoch, samples, batch = place.epoch, self._open(place), []
        for index in itertools.count(first_index):
            seed_cpu(derive(self.seed, "sample", self.epoch, index))
            try:
                sample = next(samples)
            except StopIteration:
                break
            if index >= self.start * self.batch_size:
                batch.append(transformed(sample, self.transforms))
            if len(batch) == self.batch_size:
                yield batch, StreamPlace(epoch, copy_of_state(self.dataset))
                batch = []
        if batch and not self.drop_last:
            yield batch, StreamPlace(epoch, over=True)

    def _open(self, place: StreamPlace) -> Iterator[Any]:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(place.epoch)
        if is_stateful(self.dataset):
            self.dataset.load_state_dict(copy.deepcopy(place.state))  # the dataset may keep it, and change it
        return iter(self.dataset)


def is_stateful(dataset: Dataset | None) -> bool:
    """Whether a dataset is a stream that tells where it stands and can be put there."""
    return isinstance(dataset, IterableDataset) and hasattr(dataset, "state_dict") and hasattr(dataset, "load_state_dict")


def copy_of_state(dataset: Dataset | None) -> Any:
    """The state of a stateful stream, which reading on does not change; None for any other dataset."""
    return copy.deepcopy(dataset.state_dict()) if is_stateful(dataset) else None


class CountingCollate:
    """Collates samples to `(how many, batch)`: averages over samples need the number, whatever a batch looks like."""

    def __init__(self, collate: Callable[[list], Any]):
        self.collate = collate

    def __call__(self, samples: list) -> tuple[int, Any]:
        return len(samples), self.collate(samples)


class StreamCollate:
    """Collates the samples of what a Stream yields, and hands on the place."""

    def __init__(self, collate: Callable[[list], Any]):
        self.collate = collate

    def __call__(self, samples_and_place: tuple[list, StreamPlace]) -> tuple[Any, StreamPlace]:
        samples, place = samples_and_place
        return self.collate(samples), place


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
