"""Where the numbers of a run go, besides metrics.jsonl: the base class and the registry of writers."""
from collections.abc import Mapping
from pathlib import Path

import torch

from utils.config.registry import Registry


class Writer:
    """Receives what a run logs. Override what you need; whatever you leave out is dropped.

    Args:
        folder: the run's folder.
        start_step: the optimizer step from which the run goes on; points after it are about to be written again. None
            for a new run.

    `train.py --check` builds one, in a folder that does not stay, and closes it.

    All methods are called in order, by a thread of their own while training goes on, and get plain numbers or tensors on the
    CPU. After an OSError, of a full disk say, none is called again and training goes on; any other error ends it.
    """

    def __init__(self, folder: Path, start_step: int | None = None):
        self.folder, self.start_step = folder, start_step

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """`values` such as `{"train/loss": 0.1}` at an optimizer step."""

    def images(self, name: str, images: torch.Tensor, step: int) -> None:
        """`images`: float `[N, C, H, W]` in [0, 1]."""

    def histograms(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """The distributions of `tensors`, such as weights by their names."""

    def hparams(self, config: Mapping) -> None:
        """The flat config, `{"optimizer.args.lr": 0.001}`, to compare runs by; called when a run is new."""

    def close(self) -> None:
        """The run is over."""


WRITERS = Registry("writer", "logger", expects=Writer, provided=("folder", "start_step"))
