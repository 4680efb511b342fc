"""Samples that cannot be read, transformed or collated: an error names them, or training leaves them out."""
import bisect
import logging
import os
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from base.data.nested import describe_shapes
from base.data.sampler import Batch
from utils.errors import ConfigError, describe_error
from utils.torch_messages import is_out_of_memory

log = logging.getLogger(__name__)
# Left-out samples above this part of those seen end a run, if they are more than FEW different ones.
MOST, MIN_SEEN, FEW = 0.01, 100, 3
_FILE_LISTS = ("samples", "imgs", "files", "paths", "images", "image_paths", "img_paths", "image_files",
               "file_paths", "filenames", "file_names", "file_list")


class LoadError(ConfigError):
    """A sample or batch that cannot be loaded. Its cause is the error of the dataset or of a transform."""


@dataclass(frozen=True)
class BadSample:
    """Takes the place of a sample that cannot be read, also on the way from a worker process.

    `index`: its number in the dataset; None for what cannot be left out: a stream's sample, or a whole batch.
    """

    text: str  # "sample 7 (cat/1.jpg) cannot be read: ..."
    index: int | None = None
    error: Exception | None = field(default=None, compare=False)

    def __reduce__(self):  # not every exception can be pickled
        trace = self.error and RuntimeError("".join(traceback.format_exception(self.error)))
        return BadSample, (self.text, self.index, trace)


class PartialBatch(NamedTuple):
    """A batch that lacks samples. A tuple, so that the loader's `pin_memory` finds the data."""

    data: Any  # None if there is none
    places: list[int]  # of the samples that it holds
    bad: list[BadSample]


def read_sample(read: Callable[[int], Any], index: int, dataset: Dataset,
                transforms: Callable[[Any], Any] = lambda sample: sample) -> Any:
    """`transforms(read(index))`, or a BadSample. None is for a `collate_fn` of the dataset, or is bad."""
    done = "read"
    try:
        sample = read(index)
        if sample is None and hasattr(dataset, "collate_fn"):
            return None
        if sample is None:
            raise ValueError("it is None; a method collate_fn of the dataset can leave such samples out")
        done = "transformed"
        return transforms(sample)
    except Exception as error:
        named = [getattr(each, "filename", None) for each in (error, error.__cause__, error.__context__)]
        where = sample_file(dataset, index) or next(filter(None, named), None)
        return BadSample(f"sample {index}{f' ({where})' if where else ''} cannot be {done}: "
                         f"{describe_error(error)}", index, error)


def sample_file(dataset: Dataset, index: int) -> str | None:
    """The file of a sample, if the dataset has a list of them."""
    if isinstance(dataset, Subset):
        return sample_file(dataset.dataset, int(dataset.indices[index]))
    if isinstance(dataset, ConcatDataset):
        number = bisect.bisect_right(dataset.cumulative_sizes, index)
        return sample_file(dataset.datasets[number], index - sum(map(len, dataset.datasets[:number])))
    for name in _FILE_LISTS:
        with suppress(Exception):  # the attribute may be anything
            entry = getattr(dataset, name)[index]
            return os.fspath(entry[0] if isinstance(entry, (tuple, list)) else entry)
    return None


class SampleCollate:
    """Collates the samples of a batch that could be read; gives a PartialBatch if some could not.

    `stand_ins`: the first of these samples that can be read stands in for a batch with none left, also in a
    resumed run; None if bad samples are errors.
    """

    def __init__(self, collate: Callable[[list], Any], stand_ins: Sequence[int] | torch.Tensor | None = None):
        self.collate, self.stand_ins = collate, stand_ins

    def __call__(self, samples: list, indices: list[int], read: Callable[[int], Any] | None = None) -> Any:
        places = [place for place, sample in enumerate(samples) if type(sample) is not BadSample]
        bad = [sample for sample in samples if type(sample) is BadSample]
        kept, named = [samples[place] for place in places], [indices[place] for place in places]
        if bad and not kept and self.stand_ins is not None:
            others = (read(int(index)) for index in self.stand_ins[:MIN_SEEN])
            kept = [sample for sample in others if type(sample) is not BadSample][:1]
        if bad and (self.stand_ins is None or not kept):
            return PartialBatch(None, [], bad)
        try:
            data = self.collate(kept)
        except Exception as error:
            return PartialBatch(None, [], [BadSample(_describe_mixture(kept, named, error), error=error)])
        return PartialBatch(data, places, bad) if bad else data


