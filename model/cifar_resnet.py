"""Residual networks for 32x32 images."""
from torch import nn
from torch.nn import functional as F

from base import MODELS, BaseModel


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; if the shape changes, a strided 1x1 convolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            projection = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels_out))

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


@MODELS.register
class CIFARResNet(BaseModel):
    """The CIFAR networks of He et al. 2016 (arXiv 1512.03385), section 4.2, with projection shortcuts.

    Args:
        depth: 6n + 2 layers: 20, 32, 44, 56 or 110.
        num_classes: logits per image.
        width: channels of the first of the three stages.
    """

    def __init__(self, depth: int = 20, num_classes: int = 10, width: int = 16):
        super().__init__()
        if (depth - 2) % 6:
            raise ValueError(f"depth is {depth}; it must be 6n + 2, such as 20, 32, 44 or 56")
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
                                  nn.ReLU())
        blocks, channels = [], width
        for stage in range(3):
            for number in range((depth - 2) // 6):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(_Block(channels, width * 2**stage, stride))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images):  # [B, 3, 32, 32]
        x = self.blocks(self.stem(images))  # [B, 4W, 8, 8]
        return self.head(x.mean((2, 3)))  # [B, num_classes]
