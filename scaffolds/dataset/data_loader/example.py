"""Example: what these data are, and where they come from."""
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from base import DATASETS

SPLITS = ("train", "val", "test")


@DATASETS.register
class Example(Dataset):
    """Images of noise with one brighter half: the left one (class 0) or the right one (class 1).

    Samples are (float32 `[1, 8, 8]`, class). Data that fit into arrays are faster by far as a `base.ArrayDataset`, which
    takes the arrays and needs neither `__len__` nor `__getitem__`.

    Args:
        split: train, val or test; each has samples of its own.
        num_samples: samples in each split.
    """

    def __init__(self, split: str, num_samples: int = 500):
        # Your data go here: find out what belongs to the split, such as a list of files and their classes. With no val
        # part of your own, raise a ValueError for "val" and set data_loader.validation_split in the config.
        generator = torch.Generator().manual_seed(SPLITS.index(split))
        self.targets = torch.randint(2, (num_samples,), generator=generator)
        self.images = torch.rand(num_samples, 1, 8, 8, generator=generator)
        self.images[self.targets == 0, :, :, :4] += 0.5
        self.images[self.targets == 1, :, :, 4:] += 0.5

    @staticmethod
    def read_input(path) -> torch.Tensor:
        """The image in a file as a sample has it, for `python predict.py -r RUN FILES`."""
        with Image.open(path) as image:
            return torch.from_numpy(np.asarray(image.convert("L").resize((8, 8)))[None] / np.float32(255))

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int):
        # And here: read one sample. Workers do this side by side, data_loader.num_workers of them.
        return self.images[index], self.targets[index]
