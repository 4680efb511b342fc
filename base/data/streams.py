"""Datasets that are read from front to back: their position, and each process's part of them."""
import copy
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset, IterableDataset

from base.data.bad_samples import BadSample, SampleCollate
from base.data.sampler import Batch, Chosen, RankSlice
from base.data.views import Transform
from utils.errors import describe_error
from utils.random import derive, seed_cpu

log = logging.getLogger(__name__)


class StreamPlace:
    """The position of a stream with a `state_dict` after a batch. Training's is part of the checkpoint.

    It is no tuple or dict, so the loader's `pin_memory` does not touch it, nor the tuples within a state.

    Args:
        epoch: the epoch in which this pass over the stream began.
        state: the dataset's state; None at the beginning and at the end of a pass.
        over: whether the pass is over; the next epoch then begins another one.
        num_read: samples of the pass up to here, to replay it; None in checkpoints of 1.0.0.
    """

    def __init__(self, epoch: int = 0, state: Any = None, over: bool = False, num_read: int | None = 0):
        self.epoch, self.state, self.over, self.num_read = epoch, state, over, num_read

    def state_dict(self) -> dict:
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        vars(self).update({"num_read": None, **state})


class ReadBatch(NamedTuple):
    """A batch as a Stream reads it: no Batch, because the loader's `pin_memory` looks into tuples only."""

    data: Any  # a list of samples, then what the collate function makes of it
    num_samples: int
    num_total: int
    chosen: Chosen
    after: StreamPlace  # the place after the batch


class Stream(IterableDataset):
    """This process's part of an IterableDataset's batches of transformed samples.

    Every process reads the whole stream, and transforms its own part. `(epoch, index)` seeds the randomness
    of a sample; `set_epoch`, if the dataset has it, gets the epoch in which the pass began. A dataset with
    `state_dict` and `load_state_dict` continues at `place`, or begins at `first_state`; if it `replays`, it
    always begins there, and the samples of the pass before `place` are skipped. Any other is read from its
    beginning, and the batches before `start` are skipped. A pass ends after `limit` samples.
    """

    def __init__(self, dataset: IterableDataset, transforms: Transform, seed: int, batch_size: int, *,
                 drop_last: bool, first_state: Any = None, rank_slice: RankSlice = RankSlice(),
                 replays: bool = False, limit: int | None = None):
        self.dataset, self.transforms, self.seed, self.first_state = dataset, transforms, seed, first_state
        self.batch_size, self.drop_last, self.own = batch_size, drop_last, rank_slice.of(batch_size)
        self.epoch = self.start = 0
        self.place, self.replays, self.limit = StreamPlace(), replays, limit

    def enter(self, epoch: int, start: int, place: StreamPlace) -> None:
        """From here on iterates over this epoch, from batch `start` on; if stateful, from `place` on."""
        self.epoch, self.start, self.place = epoch, start, place

    def __iter__(self) -> Iterator[ReadBatch]:
        self.index = self.start * self.batch_size  # of the sample that is read now
        try:
            yield from self._batches()
        except Exception as error:
            bad = BadSample(f"sample {self.index} of epoch {self.epoch + 1} of the stream cannot be read: "
                            f"{describe_error(error)}", error=error)
            yield self._own_part([bad], [], 1, self.index, StreamPlace())

    def _batches(self) -> Iterator[ReadBatch]:
        if self.start and self.place.over:
            return
        anew, goes_on = StreamPlace(self.epoch, self.first_state), self.place.state is not None
        first_index = self.start * self.batch_size
        batches = self._read(self.place, first_index) if goes_on else self._read(anew, 0)
        first = next(batches, None)
        # the epoch before was cut exactly at the end of the data
        if first is None and goes_on and not self.start:
            batches = self._read(anew, 0)
            first = next(batches, None)
        if first is not None:
            yield first
            yield from batches

    def _read(self, place: StreamPlace, first_index: int) -> Iterator[ReadBatch]:
        epoch, before = place.epoch, place.num_read  # `place` moves along while this reads
        samples, batch, others, total = self._open(place), [], [], 0
        for index in itertools.count(first_index):
            if self.limit and (before or 0) + index - first_index >= self.limit:
                break
            seed_cpu(derive(self.seed, "sample", self.epoch, index))
            self.index = index
            try:
                sample = next(samples)
            except StopIteration:
                break
            if index < self.start * self.batch_size:
                continue
            if self.own.start <= total < self.own.stop:
                batch.append(self.transforms(sample))
            elif not others:
                others = [sample]
            total += 1
            if total == self.batch_size:
                num_read = None if before is None else before + index + 1 - first_index
                after = StreamPlace(epoch, copy_state(self.dataset), num_read=num_read)
                yield self._own_part(batch, others, total, index, after)
                batch, others, total = [], [], 0
        if total and not self.drop_last:
            yield self._own_part(batch, others, total, index - 1, StreamPlace(epoch, over=True))

    def _own_part(self, batch: list, others: list, total: int, last: int, after: StreamPlace) -> ReadBatch:
        """This process's samples; if none, another's, which does not count. `last`: the batch's last one."""
        first = last - total + 1 + (self.own.start if batch else 0)
        chosen = Chosen(self.epoch, np.arange(first, first + max(len(batch), 1)))
        samples = batch or [self.transforms(sample) for sample in others]
        return ReadBatch(samples, len(batch), total, chosen, after)

    def _open(self, place: StreamPlace) -> Iterator[Any]:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(place.epoch)
        replay = self.replays_from(place)
        if is_stateful(self.dataset):
            # a copy: the dataset may keep it, and change it
            self.dataset.load_state_dict(copy.deepcopy(self.first_state if replay else place.state))
        samples = iter(self.dataset)
        for index in range(place.num_read if replay else 0):
            seed_cpu(derive(self.seed, "sample", place.epoch, index))
            next(samples, None)
        return samples

    def replays_from(self, place: StreamPlace) -> bool:
        """Whether the samples before `place` are read again, rather than its state taken."""
        return self.replays and place.state is not None and place.num_read is not None


