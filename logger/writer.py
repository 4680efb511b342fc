"""The base class and the registry of writers: where the numbers of a run go, besides metrics.jsonl."""
from collections.abc import Mapping
from pathlib import Path

import torch

from utils.config.registry import Registry


class Writer:
    """Receives what a run logs. Override the methods you need. The others drop their input.

    Args:
        folder: the run's folder.
        start_step: the optimizer step from which a run resumes; later points will be written again. None for
            a new run.

    `train.py --check` builds each writer in a temporary folder, and closes it. One that talks to a service
    has `outside = True` in its class: only `--check --writers` builds it.

    A separate thread calls all methods in order during training, with plain numbers or CPU tensors. After an
    error the writer is not called again, and training continues; a warning says so, at once and at the end.
    Only an error in the first call of a new run (but OSError: a full disk, no network) ends it, as a mistake.
    """

    outside = False

    def __init__(self, folder: Path, start_step: int | None = None):
        self.folder, self.start_step = folder, start_step

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """`values` such as `{"train/loss": 0.1}` at an optimizer step."""

    def images(self, name: str, images: torch.Tensor, step: int) -> None:
        """`images`: float `[N, C, H, W]` in [0, 1]."""

    def histograms(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """The distributions of `tensors`, such as weights by their names."""

    def hparams(self, config: Mapping) -> None:
        """The flat config without defaults, `{"optimizer.args.lr": 0.001}`. Called only for a new run."""

    def close(self) -> None:
        """Called at the end of the run."""


WRITERS = Registry("writer", "logger", expects=Writer, provided=("folder", "start_step"))
