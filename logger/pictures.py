"""Pictures for writers: images with their targets, a grid with captions, a matrix in colours."""
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch

MOST_IMAGES, MOST_PX = 32, 256  # of a batch; of an image's longer side
_GRID_PX = 1024  # a grid is about as large as this at most
_TEXT_PX = 16  # of letters; TensorBoard shows pictures at about two thirds of their size
_BLUE = torch.tensor([8, 69, 148])


def tiles(images: Any, targets: Any = None, outputs: Any = None,
          classes: Sequence[str] = ()) -> tuple[torch.Tensor, list[str] | None] | None:
    """The first images of a batch, float `[N, C, H, W]` in [0, 1] in main memory, and their captions.

    Each channel is stretched. `images`: `[N, 1 or 3, H, W]`, or a batch that begins with them; its second
    part is the default of `targets`. Classes `[N]` become captions ("4 as 9": predicted wrongly, by `outputs`
    `[N, K]`). Masks `[N, H, W]` and images stand right of the input, and outputs of their shape after
    them. Returns None for anything else.
    """
    images, targets, outputs = map(_first_ones, _parts(images, targets, outputs))
    if images is None or not _are_images(images):
        return None
    if targets is not None and len(targets) == len(images) and _are_classes(targets) and targets.ndim == 1:
        return _stretched(images).cpu(), _captions(targets.tolist(), outputs, classes)
    predicts_classes = targets is not None and _are_classes(targets)
    beside = [_map_of(other, images, predicts_classes) for other in (targets, outputs)]
    shown = [_stretched(images), *(tile for tile in beside if tile is not None)]
    channels = max(tile.shape[1] for tile in shown)
    return torch.cat([tile.expand(-1, channels, -1, -1) for tile in shown], 3).cpu(), None


def _parts(batch: Any, targets: Any, outputs: Any) -> tuple[Any, Any, Any]:
    parts = [*batch.values()] if isinstance(batch, Mapping) else batch
    parts = parts if isinstance(parts, (list, tuple)) and parts else [parts]
    return parts[0], parts[1] if targets is None and len(parts) > 1 else targets, outputs


def _map_of(other: torch.Tensor | None, images: torch.Tensor, predicts_classes: bool) -> torch.Tensor | None:
    """A mask or an image as a picture; `[N, K, H, W]` as the likeliest classes. None if it does not fit."""
    if other is None or len(other) != len(images) or other.shape[-2:] != images.shape[-2:]:
        return None
    if predicts_classes and other.ndim == 4 and not _are_classes(other):
        other = other.argmax(1) if other.shape[1] > 1 else (other[:, 0] > 0).long()
    if _are_classes(other) and other.numel() == images[:, 0].numel():
        return _colored(other.reshape(images[:, 0].shape))
    return _stretched(other) if _are_images(other) else None


