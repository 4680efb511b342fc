"""All that a run writes: numbers, images, histograms and checkpoints in its folder, lines on the console."""
import io
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from logger.arrays_file import write_arrays
from logger.feeder import Feeder
from logger.metrics_file import MetricsFile, SummaryFile
from logger.writer import Writer
from utils.checkpoint.store import CheckpointStore
from utils.distributed.group import is_peer_failure
from utils.config.suggestions import MOST_SHOWN
from utils.run_record import outcome_of, record_end
from utils.training.timers import describe_times

log = logging.getLogger(__name__)


class SilentStore:
    """Replaces a CheckpointStore if another process writes."""

    num_failures = 0

    def save(self, *args, **kwargs) -> None:
        """Does nothing."""

    join = check = finish = save


class SilentRun:
    """Replaces a RunLog if nothing is to be kept: in preflight and tools, in evaluation outside of training,
    and in all processes except the main one."""

    def __init__(self, folder: Path | None = None, bars: bool = True, store: CheckpointStore | None = None):
        self.folder, self.bars, self.store = folder, bars, store or SilentStore()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if not is_peer_failure(error):  # else it would wait for processes that do not answer
            self.store.join()

    def to_checkpoint(self) -> dict:
        return {}

    def scalars(self, *args, **kwargs) -> None:
        """Does nothing."""

    start_epoch = step = epoch = arrays = images = histograms = summarize = end = event = scalars
    text = table = figure = audio = matrix = scalars


class _Events(logging.Handler):
    """Passes on messages that were logged with `extra={"event": KIND}`."""

    def __init__(self, send: Callable[[str, str], None]):
        super().__init__()
        self._send = send
        # a filter is asked before the handler's lock, for which the thread of writers must not wait
        self.addFilter(lambda record: hasattr(record, "event"))

    def emit(self, record: logging.LogRecord) -> None:
        self._send(record.event, record.getMessage())


