"""Example: what this loss is for, and where it comes from."""
import torch
from torch import nn

from base import LOSSES


@LOSSES.register
class Example(nn.Module):
    """Cross-entropy and a z-loss, which keeps logits small (Chowdhery et al. 2022, arXiv 2204.02311, section 5).

    The terms of a dict are added up to what is minimised, and each is logged: train/cross_entropy, train/z_loss. Parameters of
    a loss, if it has some, are trained with the model's.

    Args:
        weight: of the z-loss.
    """

    def __init__(self, weight: float = 1e-4):
        super().__init__()
        self.weight = weight

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:  # [B, K], [B]
        z_loss = outputs.logsumexp(1).square().mean()
        return {"cross_entropy": nn.functional.cross_entropy(outputs, targets), "z_loss": self.weight * z_loss}
