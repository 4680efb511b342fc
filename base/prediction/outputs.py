"""What a model's outputs mean: classes with probabilities where the loss is over classes, or plain values."""
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from base.weighted_losses import loss_parts

CLASS, PROBABILITIES = "class", "probabilities"


def to_probabilities(loss: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What makes probabilities of outputs `[B, K, ...]`, if the loss, or one of several, is over classes.

    These are CrossEntropyLoss and NLLLoss, and functions called `cross_entropy` or `nll_loss`.
    """
    for part in loss_parts(loss).values():
        name = getattr(getattr(part, "func", part), "__name__", "")
        if isinstance(part, nn.CrossEntropyLoss) or name == "cross_entropy":
            return lambda outputs: outputs.float().softmax(1)
        if isinstance(part, nn.NLLLoss) or name == "nll_loss":
            return lambda outputs: outputs.float().exp()
    return None


def as_predictions(outputs: Any, loss: Any) -> dict[str, Any]:
    """Outputs by names, each `[B, ...]`.

    `{"class": int64 [B, ...], "probabilities": [B, K, ...]}` where the loss is over classes; else
    `{"output": ...}`, or what a mapping or tuple of outputs holds.
    """
    probabilities = to_probabilities(loss)
    if probabilities and isinstance(outputs, torch.Tensor) and outputs.ndim > 1:
        return {CLASS: outputs.argmax(1), PROBABILITIES: probabilities(outputs)}
    if isinstance(outputs, Mapping):
        return dict(outputs)
    if isinstance(outputs, (tuple, list)):
        return {f"output_{number}": value for number, value in enumerate(outputs)}
    return {"output": outputs}
