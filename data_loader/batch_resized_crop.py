"""A random part of each image of a batch, at one size, for `transforms.batch`."""
import math

import torch
from torch.nn import functional

from base import TRANSFORMS, BatchAugmentation
from base.data.augmentation import Draws
from data_loader.batch_augmentations import image_size, interval
from utils.config.annotations import PositiveInt


@TRANSFORMS.register
class BatchRandomResizedCrop(BatchAugmentation):
    """Crops a random part of each image and resizes it: `[B, C, H, W]` to `[B, C, *size]`.

    Like torchvision's RandomResizedCrop it tries ten boxes, and takes the middle if none fits; resizing is
    bilinear and antialiased, that of masks takes the nearest pixel. It differs from torchvision's result for
    floats by 2e-4 at most. For images of one size: those of a folder are better cropped as they are read.

    Args:
        size: height and width of the result in pixels, or one number for both.
        scale: range of the box's area, as a fraction of the image's area.
        ratio: range of the box's width divided by its height; the logarithm is drawn uniformly.
    """

    is_geometric = True

    def __init__(self, size: PositiveInt | tuple[int, int], scale: tuple[float, float] = (0.08, 1.0),
                 ratio: tuple[float, float] = (3 / 4, 4 / 3)):
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size: {size} will not do. One number of pixels above 0 is needed, or two.")
        self.scale, self.ratio = interval("scale", scale, 0, 1), interval("ratio", ratio, 1e-6)

    def augment(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Expects floating-point images."""
        boxes = self._boxes(image_size(images), draws)
        if images.is_cpu:  # a sixth of the time of the products below
            numbers = zip(images, *(part.tolist() for part in boxes), strict=True)
            return torch.cat([functional.interpolate(
                image[None, :, top:top + tall, left:left + wide], self.size, mode="bilinear", antialias=True)
                for image, top, left, tall, wide in numbers])
        top, left, tall, wide = boxes
        rows = _weights(top, tall, self.size[0], images.shape[2])[:, None]  # [B, 1, h, H]
        columns = _weights(left, wide, self.size[1], images.shape[3])[:, None]  # [B, 1, w, W]
        return (rows @ images.float() @ columns.mT).to(images.dtype)

    def augment_masks(self, masks: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Accepts any dtype."""
        top, left, tall, wide = self._boxes(image_size(masks), draws)
        rows, columns = (start[:, None] + torch.arange(size, device=masks.device) * side[:, None] // size
                         for start, side, size in ((top, tall, self.size[0]), (left, wide, self.size[1])))
        samples = torch.arange(len(masks), device=masks.device)[:, None, None]
        return masks[samples, :, rows[:, :, None], columns[:, None]].movedim(3, 1)

    def _boxes(self, size: tuple[int, int], draws: Draws) -> tuple[torch.Tensor, ...]:
        """Top, left, height and width of each image's box, int64 `[B]`."""
        height, width = size
        area = (self.scale[0] + draws.uniform(10) * (self.scale[1] - self.scale[0])) * (height * width)
        low, high = map(math.log, self.ratio)
        ratio = (low + draws.uniform(10) * (high - low)).exp()
        tall, wide = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()  # [B, 10]
        fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
        first, any_fits = fits.byte().argmax(1, keepdim=True), fits.any(1)
        middle = (min(height, round(width / self.ratio[0])), min(width, round(height * self.ratio[1])))
        tall, wide = (torch.where(any_fits, sides.gather(1, first)[:, 0], side)
                      for sides, side in ((tall, middle[0]), (wide, middle[1])))
        top, left = draws.integers(height - tall + 1), draws.integers(width - wide + 1)
        top = torch.where(any_fits, top, (height - tall) // 2)
        return top, torch.where(any_fits, left, (width - wide) // 2), tall, wide


def _weights(start: torch.Tensor, side: torch.Tensor, size: int, full: int) -> torch.Tensor:
    """What each of `full` pixels counts for each of `size`, `[B, size, full]`: antialiased, bilinear."""
    step = (side / size)[:, None, None]
    centre = start[:, None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * step
    pixels = torch.arange(full, device=start.device)
    weights = 1 - (pixels + 0.5 - centre).abs() / step.clamp(min=1)
    inside = (pixels >= start[:, None, None]) & (pixels < (start + side)[:, None, None])
    weights = weights.clamp(min=0) * inside
    return weights / weights.sum(2, keepdim=True)
