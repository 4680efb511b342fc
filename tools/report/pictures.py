"""The pictures of a report, drawn with Pillow."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

_WHITE, _BLACK, _GRAY, _BLUE = (255, 255, 255), (0, 0, 0), (128, 128, 128), np.array([8, 81, 156])
_SHARP = Image.Resampling.NEAREST
_MAX_COUNTED, _NAME, _TILE, _COLUMNS, _SIDE = 30, 150, 144, 4, 480  # names, tiles and sides in pixels


def draw_confusion(confusion: np.ndarray, names: Sequence[str]) -> Image.Image:
    """The matrix `[K, K]`, a row for each true class. Up to 30 classes have their names and counts in it.

    A cell is as dark as the root of its part of the row, so that rare mistakes show. Of more names some are
    written.
    """
    number, font = len(names), ImageFont.load_default()
    counted = number <= _MAX_COUNTED
    cell = max(36, int(font.getlength(str(confusion.max()))) + 8) if counted else max(800 // number, 1)
    shares = np.sqrt(confusion / np.maximum(confusion.sum(1, keepdims=True), 1))
    colors = 255 - shares[..., None] * (255 - _BLUE)
    matrix = Image.fromarray(colors.round().astype(np.uint8)).resize((number * cell,) * 2, _SHARP)
    shown = [(place, _fit(names[place], font, _NAME)) for place in range(0, number, -(-14 // cell))]
    title, left = "rows: true; columns: predicted", 12 + max(int(font.getlength(name)) for _, name in shown)
    top, width = left + 20, left + max(matrix.width, int(font.getlength(title))) + 8
    picture = Image.new("RGB", (width, top + matrix.height + 8), _WHITE)
    picture.paste(matrix, (left, top))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left - 1, top - 1, left + matrix.width, top + matrix.height), outline=_GRAY)
    draw.text((left, 2), title, _BLACK, font)
    for place, name in shown:
        middle = place * cell + cell // 2
        draw.text((left - 5, top + middle), name, _BLACK, font, anchor="rm")
        label = Image.new("RGB", (left - 4, 14), _WHITE)
        ImageDraw.Draw(label).text((2, 7), name, _BLACK, font, anchor="lm")
        picture.paste(label.rotate(90, expand=True), (left + middle - 7, top - left + 2))
    for row, column in np.argwhere(confusion) if counted else ():
        color = _WHITE if shares[row, column] > 0.6 else _BLACK
        x, y = (place * cell + cell // 2 for place in (column, row))
        draw.text((left + x, top + y), str(confusion[row, column]), color, font, anchor="mm")
    return picture


def draw_mistakes(samples: Sequence[tuple[Any, str, str]]) -> Image.Image | None:
    """Samples with two lines of text each; None if they are no pictures."""
    pictures = [(_to_picture(sample), *lines) for sample, *lines in samples]
    if any(picture is None for picture, *_ in pictures):
        return None
    rows, font, high = -(-len(pictures) // _COLUMNS), ImageFont.load_default(), _TILE + 36
    whole = Image.new("RGB", (_COLUMNS * (_TILE + 8) + 8, rows * high + 20), _WHITE)
    draw = ImageDraw.Draw(whole)
    draw.text((8, 2), "the most confident mistakes: true class, predicted class", _BLACK, font)
    for number, (picture, *lines) in enumerate(pictures):
        x, y = 8 + number % _COLUMNS * (_TILE + 8), 20 + number // _COLUMNS * high
        scale = _TILE / max(picture.size)
        size = [max(round(side * scale), 1) for side in picture.size]
        whole.paste(picture.resize(size, _SHARP if scale > 2 else Image.Resampling.BILINEAR), (x, y))
        for line, text in enumerate(lines):
            draw.text((x, y + _TILE + 2 + 14 * line), _fit(text, font, _TILE), _BLACK, font)
    return whole


def _fit(text: str, font: Any, width: int) -> str:
    """A text cut to some pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def draw_residuals(points: np.ndarray) -> Image.Image:
    """Points (true, predicted) `[N, 2]`, and the line on which both are equal."""
    points = points[np.isfinite(points).all(1)]
    low, high = (float(points.min()), float(points.max())) if len(points) else (0.0, 1.0)
    scale, edge = (_SIDE - 1) / ((high - low) or 1.0), 40
    picture = Image.new("RGB", (_SIDE + 2 * edge,) * 2, _WHITE)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    draw.rectangle((edge, edge, edge + _SIDE, edge + _SIDE), outline=_GRAY)
    draw.line((edge, edge + _SIDE, edge + _SIDE, edge), fill=_GRAY)
    for x, y in np.round((points - low) * scale).astype(int):
        x, y = edge + x, edge + _SIDE - y
        draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=tuple(_BLUE))
    draw.text((edge, edge + _SIDE + 6), f"true, {low:.4g} to {high:.4g}", _BLACK, font)
    draw.text((edge, 16), "predicted, in the same range; on the line it is equal to true", _BLACK, font)
    return picture


def _to_picture(sample: Any) -> Image.Image | None:
    """The input of a sample as an RGB picture; None if it is none."""
    value = sample[0] if isinstance(sample, (tuple, list)) else sample
    if hasattr(value, "getbands"):
        return value.convert("RGB")
    if not isinstance(value, (torch.Tensor, np.ndarray)):
        return None
    pixels = np.asarray(value)
    pixels = pixels[0] if pixels.ndim == 4 else pixels
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        return None
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = ((pixels - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0).copy())
