"""TrivialAugment for whole batches, for `transforms.batch`."""
import math

import torch
from torch.nn import functional

from base import TRANSFORMS, BatchAugmentation
from base.data.augmentation import Draws, per_sample
from data_loader.batch_augmentations import affine, image_size
from data_loader.batch_colors import BRIGHTNESS, CONTRAST, SATURATION, at_chosen, blend

_KINDS = ("shear x", "shear y", "translate x", "translate y", "rotate", "brightness", "contrast",
          "saturation", "sharpness", "posterize", "solarize", "autocontrast", "equalize", "identity")
_BLENDS = {"brightness": BRIGHTNESS, "contrast": CONTRAST, "saturation": SATURATION}
_BINS = 31


@TRANSFORMS.register
class BatchTrivialAugment(BatchAugmentation):
    """One of 14 changes to each image `[B, C, H, W]`, C 1 or 3: Mueller and Hutter 2021, arXiv 2103.10158.

    The changes and their 31 strengths are those of torchvision's TrivialAugmentWide; new pixels are zero. It
    differs from torchvision's result for floats by 1e-5 at most; where that wants uint8 (posterize, solarize,
    equalize), from its result for uint8. Turned by 90 degrees, a pixel may be the next one. It is meant for
    GPUs: a CPU is faster with torchvision's, sample by sample on PIL images.
    """

    is_geometric = True

    def augment(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Expects floating-point images in [0, 1]."""
        image_size(images)
        kind, strength = draws.integers(len(_KINDS)), draws.integers(_BINS) / (_BINS - 1)  # [B]
        return change(images.clone(), kind, strength, draws.integers(2) * 2 - 1)

    def augment_masks(self, masks: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Any dtype, numbers up to 2**24; new pixels are 0."""
        kind, strength = draws.integers(len(_KINDS)), draws.integers(_BINS) / (_BINS - 1)
        return _moved(masks.clone(), kind, strength * (draws.integers(2) * 2 - 1))


def change(images: torch.Tensor, kind: torch.Tensor, strength: torch.Tensor,
           sign: torch.Tensor) -> torch.Tensor:
    """Each image changed by its `kind`, `[B]`, a number of _KINDS, at a strength from 0 to 1."""
    images = _moved(images, kind, strength * sign)
    factor = (1 + 0.99 * strength * sign).to(images.dtype)
    for name, number in _BLENDS.items():
        images = at_chosen(images, kind == _KINDS.index(name), blend, torch.full_like(kind, number), factor)
    for name, function, value in (("sharpness", _sharpened, factor), ("posterize", _posterized, strength),
                                  ("solarize", _solarized, strength), ("autocontrast", _stretched, strength),
                                  ("equalize", _equalized, strength)):
        images = at_chosen(images, kind == _KINDS.index(name), function, value)
    return images


def _moved(images: torch.Tensor, kind: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[2:]
    shear_x, shear_y, across, down, angle = (strength * (kind == number) for number in range(5))
    shear_x, shear_y = 0.99 * shear_x, 0.99 * shear_y  # tangents; the upper left corner stays
    across = (32 * across).trunc() - shear_x * height / 2
    down = (32 * down).trunc() - shear_y * width / 2
    return at_chosen(images, kind < 5, affine, -math.radians(135) * angle, across, down,
                     torch.ones_like(angle), shear_x.atan(), shear_y.atan())


def _sharpened(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Moved away from a blurred image, but for its rim."""
    inner = functional.avg_pool2d(images, 3, 1) * (9 / 13) + images[:, :, 1:-1, 1:-1] * (4 / 13)
    blurred = images.clone()
    blurred[:, :, 1:-1, 1:-1] = inner
    return torch.lerp(blurred, images, per_sample(factor, images)).clamp(0, 1)


def _posterized(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    step = per_sample(2 ** (strength * 6).round(), images)  # levels that become one
    return ((images * 255).round() / step).floor() * step / 255


def _solarized(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    return torch.where((images * 255).round() >= per_sample(255 * (1 - strength), images), 1 - images, images)


def _stretched(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    least, most = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(most > least, (images - least) / (most - least), images).clamp(0, 1)


def _equalized(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Each channel with as many pixels of every level as can be."""
    levels = (images * 255).round().long().flatten(2)  # [B, C, H * W]
    in_order, every = levels.sort(2)[0], torch.arange(256, device=images.device)
    below = torch.searchsorted(in_order, every.expand(*levels.shape[:2], 256).contiguous())  # [B, C, 256]
    step = below.gather(2, in_order[:, :, -1:]) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp(0, 255)
    equal = (table.gather(2, levels) / 255).view_as(images).to(images.dtype)
    return torch.where(step[..., None] > 0, equal, images)
