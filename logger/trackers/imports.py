"""What the trackers of services share: their packages, and pictures as PIL images."""
import importlib.util
import io

import torch

from utils.errors import ConfigError


def require_package(name: str, writer: str) -> None:
    """Raises ConfigError if a package is not installed. Imports nothing: that takes seconds."""
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"{writer} needs the package {name}, which is not installed: pip install {name}")


def picture_of(png: bytes):
    """The PIL image in the content of a PNG file."""
    from PIL import Image

    return Image.open(io.BytesIO(png)).convert("RGB")


def grid_of(images: torch.Tensor):
    """One PIL image of float `images` `[N, C, H, W]` in [0, 1], eight in a row."""
    from torchvision.transforms.functional import to_pil_image
    from torchvision.utils import make_grid

    return to_pil_image(make_grid(images, padding=1))