class RunLog:
    """Writes a run's folder. As a context manager, its exit waits for the last save and closes all files.

    Args:
        folder: `saved/<name>/<run>`.
        store: the run's checkpoint store.
        writers: writers besides metrics.jsonl.
        bars: whether to show progress bars on a terminal.
        resumed: whether the run goes on. Then no failure of a writer ends it.
        config: the flat config, as summary.json shows it.
    """

    def __init__(self, folder: Path, store: CheckpointStore, writers: list[Writer] = (), bars: bool = True,
                 resumed: bool = False, config: Mapping[str, Any] | None = None):
        self.folder, self.store, self.bars = folder, store, bars
        self.metrics_file, self.feeder = MetricsFile(folder), Feeder(writers, resumed)
        self.summary_file, self._events = SummaryFile(folder, config or {}), _Events(self.event)
        if self.feeder.wants("checkpoint"):
            store.report_to(partial(self.feeder.send, "checkpoint"))

    def __enter__(self):
        logging.getLogger().addHandler(self._events)
        return self

    def __exit__(self, kind, error, trace):
        if not is_peer_failure(error):  # else it would wait for processes that do not answer
            self.store.join()
        self.metrics_file.close()
        logging.getLogger().removeHandler(self._events)
        outcome, reason = outcome_of(error)
        try:
            if error is not None:
                self.event(outcome, reason)
            self.feeder.close(outcome, reason)
        except Exception as late:
            if error is None:
                raise
            log.warning("a writer failed, too: %s: %s",  # the error that ends the run is reported elsewhere
                        type(late).__name__, late)

    def to_checkpoint(self) -> dict[str, MetricsFile]:
        """The state for a checkpoint: the number of lines in metrics.jsonl."""
        return {"metrics_file": self.metrics_file}

    def start_epoch(self) -> None:
        """Starts the clocks for `step` and `epoch`."""
        self._epoch_started = self._last_step = time.monotonic()

    def step(self, values: Mapping[str, float], epoch: int, step: int, num_samples: int) -> None:
        """Logs a point within an epoch; `num_samples` were trained on since the previous point."""
        before, self._last_step = self._last_step, time.monotonic()
        speed = num_samples / max(self._last_step - before, 1e-9)
        self.scalars(values, epoch, step, {"speed/samples_per_s": speed})

    def epoch(self, values: Mapping[str, float], epoch: int, epochs: int, step: int, improved: bool,
              seconds_of: dict[str, float], sets: Iterable[str] = ()) -> None:
        """Logs an epoch, also as `epoch  3/10  train loss 0.1234 | val loss ... | 1.2 s (...)  * best`.

        This line goes to the console. `seconds_of`: how the time since the last epoch was spent. `sets`: the
        names of val; what has another name is a metric with several values.
        """
        elapsed_s = time.monotonic() - self._epoch_started
        self.scalars(values, epoch, step, {"speed/epoch_s": elapsed_s, **{
            f"speed/{name.replace(' ', '_')}_s": seconds for name, seconds in seconds_of.items()}})
        groups: dict[str, dict[str, float]] = {}
        for name, value in values.items():
            group, _, rest = name.rpartition("/")  # a group for each set of val
            groups.setdefault(group, {})[rest] = value
        parts = " | ".join(_describe_group(group, items, group not in ("train", "lr", *sets))
                           for group, items in groups.items())
        best = "  * best" if improved else ""
        log.info("epoch %*d/%d  %s | %.1f s (%s)%s", len(str(epochs)), epoch, epochs, parts, elapsed_s,
                 describe_times(seconds_of), best)

    def arrays(self, split: str, arrays: Mapping[str, Mapping], epoch: int) -> None:
        """Writes what the metrics of a split computed beside numbers, by metric and name."""
        write_arrays(self.folder, split, arrays, epoch)

    def summarize(self, progress: Mapping[str, Any], scores: Mapping[str, float] | None = None) -> None:
        """Writes summary.json: the epochs, steps and best value so far, and the scores of an evaluation."""
        self.summary_file.write("running", progress, scores)

    def end(self, outcome: str, reason: str | None, progress: Mapping[str, Any]) -> None:
        """Records how this start ended: finished, stopped or failed."""
        self.summary_file.write(outcome, progress, reason=reason)
        record_end(self.folder, outcome, reason, progress)

    def scalars(self, values: Mapping[str, float], epoch: int, step: int,
                timings: Mapping[str, float] | None = None) -> None:
        """Writes `values` to metrics.jsonl and writers. Only writers get `timings`, which vary by run."""
        values = {name: float(value.detach() if isinstance(value, torch.Tensor) else value)
                  for name, value in values.items()}
        self.metrics_file.write(values, epoch, step)
        self.feeder.send("scalars", {**values, **(timings or {})}, step)

    def images(self, name: str, images, step: int, classes: Sequence[str] = ()) -> None:
        """Logs 32 of `images` `[N, C, H, W]`, stretched to [0, 1], or of `(images, integer labels [N])`."""
        batch = images if isinstance(images, (tuple, list)) else (images,)
        images, labels = (*batch, None, None)[:2]
        if (not self.feeder.wants("images") or not isinstance(images, torch.Tensor) or images.ndim != 4
                or images.shape[1] not in (1, 3)):
            return
        images = images[:32].detach().float().cpu()
        low, high = images.amin((0, 2, 3), keepdim=True), images.amax((0, 2, 3), keepdim=True)
        self.feeder.send("images", name, (images - low) / (high - low).clamp_min(1e-8), step,
                         _label_names(labels, len(images), classes))

    def histograms(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """Logs the distributions of `tensors`, such as weights by their names."""
        if self.feeder.wants("histograms"):
            copies = {name: tensor.detach().to("cpu", copy=True)  # training changes the originals
                      for name, tensor in tensors.items()}
            self.feeder.send("histograms", copies, step)

    def text(self, name: str, text: str, step: int) -> None:
        self.feeder.send("text", name, text, step)

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence], step: int) -> None:
        self.feeder.send("table", name, list(columns), [list(row) for row in rows], step)

    def figure(self, name: str, figure: Any, step: int) -> None:
        """Logs a figure of matplotlib, drawn here and now: it may be changed or closed afterwards."""
        if self.feeder.wants("figure"):
            png = io.BytesIO()
            figure.savefig(png, format="png")
            self.feeder.send("figure", name, png.getvalue(), step)

    def audio(self, name: str, samples: torch.Tensor, rate_hz: int, step: int) -> None:
        """Logs a sound: `samples` `[T]` or `[C, T]` in [-1, 1]."""
        if self.feeder.wants("audio"):
            samples = samples.detach().to("cpu", torch.float32, copy=True)
            self.feeder.send("audio", name, torch.atleast_2d(samples), rate_hz, step)

    def matrix(self, name: str, values: torch.Tensor, labels: Sequence[str] | None, step: int) -> None:
        """Logs a matrix `[N, N]`, such as a confusion matrix, with the labels of its rows and columns."""
        if self.feeder.wants("matrix"):
            self.feeder.send("matrix", name, values.detach().to("cpu", copy=True), labels, step)

    def hparams(self, config: Mapping, changed: Mapping | None = None) -> None:
        self.feeder.send("hparams", config, changed)

    def event(self, kind: str, text: str) -> None:
        self.feeder.send("event", kind, text)


def _label_names(labels: Any, number: int, classes: Sequence[str]) -> list[str] | None:
    """The names of the first labels of a batch; None if they are not integers `[N]`."""
    if not isinstance(labels, torch.Tensor) or labels.ndim != 1 or labels.is_floating_point():
        return None
    return [classes[label] if 0 <= label < len(classes) else str(label)
            for label in labels[:number].tolist()]


def _describe_group(group: str, values: Mapping[str, float], is_metric: bool) -> str:
    if is_metric and len(values) > MOST_SHOWN:
        numbers = [value for value in values.values() if not math.isnan(value)] or [math.nan]
        return (f"{group} {len(values)} values, see metrics.jsonl: min {min(numbers):.4f} mean "
                f"{sum(numbers) / len(numbers):.4f} max {max(numbers):.4f}")
    shown = {name: f"{value:.3g}" if group == "lr" else f"{value:.4f}" for name, value in values.items()}
    return " ".join([group, *(text if name == "optimizer" else f"{name} {text}"
                              for name, text in shown.items())])
