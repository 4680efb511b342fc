"""Points on a line, with noise."""
import torch
from torch.utils.data import TensorDataset

from base import DATASETS

SPLITS = ("train", "val", "test")


@DATASETS.register
class NoisyLine(TensorDataset):
    """`y = slope * x + intercept + noise` for x in [-1, 1]; samples are (x `[1]`, y `[1]`), float32.

    Args:
        split: train, val or test; each has its own points.
        slope, intercept: of the line.
        num_samples: number of points in each split.
        noise: standard deviation of the normal noise on y.
    """

    def __init__(self, split: str, slope: float = 2.0, intercept: float = 1.0, num_samples: int = 256,
                 noise: float = 0.1):
        generator = torch.Generator().manual_seed(SPLITS.index(split))
        x = torch.rand(num_samples, 1, generator=generator) * 2 - 1
        super().__init__(x, slope * x + intercept + noise * torch.randn(num_samples, 1, generator=generator))
