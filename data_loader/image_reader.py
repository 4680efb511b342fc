"""Reads images from files, and crops or resizes them as uint8 tensors where that is faster."""
import copy
import functools
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from data_loader.picture_store import PictureStore

_MODULES = ("torchvision.transforms.v2.", "torchvision.transforms.transforms")
_CROPS = ("RandomResizedCrop", "Resize", "CenterCrop", "RandomCrop")
# What is no slower with tensors than with PIL images. Rotations, ColorJitter and RandAugment take 2 to 5
# times as long.
_QUICK = (*_CROPS, "RandomHorizontalFlip", "RandomVerticalFlip", "Grayscale", "RandomGrayscale",
          "GaussianBlur")
_ORIENTATION, _TURNS = 0x0112, {  # of EXIF
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
    7: "TRANSVERSE", 8: "ROTATE_90"}
# What draws nothing, or from a given generator.
_ALONE = ("RandomResizedCrop", "Resize", "CenterCrop", "RandomHorizontalFlip", "ToTensor", "PILToTensor",
          "ToImage")
_TO_TENSOR = ("ToTensor", "PILToTensor", "ToImage")


class ImageReader:
    """From the path of a file to the image in it, a PIL image, or to what transforms make of it.

    `decoder`, `size` and `cache` are those of ImageFolder. Raises ValueError if the decoder is not installed.
    """

    def __init__(self, decoder: str = "auto", size: int | None = None, cache: dict | None = None):
        if decoder == "torchcodec" and _torchcodec() is None:
            raise ValueError("decoder: torchcodec cannot be imported: pip install torchcodec. "
                             "'auto' does without it.")
        self.decoder, self.size = decoder, size
        # what it does with uint8 tensors and a generator of random numbers; None for PIL images
        self.steps: list[Callable] | None = None
        self.is_alone = False  # whether threads may use it at the same time, each with its generator
        variant = repr((decoder == "torchvision", size, torch.__version__ if size else ""))
        self.store = None if cache is None else PictureStore(variant, **cache)

    def __call__(self, path, generator: torch.Generator | None = None) -> Any:
        if self.steps is None and not self.size and not self.store:
            return self._pil_image(path)
        image = self.store.picture(path, self._decoded) if self.store else self._decoded(path, _content(path))
        if self.steps is None:
            return _as_pil(image)
        result = image
        for step in self.steps:
            result = step(result, generator)
        # what lies in the store's file must not be changed
        shares = self.store and isinstance(result, torch.Tensor) and (
            result.untyped_storage().data_ptr() == image.untyped_storage().data_ptr())
        return result.clone() if shares else result

    def with_transforms(self, transforms: list) -> tuple["ImageReader", list]:
        """The reader that does the first of the transforms with uint8 tensors, and the others.

        These get a PIL image if none of the first makes tensors, as they do with a reader that does none.
        """
        given, transforms = transforms, _with_crops_first(transforms)
        kinds = [_kind(transform) for transform in transforms]
        if self.decoder == "torchvision" or kinds and kinds[0] not in _CROPS:
            return self, given
        count = next((number for number, kind in enumerate(kinds) if kind not in _QUICK), len(kinds))
        reader = copy.copy(self)
        reader.steps = list(map(_step, kinds[:count], transforms))
        if count == len(kinds) - 1 and kinds[-1] in ("ToTensor", "PILToTensor"):
            count += 1  # a batch of uint8 becomes one of floats on the device
        elif count < len(kinds):
            makes_tensors = kinds[count] in _TO_TENSOR
            reader.steps.append(_step(kinds[count] if makes_tensors else "pil", transforms[count]))
            count += makes_tensors
        reader.is_alone = all(kind in _ALONE for kind in kinds[:count])
        return reader, transforms[count:]

    def _pil_image(self, file) -> Any:
        if self.decoder != "torchvision":
            return read_image(file)
        from PIL import Image

        with Image.open(file) as image:
            return image.convert("RGB")

    def _decoded(self, path, data: bytes) -> torch.Tensor:
        """The image in a file of this content, made smaller: uint8 `[3, H, W]`."""
        image = None
        if self.decoder == "torchcodec" or self.decoder == "auto" and is_exact():
            image = decode_quickly(data)
        if image is None:
            image = _as_tensor(self._pil_image(_Content(path, data)))
        shorter = min(image.shape[1:])
        if not self.size or shorter <= self.size:
            return image
        return _resized(image, [side * self.size // shorter for side in image.shape[1:]])


class _Content(io.BytesIO):
    """The content of a file that is called by its path in Pillow's messages."""

    def __init__(self, path, data: bytes):
        super().__init__(data)
        self.path = path

    def __repr__(self) -> str:
        return repr(str(self.path))


def _content(path) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def read_image(file) -> Any:
    """The image in a file, RGB with 8 bit, upright. A PIL image; of an animated one the first frame."""
    from PIL import Image

    with Image.open(file) as image:
        pixels = image
        if image.mode.startswith("I"):  # 16-bit gray, which `convert` would cut off at 255
            pixels = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
        pixels = pixels.convert("RGB")
        # after the pixels: to read those of a TIFF turns them. Twice as fast as ImageOps.exif_transpose.
        turn = _TURNS.get(image.getexif().get(_ORIENTATION))
        return pixels if turn is None else pixels.transpose(Image.Transpose[turn])


def decode_quickly(data: bytes) -> torch.Tensor | None:
    """torchcodec's uint8 `[3, H, W]` of a JPEG, a PNG of 8 bit or a WebP, upright; None for anything else.

    Pillow reads those: its messages on broken files say more, it refuses decompression bombs, and it scales
    16 bit to other levels than torchcodec.
    """
    is_png = data[:8] == b"\x89PNG\r\n\x1a\n" and data[24:25] != b"\x10" and (
        int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big") < 2**26)
    decode = ("decode_jpeg" if data[:3] == b"\xff\xd8\xff" else "decode_png" if is_png
              else "decode_webp" if data[8:12] == b"WEBP" else "")
    if not decode:
        return None
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)  # for bytes it sets filters of warnings
    try:
        image = getattr(_torchcodec(), decode)(buffer)
    except Exception:  # of any kind of damage
        return None
    return image if image.ndim == 3 else None  # else of several frames


@functools.cache
def _torchcodec():
    try:
        from torchcodec import decoders
    except Exception:  # not installed, or not for this torch
        return None
    return decoders


@functools.cache
def is_exact() -> bool:
    """Whether torchcodec is there and gives the pixels that Pillow gives, for a JPEG made here."""
    from PIL import Image

    pixels = (torch.arange(37 * 29 * 3) * 2654435761 // 512 % 251).reshape(3, 29, 37)
    file = io.BytesIO()
    _as_pil(pixels.to(torch.uint8)).resize((74, 58), Image.Resampling.BICUBIC).save(file, "JPEG", quality=87)
    decoded = decode_quickly(file.getvalue())
    return decoded is not None and torch.equal(decoded, _as_tensor(read_image(file)))


def _kind(transform: Any) -> str:
    """The name of a transform that a reader can do with tensors; "" for any other."""
    kind, given = type(transform), vars(transform)
    bilinear = getattr(given.get("interpolation"), "value", given.get("interpolation", 2)) in ("bilinear", 2)
    pads = given.get("padding") is not None or given.get("pad_if_needed")  # slower with tensors
    ours = kind.__module__.startswith(_MODULES) and bilinear and given.get("antialias", True) and not pads
    return kind.__name__ if ours else ""


def _with_crops_first(transforms: list) -> list:
    """The transforms with a leading ToImage behind the crops and flips, which do the same before it."""
    kinds = [_kind(transform) for transform in transforms]
    if kinds[:1] != ["ToImage"]:
        return transforms
    end = next((number for number, kind in enumerate(kinds) if number and kind not in _QUICK), len(kinds))
    return [*transforms[1:end], transforms[0], *transforms[end:]]


def _step(kind: str, transform: Callable) -> Callable:
    """What does a transform with a uint8 tensor `[C, H, W]` and a generator."""
    if kind == "RandomResizedCrop":
        log_ratio = torch.log(torch.tensor(transform.ratio)).tolist()
        return functools.partial(_randomly_cropped, transform=transform, log_ratio=log_ratio)
    if kind == "RandomHorizontalFlip":
        return functools.partial(_flipped, p=torch.tensor(transform.p, dtype=torch.float32).item())
    apply = {"ToTensor": _as_floats, "PILToTensor": torch.clone, "pil": _as_pil}.get(kind, transform)
    return functools.partial(_applied, apply=apply)


def _applied(image: torch.Tensor, generator: torch.Generator | None, apply: Callable) -> Any:
    return apply(image)


def _randomly_cropped(image: torch.Tensor, generator: torch.Generator | None, transform: Any,
                      log_ratio: list[float]) -> torch.Tensor:
    """Half of the time of the transform itself, which does the same."""
    top, left, height, width = _random_box(*image.shape[1:], transform.scale, transform.ratio, log_ratio,
                                           generator)
    box = image.numpy()[:, top:top + height, left:left + width]
    # copied here, in the order it has: torch would start its threads for that, for each image
    return _resized(torch.from_numpy(np.array(box, order="K")), transform.size)


def _random_box(height: int, width: int, scale: Sequence[float], ratio: Sequence[float],
                log_ratio: Sequence[float], generator: torch.Generator | None = None
                ) -> tuple[int, int, int, int]:
    """(top, left, height, width) as RandomResizedCrop.get_params draws them, in a third of its time."""
    drawn = torch.empty(1)
    for _ in range(10):
        area = height * width * drawn.uniform_(*scale, generator=generator).item()
        aspect = drawn.uniform_(*log_ratio, generator=generator).exp_().item()
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = (int(drawn.random_(room + 1, generator=generator).item())
                         for room in (height - h, width - w))
            return top, left, h, w
    w, h = min(width, round(height * max(ratio))), min(height, round(width / min(ratio)))
    return (height - h) // 2, (width - w) // 2, h, w


def _flipped(image: torch.Tensor, generator: torch.Generator | None, p: float) -> torch.Tensor:
    if torch.rand(1, generator=generator).item() >= p:
        return image
    # of a large image torch would start its threads, for each image
    return image.flip(-1) if image.numel() < 2**15 else torch.from_numpy(image.numpy()[..., ::-1].copy())


def _resized(image: torch.Tensor, size: list[int]) -> torch.Tensor:
    return functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def _as_floats(image: torch.Tensor) -> torch.Tensor:
    return image.float().div_(255)


def _as_pil(image: torch.Tensor) -> Any:
    from PIL import Image

    return Image.fromarray(image.permute(1, 2, 0).numpy() if len(image) > 1 else image[0].numpy())


def _as_tensor(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
