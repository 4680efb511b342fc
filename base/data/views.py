"""Views of a dataset that give the samples of a batch: their randomness, their transforms, the loader."""
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from base.data.arrays import as_arrays
from base.data.bad_samples import BadSample, SampleCollate, read_sample
from base.data.nested import on_input, on_tensors
from base.data.sampler import Chosen, PositionSampler
from utils.random import derive, has_drawn, seed_cpu

Transform = Callable[[Any], Any]


class SampleView(Dataset):
    """Reads a batch's samples from a dataset and transforms them; its position seeds each sample.

    Seeding takes as long as a small sample: 7 % of an epoch of MNIST that is read sample by sample. So a
    batch is first read without it. If that drew a random number, the batch is read again with torch's
    generator seeded for each sample, which takes a sixth of the time that all generators take. If that drew
    another generator's number, it is read again with all of them seeded. Later batches keep to what this one
    needed. Code that hides its draws (`torch.random.fork_rng`), or asks for the seed, shows in the first two
    samples, which are also read with all generators seeded.

    `num_threads` threads read the batch if the dataset has a method `read_alone(index, generator)`; each
    sample then gets a generator that is seeded as torch's would be, so its numbers are the same.
    """

    def __init__(self, dataset: Dataset, transforms: Transform, seed: int, collate: SampleCollate,
                 num_threads: int = 0):
        self.dataset, self.transforms, self.seed, self.collate = dataset, transforms, seed, collate
        self.num_threads = num_threads
        self.draws, self.is_checked = 0, False  # 0: no numbers, as far as known; 1: torch's; 2: any

    def __getitems__(self, chosen: Chosen) -> Any:
        return self.collate(self.samples(chosen), chosen.indices.tolist(), self._read)

    def samples(self, chosen: Chosen) -> list:
        """The samples before they are collated; a BadSample for each that cannot be read."""
        if self.num_threads:
            # a task of one sample would take longer than to read a small picture
            parts = [chosen.part(slice(first, first + 8)) for first in range(0, len(chosen.indices), 8)]
            return sum(_threads(os.getpid(), self.num_threads).map(self._part, parts), [])
        while self.draws < 2:
            seed = derive(self.seed, "batch", *chosen.position(0))
            seed_cpu(seed)
            samples = self._samples(chosen, self.draws)
            drawn = has_drawn(seed, torch_too=not self.draws)
            if not (drawn or self.is_checked):
                drawn = not all(map(_equal, self._samples(chosen.part(slice(2)), 2), samples))
            self.is_checked = not drawn
            if not drawn:
                return samples
            self.draws += 1
        return self._samples(chosen, 2)

    def _samples(self, chosen: Chosen, draws: int) -> list:
        seed_sample = seed_cpu if draws == 2 else torch.default_generator.manual_seed
        samples = []
        for place, index in enumerate(chosen.indices.tolist()):
            if draws:
                seed_sample(self._seed_of(chosen, place))
            samples.append(self._read(index))
        return samples

    def _part(self, chosen: Chosen) -> list:
        samples = []
        for place, index in enumerate(chosen.indices.tolist()):
            generator = torch.Generator().manual_seed(self._seed_of(chosen, place))
            read = functools.partial(self.dataset.read_alone, generator=generator)
            samples.append(read_sample(read, index, self.dataset, self.transforms))
        return samples

    def _seed_of(self, chosen: Chosen, place: int) -> int:
        return derive(self.seed, "sample", *chosen.position(place))

    def _read(self, index: int) -> Any:
        return read_sample(self.dataset.__getitem__, index, self.dataset, self.transforms)


@functools.cache
def _threads(process: int, count: int) -> ThreadPoolExecutor:
    """The threads of a process that read samples."""
    return ThreadPoolExecutor(count)


