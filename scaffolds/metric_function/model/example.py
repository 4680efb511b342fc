"""example: what this metric tells, and where it comes from."""
import torch

from base import METRICS


@METRICS.register
def example(outputs: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """The probability that the model gives to the right class.

    Logits `[B, K]`, class numbers `[B]`; returns one value per sample `[B]`, so that averages are exact. All arguments but
    the first two come from the config. A metric that is no mean over samples (F1, AUROC) is a class.
    """
    probabilities = (outputs / temperature).softmax(1)  # [B, K]
    return probabilities.gather(1, targets[:, None]).squeeze(1)  # [B]
