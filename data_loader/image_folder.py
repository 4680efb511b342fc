"""Images sorted into a folder per split and class."""
from pathlib import Path
from typing import Literal

from base import DATASETS


@DATASETS.register
def ImageFolder(split: str, root: str, decoder: Literal["pil", "torchvision"] = "pil"):
    """torchvision's ImageFolder of `root/<split>`: `root/train/cat/1.jpg`, `root/test/dog/2.png`.

    Args:
        root: the folder that contains the folders of the splits.
        decoder: `pil` turns images as their EXIF orientation says, scales 16-bit ones to 8 bit, and takes the
            first frame of animated ones. `torchvision` is its own loader: it does not turn images, and 16-bit
            ones become white.

    The classes are those of train, in alphabetical order. Another split may lack some of them. Raises
    ValueError if a split has no folder, or has a class that train does not have.
    """
    from torchvision import datasets  # takes a second at start-up, and only this dataset needs it

    folder = Path(root) / split
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}. Images lie in a folder for each split and class: "
                         f"{folder}/CLASS/1.jpg")
    dataset = datasets.ImageFolder(folder, **({"loader": read_image} if decoder == "pil" else {}))
    train = sorted(path.name for path in (Path(root) / "train").glob("*/"))
    if unknown := [name for name in dataset.classes if name not in train]:
        raise ValueError(f"{folder} has the class {unknown[0]}; train has {', '.join(train)}")
    dataset.samples = dataset.imgs = [(path, train.index(dataset.classes[label]))
                                      for path, label in dataset.samples]
    dataset.targets = [label for _, label in dataset.samples]
    dataset.classes, dataset.class_to_idx = train, {name: number for number, name in enumerate(train)}
    return dataset


def read_image(path: str):
    """The image in a file, RGB with 8 bit, upright. A PIL image; of an animated one the first frame."""
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16-bit gray, which `convert` would cut off at 255
            image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
        return image.convert("RGB")


def read_input(path, decoder: str = "pil"):
    """The image in a file, as `decoder` reads those of a folder."""
    if decoder == "pil":
        return read_image(path)
    from torchvision.datasets.folder import default_loader

    return default_loader(path)


ImageFolder.read_input = read_input
