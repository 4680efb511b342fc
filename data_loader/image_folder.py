"""Images sorted into a folder per split and class."""
import copy
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch.utils.data import Dataset

from base import DATASETS
from data_loader.image_reader import ImageReader
from data_loader.picture_store import parse_cache
from utils.config.annotations import PositiveInt

log = logging.getLogger(__name__)
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@DATASETS.register
class ImageFolder(Dataset):
    """Images in `root/<split>/<class>`: `root/train/cat/1.jpg`. Samples are (image, class number).

    Images are RGB with 8 bit, upright as their EXIF orientation says; 16-bit ones are scaled, alpha is left
    out, and of animated ones the first frame is taken. Without transforms they are uint8 `[3, H, W]`. If the
    first transform is torchvision's Resize, CenterCrop, RandomCrop or RandomResizedCrop (bilinear, without
    padding), also behind ToImage, it works on uint8 tensors while the image is read: the same box, at most 2
    levels of 255 away from what it makes of a PIL image. The log says which transforms then take PIL images.

    Args:
        root: the folder that contains the folders of the splits.
        decoder: `torchcodec` is faster than `pil` where tensors are made. `auto` is torchcodec if it is
            installed and gives the pixels that Pillow gives, so all three give the same. `torchvision` reads
            as version 1.0.0 did: images are not turned, 16-bit ones become white, transforms get PIL images.
        size: larger images are made smaller: their shorter side has this many pixels.
        cache: decoded images (with `size`: those made smaller) are kept on disk, `{max_gb: 50}`, in the
            folder of `--cache` or SEEDBED_CACHE, or else of the user. Never needed; it only saves time.

    The classes are those of train, in alphabetical order. Another split may lack some of them. Raises
    ValueError if a split has no folder, or has a class that train does not have, or a class without images.
    Names that begin with a dot are left out.
    """

    read_input = ImageReader

    def __init__(self, split: str, root: str,
                 decoder: Literal["auto", "torchcodec", "pil", "torchvision"] = "auto",
                 size: PositiveInt | None = None, cache: Annotated[dict, parse_cache] | None = None):
        folder = Path(root) / split
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}. Images lie in a folder for each split and class: "
                             f"{folder}/CLASS/1.jpg")
        hidden = decoder == "torchvision"  # version 1.0.0 read .ipynb_checkpoints and the like, too
        self.classes, classes = (_folders_in(Path(root) / name, hidden) for name in ("train", split))
        if not self.classes:
            raise ValueError(f"{Path(root) / 'train'} holds no folders. Images lie in a folder for each "
                             f"class: {folder}/CLASS/1.jpg")
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        if lacking := [name for name in self.classes if name not in classes]:
            log.warning("%s has no images of %s", folder, ", ".join(lacking))
        self.samples = self.imgs = self._samples(folder, classes, hidden)
        self.targets = [label for _, label in self.samples]
        self.read = ImageReader(decoder, size, cache)

    def _samples(self, folder: Path, classes: list[str], hidden: bool) -> list[tuple[str, int]]:
        samples, above = [], len(str(folder))  # a dot in the path to it does not count
        for name in classes:
            if name not in self.class_to_idx:
                raise ValueError(f"{folder} has the class {name}; train has {', '.join(self.classes)}")
            paths = [os.path.join(where, file)
                     for where, _, files in sorted(os.walk(folder / name, followlinks=True))
                     for file in sorted(files) if file.lower().endswith(ENDINGS)]
            paths = [path for path in paths if hidden or f"{os.sep}." not in path[above:]]
            if not paths:
                raise ValueError(f"{folder / name} holds no images ({', '.join(ENDINGS)})")
            samples += [(path, self.class_to_idx[name]) for path in paths]
        return samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int):
        return self._sample(index)

    @property
    def read_alone(self) -> Callable | None:
        """From an index and a generator to the sample; None if threads cannot do that at the same time."""
        return self._sample if self.read.is_alone else None

    def _sample(self, index: int, generator: torch.Generator | None = None) -> tuple[Any, int]:
        path, target = self.samples[index]
        return self.read(path, generator), target

    def with_transforms(self, transforms: list) -> tuple[Dataset, list]:
        """The dataset whose samples have gone through the first of the transforms, and the others."""
        if type(self).__getitem__ is not ImageFolder.__getitem__:  # it may expect PIL images
            return self, transforms
        dataset = copy.copy(self)
        dataset.read, rest = self.read.with_transforms(transforms)
        return dataset, rest


def _folders_in(folder: Path, hidden: bool) -> list[str]:
    """The names of its folders; only with `hidden` also such as .ipynb_checkpoints."""
    return sorted(path.name for path in folder.glob("*")  # Python 3.10: "*/" also has files
                  if path.is_dir() and (hidden or not path.name.startswith(".")))