def _equal(one: Any, other: Any) -> bool:
    """Whether two samples are equal, for the types compared here."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one is other or (isinstance(one, (str, bytes, int, float, BadSample)) and one == other)


class BatchView(Dataset):
    """Whole batches of a dataset: `fetch` makes one from indices. The first index seeds all randomness."""

    def __init__(self, fetch: Callable[[Any], Any], seed: int, collate: SampleCollate):
        self.fetch, self.seed, self.collate = fetch, seed, collate
        # arrays draw no random numbers
        arrays = as_arrays(fetch.__self__) if hasattr(fetch, "__self__") else None
        self.draws = arrays is None
        self.resident = arrays is not None and arrays.resident  # worker processes must not access these

    def __getitems__(self, chosen: Chosen) -> Any:
        if self.draws:
            seed_cpu(derive(self.seed, "batch", *chosen.position(0)))
        try:
            return self.fetch(chosen.indices.tolist() if self.draws else chosen.indices)
        except Exception:  # one by one it shows which sample it is; `collate` fetches the others again
            indices = chosen.indices.tolist()
            return self.collate(list(map(self._tried, indices)), indices, self._tried)

    def _tried(self, index: int) -> Any:
        """The index itself, or a BadSample if `fetch` cannot read it."""
        tried = read_sample(lambda number: self.fetch([number]), index, getattr(self.fetch, "__self__", None))
        return tried if isinstance(tried, BadSample) else index


class BatchLoader:
    """Replaces a DataLoader for whole batches without workers: there is nothing to collate.

    `pin_memory`: whether batches go into page-locked memory, from where a GPU copies while it computes.
    """

    def __init__(self, dataset: BatchView, batch_sampler: PositionSampler, pin_memory: bool):
        self.dataset, self.batch_sampler, self.pin_memory = dataset, batch_sampler, pin_memory

    def __iter__(self) -> Iterator[Any]:
        for chosen in self.batch_sampler:
            batch = self.dataset.__getitems__(chosen)
            yield _pin_memory(batch) if self.pin_memory else batch


def identity_collate(batch: Any) -> Any:
    """The collate function of whole batches."""
    return batch


def _pin_memory(batch: Any) -> Any:
    return on_tensors(batch, lambda value: value.pin_memory() if getattr(value, "is_cpu", True) and hasattr(
        value, "pin_memory") else value)


class SampleTransforms:
    """The transforms of a split's samples. An input that is then still a PIL image becomes uint8 `[C, H, W]`.

    Args:
        joint: whether transforms get the whole sample, such as (image, mask), and return it; else they get
            its input alone. None: those of torchvision get it whole if a target is a torchvision tv_tensor.
    """

    def __init__(self, transforms: list[Transform], joint: bool | None = None):
        self.transforms, self.joint = transforms, joint
        self.moves_targets = False  # whether torchvision's transforms were given targets that they move

    def __call__(self, sample: Any) -> Any:
        moves_targets = (self.joint is not False and isinstance(sample, (tuple, list))
                         and _holds_tv_tensors(sample[1:]))
        if not (self.joint or moves_targets):
            return on_input(sample, self._apply)
        self.moves_targets = moves_targets
        for transform in self.transforms:
            whole = self.joint or any(kind.__module__.startswith("torchvision.transforms.v2")
                                      for kind in type(transform).__mro__)
            sample = transform(sample) if whole else on_input(sample, transform)
        return on_input(sample, _without_pil)

    def _apply(self, value: Any) -> Any:
        for transform in self.transforms:
            value = transform(value)
        return _without_pil(value)


def read_ahead(source: Any, transforms: SampleTransforms) -> tuple[Any, SampleTransforms]:
    """What gives samples, and the transforms that they still need.

    A dataset, or what reads files, may do the first transforms itself, faster: its method
    `with_transforms(transforms)` returns what gives such samples, and the other transforms.
    """
    if transforms.joint or not hasattr(source, "with_transforms"):
        return source, transforms
    source, rest = source.with_transforms(transforms.transforms)
    return source, SampleTransforms(rest, transforms.joint)


def _holds_tv_tensors(value: Any) -> bool:
    if isinstance(value, (tuple, list, Mapping)):
        return any(map(_holds_tv_tensors, value.values() if isinstance(value, Mapping) else value))
    return type(value).__module__.startswith("torchvision.tv_tensors")


def apply_transforms(sample: Any, transforms: list[Transform]) -> Any:
    """`sample` with its input transformed; see SampleTransforms."""
    return SampleTransforms(transforms, joint=False)(sample)


def _without_pil(value: Any) -> Any:
    return _image_to_tensor(value) if hasattr(value, "getbands") else value


def _image_to_tensor(image) -> torch.Tensor:
    pixels = np.array(image)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())
