"""Nights of sleep, cut into pieces of 30 s."""
from pathlib import Path

import numpy as np
import torch

from base import DATASETS, ArrayDataset


@DATASETS.register
class SleepRecordings(ArrayDataset):
    """Samples (signal float32 `[1, T]`, stage 0 to 4) of all patients: `root/<patient>.npz`."""

    def __init__(self, root: str = "data/sleep"):
        self.classes = ["W", "N1", "N2", "N3", "REM"]
        self.patients, signals, stages = [], [], []
        for path in sorted(Path(root).glob("*.npz")):
            with np.load(path) as file:
                signals.append(file["signals"])
                stages.append(file["stages"])
            self.patients += [path.stem] * len(stages[-1])
        signals, stages = (torch.from_numpy(np.concatenate(parts)) for parts in (signals, stages))
        super().__init__(signals[:, None], stages)
