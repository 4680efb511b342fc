"""1,797 handwritten digits of 8x8 pixels, included in the project."""
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from base import DATASETS, ArrayDataset


@DATASETS.register
class Digits(ArrayDataset):
    """The test part of "Optical Recognition of Handwritten Digits", as in scikit-learn's `load_digits`.

    Source: Alpaydin and Kaynak 1998, UCI repository, CC BY 4.0. Every fifth image is for testing (360), the
    others are for training (1,437). Samples are (uint8 `[1, 8, 8]`, class).
    """

    def __init__(self, split: str):
        if split not in ("train", "test"):
            raise ValueError(f"Digits has the splits 'train' and 'test', not '{split}'")
        with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
            images, labels = file["images"], file["labels"]  # 0 to 16 [N, 8, 8], [N]
        chosen = (np.arange(len(labels)) % 5 == 0) == (split == "test")
        pixels = (images[chosen].astype(np.float32) * (255 / 16)).round().astype(np.uint8)
        self.images, self.labels = (torch.from_numpy(pixels)[:, None],
                                    torch.from_numpy(labels[chosen].astype(np.int64)))
        super().__init__(self.images, self.labels)

    @staticmethod
    def read_input(path) -> torch.Tensor:
        """The image in a file as a sample has it, uint8 `[1, 8, 8]`: gray, white on black."""
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L").resize((8, 8)))
        return torch.from_numpy(pixels.copy())[None]
