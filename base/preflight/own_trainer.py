"""Mistakes in a trainer of one's own, which would otherwise train something else or nothing."""
import inspect
import logging
import re
import sys
from collections.abc import Iterable
from contextlib import contextmanager

import torch
from torch import nn

from base.base_trainer import BaseTrainer
from utils.errors import ConfigError

log = logging.getLogger(__name__)
# Methods that other programs call, and what is called here.
_OTHER_METHODS = {
    "training_step": "train_step(batch)", "validation_step": "eval_step(batch)",
    "test_step": "eval_step(batch)", "_train_epoch": "train_step(batch)",
    "_valid_epoch": "eval_step(batch)", "forward_step": "forward(batch)",
    "configure_optimizers": "build_updaters()", "on_train_epoch_start": "on_epoch_start()",
    "on_train_epoch_end": "on_epoch_end()", "on_validation_epoch_end": "on_epoch_end()",
    "on_train_batch_end": "on_step_end()"}
_MAKES_STEPS = re.compile(r"update|backward|grad|\.\w*step\(")


def require_called_methods(kind: type, resumed: bool) -> None:
    """Raises ConfigError for a method of the trainer class `kind` that only another program would call.

    Only a warning in a resumed run, and where the class also has what is called here, or its source is
    unknown.
    """
    own = kind.__mro__[:kind.__mro__.index(BaseTrainer)]
    source, refused = _source(dict.fromkeys(sys.modules.get(each.__module__) for each in own)), []
    for name, called in _OTHER_METHODS.items():
        number = next((number for number, each in enumerate(own) if name in vars(each)), None)
        if number is None or re.search(rf"[.'\"]{name}\b", source or ""):
            continue
        message = f"{own[number].__name__} has a method {name}, which nothing calls. "
        message += ("Write 'optimizer' and 'scheduler' in the config, or override build_updaters()."
                    if name == "configure_optimizers" else f"It is called {called} here.")
        replaced = any(called.partition("(")[0] in vars(each) for each in own[:number + 1])
        if source is None or replaced or resumed:
            log.warning("trainer: %s", message)
        else:
            refused.append((("trainer", "type"), message))
    if refused:
        raise ConfigError.of(refused)


def report_no_gradients(kind: type, learns: bool, resumed: bool) -> None:
    """Raises ConfigError if a step of the trainer class `kind` gives a loss, which it never learns from.

    `learns`: whether the loss has a graph. Without one, and where the code of the class may make a step at
    another time, it only logs a warning.
    """
    message = ("train_step made no gradients, so that nothing is learned. It should end with "
               "self.update(loss).")
    _, replaced, *_ = (i for i, each in enumerate(kind.__mro__) if "train_step" in vars(each))
    source = _source(kind.__mro__[:replaced])  # also of parents whose methods the step may call
    if learns and not resumed and source is not None and not _MAKES_STEPS.search(source):
        raise ConfigError.at("trainer.type", f"{message} A step that is not to learn computes its values "
                                             "inside torch.no_grad().")
    log.warning("%s", message)


@contextmanager
def precision_watched(model: nn.Module, precision: str):
    """Warns if, inside, linear and convolution layers compute in float32, though `precision` is lower."""
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd))]
    seen = set()
    watches = [] if precision == "fp32" else [layer.register_forward_hook(
        lambda layer, inputs, output: seen.add(getattr(output, "dtype", None))) for layer in layers]
    try:
        yield
    finally:
        for watch in watches:
            watch.remove()
    if seen == {torch.float32}:
        log.warning("trainer.args.precision: train_step computes in float32, not in %s. The forward pass "
                    "and the loss go inside: with self.autocast():", precision)


def _source(things: Iterable) -> str | None:
    """The source of classes or modules; None if that of one is unknown, as in a notebook."""
    try:
        return "\n".join(map(inspect.getsource, things))
    except (OSError, TypeError):
        return None