def _describe_mixture(samples: list, indices: list[int], error: Exception) -> str:
    shapes = [describe_shapes(sample) for sample in samples]
    usual = max(shapes, key=shapes.count)
    odd = [f"; sample {index} is {shape:.200}" for index, shape in zip(indices, shapes) if shape != usual]
    some = ", ".join(map(str, indices[:5])) + ", ..." * (len(indices) > 5)
    advice = "a Resize or crop in transforms, or " * bool(odd) + "a method collate_fn of the dataset"
    return (f"samples {some} cannot be made a batch: {describe_error(error)}\nMost are {usual:.200}"
            f"{''.join(odd[:3])}{', ...' * (len(odd) > 3)}. What helps: {advice}")


def require_loaded(batch: Batch, split: str, training: bool, skips: bool) -> Batch:
    """The batch, with what a PartialBatch tells. If it `skips`, `num_total` is that of this process alone.

    Raises LoadError if there is no data. Lack of memory is no fault of a sample: it is raised as it is.
    """
    if isinstance(batch.data, PartialBatch):
        data, places, bad = batch.data
        if lacking := [sample.error for sample in bad if is_out_of_memory(sample.error)]:
            raise lacking[0]
        if data is None:
            also = f"; nor can {', '.join(str(sample.index) for sample in bad[1:])}" if bad[1:] else ""
            advice = _advice(bad, len(bad) == batch.num_samples, training)
            raise LoadError.at("dataset", f"{split} {bad[0].text}{also}{advice}.") from bad[0].error
        chosen = batch.chosen and batch.chosen.part(places or slice(1))
        batch = replace(batch, data=data, chosen=chosen, num_samples=min(len(places), batch.num_samples),
                        left_out=bad if batch.num_samples else [])
    return replace(batch, num_total=batch.num_samples) if skips else batch


def _advice(bad: list[BadSample], is_all: bool, training: bool) -> str:
    if bad[0].index is None:
        return ""
    if is_all and len(bad) > 1:
        return ("\nNone of the batch can be used, so it is hardly the files: look at transforms and the "
                "dataset. Transforms that need tensors, such as Normalize, follow ToImage and ToDtype, or "
                "stand in transforms.batch")
    skip = ", or leave it out of training: data_loader.on_bad_sample=skip" if training else ""
    return f"\nReplace it by one that can be read (before a new run it may also be taken out){skip}"


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
                log.warning("left out of training: %s", sample.text, extra={"event": "skipped_samples"})
            self.indices.add(sample.index)
        if (self.num_skipped > MOST * self.num_seen and self.num_seen >= MIN_SEEN
                and bad and len(self.indices) > FEW):
            raise LoadError.at("dataset", f"{self}: more than {MOST:.0%}. The last: train {bad[-1].text}")

    def __str__(self) -> str:
        shown = ", ".join(map(str, sorted(self.indices)[:8])) + ", ..." * (len(self.indices) > 8)
        return f"{self.num_skipped:,} of {self.num_seen:,} training samples cannot be read (indices: {shown})"

    def state_dict(self) -> dict:
        return {"seen": self.num_seen, "skipped": self.num_skipped,
                "indices": torch.tensor(sorted(self.indices), dtype=torch.int64)}

    def load_state_dict(self, state: dict) -> None:
        self.num_seen, self.num_skipped = state["seen"], state["skipped"]
        self.indices = set(state["indices"].tolist())
