"""The pictures of a report, drawn with Pillow."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

_WHITE, _BLACK, _BLUE = (255, 255, 255), (0, 0, 0), np.array([8, 81, 156])
_SHARP = Image.Resampling.NEAREST
_MAX_NAMED, _TILE, _COLUMNS, _SIDE = 30, 112, 4, 480


def draw_confusion(confusion: np.ndarray, names: Sequence[str]) -> Image.Image:
    """The matrix `[K, K]`, a row for each true class; colours show the part of the row."""
    number = len(names)
    named = number <= _MAX_NAMED
    cell = 36 if named else max(900 // number, 1)
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    colors = 255 - shares[..., None] * (255 - _BLUE)
    matrix = Image.fromarray(colors.round().astype(np.uint8)).resize((number * cell,) * 2, _SHARP)
    font = ImageFont.load_default()
    left = 8 + max(int(font.getlength(name[:24])) for name in names) if named else 16
    top = left + 20
    picture = Image.new("RGB", (left + matrix.width + 8, top + matrix.height + 8), _WHITE)
    picture.paste(matrix, (left, top))
    draw = ImageDraw.Draw(picture)
    draw.text((left, 2), "columns: predicted; rows: true", _BLACK, font)
    for place, name in enumerate(names if named else ()):
        middle = place * cell + cell // 2
        draw.text((left - 4, top + middle), name[:24], _BLACK, font, anchor="rm")
        label = Image.new("RGB", (left, cell), _WHITE)
        ImageDraw.Draw(label).text((4, cell // 2), name[:24], _BLACK, font, anchor="lm")
        picture.paste(label.rotate(90, expand=True), (left + place * cell, top - left))
        for column, count in enumerate(confusion[place]):
            if count:
                color = _WHITE if shares[place, column] > 0.5 else _BLACK
                x = left + column * cell + cell // 2
                draw.text((x, top + middle), str(count), color, font, anchor="mm")
    return picture


def draw_mistakes(samples: Sequence[tuple[Any, str, str]]) -> Image.Image | None:
    """Samples with two lines of text each; None if they are no pictures."""
    pictures = [(_to_picture(sample), *lines) for sample, *lines in samples]
    if any(picture is None for picture, *_ in pictures):
        return None
    rows, font, high = -(-len(pictures) // _COLUMNS), ImageFont.load_default(), _TILE + 32
    whole = Image.new("RGB", (_COLUMNS * (_TILE + 8) + 8, rows * high + 8), _WHITE)
    draw = ImageDraw.Draw(whole)
    for number, (picture, *lines) in enumerate(pictures):
        x, y = 8 + number % _COLUMNS * (_TILE + 8), 8 + number // _COLUMNS * high
        scale = _TILE / max(picture.size)
        size = [max(round(side * scale), 1) for side in picture.size]
        whole.paste(picture.resize(size, _SHARP if scale > 2 else Image.Resampling.BILINEAR), (x, y))
        for line, text in enumerate(lines):
            draw.text((x, y + _TILE + 2 + 12 * line), text[:20], _BLACK, font)
    return whole


def draw_residuals(points: np.ndarray) -> Image.Image:
    """Points (true, predicted) `[N, 2]`, and the line on which both are equal."""
    points = points[np.isfinite(points).all(1)]
    low, high = (float(points.min()), float(points.max())) if len(points) else (0.0, 1.0)
    scale, edge = (_SIDE - 1) / ((high - low) or 1.0), 40
    picture = Image.new("RGB", (_SIDE + 2 * edge,) * 2, _WHITE)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    draw.rectangle((edge, edge, edge + _SIDE, edge + _SIDE), outline=(128, 128, 128))
    draw.line((edge, edge + _SIDE, edge + _SIDE, edge), fill=(128, 128, 128))
    for x, y in np.round((points - low) * scale).astype(int):
        x, y = edge + x, edge + _SIDE - y
        draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=tuple(_BLUE))
    draw.text((edge, edge + _SIDE + 6), f"true, {low:.4g} to {high:.4g}", _BLACK, font)
    draw.text((edge, 16), "predicted", _BLACK, font)
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
