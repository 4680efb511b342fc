"""Augmentations that mix the samples of a batch, including their targets, for `transforms.batch`."""
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch

from base import TRANSFORMS, BatchAugmentation
from base.data.augmentation import Constant, Draws, per_sample
from data_loader.batch_augmentations import image_size, inside
from utils.config.annotations import PositiveInt, at_least, below

Alpha = Annotated[float, at_least(0, above=True), below(1000)]


@TRANSFORMS.register
class BatchMixUp(BatchAugmentation):
    """Mixes each sample with the previous one in the batch: Zhang et al. 2018, arXiv 1710.09412.

    Takes batches (inputs `[B, ...]` of floats, targets, ...). Targets, class numbers `[B]` or soft
    `[B, num_classes]`, become soft: float32 `[B, num_classes]` with sum 1, for torch's CrossEntropyLoss.

    Each sample draws its kept fraction, for inputs and targets. The previous sample is that in this process's
    part of the batch; for the first sample, it is the last one.

    Args:
        num_classes: number of classes.
        alpha: the kept fraction follows Beta(alpha, alpha): uniform for 1, close to 0 or 1 for 0.2.
    """

    def __init__(self, num_classes: PositiveInt, alpha: Alpha = 1.0):
        self.num_classes, self.fractions = num_classes, Constant(beta_quantiles(alpha))

    def __call__(self, batch: Any, draws: Draws) -> Any:
        """Returns the mixed batch."""
        inputs, targets = _pair(batch, self)
        kept = _draw_fractions(self.fractions, draws)
        mixed = torch.lerp(_before(inputs), inputs, per_sample(kept, inputs).to(inputs.dtype))
        return _with_pair(batch, mixed, _mixed_targets(targets, kept, self.num_classes))


@TRANSFORMS.register
class BatchCutMix(BatchAugmentation):
    """Pastes into each image a rectangle of the previous one in the batch: Yun et al. 2019, arXiv 1905.04899.

    Takes batches (images `[B, C, H, W]` of floats, targets, ...). Targets are mixed by area, and become soft
    as in BatchMixUp. Its docstring explains which image is the previous one.

    Args:
        num_classes: number of classes.
        alpha: the kept fraction follows Beta(alpha, alpha), before the rectangle is cut at the border.
    """

    def __init__(self, num_classes: PositiveInt, alpha: Alpha = 1.0):
        self.num_classes, self.fractions = num_classes, Constant(beta_quantiles(alpha))

    def __call__(self, batch: Any, draws: Draws) -> Any:
        """Returns the mixed batch."""
        images, targets = _pair(batch, self)
        height, width = image_size(images)
        half = (1 - _draw_fractions(self.fractions, draws)).sqrt() / 2  # half a side; 1 is the image's
        top, bottom = _around(draws.integers(height), half, height)
        left, right = _around(draws.integers(width), half, width)
        mixed = torch.lerp(images, _before(images), inside(top, bottom, left, right, images))
        kept = 1 - (bottom - top) * (right - left) / (height * width)
        return _with_pair(batch, mixed, _mixed_targets(targets, kept, self.num_classes))


def beta_quantiles(alpha: Alpha, count: int = 2**16) -> np.ndarray:
    """Quantiles of Beta(alpha, alpha) at (1/2, 3/2, ...) / count, float64 `[count]`; `count` must be even.

    With t = x**alpha the distribution function is proportional to the integral of (1 - x)**(alpha - 1) dt.
    It is smooth up to x = 1/2, even if the density is infinite at 0. The other half is its mirror image.
    """
    if not 0 < alpha < 1000:
        raise ValueError(f"alpha: {alpha} will not do. A number above 0 and below 1000 is needed.")
    x = np.linspace(0, 0.5, 2**16 + 1)
    t, height = (2 * x) ** alpha, (2 * (1 - x)) ** (alpha - 1)
    area = np.concatenate([[0], np.cumsum(np.diff(t) * (height[1:] + height[:-1]))])
    levels = (np.arange(count // 2) + 0.5) / count
    lower = np.interp(levels, area / area[-1] / 2, t) ** (1 / alpha) / 2
    return np.concatenate([lower, 1 - lower[::-1]])


def _draw_fractions(quantiles: Constant, draws: Draws) -> torch.Tensor:
    """One random quantile per sample, `[B]`."""
    table = quantiles.on(draws.device)
    return table[draws.integers(len(table))]


def _around(centre: torch.Tensor, half: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Start and end of a rectangle along one side, clipped to the image."""
    half = (half * side).long()
    return (centre - half).clamp(min=0), (centre + half).clamp(max=side)


def _before(values: torch.Tensor) -> torch.Tensor:
    return values.roll(1, 0)


def _mixed_targets(targets: torch.Tensor, kept: torch.Tensor, num_classes: int) -> torch.Tensor:
    """`kept` `[B]` of each target plus the rest of the previous one: float32 `[B, num_classes]`."""
    if targets.ndim == 1 and not targets.is_floating_point():
        soft = torch.zeros(len(targets), num_classes,
                           device=targets.device).scatter_(1, targets.long()[:, None], 1.0)
    elif targets.ndim == 2 and targets.is_floating_point() and targets.shape[1] == num_classes:
        soft = targets.float()
    else:
        raise ValueError(f"class numbers [B] or soft targets [B, {num_classes}] are needed to mix; these are "
                         f"{targets.dtype} of shape {list(targets.shape)}")
    return torch.lerp(_before(soft), soft, kept[:, None])


def _pair(batch: Any, augmentation: BatchAugmentation) -> tuple[torch.Tensor, torch.Tensor]:
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        name = type(augmentation).__name__
        raise ValueError(f"{name}: it mixes batches (inputs, targets, ...); this is a {type(batch).__name__}")
    return batch[0], batch[1]


def _with_pair(batch: Sequence, inputs: torch.Tensor, targets: torch.Tensor) -> Sequence:
    """The batch with other inputs and targets, and of the same type."""
    items = [inputs, targets, *batch[2:]]
    return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
