"""Arrays in .npy files, which stay there: they may be larger than memory."""
from pathlib import Path

import numpy as np

from base import DATASETS, ArrayDataset


@DATASETS.register
class ArrayFiles(ArrayDataset):
    """Samples of `root/<split>_inputs.npy` `[N, ...]` and `root/<split>_targets.npy` `[N, ...]`, as `np.save` writes them.

    The files are mapped, not read: the system keeps in memory what fits. uint8 images are `[N, C, H, W]`. Raises ValueError
    where a split has no files.

    Args:
        root: the folder of the files.
    """

    def __init__(self, split: str, root: str):
        files = [Path(root) / f"{split}_{part}.npy" for part in ("inputs", "targets")]
        if missing := [str(file) for file in files if not file.is_file()]:
            raise ValueError(f"there is no {' and no '.join(missing)}")
        super().__init__(*(np.load(file, mmap_mode="r", allow_pickle=False) for file in files))
