"""Checks whether the parts of an experiment fit each other: batches and samples, outputs and labels."""
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from base.base_data_loader import DataSplits
from base.base_metric import Metrics
from base.data.sampler import Batch
from base.data.split_info import labels_of
from base.weighted_losses import loss_parts
from utils.distributed import collectives as dist
from utils.errors import ConfigError, Fault

log = logging.getLogger(__name__)
OVER_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
OVER_NUMBERS = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)


def require_samples_for_a_batch(config: Mapping, data: DataSplits) -> None:
    """Raises ConfigError if the train split makes no batch; reports a batch size that is larger than it."""
    size, num_samples = config["data_loader"].get("batch_size"), data.num_samples("train")
    data.num_batches("train")
    if size and num_samples is not None and size > num_samples and not data.sampler:
        log.info("data_loader.batch_size: %d is more than the %d samples there are to train on, so an epoch "
                 "is one batch of %d", size, num_samples, num_samples)


def require_a_mean(loss: Any, accumulate: int, resumed: bool) -> None:
    """Raises ConfigError for a loss that is a sum where a step has several parts, each weighted as a mean.

    A resumed run keeps what it did, with a warning.
    """
    sums = [key for key, part in loss_parts(loss).items() if getattr(part, "reduction", None) == "sum"]
    if not sums or accumulate * dist.world_size() == 1:
        return
    message = ("'sum' gives other steps with several processes or trainer.args.accumulate, which take the "
               "mean over their parts. Set it to mean; the rate then does not depend on the batch size.")
    if not resumed:
        raise ConfigError.of([((*key.split("."), "args", "reduction"), message) for key in sums])
    log.warning("%s.args.reduction: %s", sums[0], message)


class Parts(Protocol):
    """The parts of a trainer that a config has built, by which mistakes are found."""

    data: DataSplits
    unwrapped_model: nn.Module
    loss: Any
    metrics: Metrics
    ema: Any
    state: Mapping[str, Any]


@contextmanager
def loss_inputs_watched(trainer: Parts, config: Mapping, batch: Batch):
    """Checks the inputs of a torch loss while, inside, `batch` is trained on.

    Raises ConfigError for a loss over classes, given the dataset's labels unchanged, if there are too few
    outputs for all labels, also those of later batches. Raises it for a loss over numbers if outputs and
    targets would be broadcast: `[B, 1]` and `[B]` give B * B differences.
    """
    def look(loss: nn.Module, given: tuple) -> None:
        if len(given) != 2 or not all(isinstance(value, torch.Tensor) for value in given):
            return
        faults = (_broadcast_faults(*given) if type(loss) in OVER_NUMBERS
                  else _label_faults(trainer, config, batch, *given, loss.ignore_index))
        if faults := list(faults):
            raise ConfigError.of(faults)

    watches = [part.register_forward_pre_hook(look) for part in loss_parts(trainer.loss).values()
               if type(part) in (*OVER_CLASSES, *OVER_NUMBERS)]
    try:
        yield
    finally:
        for watch in watches:
            watch.remove()


def _broadcast_faults(outputs: torch.Tensor, targets: torch.Tensor) -> Iterator[Fault]:
    try:
        shape = torch.broadcast_shapes(outputs.shape, targets.shape)
    except RuntimeError:  # the loss will raise it
        return
    if math.prod(shape) > max(outputs.numel(), targets.numel()):
        yield Fault(("loss",), f"outputs {list(outputs.shape)} and targets {list(targets.shape)} would be "
                               f"spread over each other, to {list(shape)}. They should have one shape: "
                               "squeeze or unsqueeze one of them.")


def _label_faults(trainer: Parts, config: Mapping, batch: Batch, outputs: torch.Tensor,
                  targets: torch.Tensor, ignored: int) -> Iterator[Fault]:
    labels = labels_of(trainer.data.dataset("train"))
    if labels is None or outputs.ndim != 2 or targets.ndim != 1:
        return
    chosen = torch.as_tensor(labels[batch.chosen.indices]).cpu()
    if chosen.shape == targets.shape and torch.equal(targets.cpu(), chosen.to(targets.dtype)):
        yield from _class_faults(trainer, config, outputs.shape[1],
                                 *_label_range(trainer.data, ignored))


def _class_faults(trainer: Parts, config: Mapping, num_outputs: int, lowest: int,
                  highest: int) -> Iterator[Fault]:
    few, labels = highest >= num_outputs, f"the labels are {lowest} to {highest}"
    found = list(_find_num_classes(config["model"], ("model",))) if few else []
    # only torchmetrics: what other metrics mean by num_classes is not known
    for number, name in enumerate(trainer.metrics.names):
        if type(trainer.metrics.objects.get(name)).__module__.startswith("torchmetrics."):
            found += _find_num_classes(config["metrics"][number], ("metrics", number))
    for path, number in found:
        if number <= highest:
            fix = ("They have to begin at 0." if (lowest, highest) == (1, number)
                   else f"Set it to {highest + 1}.")
            yield Fault(path, f"{number} classes are 0 to {number - 1}, and {labels}. {fix}")
    if few and not any(path[0] == "model" and number <= highest for path, number in found):
        yield Fault(("model",), f"it gives {num_outputs} outputs, one for each class, and {labels}: "
                                f"{highest + 1} are needed")


def _find_num_classes(value: Any, path: tuple) -> Iterator[tuple[tuple, int]]:
    """Every `num_classes` that stands among arguments, and its path."""
    items = (value.items() if isinstance(value, Mapping)
             else enumerate(value) if isinstance(value, list) else ())
    for key, item in items:
        if key == "num_classes" and type(item) is int and path[-1] == "args" and "ignore_index" not in value:
            yield (*path, key), item
        else:
            yield from _find_num_classes(item, (*path, key))


def _label_range(data: DataSplits, ignored: int) -> tuple[int, int]:
    """The lowest and the highest label of train and val, without the ones that the loss ignores."""
    found = [labels_of(data.dataset(split)) for split in ("train", *data.sets("val"))]
    found = [labels[labels != ignored] for labels in found if labels is not None]
    found = [labels for labels in found if len(labels)]
    return (min((int(labels.min()) for labels in found), default=0),
            max((int(labels.max()) for labels in found), default=0))
