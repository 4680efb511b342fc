"""Splits and their loaders: which samples train, which evaluate, and how batches are made."""
import atexit
import itertools
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from base.data.arrays import batch_fetcher, is_in_memory
from base.data.bad_samples import PartialBatch, SampleCollate, SkippedSamples, require_loaded
from base.data.batch_transforms import BatchPreparation
from base.data.fingerprint import DataFingerprint
from base.data.folds import Folds
from base.data.planned import EpochPlans, PlannedSampler
from base.data.sample_count import count_batch
from base.data.sampler import Batch, EpochOrder, PositionSampler, RankSlice
from base.data.streams import (
    Stream, StreamCollate, StreamPlace, copy_state, is_stateful, report_length, report_resume, track_place)
from base.data.views import (
    BatchLoader, BatchView, SampleTransforms, SampleView, Transform, identity_collate, read_ahead)
from utils.config.annotations import CountInt, PositiveInt, at_least, below
from utils.config.blocks import SPLITS
from utils.distributed import collectives as dist
from utils.errors import ConfigError
from utils.moved import former_names_of
from utils.random import derive, permutation
from utils.signals import ignore_in_worker

__getattr__ = former_names_of(__name__)

log = logging.getLogger(__name__)
NumHelpers = Annotated[int, at_least(0), below(1000)]  # processes or threads
# arguments of DataSplits that the program passes
PROVIDED = ("build_dataset", "transforms", "seed", "evaluation_sets")


def fraction_or_count(value: float) -> None:
    """A constraint: a fraction below 1, or a whole number of samples."""
    if isinstance(value, float) and value >= 1:
        raise ValueError(f"{value} is neither a part below 1, such as 0.1, nor a whole number of samples, "
                         "such as 500")


