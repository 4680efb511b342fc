"""Example: what this network is for, and where it comes from."""
import torch
from torch import nn

from base import MODELS, BaseModel


@MODELS.register
class Example(BaseModel):
    """Two convolutions and a linear layer, for grey images of any size.

    Args:
        num_classes: logits per image.
        width: channels of the first convolution; the second has twice as many.
    """

    def __init__(self, num_classes: int = 10, width: int = 16):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:  # [B, 1, H, W]
        x = self.features(images)  # [B, 2W, H/2, W/2]
        return self.head(x.mean((2, 3)))  # [B, num_classes]
