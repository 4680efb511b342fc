"""What trackers share: packages that may be missing, points that a kill has kept from them, pictures."""
import importlib.util
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from logger.pictures import draw_grid
from logger.writer import RunInfo
from utils.errors import ConfigError


def require_package(name: str, writer: str) -> None:
    """Raises ConfigError if a package is not installed. Imports nothing: that takes seconds."""
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"{writer} needs the package {name}, which is not installed: pip install {name}")


def points_before(run: RunInfo, after: int = -1) -> Iterator[tuple[int, dict[str, float]]]:
    """The points of a resumed run in metrics.jsonl, as (step, values): later than a step, up to start_step.

    A kill may have kept the last ones from a writer, which hears of a point a moment after that file.
    """
    file = run.folder / "metrics.jsonl"
    if run.start_step is None or not file.exists():
        return
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # half a line of a killed run
            return
        if after < line["step"] <= run.start_step:
            yield line["step"], {name: math.nan if value is None else value for name, value in line.items()
                                 if name not in ("step", "epoch")}


def picture_of(png: bytes):
    """The PIL image in the content of a PNG file."""
    from PIL import Image

    return Image.open(io.BytesIO(png)).convert("RGB")


class PointsOnce:
    """Points, images and histograms for a service whose steps only grow: what it has is not sent again.

    A subclass has `_run`, with a method `log(values, step)`; `_sent`, the last step that the service has; and
    `_library()`, the imported package with `Image` and `Histogram`.
    """

    def _log(self, values: Mapping, step: int) -> None:
        if self._run and step > self._sent:
            self._run.log({**values}, step=step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._log(values, step)

    def images(self, name: str, images: torch.Tensor, step: int,
               captions: Sequence[str] | None = None) -> None:
        self._log({name: self._library().Image(draw_grid(images, captions))}, step)

    def figure(self, name: str, png: bytes, step: int) -> None:
        self._log({name: self._library().Image(picture_of(png))}, step)

    def histograms(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        kind = self._library().Histogram
        self._log({name: kind(tensor.float().numpy().ravel()) for name, tensor in tensors.items()}, step)
