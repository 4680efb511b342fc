"""Datasets in .npy files. They are not read into memory, so they may be larger than memory."""
from pathlib import Path

import numpy as np
import torch

from base import DATASETS, ArrayDataset


@DATASETS.register
class ArrayFiles(ArrayDataset):
    """Samples from `root/<split>_inputs.npy` `[N, ...]` and `root/<split>_targets.npy` `[N, ...]`.

    `np.save` writes such files. They are memory-mapped, not read: the system keeps in memory what fits.
    uint8 images are `[N, C, H, W]`. Raises ValueError if a split has no files.

    Args:
        root: the folder that contains the files.
    """

    def __init__(self, split: str, root: str):
        files = [Path(root) / f"{split}_{part}.npy" for part in ("inputs", "targets")]
        if missing := [str(file) for file in files if not file.is_file()]:
            raise ValueError(f"there is no {' and no '.join(missing)}")
        super().__init__(*(np.load(file, mmap_mode="r", allow_pickle=False) for file in files))

    @staticmethod
    def read_input(path) -> torch.Tensor:
        """The input in a .npy file of its own: one sample, without the dimension N."""
        return torch.from_numpy(np.load(path, allow_pickle=False))
