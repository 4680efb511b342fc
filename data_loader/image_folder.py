"""Images sorted into a folder per split and class."""
from pathlib import Path

from base import DATASETS


@DATASETS.register
def ImageFolder(split: str, root: str):
    """torchvision's ImageFolder of `root/<split>`: `root/train/cat/1.jpg`, `root/test/dog/2.png`.

    Args:
        root: the folder in which the splits' folders are.

    Raises ValueError where a split has no folder.
    """
    from torchvision import datasets  # a second of start-up that only this dataset needs

    folder = Path(root) / split
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}. Images lie in a folder for each split and class: {folder}/CLASS/1.jpg")
    return datasets.ImageFolder(folder)