def _first_ones(batch: Any) -> torch.Tensor | None:
    """The first items of a tensor, large images and maps at fewer points; None for anything else."""
    if not isinstance(batch, torch.Tensor) or not batch.ndim or batch.layout is not torch.strided:
        return None
    batch = batch.detach()[:MOST_IMAGES]
    stride = -(-max(batch.shape[-2:]) // MOST_PX) if batch.ndim > 2 else 1
    return batch[..., ::stride, ::stride] if stride > 1 else batch


def _are_images(batch: torch.Tensor) -> bool:
    return batch.ndim == 4 and batch.shape[1] in (1, 3) and batch.numel() > 0


def _are_classes(batch: torch.Tensor) -> bool:
    return not batch.is_floating_point() and not batch.is_complex()


def _stretched(images: torch.Tensor) -> torch.Tensor:
    low, high = images.float().amin((0, 2, 3), keepdim=True), images.float().amax((0, 2, 3), keepdim=True)
    return (images.float() - low) / (high - low).clamp_min(1e-8)


def _colored(masks: torch.Tensor) -> torch.Tensor:
    # class 0 is black, and neighbours differ clearly
    return torch.stack([(masks.float() * factor).frac().abs() for factor in (0.618, 0.414, 0.732)], 1)


def _captions(targets: list[int], outputs: torch.Tensor | None, classes: Sequence[str]) -> list[str]:
    names = dict(enumerate(classes))
    captions = [str(names.get(int(target), target)) for target in targets]
    if outputs is None or outputs.ndim != 2 or outputs.shape[1] < 2 or len(outputs) != len(targets):
        return captions
    predicted = [str(names.get(number, number)) for number in outputs.argmax(1).tolist()]
    return [right if right == found else f"{right} as {found}"
            for right, found in zip(captions, predicted, strict=True)]


def draw_grid(images: torch.Tensor, captions: Sequence[str] | None = None):
    """A PIL image of `images` `[N, C, H, W]` in [0, 1] with borders, small ones enlarged, and captions."""
    from PIL import Image

    texts = [_label(caption, 160) for caption in captions or ()]
    scale = max(1, max([64, *(text.width for text in texts)]) // max(images.shape[2:]))
    height, width = (scale * size for size in images.shape[2:])
    cell_x = max([width, *(text.width for text in texts)]) + 6
    cell_y = height + 6 + (texts[0].height if texts else 0)
    columns = min(8, len(images), max(1, _GRID_PX // cell_x))
    images = images[:columns * max(1, _GRID_PX // cell_y)]
    grid = Image.new("RGB", (columns * cell_x, -(-len(images) // columns) * cell_y), "white")
    pixels = (images.expand(-1, 3, -1, -1) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    for number, tile in enumerate(pixels):
        x, y = number % columns * cell_x + 3, number // columns * cell_y + 3
        grid.paste("#888888", (x - 1, y - 1, x + width + 1, y + height + 1))  # the border
        grid.paste(Image.fromarray(tile.numpy()).resize((width, height), Image.Resampling.NEAREST), (x, y))
        if texts:
            grid.paste(texts[number], (x, y + height + 1))
    return grid


def draw_matrix(values: torch.Tensor, labels: Sequence[str] | None = None):
    """A PIL image of a matrix `[N, N]`, each row coloured by its shares; labels and numbers if they fit."""
    from PIL import Image

    stride = -(-len(values) // _GRID_PX)
    values = values.double().nan_to_num()[::stride, ::stride]
    size = max(1, min(48, 640 // len(values)))
    shares = (values / values.abs().sum(1, keepdim=True).clamp_min(1e-12)).clamp(0, 1)
    pixels = (255 - shares[..., None] * (255 - _BLUE)).byte()
    names = labels or range(len(values))
    texts = [_label(str(name), 120) for name in names] if size >= _TEXT_PX + 4 else []
    margin = max((text.width for text in texts), default=0)
    picture = Image.new("RGB", (margin + size * len(values),) * 2, "white")
    picture.paste(Image.fromarray(pixels.numpy()).resize((size * len(values),) * 2, Image.Resampling.NEAREST),
                  (margin, margin))
    for row, text in enumerate(texts):
        top = margin + row * size + (size - text.height) // 2
        picture.paste(text, (margin - text.width, top))
        picture.paste(text.rotate(90, expand=True), (top, margin - text.width))
        for column, value in enumerate(values[row].tolist()):
            cell = tuple(pixels[row, column].tolist())
            number = _label(f"{value:.3g}", _GRID_PX, cell, in_white=shares[row, column] > 0.5)
            if value and number.width <= size:
                picture.paste(number, (margin + column * size + (size - number.width) // 2, top))
    return picture


def _label(text: str, most_px: int, background: Any = "white", in_white: bool = False):
    """A PIL image of a text, cut at a width."""
    from PIL import Image, ImageDraw, ImageFont

    try:
        font = ImageFont.load_default(_TEXT_PX)
    except (TypeError, ImportError):  # Pillow before 10.1, or without FreeType: 11 px
        font = ImageFont.load_default()
    text = text.encode("latin-1", "replace").decode("latin-1")  # all that this font has
    label = Image.new("RGB", (min(most_px, int(font.getlength(text)) + 5), _TEXT_PX + 4), background)
    ImageDraw.Draw(label).text((2, 0), text, fill="white" if in_white else "black", font=font)
    return label


def png_of(picture: Any) -> bytes:
    """The content of a PNG file with a PIL image."""
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()
