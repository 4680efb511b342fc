"""What a checkpoint keeps of the data: sizes, class names, digests of a few samples."""
import random
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
import torch

from base.data.nested import bytes_of
from utils.random import derive, seed_cpu

NUM_SAMPLES, LIMIT_S = 8, 1.0


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of one split.

    Args:
        num_samples: its size; None for a stream of unknown length.
        classes: the names of the dataset's classes, in order; None if it has none.
        digests: hashes of samples as the dataset returns them, by their place in the split. Samples that
            differ from one reading to the next, and those for which there was no time, have none.
    """

    num_samples: int | None
    classes: list[str] | None = None
    digests: Mapping[int, str] = field(default_factory=dict)


class FingerprintedData(Protocol):
    """What a DataFingerprint needs of the data."""

    def dataset(self, split: str) -> Any: ...
    def sets(self, split: str) -> list[str]: ...
    def num_samples(self, split: str) -> int | None: ...
    def sample_reader(self, split: str) -> Callable[[int], Any] | None: ...


class DataFingerprint:
    """The fingerprints of the splits that training uses, as a part of the checkpoint."""

    def __init__(self, data: FingerprintedData):
        # a circle of references would leave the end of the data's loader workers to the garbage collector,
        # which stops their queues first: each worker then waits for 5 seconds
        self._data, self._taken = weakref.proxy(data), {}

    def of(self, split: str) -> Fingerprint | None:
        """The fingerprint of a split, taken on first use; None if there is no such split."""
        if split not in self._taken:
            self._taken[split] = self._take(split)
        return self._taken[split]

    def _take(self, split: str) -> Fingerprint | None:
        """Moves no generator of random numbers."""
        dataset = self._data.dataset(split)
        if dataset is None:
            return None
        classes, num_samples = getattr(dataset, "classes", None), self._data.num_samples(split)
        classes = [str(name) for name in classes] if isinstance(classes, (list, tuple)) else None
        read = self._data.sample_reader(split)
        if read is None:
            return Fingerprint(num_samples, classes)
        with generators_kept(dataset):
            return Fingerprint(num_samples, classes, _digests(read, num_samples))

    def state_dict(self) -> dict[str, dict]:
        taken = {split: self.of(split) for split in ("train", *self._data.sets("val"))}
        return {split: asdict(fingerprint) for split, fingerprint in taken.items() if fingerprint}

    def load_state_dict(self, state: Mapping[str, dict]) -> None:
        """Nothing: the data is as it is. `describe_changes` compares."""


def _digests(read: Callable[[int], Any], num_samples: int) -> dict[int, str]:
    """The digests of samples that are spread over a split; the first two at once are its ends."""
    places = dict.fromkeys(number * (num_samples - 1) // (NUM_SAMPLES - 1)
                           for number in (0, NUM_SAMPLES - 1, *range(1, NUM_SAMPLES - 1)))
    digests, end = {}, time.monotonic() + LIMIT_S
    for place in places:
        first, second = _digest(read, place), _digest(read, place)
        if first is None or first != second:  # the others are hardly steadier
            break
        digests[place] = first
        if time.monotonic() > end:
            break
    return digests


def _digest(read: Callable[[int], Any], place: int) -> str | None:
    """The hash of one sample; None for one that cannot be read."""
    seed_cpu(derive(0, "fingerprint", place))
    try:
        return blake2b(b"".join(bytes_of(read(place))), digest_size=8).hexdigest()
    except Exception:  # of any dataset; training reports the error, if it ever reads this sample
        return None


@contextmanager
def generators_kept(dataset: Any) -> Iterator[None]:
    """Inside, draws do not count: global generators, and generators that are attributes of the dataset."""
    python, numpy_state, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    restore = [_restorer(value) for value in getattr(dataset, "__dict__", {}).values()]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(cpu)
        for put_back in filter(None, restore):
            put_back()


def _restorer(value: Any) -> Callable[[], None] | None:
    """A function that puts a generator back into its present state; None for anything else."""
    if isinstance(value, random.Random):
        state = value.getstate()
        return lambda: value.setstate(state)
    if isinstance(value, np.random.Generator):
        state = value.bit_generator.state
        return lambda: setattr(value.bit_generator, "state", state)
    if isinstance(value, (np.random.RandomState, torch.Generator)):
        state = value.get_state()
        return lambda: value.set_state(state)
    return None


def kept_fingerprint(state: Mapping[str, Any], split: str) -> Fingerprint | None:
    """A split's fingerprint in a checkpoint's state; None if there is none, as in those of 1.0.0."""
    kept = state.get("data_fingerprint")
    kept = kept.get(split) if isinstance(kept, dict) else None
    fits = (isinstance(kept, dict) and kept.keys() == {"num_samples", "classes", "digests"}
            and isinstance(kept["num_samples"], (int, type(None))) and isinstance(kept["digests"], dict)
            and isinstance(kept["classes"], (list, type(None))))
    return Fingerprint(**kept) if fits else None


def shape_change(before: Fingerprint, now: Fingerprint) -> str | None:
    """How the size or the classes differ: `1,000 samples, now 1,001`. None if they do not."""
    sizes, classes = (before.num_samples, now.num_samples), (before.classes, now.classes)
    if None not in sizes and sizes[0] != sizes[1]:
        return f"{sizes[0]:,} samples, now {sizes[1]:,}"
    if None in classes or classes[0] == classes[1]:
        return None
    if len(classes[0]) != len(classes[1]):
        return f"{len(classes[0])} classes, now {len(classes[1])}"
    number = next(number for number, name in enumerate(classes[0]) if name != classes[1][number])
    return f"'{classes[0][number]}' as class {number}, now '{classes[1][number]}'"


def content_change(before: Fingerprint, now: Fingerprint) -> str | None:
    """How many samples differ: `another content in 3 of 8 samples`. None if no common sample differs."""
    shared = before.digests.keys() & now.digests.keys()
    changed = [place for place in shared if before.digests[place] != now.digests[place]]
    return f"another content in {len(changed)} of {len(shared)} compared samples" if changed else None
