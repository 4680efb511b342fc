"""Reads the headers of all images of a folder dataset, and reports what is broken or unusual, by kind."""
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from base.base_data_loader import DataSplits

HUGE_PIXELS = 50_000_000
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright


def describe_images(data: DataSplits) -> list[str]:
    """One line for each kind of unusual image in train and val: how many there are, and a first path.

    Empty for datasets that are no image folders, as by their attribute `imgs` of `(path, class)`.
    """
    files: dict[str, None] = {}
    for split in ("train", *data.sets("val")):
        images = getattr(data.dataset(split), "imgs", None)
        if isinstance(images, list):
            files |= dict.fromkeys(str(path) for path, _ in images)
    found: dict[str, list[str]] = {}
    for file in files:
        for kind in image_kinds(file):
            found.setdefault(kind, []).append(file)
    return [f"{len(paths):,} of {len(files):,} images {kind}, such as {paths[0]}"
            for kind, paths in sorted(found.items())]


def image_kinds(file: str) -> Iterable[str]:
    """What is broken or unusual about an image, by its header; its pixels are not decoded."""
    from PIL import Image

    try:
        if Path(file).stat().st_size == 0:
            return ["are empty files"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return [*_unusual(image)]
    except Exception:  # Pillow raises errors of many types for a damaged header
        return ["are broken"]


def _unusual(image: Any) -> Iterator[str]:
    kinds = {
        "are animated": getattr(image, "is_animated", False),
        "are CMYK": image.mode == "CMYK",
        "have 16 bit": image.mode.startswith("I"),
        "are rotated by EXIF": image.getexif().get(_ORIENTATION, 1) != 1,
        "are huge (over 50 megapixels)": image.width * image.height > HUGE_PIXELS}
    yield from (kind for kind, applies in kinds.items() if applies)
