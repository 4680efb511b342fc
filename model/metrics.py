"""Metrics: one value per sample, so that averages are exact whatever the batches."""
import torch

from base import METRICS


@METRICS.register
def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Whether the largest logit is the target's. Logits `[B, K]`, class numbers `[B]`; returns float `[B]`."""
    return (outputs.argmax(1) == targets).float()


@METRICS.register
def top_k_accuracy(outputs: torch.Tensor, targets: torch.Tensor, k: int = 5) -> torch.Tensor:
    """Whether the target is among the `k` largest logits. Logits `[B, K]`, class numbers `[B]`; returns float `[B]`."""
    return (outputs.topk(k, dim=1).indices == targets[:, None]).any(1).float()


@METRICS.register
def absolute_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean distance of outputs and targets of equal shape `[B, ...]`; returns `[B]`."""
    return (outputs - targets).abs().flatten(1).mean(1)
