"""Example: what this transform does, and why."""
import torch

from base import TRANSFORMS


@TRANSFORMS.register
class Example:
    """Adds normal noise to an image. Sample by sample; named in the config under transforms.train alone, since it augments.

    Takes the first item of a sample as the dataset gives it, here a uint8 tensor `[C, H, W]` (torchvision's datasets give PIL
    images: put `ToImage` before it); returns float32. What torch draws here is a function of seed, epoch and sample, so that
    neither workers nor a resume change it.

    Args:
        std: standard deviation of the noise, of pixels in [0, 1].
    """

    def __init__(self, std: float = 0.1):
        self.std = std

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return image / 255 + self.std * torch.randn(image.shape)
