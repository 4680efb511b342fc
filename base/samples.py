"""One sample at a time: its place in the order, its randomness, its transforms, its way into a batch."""
import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler

from utils.random import derive, permutation, seed_cpu

Transform = Callable[[Any], Any]


class Part(NamedTuple):
    """Which of the processes that share every batch this one is: number `rank` of `world_size`."""

    rank: int = 0
    world_size: int = 1

    def of(self, total: int) -> slice:
        """What it takes of `total` things in a row: as many as the others, give or take one."""
        return slice(total * self.rank // self.world_size, total * (self.rank + 1) // self.world_size)


class Count(int):
    """How many samples of a batch are for this process; `total` of them are for all processes together."""

    def __new__(cls, own: int, total: int | None = None):  # pickle gives the number first, and what belongs to it later
        count = super().__new__(cls, own)
        count.total = total
        return count


class PositionSampler(Sampler[list]):
    """This process's part of every batch, as `(epoch, index)` pairs; set `epoch` and `start` before iterating.

    The order is a function of `(seed, epoch)` alone. Entering at batch `start` skips indices, never data. Where a batch has
    fewer samples than there are processes, those without one get its first, which does not count (see `count`).
    """

    def __init__(self, indices: torch.Tensor, batch_size: int, seed: int, *, shuffle: bool, drop_last: bool,
                 part: Part = Part()):
        self.indices, self.batch_size, self.seed, self.shuffle, self.part = indices, batch_size, seed, shuffle, part
        self.num_used = len(indices) // batch_size * batch_size if drop_last else len(indices)
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return -(-self.num_used // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self.indices
        if self.shuffle:
            order = order[permutation(derive(self.seed, "epoch", self.epoch), len(order))]
        for first in range(self.start * self.batch_size, self.num_used, self.batch_size):
            chosen = order[first : min(first + self.batch_size, self.num_used)].tolist()
            yield [(self.epoch, index) for index in chosen[self.part.of(len(chosen))] or chosen[:1]]

    def count(self, number: int) -> Count:
        """The samples of batch `number`."""
        total = min(self.batch_size, self.num_used - number * self.batch_size)
        own = self.part.of(total)
        return Count(own.stop - own.start, total)


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
    """This process's part of the batches of an IterableDataset, as (transformed samples, their count, the place after them).

    Every process reads the whole stream, and transforms its own part. `(epoch, index)` seeds what it draws; `set_epoch`
    tells it, where it has one, the epoch in which its pass began. Set `epoch`, `start` and `place` before iterating. A
    dataset with `state_dict` and `load_state_dict` goes on at `place`, or begins at `first_state`. Any other is read from
    its beginning, and the batches before `start` are passed over.
    """

    def __init__(self, dataset: IterableDataset, transforms: list[Transform], seed: int, batch_size: int, *,
                 drop_last: bool, first_state: Any = None, part: Part = Part()):
        self.dataset, self.transforms, self.seed, self.first_state = dataset, transforms, seed, first_state
        self.batch_size, self.drop_last, self.own = batch_size, drop_last, part.of(batch_size)
        self.epoch = self.start = 0
        self.place = StreamPlace()

    def __iter__(self) -> Iterator[tuple[list, Count, StreamPlace]]:
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

    def _read(self, place: StreamPlace, first_index: int) -> Iterator[tuple[list, Count, StreamPlace]]:
        epoch, samples, batch, others, total = place.epoch, self._open(place), [], [], 0
        for index in itertools.count(first_index):
            seed_cpu(derive(self.seed, "sample", self.epoch, index))
            try:
                sample = next(samples)
            except StopIteration:
                break
            if index < self.start * self.batch_size:
                continue
            if self.own.start <= total < self.own.stop:
                batch.append(transformed(sample, self.transforms))
            elif not others:
                others = [sample]
            total += 1
            if total == self.batch_size:
                yield *self._part(batch, others, total), StreamPlace(epoch, copy_of_state(self.dataset))
                batch, others, total = [], [], 0
        if total and not self.drop_last:
            yield *self._part(batch, others, total), StreamPlace(epoch, over=True)

    def _part(self, batch: list, others: list, total: int) -> tuple[list, Count]:
        """The samples for this process; where there are none another's, which does not count."""
        return batch or [transformed(sample, self.transforms) for sample in others], Count(len(batch), total)

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


class StreamCollate:
    """Collates the samples of what a Stream yields to `(count, batch)`, and hands on the place."""

    def __init__(self, collate: Callable[[list], Any]):
        self.collate = collate

    def __call__(self, read: tuple[list, Count, StreamPlace]) -> tuple[tuple[Count, Any], StreamPlace]:
        samples, count, place = read
        return (count, self.collate(samples)), place


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
    return batch.to(device, non_blocking=device.type != "cpu") if hasattr(batch, "to") else batch
