"""Which part of an experiment caused an error, and what it was given."""
import functools
import traceback

import torch

from base.base_metric import Metrics, Totals
from base.data.nested import describe_shapes
from base.preflight.loss import OVER_CLASSES, Parts
from base.weighted_losses import loss_parts
from utils.errors import describe_error
from utils.torch_messages import DEVICE_ASSERT_ADVICE, is_device_assert, is_of_worker

# functions with a local variable `batch`
_WITH_BATCH = ("optimizer_step", "eval_values", "_preflight_split")
_FETCHING = ("first_batch", "__next__", "__iter__", "__getitems__")
_FOR_CLASSES = "scores and class numbers, which CrossEntropyLoss takes"


def locate_error(trainer: Parts, error: Exception) -> tuple[str | None, str]:
    """The config key of the part that raised an error, from its traceback, and the shapes of its inputs."""
    suspects = _config_keys(trainer)
    of_metrics = [each.__code__ for each in (Totals.add, Metrics.__call__, Metrics.update_objects,
                                             Metrics.compute)]
    for frame, _ in traceback.walk_tb(error.__traceback__):
        known = frame.f_locals
        if frame.f_code in of_metrics and known.get("name") in trainer.metrics.names:
            return (f"metrics.{trainer.metrics.names.index(known['name'])}",
                    getattr(known["self"], "given", ""))
        for suspect in (known.get("self"), frame.f_code):
            if (key := suspects.get(id(suspect))) is not None:
                names = frame.f_code.co_varnames[:frame.f_code.co_argcount]
                given = [known.get(name) for name in names if name != "self"]
                given += known["args"] if isinstance(known.get("args"), (tuple, list)) else []
                given = [value for value in given if isinstance(value, torch.Tensor)]
                hints = _describe_mismatch(trainer, key, given)
                return key, ", ".join([*map(describe_shapes, given), *hints])
    return None, ""


def explain_error(trainer: Parts, error: Exception) -> tuple[str | None, str]:
    """The config key of the part that raised an error; the error, the batch, what the part was given."""
    key, given = locate_error(trainer, error)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    batches = [frame.f_locals.get("batch") for frame in frames if frame.f_code.co_name in _WITH_BATCH]
    text = f"{describe_error(error)}\n"
    if outside := describe_lookup(error):
        text += f"{outside} "
    if batches and batches[-1] is not None:
        text += f"The batch: {describe_shapes(batches[-1].data)}."
    elif any(frame.f_code.co_name in _FETCHING for frame in frames):
        text += "The batch could not be fetched."
    text += f" Given to {key}: {given}." if given else ""
    key = key or ("dataset" if is_of_worker(error) else None)
    return key, text.rstrip() + f"\n{DEVICE_ASSERT_ADVICE}" * is_device_assert(error)


def describe_lookup(error: Exception) -> str:
    """What is wrong with the indices that an Embedding was given on the CPU; "" for any other error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in frames:
        layer, given = frame.f_locals.get("self"), frame.f_locals.get("input")
        if (isinstance(error, IndexError) and isinstance(layer, torch.nn.Embedding)
                and isinstance(given, torch.Tensor) and given.numel()):
            names = [name for each in frames for name, value in each.f_locals.items()
                     if value is given and name != "input"]
            end = f"up to {given.max()}" if given.min() >= 0 else f"down to {given.min()}"
            return f"The embedding has {layer.num_embeddings} rows; {(names or ['its input'])[0]} goes {end}."
    return ""


def _describe_mismatch(trainer: Parts, key: str, given: list[torch.Tensor]) -> list[str]:
    """What is wrong between outputs `[B, C, ...]` and class numbers `[B, ...]` that a loss was given."""
    loss = loss_parts(trainer.loss).get(key)
    if loss is None or len(given) != 2 or given[0].ndim < 2 or given[1].is_floating_point():
        return []
    if not isinstance(loss, OVER_CLASSES):
        return [_FOR_CLASSES] * (given[0].ndim == 2 and given[1].ndim == 1)
    outputs, targets = given
    targets = targets[targets != loss.ignore_index] if targets.is_cpu else targets[:0]
    if not targets.numel() or 0 <= targets.min() and targets.max() < outputs.shape[1]:
        return []
    return [f"whose labels are {targets.min()} to {targets.max()}, while the outputs are for 0 to "
            f"{outputs.shape[1] - 1}"]


def _config_keys(trainer: Parts) -> dict[int, str]:
    """Config keys by the identity of what they built: an object, or the code of a function."""
    transforms = {f"transforms.{key}.{i}": transform for key, chain in trainer.data.transforms.items()
                  for i, transform in enumerate(chain)}
    metrics = {f"metrics.{i}": trainer.metrics.functions.get(name)
               for i, name in enumerate(trainer.metrics.names)}
    main = {"model": trainer.unwrapped_model, **loss_parts(trainer.loss),
            "dataset": trainer.data.built_datasets().get("train")}
    sets = [(dataset, f"dataset.{split}".replace("/", ".") if "/" in split else "dataset")
            for split, dataset in trainer.data.built_datasets().items()]
    averaged = {"model": trainer.ema and trainer.ema.model}
    parts = sets + [(part.func if isinstance(part, functools.partial) else part, key)
                    for group in (averaged, transforms, metrics, main) for key, part in group.items()]
    return {id(getattr(part, "__code__", part)): key for part, key in parts if part is not None}
