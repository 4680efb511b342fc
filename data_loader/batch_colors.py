"""Augmentations of the colours of whole batches, for `transforms.batch`."""
from collections.abc import Callable, Sequence

import torch

from base import TRANSFORMS, BatchAugmentation
from base.data.augmentation import Constant, Draws, per_sample
from data_loader.batch_augmentations import image_size, interval

BRIGHTNESS, CONTRAST, SATURATION, _HUE = range(4)
_OFFSETS = Constant([5, 3, 1])


@TRANSFORMS.register
class BatchColorJitter(BatchAugmentation):
    """Changes brightness, contrast, saturation and hue of images `[B, C, H, W]`, C 1 or 3, in random order.

    The arguments mean the same as in torchvision's ColorJitter: a number `d` is the range (1 - d, 1 + d) of a
    factor, for `hue` (-d, d), a part of the circle. Each image draws its own factors and its own order. It
    differs from torchvision's result for floats by 1e-5 at most.

    Args:
        brightness: range of the factor of all values.
        contrast: range of the factor of the distance from the image's mean gray.
        saturation: range of the factor of the distance from each pixel's gray.
        hue: range of the turn on the circle of colours; at most half of it.
    """

    def __init__(self, brightness: float | tuple[float, float] = 0.0,
                 contrast: float | tuple[float, float] = 0.0,
                 saturation: float | tuple[float, float] = 0.0,
                 hue: float | tuple[float, float] = 0.0):
        factors = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        ranges = [interval(name, value if isinstance(value, Sequence) else (max(1 - value, 0), 1 + value), 0)
                  for name, value in factors.items()]
        ranges.append(interval("hue", hue if isinstance(hue, Sequence) else (-hue, hue), -0.5, 0.5))
        self.low = Constant([low for low, _ in ranges])
        self.span = Constant([high - low for low, high in ranges])
        self.turns = ranges[-1] != (0, 0)

    def augment(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Expects floating-point images in [0, 1]."""
        image_size(images)
        factors = torch.addcmul(self.low.on(images.device), draws.uniform(4),
                                self.span.on(images.device))  # [B, 4]
        for kind in draws.uniform(4).argsort(dim=1, stable=True).T:  # [B], four times
            factor = factors.gather(1, kind[:, None])[:, 0].to(images.dtype)
            images = blend(images, kind, factor)
            if self.turns and images.shape[1] == 3:
                images = at_chosen(images, kind == _HUE, turn_hue, factor)
        return images


def blend(images: torch.Tensor, kind: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Changes the distance from black, from the mean gray or from gray by `factor`, as `kind` `[B]` says."""
    gray = to_gray(images)
    other = (gray * per_sample(kind == SATURATION, gray)
             + gray.mean((1, 2, 3), keepdim=True) * per_sample(kind == CONTRAST, gray))
    factor = per_sample(torch.where(kind == _HUE, 1, factor), images)
    return torch.lerp(other.expand_as(images), images, factor).clamp(0, 1)


def to_gray(images: torch.Tensor) -> torch.Tensor:
    """The gray `[B, 1, H, W]` of images of 1 or 3 channels: ITU-R 601."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def turn_hue(images: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """RGB images `[B, 3, H, W]` whose hue is moved by a part of the circle, `[B]`."""
    most, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = most - least  # [B, 1, H, W]
    red, green, blue = ((most - images) / torch.where(chroma == 0, 1, chroma)).split(1, 1)
    hue = torch.where(images[:, :1] == most, blue - green,
                      torch.where(images[:, 1:2] == most, 2 + red - blue, 4 + green - red))
    hue = hue + per_sample(turn, images) * 6
    angle = (hue + _OFFSETS.on(hue.device).to(hue.dtype).reshape(1, 3, 1, 1)) % 6
    return most - chroma * torch.minimum(angle, 4 - angle).clamp(0, 1)


def at_chosen(images: torch.Tensor, chosen: torch.Tensor, change: Callable,
              *values: torch.Tensor) -> torch.Tensor:
    """`change(images, *values)` for `chosen` images, bool `[B]`, maybe in place; the others as they are.

    On an accelerator it is computed for all: picking some would wait for the device.
    """
    if not images.is_cpu:
        return torch.where(per_sample(chosen, images), change(images, *values), images)
    places = chosen.nonzero()[:, 0]
    if len(places):
        images[places] = change(images[places], *(value[places] for value in values))
    return images
