"""Predictions batch by batch: for a split of the dataset, or for files; with several processes for all."""
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader

from base.base_trainer import BaseTrainer
from base.data.nested import TARGETS
from base.data.sampler import Batch
from base.prediction.inputs import input_reader
from base.prediction.outputs import to_probabilities
from base.registries import TRAINERS
from tools.prediction.files import PredictionFile
from tools.prediction.inputs import InputFiles, sample_ids
from utils.distributed import collectives as dist
from utils.errors import ConfigError, unwritable
from utils.training.progress import ProgressBar

_SHOWN = 10  # lines on the console, where there are no more predictions


class Predictions(NamedTuple):
    """Those of a batch: names of its samples, values `[B, ...]` by name; errors of files left out."""

    ids: list[str]
    values: dict[str, np.ndarray]
    errors: dict[str, str] = {}


class BatchPredictor(Protocol):
    """What predicts: base/api.py's Predictor."""

    trainer: BaseTrainer
    config: dict

    def predict(self, batch: Batch) -> Mapping[str, Any]: ...


def split_predictions(predictor: BatchPredictor, split: str, bars: bool = True) -> Iterator[Predictions]:
    """For each sample of a split or set, in its order; `target` is among the values if the samples have one.

    Raises ConfigError if the dataset's collate_fn leaves samples out: the others could not be named.
    """
    data, first = predictor.trainer.data, 0
    dataset, size = data.dataset(split), data.num_samples(split)
    indices = data.indices(split) if data.sample_reader(split) else None
    bar = ProgressBar(split, data.num_batches(split, training=False), shown=bars)
    with closing(bar), closing(data):
        for batch in data.batches(split, training=False):
            values = _as_arrays(with_target(predictor.predict(batch), batch.data), batch.num_samples)
            values = _joined(dist.all_gather_object(values))
            last = first + _length(values)
            if indices is not None and last != min(first + data.eval_batch_size, size):
                raise ConfigError.at("dataset", "its collate_fn leaves samples out, so that predictions "
                                     "cannot be told apart. Let it keep them in evaluation.")
            ids = (sample_ids(dataset, indices[first:last].tolist()) if indices is not None
                   else [str(number) for number in range(first, last)])
            yield Predictions(ids, values)
            first = last
            bar.update(1)


def file_predictions(predictor: BatchPredictor, files: list[Path],
                     bars: bool = True) -> Iterator[Predictions]:
    """For each file, in order; `errors` has files that cannot be read. All processes get equal `files`."""
    data = predictor.trainer.data
    section = predictor.config["dataset"]
    inputs = InputFiles(files, input_reader(section, data.transforms["eval"]), section)
    batches = [range(first, min(first + data.eval_batch_size, len(files)))
               for first in range(0, len(files), data.eval_batch_size)]
    own = [[*batch[data.rank_slice.of(len(batch))]] for batch in batches]
    loader = DataLoader(inputs, batch_sampler=own, collate_fn=list, **data.loader_options)
    bar = ProgressBar("predict", len(batches), shown=bars)
    with closing(bar), closing(data):
        for samples in data.iterate(loader, "files"):
            batch = inputs.collate(samples)
            values = {} if batch.data is None else predictor.predict(Batch(batch.data, len(batch.ids), 0))
            parts = dist.all_gather_object((batch.ids, _as_arrays(values, len(batch.ids)), batch.errors))
            ids, values, errors = zip(*parts, strict=True)
            yield Predictions(sum(ids, []), _joined(values),
                              {file: error for each in errors for file, error in each.items()})
            bar.update(1)


class WithLoss(Protocol):
    """What decides whether predictions are classes."""

    loss: Any

    def predict_step(self, batch: Any) -> Any: ...


def note_on_loss(trainer: WithLoss) -> str:
    """Why predictions are no classes, as a sentence; "" if `predict_step` or the loss says what they are."""
    default = TRAINERS.get("Trainer").predict_step if "Trainer" in TRAINERS.names() else None
    if type(trainer).predict_step is not default or to_probabilities(trainer.loss):
        return ""
    return (" The loss is not CrossEntropyLoss, so the outputs are given as they are: for classes write "
            "predict_step (docs/predict.md#trainers-that-predict-otherwise).")


class Written(NamedTuple):
    """How many predictions were written, errors of unreadable files; `first`: a line for each of few."""

    number: int
    errors: dict[str, str]
    first: str


def write_all(file: PredictionFile | None, batches: Iterator[Predictions]) -> Written:
    """Writes all predictions; only the main process has a `file`. Raises ConfigError if it cannot."""
    number, errors, first = 0, {}, ""
    try:
        with file or nullcontext():
            for ids, values, wrong in batches:
                number, errors = number + len(ids), {**errors, **wrong}
                if file and ids:
                    file.write(ids, values)
                    first += file.describe(ids, values) if number <= _SHOWN else ""
    except OSError as error:
        raise unwritable(file.path, error) from error
    return Written(number, errors, first if number <= _SHOWN else "")


def with_target(values: Mapping[str, Any], batch: Any) -> dict[str, Any]:
    """The values, and the target of each sample if the batch has them as a tensor `[B]` or `[B, D]`."""
    if isinstance(batch, Mapping):
        target = next((batch[name] for name in TARGETS if name in batch), None)
    else:
        target = batch[-1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    shown = isinstance(target, torch.Tensor) and target.ndim in (1, 2)
    return {**({"target": target} if shown else {}), **values}


def _as_arrays(values: Mapping[str, Any], num_samples: int) -> dict[str, np.ndarray]:
    """As arrays of the samples that count. Raises ConfigError for a value that is not one per sample."""
    arrays = {}
    for name, value in values.items():
        value = value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 else value
        array = np.atleast_1d(np.asarray(value))  # squeeze() drops the axis of a single sample
        arrays[name] = array if num_samples else array[:0]  # else predicted for a stand-in
        if len(arrays[name]) != num_samples:
            raise ConfigError.at("trainer", f"predict_step gives '{name}' {list(np.shape(value))} for "
                                 f"{num_samples} samples. A value for each of them is needed: [B, ...].")
    return arrays


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The parts of all processes. Some may have no sample."""
    parts = [part for part in parts if _length(part)] or parts[:1]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _length(values: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(values.values()), ()))
