"""Example: what this metric tells, and where it comes from."""
import torch
from torch.nn.functional import one_hot

from base import METRICS


@METRICS.register
class Example:
    """Balanced accuracy: the part of each class that is recognised, averaged over the classes, however rare they are.

    It does not add up sample by sample, hence a class: it is shown every batch and asked at the end. What does add up is
    simpler as a function. `state_dict` and `load_state_dict` let a run resume in the middle of an epoch.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        self.counts = torch.zeros(2, self.num_classes)  # recognised and seen, of each class

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:  # [B, K], [B]
        seen = one_hot(targets, self.num_classes)  # [B, K]
        recognised = seen * (outputs.argmax(1) == targets)[:, None]  # [B, K]
        self.counts = self.counts.to(outputs.device) + torch.stack([recognised.sum(0), seen.sum(0)])

    def compute(self) -> torch.Tensor:
        recognised, seen = self.counts
        return (recognised / seen)[seen > 0].mean()

    def state_dict(self) -> dict:
        return {"counts": self.counts}

    def load_state_dict(self, state: dict) -> None:
        self.counts = state["counts"]
