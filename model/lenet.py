"""LeNet-like convolutional networks for small grey images."""
from torch import nn
from torch.nn import functional as F

from base import MODELS, BaseModel


@MODELS.register
class LeNet(BaseModel):
    """Two convolutions, two linear layers, ReLU, max-pooling and dropout, after LeCun et al. 1998.

    Args:
        num_classes: logits per image.
        image_size_px: height and width of the images, a multiple of 4.
        channels: number of channels of the images.
        width: channels of the first convolution; the second has twice as many.
        dropout: probability before the last layer.
    """

    def __init__(self, num_classes: int = 10, image_size_px: int = 28, channels: int = 1, width: int = 16,
                 dropout: float = 0.5):
        super().__init__()
        if image_size_px % 4:
            raise ValueError(f"image_size_px is {image_size_px}; two poolings need a multiple of 4")
        self.conv1 = nn.Conv2d(channels, width, kernel_size=5, padding=2)
        self.conv2 = nn.Conv2d(width, 2 * width, kernel_size=5, padding=2)
        self.fc1 = nn.Linear(2 * width * (image_size_px // 4) ** 2, 128)
        self.fc2 = nn.Linear(128, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images):
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)  # [B, W, H/2, W/2]
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # [B, 2W, H/4, W/4]
        x = F.relu(self.fc1(x.flatten(1)))  # [B, 128]
        return self.fc2(self.dropout(x))  # [B, num_classes]
