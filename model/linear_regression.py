"""A straight line."""
from torch import nn

from base import MODELS


@MODELS.register
class Line(nn.Module):
    """`y = weight * x + bias`."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x):  # [B, 1]
        return self.linear(x)  # [B, 1]
