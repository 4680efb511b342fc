"""Whether the parts of an experiment fit each other, and which of them is to blame where they do not."""
import functools
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from base.arrays import as_arrays
from base.base_data_loader import DataSplits
from utils.errors import ConfigError, Fault


def check_fit(config: Mapping, data: DataSplits) -> None:
    """Holds the batch size against the samples there are, and every `num_classes` against the labels. Reads no samples.

    Raises one ConfigError for all that does not fit.
    """
    if faults := [*_batch_faults(config["data_loader"], data), *_class_faults(config, data)]:
        raise ConfigError("\n".join(f"{'.'.join(map(str, path))}: {message}" for path, message in faults), faults)


def _batch_faults(options: Mapping, data: DataSplits) -> Iterator[Fault]:
    size, num_samples = options.get("batch_size"), data.num_samples("train")
    if size and num_samples is not None and size > num_samples:
        yield ("data_loader", "batch_size"), (f"{size} is more than the {num_samples} samples there are to train on. Set it to "
                                              f"{num_samples} at most.")


def _class_faults(config: Mapping, data: DataSplits) -> Iterator[Fault]:
    found = [where for section in ("model", "loss", "metrics", "transforms")
             for where in _numbers_of_classes(config.get(section), (section,))]
    labels = found and label_range(data)
    for path, number in found if labels else ():
        if labels[1] >= number:
            mend = "They have to begin at 0." if labels == (1, number) else f"Set it to {labels[1] + 1}."
            yield path, f"{number} classes are 0 to {number - 1}, and the labels are {labels[0]} to {labels[1]}. {mend}"


def _numbers_of_classes(value: Any, path: tuple) -> Iterator[tuple[tuple, int]]:
    """Every `num_classes` that stands among somebody's arguments, and where."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if key == "num_classes" and type(item) is int and path[-1] == "args":
            yield (*path, key), item
        else:
            yield from _numbers_of_classes(item, (*path, key))


def label_range(data: DataSplits) -> tuple[int, int] | None:
    """The lowest and the highest label to train and validate on; None where the datasets hold no one class a sample."""
    datasets = [data.dataset(split) for split in ("train", "val")]
    labels = [_labels(dataset) for dataset in datasets if dataset is not None]
    labels = [array for array in labels if array is not None]
    return (min(int(array.min()) for array in labels), max(int(array.max()) for array in labels)) if labels else None


def _labels(dataset: Dataset) -> np.ndarray | torch.Tensor | None:
    """Whole numbers `[N]`, one for each sample: of a dataset in arrays the second, else what it calls its targets."""
    arrays = as_arrays(dataset)
    if arrays is not None:
        labels = arrays.arrays[1] if len(arrays.arrays) == 2 else None
    else:
        labels = vars(dataset).get("targets", vars(dataset).get("labels"))
    if isinstance(labels, (list, tuple)) and labels and all(type(label) is int for label in labels):
        labels = np.array(labels)
    if not isinstance(labels, (np.ndarray, torch.Tensor)) or labels.ndim != 1 or not len(labels) == len(dataset) > 0:
        return None
    whole = np.issubdtype(labels.dtype, np.integer) if isinstance(labels, np.ndarray) else labels.dtype in _WHOLE
    return labels if whole else None


_OVER_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
_FOR_CLASSES = "scores and class numbers, which CrossEntropyLoss takes"
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@contextmanager
def classes_counted(trainer):
    """Within it a forward pass is watched: a loss over classes needs an output for each label, also of later batches.

    Raises ConfigError where the model gives fewer.
    """
    over_classes = isinstance(trainer.loss, _OVER_CLASSES)
    labels = label_range(trainer.data) if over_classes else None
    if labels is None or trainer.compile is not None:  # a hook would have it compiled anew
        yield
        return
    shapes, failed = [], None
    handle = trainer.bare_model.register_forward_hook(lambda module, inputs, outputs: shapes.append(np.shape(outputs)))
    try:
        yield
    except Exception as error:
        failed = error
    finally:
        handle.remove()
    if any(len(shape) == 2 and labels[1] >= shape[1] for shape in shapes):
        raise ConfigError.at("model",
                             f"it gives {shapes[-1][1]} outputs, one for each class, and the labels are {labels[0]} to "
                             f"{labels[1]}: {labels[1] + 1} are needed") from failed
    if failed:
        raise failed


def to_blame(trainer, error: Exception) -> tuple[str | None, str]:
    """The key of the part in which an error arose, by its traceback, and the shapes of what that part was given."""
    suspects = _suspects(trainer)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        known = frame.f_locals
        for suspect in (known.get("self"), frame.f_code):
            if (key := suspects.get(id(suspect))) is not None:
                names = frame.f_code.co_varnames[:frame.f_code.co_argcount]
                given = [known.get(name) for name in names if name != "self"] + list(known.get("args", ()))
                given = [value for value in given if isinstance(value, torch.Tensor)]
                hint = [_FOR_CLASSES] * _misses_classes(trainer, key, given)
                return key, ", ".join([*map(shapes_of, given), *hint])
    return None, ""


def _misses_classes(trainer, key: str, given: list[torch.Tensor]) -> bool:
    """Whether a loss that is none over classes was given outputs `[B, K]` and class numbers `[B]`."""
    other = key == "loss" and not isinstance(trainer.loss, _OVER_CLASSES) and len(given) == 2
    return other and given[0].ndim == 2 and given[1].ndim == 1 and not given[1].is_floating_point()


def _suspects(trainer) -> dict[int, str]:
    """Keys of the config by the identity of what they made: an object, or the code of a function."""
    transforms = {f"transforms.{key}.{i}": transform for key, chain in trainer.data.transforms.items()
                  for i, transform in enumerate(chain)}
    metrics = {f"metrics.{i}": trainer.metrics.functions.get(name) for i, name in enumerate(trainer.metrics.names)}
    objects = {f"metrics.{i}": metrics_of.objects.get(name) for metrics_of in (trainer.metrics, trainer.eval_metrics)
               for i, name in enumerate(trainer.metrics.names)}
    main = {"model": trainer.bare_model, "loss": trainer.loss, "dataset": trainer.data.dataset("train")}
    others = {"model": trainer.ema and trainer.ema.model, "dataset": trainer.data.dataset("val")}
    return {id(getattr(_bare(part), "__code__", part)): key for group in (objects, others, transforms, metrics, main)
            for key, part in group.items() if part is not None}


def _bare(part: Any) -> Any:
    """A function without the arguments that the config has filled in."""
    return part.func if isinstance(part, functools.partial) else part


def shapes_of(value: Any) -> str:
    """`(uint8 [64, 1, 8, 8], int64 [64])`: what a batch, or a part of one, looks like."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shapes_of(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(shapes_of, value)) + ")"
    return type(value).__name__
