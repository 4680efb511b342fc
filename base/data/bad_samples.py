"""Samples that cannot be read, transformed or collated: an error names them, or training leaves them out."""
import bisect
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from base.data.nested import describe_shapes
from base.data.sampler import Batch
from utils.errors import ConfigError, describe_error
from utils.torch_messages import is_out_of_memory

log = logging.getLogger(__name__)
# Left-out samples end a run above this part of those seen, if there are more than FEW different ones.
MOST, MIN_SEEN, FEW = 0.01, 100, 3
_LISTS_OF_FILES = ("samples", "imgs", "files", "paths", "image_paths", "filenames")


class LoadError(ConfigError):
    """A sample or a batch cannot be loaded. Its cause is the error of the dataset, a transform or a collate."""


@dataclass(frozen=True)
class BadSample:
    """Takes the place of a sample that cannot be read, also on the way from a worker process.

    `text`: "sample 7 (cat/1.jpg) cannot be read: ...". `index`: its number in the dataset; None for what
    cannot be left out: a place in a stream, or a whole batch.
    """

    text: str
    index: int | None = None
    error: Exception | None = field(default=None, compare=False)

    def __reduce__(self):  # not every exception can be pickled
        return BadSample, (self.text, self.index,
                           self.error and RuntimeError("".join(traceback.format_exception(self.error))))


class PartialBatch(NamedTuple):
    """A batch that lacks samples. A tuple, so that the loader's `pin_memory` finds the data."""

    data: Any  # None if there is none
    places: list[int]  # of the samples that it holds
    bad: list[BadSample]


def read_sample(read: Callable[[int], Any], index: int, dataset: Dataset,
                transforms: Callable[[Any], Any] | None = None) -> Any:
    """`transforms(read(index))`, or a BadSample. Lack of memory is no fault of a sample: it is raised.

    None, to be left out by a `collate_fn` of the dataset, is not transformed; without one it is a BadSample.
    """
    done = "read"
    try:
        sample = read(index)
        done = "transformed"
        if sample is not None and transforms:
            sample = transforms(sample)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        text = f"sample {index}{_file(dataset, index, error)} cannot be {done}: {describe_error(error)}"
        return BadSample(text, index, error)
    if sample is None and not hasattr(dataset, "collate_fn"):
        return BadSample(f"sample {index}{_file(dataset, index)} is None. A method collate_fn of the dataset "
                         "can leave such samples out", index)
    return sample


def _file(dataset: Dataset, index: int, error: BaseException | None = None) -> str:
    """` (cat/1.jpg)`: the file of a sample, from the dataset or its error; empty if neither tells."""
    while isinstance(dataset, (Subset, ConcatDataset)):
        if isinstance(dataset, Subset):
            dataset, index = dataset.dataset, int(dataset.indices[index])
        else:
            number = bisect.bisect_right(dataset.cumulative_sizes, index)
            index -= dataset.cumulative_sizes[number - 1] if number else 0
            dataset = dataset.datasets[number]
    for name in _LISTS_OF_FILES:
        try:
            entry = getattr(dataset, name)[index]
        except Exception:  # the attribute may be anything; what counts is the error of the sample
            continue
        entry = entry[0] if isinstance(entry, (tuple, list)) and entry else entry
        if isinstance(entry, str) or hasattr(entry, "__fspath__"):
            return f" ({entry})"
    named = getattr(error, "filename", None)
    return f" ({named})" if named else ""


class SampleCollate:
    """Collates the samples of a batch that could be read; gives a PartialBatch if some could not.

    `stand_ins`: samples to read in place of a batch that has none left, since models cannot work with an
    empty one; None if bad samples are errors. A stand-in follows from the data alone, so a resume has it, too.
    """

    def __init__(self, collate: Callable[[list], Any], stand_ins: Sequence[int] | torch.Tensor | None = None):
        self.collate, self.stand_ins = collate, stand_ins

    def __call__(self, samples: list, indices: Sequence[int], read: Callable[[int], Any] | None = None) -> Any:
        bad, kept = [sample for sample in samples if isinstance(sample, BadSample)], samples
        places = []
        if bad:
            if self.stand_ins is None:
                return PartialBatch(None, [], bad)
            places = [place for place, sample in enumerate(samples) if not isinstance(sample, BadSample)]
            others = (read(int(index)) for index in self.stand_ins[:MIN_SEEN] if not places)
            kept = [samples[place] for place in places] or [
                next((sample for sample in others if not isinstance(sample, BadSample)), bad[0])]
            if kept[0] is bad[0]:
                return PartialBatch(None, [], bad)
        try:
            data = self.collate(kept)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            named = [indices[place] for place in places] or indices
            return PartialBatch(None, [], [BadSample(_describe_mixture(kept, named, error), error=error)])
        return PartialBatch(data, places, bad) if bad else data


