"""`train.py --profile`: where the time of training steps goes, as a trace for TensorBoard and Perfetto."""
import logging
import os
from pathlib import Path
from typing import Protocol

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

from base.base_data_loader import DataSplits
from utils.distributed import collectives as dist
from utils.training.progress import Position

log = logging.getLogger(__name__)
NUM_WARM = 3  # steps before the recorded ones: the first steps of a run are slow for other reasons
NUM_SHOWN = 10


class ProfiledTraining(Protocol):
    """What profiling needs of a trainer."""

    position: Position
    device: torch.device
    data: DataSplits
    accumulate: int


def run_tool(args, trainer: ProfiledTraining, run) -> "StepProfiler | None":
    """For `--profile [STEPS]`: what `trainer.train` takes as its profiler. Only the main process records."""
    return StepProfiler(trainer, run.folder, args.profile) if dist.is_main() else None


class StepProfiler:
    """Records steps of the first epoch for which it is entered, after some steps to warm up.

    Args:
        trainer: whose steps these are.
        folder: the run's folder; the trace goes into its `profile/`.
        num_steps: how many to record. If the epoch has fewer, all of them.
    """

    def __init__(self, trainer: ProfiledTraining, folder: Path, num_steps: int):
        self._trainer, self._folder, self._num_steps = trainer, folder, num_steps
        self._profiler: profile | None = None
        self._first_step = 0  # the first recorded one; 0 before the first epoch

    def __enter__(self):
        if self._first_step:  # in an epoch before
            return
        device, num_warm = self._trainer.device.type, _num_warm(self._trainer, self._num_steps)
        self._first_step = self._trainer.position.step + num_warm + 1
        if device == "cpu":
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it warns on stderr that there is no GPU
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
        self._profiler = profile(activities=activities, record_shapes=True, on_trace_ready=self._report,
                                 schedule=schedule(wait=0, warmup=num_warm, active=self._num_steps, repeat=1))
        self._profiler.start()

    def step(self) -> None:
        """Call after each step."""
        if self._profiler:
            self._profiler.step()
            if self._trainer.position.step >= self._first_step + self._num_steps - 1:
                self._stop()

    def __exit__(self, *error) -> None:
        if self._profiler:
            if self._trainer.position.step < self._first_step:
                log.warning("--profile: the epoch ended before step %d, with which the trace was to begin",
                            self._first_step)
            self._stop()

    def _stop(self) -> None:
        profiler, self._profiler = self._profiler, None
        profiler.stop()

    def _report(self, profiler: profile) -> None:
        """Writes the trace, and logs which operators took the most time."""
        first, last = self._first_step, self._trainer.position.step
        file = self._folder / "profile" / f"steps_{first}-{last}.pt.trace.json"
        try:
            file.parent.mkdir(exist_ok=True)
            profiler.export_chrome_trace(str(file))
            where = f"{file} (open it at https://ui.perfetto.dev, or in TensorBoard with torch-tb-profiler)"
        except (OSError, RuntimeError) as error:  # a trace that cannot be written must not end the run
            where = f"no file: {file} cannot be written: {error}"
        kind = "CUDA" if self._trainer.device.type == "cuda" else "CPU"
        log.info("Steps %d to %d: the operators that took the most time by themselves on the %s\n%s\n"
                 "The trace lies in %s", first, last, kind, costliest(profiler.key_averages(), kind), where)


def _num_warm(trainer: ProfiledTraining, num_steps: int) -> int:
    """Steps before the recorded ones: up to NUM_WARM if the epoch has as many left, else one if possible."""
    num_batches = trainer.data.num_batches("train")
    if num_batches is None:
        return NUM_WARM
    num_left = -(-(num_batches - trainer.position.batch) // trainer.accumulate)
    return min(NUM_WARM, max(num_left - num_steps, int(num_left > 1)))


def costliest(averages, kind: str) -> str:
    """A table of the operators with the most time of their own on the device `kind` ("CUDA" or "CPU")."""
    def own_ms(event) -> float:
        return (event.self_device_time_total if kind == "CUDA" else event.self_cpu_time_total) / 1000

    # a kernel is an event of the device; its time counts for the operator that starts it
    events = [e for e in averages if e.device_type == DeviceType.CPU and not e.key.startswith("ProfilerStep")]
    total_ms = sum(map(own_ms, events)) or 1.0
    rows = [f"  {'operator':<44} {'ms':>10} {'share':>7} {'calls':>8}"]
    rows += [f"  {event.key[:44]:<44} {own_ms(event):10.2f} {own_ms(event) / total_ms:7.1%} {event.count:8,}"
             for event in sorted(events, key=own_ms, reverse=True)[:NUM_SHOWN]]
    return "\n".join(rows)
