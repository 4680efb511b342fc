"""Which part of an experiment caused an error, and what it was given."""
import functools
import traceback
from typing import Any, Protocol

import torch

from base.base_metric import Metrics, Totals
from base.data.nested import describe_shapes
from base.preflight.loss import OVER_CLASSES, LossInputs
from base.weighted_losses import loss_parts

_FOR_CLASSES = "scores and class numbers, which CrossEntropyLoss takes"


class Parts(LossInputs, Protocol):
    """What `locate_error` needs of a trainer: what a config has built."""

    unwrapped_model: torch.nn.Module
    ema: Any


def locate_error(trainer: Parts, error: Exception) -> tuple[str | None, str]:
    """The config key of the part that raised an error, from its traceback, and the shapes of its inputs."""
    suspects, of_metrics = _config_keys(trainer), (Totals.add, Metrics.update_objects, Metrics.compute)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        known = frame.f_locals
        if (frame.f_code in [function.__code__ for function in of_metrics]
                and known.get("name") in trainer.metrics.names):
            return (f"metrics.{trainer.metrics.names.index(known['name'])}",
                    getattr(known["self"], "given", ""))
        for suspect in (known.get("self"), frame.f_code):
            if (key := suspects.get(id(suspect))) is not None:
                names = frame.f_code.co_varnames[:frame.f_code.co_argcount]
                given = [known.get(name) for name in names if name != "self"]
                given += known["args"] if isinstance(known.get("args"), (tuple, list)) else []
                given = [value for value in given if isinstance(value, torch.Tensor)]
                hint = [_FOR_CLASSES] * _loss_expects_other_targets(trainer, key, given)
                return key, ", ".join([*map(describe_shapes, given), *hint])
    return None, ""


def _loss_expects_other_targets(trainer: Parts, key: str, given: list[torch.Tensor]) -> bool:
    """Whether a loss that is not over classes was given outputs `[B, K]` and class numbers `[B]`."""
    loss = loss_parts(trainer.loss).get(key)
    other = loss is not None and not isinstance(loss, OVER_CLASSES) and len(given) == 2
    return other and given[0].ndim == 2 and given[1].ndim == 1 and not given[1].is_floating_point()


def _config_keys(trainer: Parts) -> dict[int, str]:
    """Config keys by the identity of what they built: an object, or the code of a function."""
    transforms = {f"transforms.{key}.{i}": transform for key, chain in trainer.data.transforms.items()
                  for i, transform in enumerate(chain)}
    metrics = {f"metrics.{i}": trainer.metrics.functions.get(name)
               for i, name in enumerate(trainer.metrics.names)}
    main = {"model": trainer.unwrapped_model, **loss_parts(trainer.loss),
            "dataset": trainer.data.dataset("train")}
    sets = {f"dataset.{split}".replace("/", "."): trainer.data.dataset(split)
            for split in trainer.data.sets("val")}
    others = {"model": trainer.ema and trainer.ema.model, "dataset": sets.pop("dataset.val", None), **sets}
    parts = [(part.func if isinstance(part, functools.partial) else part, key)
             for group in (others, transforms, metrics, main) for key, part in group.items()]
    return {id(getattr(part, "__code__", part)): key for part, key in parts if part is not None}
