"""report.json: what the page shows and no other file of a run has. Its size is bounded."""
import base64
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.runs.reading import read_json
from utils.run_files import replace_file

FILE = "report.json"
_SIDES_PX = (128, 96, 64, 48, 32)  # the height of a tile: the first with which all fit
_TILES_SIZE, _PICTURE_SIZE = 150_000, 150_000  # bytes
_MOST_PACKED = 3  # how many times smaller a PNG file may be: larger tiles are not tried
_MOST_NAMES, _MOST_POINTS, _MOST_EVENTS, _MOST_ROWS = 6, 600, 200, 50
_MOST_CLASSES, _LONGEST_TEXT = 1000, 4000


class Kept:
    """Pictures, matrices, texts and tables by name, the latest of each; the speed; events.

    Args:
        folder: the run's. What is there already is kept, up to `start_step`.
    """

    def __init__(self, folder: Path, start_step: int | None = None):
        self.file, self.changed = folder / FILE, False
        self.content = read_kept(folder)
        for name, points in self.content["speed"].items():
            self.content["speed"][name] = [point for point in points if start_step is None
                                           or isinstance(point, list) and point[0] <= start_step]

    def write(self) -> None:
        """Writes the file if there is something new. Raises OSError."""
        if self.changed:
            replace_file(self.file, json.dumps(self.content))
            self.changed = False

    def put(self, kind: str, name: str, step: int, **values: Any) -> None:
        """Keeps the latest of a name, and of many names the last ones."""
        named = self.content[kind]
        named.pop(name, None)
        named[name] = {"step": step, **values}
        while len(named) > _MOST_NAMES:
            del named[next(iter(named))]
        self.changed = True

    def images(self, name: str, images: torch.Tensor, step: int, labels: Sequence[str] | None) -> None:
        """Float images `[N, C, H, W]` in [0, 1], made smaller where they are large."""
        tiles: list[bytes] = []
        for side in _SIDES_PX:
            shrunk = _shrunk(images, side)
            if sum(pixels.size for pixels in shrunk) > _MOST_PACKED * _TILES_SIZE:
                continue
            tiles = [png_of(pixels) for pixels in shrunk]
            if sum(map(len, tiles)) <= _TILES_SIZE:
                break
        self.put("images", name, step, tiles=[*map(_in_base64, tiles)],
                 labels=[str(label)[:60] for label in labels] if labels else [], of=len(images))

    def matrix(self, name: str, values: torch.Tensor, labels: Sequence[str] | None, step: int) -> None:
        """A matrix `[N, N]`, if it is not larger than the page can show."""
        if values.ndim == 2 and len(values) <= _MOST_CLASSES:
            self.put("matrices", name, step, values=values.tolist(),
                     labels=[str(label)[:60] for label in labels] if labels else [])

    def figure(self, name: str, png: bytes, step: int) -> None:
        """A PNG file; of one that is too large only that it was there."""
        self.put("figures", name, step, png=_in_base64(png) if len(png) <= _PICTURE_SIZE else None)

    def text(self, name: str, text: str, step: int) -> None:
        """The beginning of a text."""
        self.put("texts", name, step, text=text[:_LONGEST_TEXT])

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence], step: int) -> None:
        """The first rows of a table."""
        plain = [[cell if type(cell) in (int, float) else str(cell)[:100] for cell in row[:20]]
                 for row in rows[:_MOST_ROWS]]
        self.put("tables", name, step, columns=[str(column)[:60] for column in columns[:20]], rows=plain)

    def speed(self, values: Mapping[str, float], step: int) -> None:
        """Points of the speed; of many every second one is dropped."""
        for name, value in values.items():
            points = self.content["speed"].setdefault(name, [])
            points.append([step, value])
            if len(points) > _MOST_POINTS:
                del points[::2]
            self.changed = True

    def event(self, kind: str, text: str) -> None:
        """What happened, with the time."""
        now = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        self.content["events"] = [*self.content["events"], [now, kind[:60], text[:400]]][-_MOST_EVENTS:]
        self.changed = True


def read_kept(folder: Path) -> dict[str, Any]:
    """The content of report.json; empty tables for what is missing or cannot be read."""
    empty = {kind: {} for kind in ("images", "matrices", "figures", "texts", "tables", "speed")}
    found = read_json(folder / FILE)
    whole = {**empty, "events": []}
    return {kind: found[kind] if type(found.get(kind)) is type(value) else value
            for kind, value in whole.items()}


def png_of(pixels: np.ndarray) -> bytes:
    """The PNG file of uint8 `[H, W]` or `[H, W, 3]`."""
    height, width = pixels.shape[:2]
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0))).tobytes()  # 0: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows))
            + _chunk(b"IEND", b""))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (struct.pack(">I", len(content)) + kind + content
            + struct.pack(">I", zlib.crc32(kind + content)))


def _shrunk(images: torch.Tensor, side: int) -> list[np.ndarray]:
    """Images as uint8 `[H, W]` or `[H, W, 3]`, at most `side` pixels high, and three times as wide."""
    scale = side / max(images.shape[2], images.shape[3] / 3)
    if scale < 1:
        size = [max(round(length * scale), 1) for length in images.shape[2:]]
        images = torch.nn.functional.interpolate(images, size, mode="area")
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [*(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)]


def _in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