def _describe_mixture(samples: list, indices: Sequence[int], error: Exception) -> str:
    shapes = [describe_shapes(sample) for sample in samples]
    usual = max(shapes, key=shapes.count)
    odd = [f"sample {index} is {shape}" for index, shape in zip(indices, shapes) if shape != usual]
    which = ", ".join(map(str, indices[:5])) + (", ..." if len(indices) > 5 else "")
    text = f"samples {which} cannot be made a batch: {describe_error(error)}"
    if not odd:
        return f"{text}. They are {usual}. A method collate_fn of the dataset can make batches of any samples"
    return (f"{text}. Most are {usual}; {'; '.join(odd[:3])}{f'; {len(odd) - 3} more differ' * (len(odd) > 3)}. "
            "What helps: a Resize or a crop in transforms, or a method collate_fn of the dataset that pads")


def require_loaded(batch: Batch, split: str, training: bool, skips: bool) -> Batch:
    """The batch without what a PartialBatch tells. If it `skips`, `num_total` is that of this process alone.

    Raises LoadError if there is no data.
    """
    if isinstance(batch.data, PartialBatch):
        data, places, bad = batch.data
        if data is None:
            first, more = bad[0], [sample.index for sample in bad[1:]]
            also = f"\nOf its batch neither can {', '.join(map(str, more))}." if more else ""
            skip = ", or leave it out of training: data_loader.on_bad_sample=skip" if training else ""
            help = f"\nRepair it, or take it out of the dataset{skip}." if first.index is not None else "."
            raise LoadError.at("dataset", f"{split} {first.text}{also}{help}") from first.error
        own = batch.num_samples > 0
        batch = replace(batch, data=data, num_samples=len(places) if own else 0, left_out=bad if own else [],
                        chosen=batch.chosen and batch.chosen.part(places or slice(1)))
    return replace(batch, num_total=batch.num_samples) if skips else batch


class SkippedSamples:
    """The samples that training has left out in all processes; a part of the checkpoint."""

    def __init__(self):
        self.num_seen = self.num_skipped = 0  # a sample counts in every epoch
        self.indices: set[int] = set()

    def add(self, num_loaded: int, bad: Sequence[BadSample]) -> None:
        """Counts a step's samples, and logs bad ones that are new. Raises LoadError if there are too many."""
        self.num_seen += num_loaded + len(bad)
        self.num_skipped += len(bad)
        for sample in bad:
            if sample.index not in self.indices:
                log.warning("left out of training: %s", sample.text)
            self.indices.add(sample.index)
        if bad and self.num_skipped > MOST * self.num_seen and self.num_seen >= MIN_SEEN and (
                len(self.indices) > FEW):
            raise LoadError.at("dataset", f"{self}: more than {MOST:.0%}. The last: train {bad[-1].text}")

    def __str__(self) -> str:
        shown = ", ".join(map(str, sorted(self.indices)[:8])) + (", ..." if len(self.indices) > 8 else "")
        return (f"{self.num_skipped:,} of {self.num_seen:,} training samples were left out since they cannot "
                f"be read ({len(self.indices):,} different ones: {shown})")

    def state_dict(self) -> dict:
        return {"seen": self.num_seen, "skipped": self.num_skipped,
                "indices": torch.tensor(sorted(self.indices), dtype=torch.int64)}

    def load_state_dict(self, state: dict) -> None:
        self.num_seen, self.num_skipped = state["seen"], state["skipped"]
        self.indices = set(state["indices"].tolist())