class DataSplits:
    """The train, val and test splits of a dataset, and loaders over them.

    Order, augmentation and the train/val split are functions of `(seed, epoch, sample index)`. So the number
    of workers never changes a result, and an epoch can be entered at any batch at no cost. Processes share
    every batch, each with a part of its samples; a batch is the same for any number of processes.

    Args:
        build_dataset: maps a split name to its Dataset, or to None if there is no such split.
        transforms: `{"train": [...], "eval": [...], "batch": [...], "joint": None}`; see SampleTransforms and
            BatchPreparation.
        seed: the run's seed.
        evaluation_sets: the names of a split's sets where it has several,
            `{"val": ["val/clean", "val/noisy"]}`. Each is used like a split. [] for a split without data.
        batch_size: samples in a batch, over all processes together.
        eval_batch_size: the same for val and test; by default `batch_size`.
        validation_split: fraction (0.1) or number (500) of the train samples to validate on; 0 for no
            validation. By default the dataset's own val split.
        folds: in place of `validation_split`: train is divided into this many parts; one of them validates.
        fold: which of them, from 0 on.
        stratify: whether every class is spread evenly over the folds.
        group_by: an attribute or method of the dataset that gives a value for each sample, such as its
            patient; samples of one value are in one fold. Folds are then even as far as a greedy choice goes.
        batches_per_epoch: cuts training epochs to this many batches, as an endless IterableDataset needs. One
            with a `state_dict` continues after the cut; its end also ends the epoch, and the next starts it
            again.
        eval_batches: cuts evaluations to this many batches; an endless val or test stream needs it.
        limit: at most this many samples of train and of each val set, the first ones, to debug: a model
            should learn 64 samples by heart. The name of the run's folder then ends in `-limit64`.
        shuffle: whether the train split is shuffled, anew in every epoch.
        drop_last: whether the train split's last batch is left out if it is smaller than the others.
        num_workers: processes that load samples; 0 loads them in the main process.
        decode_threads: threads that decode a batch of ImageFolder's images and crop them, in each process
            that loads; 0 for none. Worth it for photographs where there is no GPU. It changes no result.
        pin_memory: whether batches are put where a GPU copies them from faster; null: with CUDA.
        timeout: seconds to wait for a worker's batch; 0 for no limit.
        prefetch_factor: batches that each worker loads ahead; by default torch's 2.
        persistent_workers: whether workers stay alive from epoch to epoch; by default they do.
        sampler: in place of `shuffle`, which samples the batches of an epoch hold: Weighted, Balanced,
            GroupedByLength, or one of your own (a SAMPLERS plug-in; see EpochPlans).
        on_bad_sample: what follows from a training sample that cannot be read: an `error`, or `skip`: its
            batch is used without it. Above 1 % of the samples that is an error, too. Evaluation skips none.
        stream_resume: how a train stream with a `state_dict` continues: by its `state`, or by `replay`: it is
            read again from its beginning, without the samples that it gave before. That is slower, and exact
            also if the state lacks something, such as a shuffle buffer.
        multiprocessing_context: how workers are started; by default as Python does on this system.
    """

    def __init__(self, build_dataset: Callable[[str], Dataset | None],
                 transforms: Mapping[str, list[Transform]] = (), seed: int = 0, *,
                 evaluation_sets: Mapping[str, list[str]] | None = None, batch_size: PositiveInt = 32,
                 eval_batch_size: PositiveInt | None = None,
                 validation_split: Annotated[float, at_least(0), fraction_or_count] | None = None,
                 folds: Annotated[int, at_least(2)] | None = None, fold: CountInt = 0, stratify: bool = False,
                 group_by: str | None = None, batches_per_epoch: PositiveInt | None = None,
                 eval_batches: PositiveInt | None = None, limit: PositiveInt | None = None,
                 shuffle: bool = True, drop_last: bool = False, sampler: Callable | None = None,
                 num_workers: NumHelpers = 0, decode_threads: NumHelpers = 0, pin_memory: bool | None = None,
                 timeout: Annotated[float, at_least(0)] = 0, prefetch_factor: PositiveInt | None = None,
                 persistent_workers: bool | None = None, on_bad_sample: Literal["error", "skip"] = "error",
                 multiprocessing_context: Literal["fork", "spawn", "forkserver"] | None = None,
                 stream_resume: Literal["state", "replay"] = "state"):
        self.transforms = {"train": [], "eval": [], "batch": [], **dict(transforms)}
        joint = self.transforms.pop("joint", None)
        self.sample_transforms = {key: SampleTransforms(self.transforms[key], joint)
                                  for key in ("train", "eval")}
        self.prepare = BatchPreparation(self.transforms["batch"], seed, joint)
        self.seed, self.validation_split, self.batches_per_epoch = seed, validation_split, batches_per_epoch
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.eval_batches, self.limit, self.sampler, self._kept_plans = eval_batches, limit, sampler, None
        self.shuffle, self.drop_last, self.decode_threads = shuffle, drop_last, decode_threads
        self.replays, self.rank_slice = stream_resume == "replay", RankSlice(dist.rank(), dist.world_size())
        self.folds = Folds(folds, fold, stratify, group_by) if folds else None
        self.loader_options = {"num_workers": num_workers, "pin_memory": bool(pin_memory)} | _of_workers(
            num_workers, timeout=timeout, prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers, multiprocessing_context=multiprocessing_context)
        self._build_dataset, self.evaluation_sets = build_dataset, evaluation_sets or {}
        self.skipped_samples = SkippedSamples() if on_bad_sample == "skip" else None
        self.place, self.fingerprint = StreamPlace(), DataFingerprint(self)  # the place in a train stream
        self._num_dropped, self._stand_ins = 0, {}  # left out by a collate_fn; for batches without samples
        self._datasets: dict[str, Dataset | None] = {}
        self._batches_of: dict[int, Callable | None] = {}  # by the dataset's id()
        self._orders: dict[str, EpochOrder] = {}
        self._first_states, self._sources = {}, {}  # by split; by split and whether it is trained on
        self._loaders: dict[tuple[str, bool], DataLoader | BatchLoader] = {}
        self._iterators: dict[tuple[str, bool], Any] = {}
        self._reported: set[tuple[str, bool]] = set()  # streams whose length is compared with what they give
        atexit.register(_close, weakref.ref(self))  # runs before multiprocessing waits for its children

    def dataset(self, split: str) -> Dataset | None:
        """The dataset of `split`, built on first use; None if there is no such split.

        Raises ConfigError if it cannot be built, or if val would have to be split from a stream.
        """
        if split.partition("/")[0] == "val" and self.validation_split == 0:
            return None
        source = "train" if split == "val" and (self.validation_split or self.folds) else split
        if source != split and isinstance(self.dataset("train"), IterableDataset):
            raise ConfigError.at(f"data_loader.{'folds' if self.folds else 'validation_split'}",
                                 "a stream cannot be split. Set it to null; the dataset may have "
                                 "a val split of its own.")
        if source not in self._datasets:
            with dist.main_first():  # it may have to be downloaded
                self._datasets[source] = self._build_dataset(source)
            self._first_states[source] = copy_state(self._datasets[source])
        return self._datasets[source]

    def sets(self, split: str) -> list[str]:
        """The names under which `split` is evaluated: `["val"]`, or those of its sets; [] for no split."""
        names = self.evaluation_sets.get(split, [split])
        return [name for name in names if self.dataset(name) is not None]

    def indices(self, split: str) -> torch.Tensor:
        """The dataset indices of `split`, ascending, int64 `[N]`. Raises ConfigError if there are none."""
        indices = self._order(split).indices
        return torch.arange(len(indices)) if isinstance(indices, range) else indices

    def num_samples(self, split: str) -> int | None:
        """The size of a split; None for an IterableDataset without a length."""
        dataset, limit = self.dataset(split), self._sample_limit(split)
        if isinstance(dataset, IterableDataset):
            size = len(dataset) if hasattr(dataset, "__len__") else None
        elif self.folds and split in ("train", "val"):
            size = len(self._order(split))
        else:
            num_val = self._num_held_out(split)
            size = num_val if num_val and split == "val" else len(dataset) - num_val
        return min(size, limit) if size is not None and limit else size

    def _sample_limit(self, split: str) -> int | None:
        return None if split.partition("/")[0] == "test" else self.limit

    def _num_held_out(self, split: str) -> int:
        """How many samples of train are validated on instead; 0 if the split is a whole dataset."""
        num_samples, fraction = len(self.dataset(split)), self.validation_split
        if num_samples == 0:
            raise ConfigError.at("dataset", f"the {split} split holds no samples")
        if split not in ("train", "val") or not fraction:
            return 0
        num_val = int(fraction) if fraction >= 1 else round(num_samples * fraction)
        if not 0 < num_val < num_samples:
            raise ConfigError.at("data_loader.validation_split",
                                 f"{fraction} of {num_samples} samples leaves "
                                 f"{max(num_samples - num_val, 0)} for training and "
                                 f"{min(num_val, num_samples)} for validation. Set it to a part, such as "
                                 f"0.1, or to a number below {num_samples}.")
        return num_val

    def _order(self, split: str) -> EpochOrder:
        """The order of a split's samples, kept: with 10 million samples each draw takes a second."""
        if split not in self._orders:
            num_samples = len(self.dataset(split))
            if self.folds and split in ("train", "val"):
                held_out = self.folds.held_out(self.dataset("train"), derive(self.seed, "folds"))
            elif not (num_val := self._num_held_out(split)):
                indices = range(num_samples)[:self._sample_limit(split)]
                self._orders[split] = EpochOrder(indices, derive(self.seed, "order"))
                return self._orders[split]
            else:
                held_out = torch.zeros(num_samples, dtype=torch.bool)
                held_out[permutation(derive(self.seed, "split"), num_samples)[:num_val]] = True
            for name, chosen in (("train", ~held_out), ("val", held_out)):
                self._orders[name] = EpochOrder(chosen.nonzero().flatten()[:self.limit],
                                                derive(self.seed, "order"))
        return self._orders[split]

    def num_batches(self, split: str, training: bool | None = None, epoch: int = 0) -> int | None:
        """Batches in an epoch; None for an IterableDataset without a length. Raises ConfigError for none."""
        training = split == "train" if training is None else training
        if plans := self._plans(split, training):
            return min(len(plans.of(epoch).ends), self.batches_per_epoch or 2**63)
        num_samples, size = self.num_samples(split), self._batch_size(training)
        limit = self._limit(training)
        if num_samples is None:
            return limit
        drop = self.drop_last and training
        num_batches = num_samples // size if drop else -(-num_samples // size)
        if not num_batches:
            raise ConfigError.at("data_loader.batch_size",
                                 f"{size} is more than the {num_samples} samples of {split}, and drop_last "
                                 f"leaves out a smaller batch. Set it to {num_samples} at most, or drop_last "
                                 "to false." if num_samples else f"there are no samples of {split}")
        return min(num_batches, limit) if limit else num_batches

    def batches(self, split: str, epoch: int = 0, start: int = 0,
                training: bool | None = None) -> Iterator[Batch]:
        """This process's part of a split's batches from `start` on, on the CPU.

        With `training` (the default for the train split) samples are shuffled and augmented for this `epoch`.
        Otherwise each comes once, in order, through the `eval` transforms, the same in every epoch. A train
        stream with a `state_dict` continues at `place`, which moves along. Other streams are read from their
        beginning up to `start`.
        """
        training = split == "train" if training is None else training
        key, limit = (split, training), self._limit(training)
        if limit and start >= limit:
            return iter(())
        if key not in self._loaders:
            self._loaders[key] = self._build_loader(split, training)
        loader = self._loaders[key]
        epoch = epoch if training else 0
        if isinstance(stream := loader.dataset, Stream):
            continues = key == ("train", True) and is_stateful(stream.dataset)
            stream.enter(epoch, start, self.place if continues else StreamPlace())
            report_resume(stream)
            loaded = self.iterate(loader, key)
            batches = track_place(loaded, stream.place)
            if not limit and key not in self._reported:
                self._reported.add(key)
                batches = report_length(batches, stream, self.num_samples(split),
                                        "batches_per_epoch" if training else "eval_batches")
        else:
            if plans := self._plans(split, training):
                plans.require_same_everywhere(epoch)
            loader.batch_sampler.enter(epoch, start)
            loaded = self.iterate(loader, key)
            batches = loader.batch_sampler.batches(loaded)
        batches = map(partial(self._counted, split, training), batches)
        return itertools.islice(batches, limit - start) if limit else batches

    def iterate(self, loader: DataLoader | BatchLoader, key: Any) -> Iterator[Any]:
        """Iterates over a loader whose workers `close` ends; one at a time for each `key`."""
        self._iterators[key] = iter(loader)
        return self._iterators[key]

    def num_in_step(self, batches: Sequence[Batch]) -> int:
        """How many samples count in a step's batches, over all processes. Every process has to call it."""
        num_samples = sum([batch.num_total for batch in batches])
        bad = [sample for batch in batches for sample in batch.left_out]
        if self.rank_slice.world_size > 1 and (self.skipped_samples or self._may_drop("train")):
            num_samples, num_bad = dist.all_reduce(torch.tensor([num_samples, len(bad)])).tolist()
            bad = sum(dist.all_gather_object(bad), []) if num_bad else bad
        if self.skipped_samples:
            self.skipped_samples.add(num_samples, bad)
        return num_samples

    def num_dropped(self) -> int:
        """Samples that the dataset's collate function has left out. Every process has to call it."""
        return int(dist.all_reduce(torch.tensor(self._num_dropped)))

    def _counted(self, split: str, training: bool, batch: Batch, tried: bool = False) -> Batch:
        """A loaded batch with its true number of samples. Raises LoadError if it could not be loaded.

        Models cannot work with an empty one: the first that was not stands in, and does not count. `tried`:
        it is not part of the run.
        """
        skips = training and self.skipped_samples is not None
        loaded = (require_loaded(batch, split, training, skips)
                  if skips or isinstance(batch.data, PartialBatch) else batch)
        if not self._may_drop(split):
            return loaded
        batch = count_batch(loaded)
        self._num_dropped += 0 if tried else loaded.num_samples - batch.num_samples
        if batch.data is None and (split, training) not in self._stand_ins:
            raise ConfigError.at("dataset", "its collate_fn left no sample of the first batch")
        first = self._stand_ins.setdefault((split, training), batch)
        return replace(batch, data=first.data, chosen=first.chosen) if batch.data is None else batch

    def _may_drop(self, split: str) -> bool:
        return hasattr(self.dataset(split), "collate_fn")

    def resize_batches(self, batch_size: int, eval_batch_size: int) -> None:
        """Changes the sizes of batches from the next call of `batches` or `first_batch` on."""
        self.close()
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self._kept_plans = None

    def to_checkpoint(self) -> dict[str, Any]:
        """The data's parts of a checkpoint: the fingerprint; `place` for a stream with a `state_dict`."""
        stream = {"stream": self.place} if is_stateful(self.dataset("train")) else {}
        skipped = {"skipped_samples": self.skipped_samples} if self.skipped_samples else {}
        return {"data_fingerprint": self.fingerprint, **stream, **skipped}

    def sample_reader(self, split: str) -> Callable[[int], Any] | None:
        """The function from a sample's place in a split to the sample, untransformed; None for a stream."""
        dataset = self.dataset(split)
        if isinstance(dataset, IterableDataset):
            return None
        fetch, indices = self._fetch(split), self._order(split).indices
        if fetch:
            return lambda place: fetch([int(indices[place])])
        return lambda place: dataset[int(indices[place])]

    def close(self) -> None:
        """Ends the loader workers, also in the middle of an epoch. Nothing else does: they ignore SIGTERM."""
        for iterator in self._iterators.values():
            getattr(iterator, "_shutdown_workers", lambda: None)()
        self._iterators.clear()
        self._loaders.clear()

    def smallest_local_batch(self, split: str = "train") -> int | None:
        """The smallest non-empty part that a process gets of the split's batches; None if unknown."""
        training = split == "train"
        if isinstance(self.dataset(split), IterableDataset):
            return None
        sampler, num_batches = self._sampler(split, training), self.num_batches(split)
        numbers = range(0 if self._plans(split, training) else num_batches - 1, num_batches)
        smallest = min(last - first for first, last in map(sampler.bounds, numbers))
        return max(smallest // self.rank_slice.world_size, 1)

    def built_datasets(self) -> dict[str, Dataset | None]:
        """The datasets that were used up to now, by split or set."""
        return dict(self._datasets)

    def first_batch(self, split: str, at_most: int | None = None) -> Batch:
        """This process's part of a split's first batch, at most `at_most` samples, loaded in this process."""
        training, view = split == "train", self._view(split, split == "train")
        self.num_batches(split)  # raises ConfigError for a split without batches
        if isinstance(view, Stream):
            read = next(iter(view), None)
            if read is None:
                what = "whole batch, and drop_last is on" if self.drop_last and training else "samples"
                raise ConfigError.at("dataset", f"the {split} split holds no {what}")
            chosen, size, total = read.chosen, read.num_samples, read.num_total
            data = StreamCollate(self._collate_of(split))(read._replace(data=read.data[:at_most])).data
        else:
            sampler = self._sampler(split, training)
            known, chosen = sampler.batch(0, None), sampler.chosen(0)
            size, total = known.num_samples, known.num_total
            data = view.__getitems__(chosen.part(slice(at_most)))
        if at_most:
            size = total = min(size, at_most)
        batch = Batch(data, size, total, chosen.part(slice(at_most)))
        return self._counted(split, training, batch, tried=True)

    def _batch_size(self, training: bool) -> int:
        return self.batch_size if training else self.eval_batch_size

    def _limit(self, training: bool) -> int | None:
        return self.batches_per_epoch if training else self.eval_batches

    def _build_loader(self, split: str, training: bool) -> DataLoader:
        dataset, view, options = self.dataset(split), self._view(split, training), dict(self.loader_options)
        if isinstance(view, BatchView) and (view.resident or not options["num_workers"]):
            if options["num_workers"]:
                log.info("%s is kept on a device: no worker processes read it", type(dataset).__name__)
            return BatchLoader(view, self._sampler(split, training), options["pin_memory"])
        if isinstance(view, BatchView) and split == "train" and is_in_memory(dataset):
            log.info("%s is in memory: data_loader.num_workers=0 is faster, since workers only copy its "
                     "batches", type(dataset).__name__)
        options |= {"collate_fn": identity_collate, "generator": torch.Generator()}
        if not isinstance(dataset, IterableDataset):
            options |= {"batch_sampler": self._sampler(split, training)}
        else:
            # the Stream makes the batches
            options |= {"batch_size": None, "collate_fn": StreamCollate(self._collate_of(split))}
            if options["num_workers"]:  # several would each read the whole stream, or change its order
                log.info("%s is a stream: one worker reads it", type(dataset).__name__)
                options |= {"num_workers": 1, "persistent_workers": False}
        try:
            return DataLoader(view, **options)
        except ValueError as error:
            raise ConfigError.at("data_loader", f"{error}") from error

    def _view(self, split: str, training: bool) -> Dataset:
        dataset = self.dataset(split)
        transforms = self.sample_transforms["train" if training else "eval"]
        source, *name = split.split("/")
        seed = derive(self.seed, "sample", SPLITS.index(source), *name)
        skips = training and self.skipped_samples is not None
        if isinstance(dataset, IterableDataset):
            if skips:
                raise ConfigError.at("data_loader.on_bad_sample", "a stream cannot continue after an error. "
                                     "Leave it out; the stream itself may pass over what it cannot read.")
            return Stream(dataset, transforms, seed, self._batch_size(training),
                          drop_last=self.drop_last and training, first_state=self._first_states[split],
                          rank_slice=self.rank_slice, replays=self.replays, limit=self._sample_limit(split))
        stand_ins = self._order(split).indices if skips else None
        if not transforms.transforms and (fetch := self._fetch(split)):
            return BatchView(fetch, seed, SampleCollate(fetch, stand_ins))
        source, left = self._source(split, training, transforms)
        threads = self.decode_threads if _reads_alone(source, left) else 0
        return SampleView(source, left, seed, SampleCollate(self._collate_of(split), stand_ins), threads)

    def _source(self, split: str, training: bool,
                transforms: SampleTransforms) -> tuple[Dataset, SampleTransforms]:
        """What gives a split's samples, and their transforms. The log says which the dataset itself does."""
        if (key := (split, training)) not in self._sources:
            self._sources[key] = source, left = read_ahead(self.dataset(split), transforms)
            names = [type(transform).__name__ for transform in transforms.transforms]
            if count := len(names) - len(left.transforms):
                then = f"; then {', '.join(names[count:])}" * (count < len(names))
                log.info("%s: %s does %s as it reads%s", split, type(source).__name__,
                         ", ".join(names[:count]), then)
            if self.decode_threads and not _reads_alone(source, left):
                log.warning("data_loader.decode_threads: no effect on %s: threads only read an ImageFolder "
                            "with no other transforms than Resize, CenterCrop, RandomResizedCrop, "
                            "RandomHorizontalFlip and ToTensor", split)
        return self._sources[key]

    def _fetch(self, split: str) -> Callable | None:
        """The function that returns whole batches of a split's dataset; None if it has none."""
        dataset = self.dataset(split)
        if id(dataset) not in self._batches_of:  # train and val may share a dataset
            self._batches_of[id(dataset)] = batch_fetcher(dataset)
        return self._batches_of[id(dataset)]

    def steps_per_epoch(self, accumulate: int, num_epochs: int) -> int | list[int] | None:
        """Optimizer steps in an epoch; of each epoch, where a sampler makes them differ; None if unknown."""
        plans, counts = self._plans("train", training=True), [self.num_batches("train")]
        if plans and not self.batches_per_epoch:
            counts = plans.counts(num_epochs)
        steps = [count and -(-count // accumulate) for count in counts]  # rounded up
        return steps if len({*steps}) > 1 else steps[0]

    def _plans(self, split: str, training: bool) -> EpochPlans | None:
        """The epochs of the sampler; None if there is none, or for what is not the training on train."""
        if not self.sampler or not training or split != "train":
            return None
        if isinstance(self.dataset("train"), IterableDataset):
            raise ConfigError.at("data_loader.sampler", "a stream has its own order. Leave it out.")
        if self._kept_plans is None:
            self._kept_plans = EpochPlans(self.sampler, self.dataset("train"), self._order("train").indices,
                                          self.seed, self.batch_size, self.drop_last)
        return self._kept_plans

    def _sampler(self, split: str, training: bool) -> PositionSampler:
        if plans := self._plans(split, training):
            return PlannedSampler(plans, self.rank_slice, self.prepare.augments)
        return PositionSampler(self._order(split), self._batch_size(training), rank_slice=self.rank_slice,
                               shuffle=self.shuffle and training, drop_last=self.drop_last and training,
                               with_chosen=self.prepare.augments)

    def _collate_of(self, split: str) -> Callable[[list], Any]:
        return getattr(self.dataset(split), "collate_fn", default_collate)


def _reads_alone(source: Dataset, left: SampleTransforms) -> bool:
    """Whether threads can read samples of the dataset at the same time, with these transforms."""
    return not left.transforms and getattr(source, "read_alone", None) is not None


def _of_workers(num_workers: int, **options: Any) -> dict[str, Any]:
    """The options of a DataLoader with workers; without workers it takes none of them."""
    if num_workers:
        return {**options, "persistent_workers": options["persistent_workers"] is not False,
                "worker_init_fn": ignore_in_worker}
    if unused := [key for key, value in options.items() if value]:
        log.warning("data_loader: %s: no effect, as num_workers is 0", ", ".join(unused))
    return {}


def _close(splits: weakref.ref) -> None:
    if splits() is not None:
        splits().close()
