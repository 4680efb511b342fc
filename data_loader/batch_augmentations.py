"""Augmentations of whole batches, for `transforms.batch`. torchvision's, without "Batch", take one sample.

A sample's random numbers depend only on the seed, the epoch and its index; see `base/data/augmentation.py`.
"""
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch.nn import functional

from base import TRANSFORMS, BatchAugmentation
from base.data.augmentation import Constant, Draws
from utils.config.annotations import CountInt, PositiveInt


def probability(p: float) -> float:
    """Returns `p`. Raises ValueError if it is not from 0 to 1. Also a constraint for an annotation."""
    if not 0 <= p <= 1:
        raise ValueError(f"p: {p} is no probability. A number from 0 to 1 is needed.")
    return p


probability.range = {"minimum": 0, "maximum": 1}  # like the constraints in utils/config/annotations.py
Probability = Annotated[float, probability]


@TRANSFORMS.register
class BatchRandomCrop(BatchAugmentation):
    """Crops a random part of each image: `[B, C, H, W]` to `[B, C, *size]`.

    Args:
        size: height and width of the part in pixels, or one number for both.
        padding: width in pixels of the frame of zeros that is added on every side before the crop.
    """

    is_geometric = True

    def __init__(self, size: PositiveInt | tuple[int, int], padding: CountInt = 0):
        height, width = (size, size) if isinstance(size, int) else size if len(size) == 2 else (0, 0)
        if height < 1 or width < 1:
            raise ValueError(f"size: {size} is no size. A whole number from 1 on is needed, or two: height "
                             "and width.")
        if padding < 0:
            raise ValueError(f"padding: {padding} is too small. It must be at least 0.")
        self.height, self.width, self.padding = height, width, padding

    def augment(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Any dtype. Raises ValueError if `size` does not fit into the padded images."""
        height, width = (side + 2 * self.padding for side in image_size(images))
        if height < self.height or width < self.width:
            raise ValueError(f"BatchRandomCrop: no {self.height}x{self.width} fits into {height}x{width}, "
                             "padding included. Choose a smaller size or more padding.")
        images = functional.pad(images, [self.padding] * 4) if self.padding else images
        top, left = draws.integers(height - self.height + 1), draws.integers(width - self.width + 1)
        parts = images.unfold(2, self.height, 1).unfold(3, self.width, 1)  # all: [B, C, tops, lefts, *size]
        return parts[torch.arange(len(images), device=images.device), :, top, left]

    def augment_masks(self, masks: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Accepts any dtype."""
        return self.augment(masks, draws)


@TRANSFORMS.register
class BatchRandomHorizontalFlip(BatchAugmentation):
    """Mirrors each image `[B, C, H, W]`, left to right, with probability `p`.

    Args:
        p: the probability that an image is mirrored.
    """

    is_geometric = True

    def __init__(self, p: Probability = 0.5):
        self.p = probability(p)

    def augment(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Accepts any dtype."""
        return _flip(images, draws.uniform() < self.p, dim=3)

    def augment_masks(self, masks: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Accepts any dtype."""
        return self.augment(masks, draws)


@TRANSFORMS.register
class BatchRandomVerticalFlip(BatchAugmentation):
    """Mirrors each image `[B, C, H, W]`, top to bottom, with probability `p`.

    Args:
        p: the probability that an image is mirrored.
    """

    is_geometric = True

    def __init__(self, p: Probability = 0.5):
        self.p = probability(p)

    def augment(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Accepts any dtype."""
        return _flip(images, draws.uniform() < self.p, dim=2)

    def augment_masks(self, masks: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Accepts any dtype."""
        return self.augment(masks, draws)


@TRANSFORMS.register
class BatchRandomAffine(BatchAugmentation):
    """Rotates, shifts, scales and shears images `[B, C, H, W]` about their centres; new pixels are zero.

    The arguments mean the same as in torchvision's RandomAffine. Ranges are sampled uniformly.

    Args:
        degrees: range of the angle, clockwise; one number `d` means (-d, d).
        translate: largest shifts along x and y, as fractions of width and height; shifts are whole pixels.
        scale: range of the scale.
        shear: range of the angle along x in degrees, or four numbers for x and y; one number `d`: (-d, d).
        interpolation: how values between pixels are computed.
    """

    is_geometric = True

    def __init__(self, degrees: float | tuple[float, float], translate: tuple[float, float] | None = None,
                 scale: tuple[float, float] | None = None, shear: float | tuple[float, ...] | None = None,
                 interpolation: Literal["nearest", "bilinear"] = "nearest"):
        if interpolation not in ("nearest", "bilinear"):
            raise ValueError(f"interpolation: there is no '{interpolation}'. There are: nearest, bilinear.")
        translate = (0, 0) if translate is None else translate
        if len(translate) != 2 or not all(0 <= part <= 1 for part in translate):
            raise ValueError(f"translate: {translate} will not do. Two numbers from 0 to 1 are needed.")
        across, down = translate
        shear = 0 if shear is None else shear
        along_x, along_y = ((shear[:2], shear[2:]) if isinstance(shear, Sequence) and len(shear) == 4
                            else (shear, 0))
        ranges = [_angles("degrees", degrees),
                  interval("scale", (1, 1) if scale is None else scale, 1e-6),
                  (-across, across), (-down, down), _angles("shear", along_x), _angles("shear", along_y)]
        self.low, self.span = (Constant([low for low, _ in ranges]),
                               Constant([high - low for low, high in ranges]))
        self.interpolation = interpolation

    def augment(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Expects floating-point images. Samples them in float32."""
        return self._moved(images, draws, self.interpolation)

    def augment_masks(self, masks: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Any dtype, numbers up to 2**24: each pixel is one of the nearest, new ones are 0."""
        return self._moved(masks, draws, "nearest")

    def _moved(self, images: torch.Tensor, draws: Draws, interpolation: str) -> torch.Tensor:
        height, width = image_size(images)
        drawn = torch.addcmul(self.low.on(images.device), draws.uniform(6),
                              self.span.on(images.device))  # [B, 6]
        angle, scale, across, down, shear_x, shear_y = drawn.unbind(1)
        return affine(images, angle, (across * width).round(), (down * height).round(), scale, shear_x,
                      shear_y, interpolation)


def affine(images: torch.Tensor, angle: torch.Tensor, across: torch.Tensor, down: torch.Tensor,
           scale: torch.Tensor, shear_x: torch.Tensor, shear_y: torch.Tensor,
           interpolation: str = "nearest") -> torch.Tensor:
    """torchvision's affine for images `[B, C, H, W]`, parameters `[B]`: angles in radians, shifts in pixels.

    The output at p, from the centre, is the input at `inverse(M) (p - shift)`. M rotates, shears and scales.
    """
    height, width = image_size(images)
    tan_x, tan_y = shear_x.tan(), shear_y.tan()
    cos, sin = angle.cos(), angle.sin()
    # M is scale * (a, b; c, d), where (a, b; c, d) has determinant 1: it shears along x, then y, then rotates
    a, c = cos + sin * tan_y, sin - cos * tan_y
    b, d = -a * tan_x - sin, cos - c * tan_x
    kx, ky = 2 / width, 2 / height  # a side of a grid has length 2
    inverse = torch.stack([d * kx, -c * ky, -b * kx, a * ky], 1) / scale[:, None]
    by_x, by_y = inverse.view(-1, 1, 2, 2).unbind(2)  # [B, 1, 2]: step of (x, y) to the right and down
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    columns = (x - across[:, None])[..., None] * by_x  # [B, W, 2]
    rows = (y - down[:, None])[..., None] * by_y  # [B, H, 2]
    grid = columns[:, None] + rows[:, :, None]  # [B, H, W, 2]
    return functional.grid_sample(images.float(), grid, mode=interpolation,
                                  align_corners=False).to(images.dtype)


@TRANSFORMS.register
class BatchRandomErasing(BatchAugmentation):
    """Overwrites a rectangle in images `[B, C, H, W]` with probability `p`: Zhong 2020, arXiv 1708.04896.

    Like torchvision's RandomErasing, it tries ten rectangles; if none fits, the image stays unchanged.

    Args:
        p: the probability that an image is overwritten.
        scale: range of the rectangle's area, as a fraction of the image's area.
        ratio: range of the rectangle's height divided by its width; the logarithm is drawn uniformly.
        value: what to write: a number, one number per channel, or "random" for noise of mean 0 and variance
            1 in each pixel. On a CPU, "random" takes longer than everything else.
    """

    def __init__(self, p: Probability = 0.5, scale: tuple[float, float] = (0.02, 0.33),
                 ratio: tuple[float, float] = (0.3, 3.3),
                 value: float | tuple[float, ...] | Literal["random"] = 0.0):
        if isinstance(value, str) and value != "random":
            raise ValueError(f"value: '{value}' is none. A number, one for each channel, or 'random' is "
                             "needed.")
        self.p, self.random = probability(p), value == "random"
        self.scale, (least, most) = interval("scale", scale, 0, 1), interval("ratio", ratio, 1e-6)
        self.log_ratio = math.log(least), math.log(most)
        self.value = Constant(0.0 if self.random else value)

    def augment(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Expects floating-point images."""
        height, width = image_size(images)
        chosen = draws.uniform() < self.p
        area = _between(self.scale, draws.uniform(10)) * (height * width)  # [B, 10]
        ratio = _between(self.log_ratio, draws.uniform(10)).exp()
        tall, wide = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (tall < height) & (wide < width)
        first = fits.byte().argmax(1, keepdim=True)  # of equal values, the first
        tall, wide = tall.gather(1, first)[:, 0], wide.gather(1, first)[:, 0]
        chosen = chosen & fits.gather(1, first)[:, 0]
        top, left = draws.integers(height - tall + 1), draws.integers(width - wide + 1)
        erased = inside(top, top + tall * chosen, left, left + wide, images)
        return torch.lerp(images, self._filling(images, draws), erased)

    def _filling(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """The values to write, in a shape that broadcasts to the images."""
        if self.random:
            return draws.normal(images[0].numel()).reshape(images.shape).to(images.dtype)
        value = self.value.on(images.device).reshape(-1, 1, 1).to(images.dtype)
        if len(value) not in (1, images.shape[1]):
            raise ValueError(f"BatchRandomErasing: {len(value)} values for images of {images.shape[1]} "
                             "channels. Give one for each, or a single one.")
        return value


def _between(bounds: tuple[float, float], uniform: torch.Tensor) -> torch.Tensor:
    return bounds[0] + uniform * (bounds[1] - bounds[0])


def image_size(images: torch.Tensor) -> torch.Size:
    """Height and width. Raises ValueError if `images` is not a tensor `[B, C, H, W]`."""
    if not isinstance(images, torch.Tensor) or images.ndim != 4:
        what = (f"of shape {list(images.shape)}" if isinstance(images, torch.Tensor)
                else f"a {type(images).__name__}")
        raise ValueError(f"batch augmentations of images take a tensor [B, C, H, W]; the input is {what}")
    return images.shape[2:]


def _flip(images: torch.Tensor, chosen: torch.Tensor, dim: int) -> torch.Tensor:
    """Reverses dimension `dim` of the `chosen` images, bool `[B]`."""
    image_size(images)
    places = torch.arange(images.shape[dim], device=images.device)
    places = torch.where(chosen[:, None], places.flip(0), places)  # [B, H or W]
    shape = [1, 1, 1, 1]
    shape[0], shape[dim] = places.shape
    return images.gather(dim, places.view(shape).expand(images.shape))


def inside(top: torch.Tensor, bottom: torch.Tensor, left: torch.Tensor, right: torch.Tensor,
           images: torch.Tensor) -> torch.Tensor:
    """A weight for `torch.lerp`, `[B, 1, H, W]` of the images' dtype: 1 inside rectangles `[B]`, 0 outside.

    With it `torch.lerp` returns exactly one of two images, in a quarter of `torch.where`'s time on a CPU.
    """
    y, x = (torch.arange(side, device=images.device) for side in images.shape[2:])
    rows = (y >= top[:, None]) & (y < bottom[:, None])  # [B, H]
    columns = (x >= left[:, None]) & (x < right[:, None])  # [B, W]
    return (rows[:, None, :, None] & columns[:, None, None, :]).to(images.dtype)


def interval(name: str, bounds: Sequence[float], least: float,
             most: float = math.inf) -> tuple[float, float]:
    """Returns `bounds` as (low, high). Raises ValueError if they are no valid range."""
    if len(bounds) != 2 or not least <= bounds[0] <= bounds[1] <= most:
        limits = f"from {least} to {most}" if most < math.inf else "above 0"
        raise ValueError(f"{name}: {bounds} is no range. Two numbers {limits} are needed, the smaller one "
                         "first.")
    return bounds[0], bounds[1]


def _angles(name: str, degrees: float | Sequence[float]) -> tuple[float, float]:
    """The range in radians; a single number `d` means (-d, d). Raises ValueError if it is no valid range."""
    bounds = degrees if isinstance(degrees, Sequence) else (-degrees, degrees)
    if len(bounds) != 2 or not -math.inf < bounds[0] <= bounds[1] < math.inf:
        raise ValueError(f"{name}: {degrees} is no range of angles. A number from 0 on is needed, or two, "
                         "the smaller first.")
    return math.radians(bounds[0]), math.radians(bounds[1])
