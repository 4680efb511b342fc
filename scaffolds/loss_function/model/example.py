"""example: what this loss is for, and where it comes from."""
import torch
from torch.nn import functional as F

from base import LOSSES


@LOSSES.register
def example(outputs: torch.Tensor, targets: torch.Tensor, weight: float = 1e-4) -> torch.Tensor:
    """Cross-entropy and a z-loss, which keeps logits small (Chowdhery et al. 2022, arXiv 2204.02311, section 5).

    Logits `[B, K]`, class numbers `[B]`; returns their mean over the batch. `weight` is that of the z-loss; all arguments
    but the first two come from the config.
    """
    return F.cross_entropy(outputs, targets) + weight * outputs.logsumexp(1).square().mean()
