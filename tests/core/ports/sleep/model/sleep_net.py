"""Two branches over a signal, with short and long filters, after DeepSleepNet (Supratak et al. 2017)."""
import torch
from torch import nn

from base import MODELS


def branch(width: int, length: int) -> nn.Module:
    return nn.Sequential(nn.Conv1d(1, width, length, stride=2, padding=length // 2, bias=False),
                         nn.BatchNorm1d(width), nn.ReLU(), nn.AdaptiveMaxPool1d(4), nn.Flatten(),
                         nn.Dropout(0.2))


@MODELS.register
class SleepNet(nn.Module):
    def __init__(self, num_classes: int, width: int = 16):
        super().__init__()
        self.fine, self.coarse = branch(width, 9), branch(width, 33)
        self.output = nn.Linear(8 * width, num_classes)

    def forward(self, signals):  # [B, 1, T]
        return self.output(torch.cat([self.fine(signals), self.coarse(signals)], 1))  # [B, num_classes]
