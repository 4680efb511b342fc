"""Metrics: one value per sample, so that averages are exact for any batch size."""
import torch

from base import METRICS
from base.metric_values import logits_of
from utils.config.annotations import PositiveInt


@METRICS.register
def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Whether the largest logit is the target's, float `[B]`. Takes logits `[B, K]`, and class numbers `[B]`
    or soft targets `[B, K]`; the largest soft target counts.

    Of logits `[B, K, ...]` and class numbers `[B, ...]` (pixels, tokens), a sample's value is the share that
    is right. Raises ValueError for other shapes.
    """
    outputs = logits_of(outputs)
    found, classes = outputs.argmax(1), targets if outputs.ndim > targets.ndim > 1 else _classes(targets)
    if outputs.ndim > 2 and found.shape != classes.shape:
        raise ValueError(f"logits {list(outputs.shape)} need class numbers {list(found.shape)}; these are "
                         f"{list(targets.shape)}")
    hits = (found == classes).float()
    return hits.flatten(1).mean(1) if outputs.ndim > 2 else hits


@METRICS.register
def top_k_accuracy(outputs: torch.Tensor, targets: torch.Tensor, k: PositiveInt = 5) -> torch.Tensor:
    """Whether the target is among the `k` largest logits, float `[B]`. Takes logits `[B, K]`, and class
    numbers `[B]` or soft targets `[B, K]`; the largest soft target counts.

    Args:
        k: number of largest logits that may contain the target.
    """
    return (logits_of(outputs).topk(k, dim=1).indices == _classes(targets).unsqueeze(1)).any(1).float()


@METRICS.register
def absolute_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean absolute difference of outputs and targets, both `[B, ...]`; returns `[B]`."""
    return (logits_of(outputs) - targets).abs().flatten(1).mean(1)


def _classes(targets: torch.Tensor) -> torch.Tensor:
    """Class numbers `[B]`, also of soft targets. A single column (one logit) is no class: it is kept."""
    return targets.argmax(1) if targets.ndim >= 2 and targets.shape[1] > 1 else targets