def is_stateful(dataset: Dataset | None) -> bool:
    """Whether a dataset is a stream that can save and restore its position."""
    return (isinstance(dataset, IterableDataset) and hasattr(dataset, "state_dict")
            and hasattr(dataset, "load_state_dict"))


def copy_state(dataset: Dataset | None) -> Any:
    """A copy of a stateful stream's state, which later reads do not change; None for any other dataset."""
    return copy.deepcopy(dataset.state_dict()) if is_stateful(dataset) else None


def report_resume(stream: Stream) -> None:
    """Logs what a resume within a stream reads again."""
    name, place = type(stream.dataset).__name__, stream.place
    if stream.replays_from(place):
        log.info("%s is replayed: it is read again from its beginning, and %d samples are passed over",
                 name, place.num_read)
    elif stream.start and place.state is None and not place.over:
        lacks = "saved state" if is_stateful(stream.dataset) else "state_dict"
        log.info("%s has no %s: the stream is read again from the start of epoch %d, and %d batches are "
                 "passed over", name, lacks, stream.epoch + 1, stream.start)


class StreamCollate:
    """Collates the samples in what a Stream reads."""

    def __init__(self, collate: Callable[[list], Any]):
        self.collate = SampleCollate(collate)

    def __call__(self, read: ReadBatch) -> ReadBatch:
        return read._replace(data=self.collate(read.data, read.chosen.indices.tolist()))


def report_length(batches: Iterable[Batch], stream: Stream, num_samples: int | None,
                  remedy: str) -> Iterator[Batch]:
    """The batches of a whole pass. Its end logs a warning if the dataset's length was wrong.

    `num_samples`: the length, if it has one. `remedy`: the option that sets the number of batches.
    """
    number, size = stream.start, stream.batch_size
    found = number * size
    if num_samples is None or (stream.place.state is not None and not number):  # the rest of a pass
        yield from batches
        return
    for number, batch in enumerate(batches, stream.start + 1):
        found += batch.num_total
        yield batch
    promised = num_samples // size * size if stream.drop_last else num_samples
    if number > stream.start and found != promised:
        log.warning("%s has %d samples by its __len__, and gave %d, in %d batches of %d. Schedules "
                    "count on the former. Correct __len__, or set data_loader.%s=%d",
                    type(stream.dataset).__name__, num_samples, found, number, size, remedy,
                    min(number, -(-promised // size)))


def track_place(batches: Iterable[ReadBatch], place: StreamPlace) -> Iterator[Batch]:
    """The batches of a Stream; `place` is set to the one after the last batch taken."""
    for *known, after in batches:
        place.load_state_dict(after.state_dict())
        yield Batch(*known)
    place.load_state_dict({"epoch": place.epoch, "state": None, "over": True})
