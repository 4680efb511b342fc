"""The base class and the registry of writers: where the numbers of a run go, besides metrics.jsonl."""
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from utils.config.blocks import as_block
from utils.config.registry import Library, Registry, defined_in
from utils.errors import ConfigError


@dataclass(frozen=True)
class RunInfo:
    """What a writer learns of its run.

    `name`: of the experiment. `run_name`: of its folder. `id`: made once, the same after each resume.
    `config`: as built, values from environment variables masked. `command`: of this start. `commit`: of git,
    if any. `resumed`: whether the run was begun earlier. `start_step`: the optimizer step from which it
    resumes: later points will be written again. None for a new run, and in test.py, which sends only scores.
    """

    name: str
    run_name: str
    id: str
    folder: Path
    config: Mapping[str, Any]
    command: Sequence[str] = ()
    commit: str | None = None
    resumed: bool = False
    start_step: int | None = None


class Writer:
    """Receives what a run logs. Override the methods you need. The others drop their input.

    A constructor takes `run` (a RunInfo), or `folder` and `start_step` of it, and arguments of the config.

    `train.py --check` builds each writer in a temporary folder, and closes it. One that talks to a service
    has `outside = True` in its class: only `--check --writers` builds it.

    A separate thread calls all methods in order during training, with plain numbers or CPU tensors. After an
    error the writer is not called again, and training continues; a warning says so, at once and at the end.
    Only an error in the first call of a new run (but OSError: a full disk, no network) ends it, as a mistake.
    """

    outside = False

    def __init__(self, folder: Path, start_step: int | None = None, run: RunInfo | None = None):
        self.folder, self.start_step, self.run = folder, start_step, run

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """`values` such as `{"train/loss": 0.1}` at an optimizer step."""

    def images(self, name: str, images: torch.Tensor, step: int,
               captions: Sequence[str] | None = None) -> None:
        """`images`: float `[N, C, H, W]` in [0, 1]. `captions`: such as classes; can be left out."""

    def histograms(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """The distributions of `tensors`, such as weights by their names."""

    def text(self, name: str, text: str, step: int) -> None:
        """A text, such as a sample of a language model."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence], step: int) -> None:
        """`rows` of plain values, as many in each as there are `columns`."""

    def figure(self, name: str, png: bytes, step: int) -> None:
        """A picture, as the content of a PNG file."""

    def audio(self, name: str, samples: torch.Tensor, rate_hz: int, step: int) -> None:
        """`samples`: float `[C, T]` in [-1, 1]."""

    def matrix(self, name: str, values: torch.Tensor, labels: Sequence[str] | None, step: int) -> None:
        """`values` `[N, N]`, such as a confusion matrix, with the `labels` of its rows and columns."""

    def hparams(self, config: Mapping, changed: Mapping | None = None) -> None:
        """The flat config without defaults, `{"optimizer.args.lr": 0.001}`, at every start.

        `changed`: what a resume has changed since the checkpoint; None for a new run. A writer whose method
        does not take it is called for a new run only.
        """

    def best(self, name: str, value: float, epoch: int, step: int) -> None:
        """After each evaluation: the best value of the monitor so far, and the epoch that had it."""

    def event(self, kind: str, text: str) -> None:
        """`kind`: resumed, skipped_steps, skipped_samples, early_stop, stopped, failed, or of a trainer."""

    def checkpoint(self, path: Path, epoch: int, best: bool) -> None:
        """A file that is safely on disk; a later one may replace it. `best`: the best so far, by monitor."""

    def scores(self, split: str, values: Mapping[str, float]) -> None:
        """`{"test/loss": 0.1}`, from test.py; `--writers` sends them to writers with `outside` also."""

    def close(self, outcome: str = "finished", reason: str | None = None) -> None:
        """The end: finished, stopped or failed, and why; in test.py: scored, in --check: checked."""


WRITERS = Registry("writer", "logger", expects=Writer, provided=("folder", "start_step", "run"), libraries=[
    Library("any report of tools/report/", partial(defined_in, "tools/report/page", Writer)),
    Library("any tracker of logger/trackers/", partial(defined_in, "logger/trackers", Writer))])


def build_writer(block: Any, where: str, run: RunInfo) -> Writer:
    """Builds what a block names. It gets `run` if its constructor has this parameter. Raises ConfigError."""
    takes = inspect.signature(WRITERS.get(as_block(block)["type"])).parameters
    given = {"folder": run.folder, "start_step": run.start_step, "run": run}
    names = takes.keys() & given.keys() if "run" in takes else ("folder", "start_step")
    try:
        return WRITERS.build(block, where, **{name: given[name] for name in names})
    except ConfigError as error:  # of the writer itself, which does not know its place in the config
        raise error if error.faults else ConfigError.at(where, str(error)) from error
