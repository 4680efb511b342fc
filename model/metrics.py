"""Metrics: one value per sample, so that averages are exact whatever the batches."""
import torch

from base import METRICS


@METRICS.register
def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Whether the largest logit is the target's. Logits `[B, K]`, class numbers `[B]` or soft targets `[B, K]`, of which
    the largest counts; returns float `[B]`."""
    return (outputs.argmax(1) == _classes(targets)).float()


@METRICS.register
def top_k_accuracy(outputs: torch.Tensor, targets: torch.Tensor, k: int = 5) -> torch.Tensor:
    """Whether the target is among the `k` largest logits. Logits `[B, K]`, class numbers `[B]` or soft targets `[B, K]`,
    of which the largest counts; returns float `[B]`.

    Args:
        k: how many logits the target may be among.
    """
    return (outputs.topk(k, dim=1).indices == _classes(targets).unsqueeze(1)).any(1).float()


@METRICS.register
def absolute_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean distance of outputs and targets of equal shape `[B, ...]`; returns `[B]`."""
    return (outputs - targets).abs().flatten(1).mean(1)


def _classes(targets: torch.Tensor) -> torch.Tensor:
    """Class numbers `[B]`, of soft targets too. A single column, as for a lone logit, names no class and stays as it is."""
    return targets.argmax(1) if targets.ndim == 2 and targets.shape[1] > 1 else targets
