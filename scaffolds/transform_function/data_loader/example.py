"""example: what this transform does, and why."""
import torch

from base import TRANSFORMS


@TRANSFORMS.register
def example(image: torch.Tensor, gamma: float = 0.5) -> torch.Tensor:
    """Brightens an image (gamma below 1) or darkens it. Sample by sample; named in the config under transforms.train and .eval.

    Takes the first item of a sample as the dataset gives it, here a uint8 tensor `[C, H, W]` (torchvision's datasets give PIL
    images: put `ToImage` before it); returns float32 in [0, 1]. The arguments after the first one come from the config.
    """
    return (image / 255) ** gamma
