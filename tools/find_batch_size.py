"""`train.py --find-batch-size`: the largest batch for which a training step fits in the GPU's memory."""
import gc
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch

from base.base_data_loader import DataSplits
from base.data.sampler import Batch
from base.recovery import describe_out_of_memory
from logger.run_log import SilentRun
from utils.errors import ConfigError, TrainingError, describe_error
from utils.torch_messages import is_out_of_memory
from utils.training.non_finite_guard import NonFinite

log = logging.getLogger(__name__)


class TriedTraining(Protocol):
    """What this tool needs of a trainer."""

    data: DataSplits
    device: torch.device
    precision: str
    accumulate: int
    run: Any
    updaters: Mapping[str, Any]

    def optimizer_step(self, batches: list) -> None: ...
    def eval_values(self, number: int, batch: Batch) -> Mapping[str, Any]: ...
    def evaluating(self) -> AbstractContextManager: ...
    def set_mode(self, training: bool) -> None: ...
    def forget_step(self) -> None: ...
    def use_run(self, run: SilentRun) -> None: ...
    def errors_explained(self) -> AbstractContextManager: ...


def run_tool(args, setup, config: dict) -> None:
    """Runs `--find-batch-size`. Prints overrides, even with `-q`."""
    require_cuda(setup.trainer.device)
    print(find_batch_size(setup.trainer))


def require_cuda(device: torch.device) -> None:
    """Raises ConfigError if `device` is not a CUDA device: the memory limits of others are unknown."""
    if device.type != "cuda":
        raise ConfigError(f"--find-batch-size: measures the memory of a CUDA device, and this run is on "
                          f"{device}. Elsewhere choose data_loader.batch_size by hand.")


def find_batch_size(trainer: TriedTraining) -> str:
    """Tries sizes with a trainer that is ready to train. It cannot train afterwards. Logs a line for each.

    Returns the overrides that keep the effective batch size with batches that fit. Leaves no file behind.
    Raises TrainingError if not even one sample fits.
    """
    data = trainer.data
    effective, most = data.batch_size * trainer.accumulate, data.num_samples("train") or sys.maxsize
    trial = Trial(trainer)
    log.info("Trying steps of training and of evaluation in %s, from %d samples on:", trainer.precision,
             data.batch_size)
    with TemporaryDirectory() as folder, closing(data), trainer.errors_explained():
        trainer.use_run(SilentRun(Path(folder), bars=False))  # for the output of the trainer's own methods
        largest = largest_that_fits(trial, data.batch_size, most)
    if not largest:
        data.resize_batches(1, 1)
        raise TrainingError(describe_out_of_memory(trainer))
    roomy = max(largest * 9 // 10, 1)
    size, accumulate = split_batch_size(effective, roomy)
    log.info("The largest batch that fits: %s samples%s. Leave some 10 %% of head room, for larger samples "
             "and for memory in pieces: at most %s.", f"{largest:,}",
             " (all there are)" if largest == most else "", f"{roomy:,}")
    if size * accumulate != effective:
        log.info("No batch near that divides the effective batch of %d: here it becomes %d.", effective,
                 size * accumulate)
    return f"data_loader.batch_size={size} trainer.args.accumulate={accumulate}"


def largest_that_fits(fits: Callable[[int], bool], start: int, most: int, tolerance: float = 0.05) -> int:
    """The largest size from 1 to `most` with `fits(size)`, if all smaller ones fit, too; 0 if none fits.

    Doubles or halves `start` until one size fits and one does not. Then bisects until they differ by no more
    than 1 or `tolerance` of the size, and returns the size that fits.
    """
    good, bad = 0, None
    size = min(start, most)
    while size and bad != size:
        if fits(size):
            good = size
            if bad or good == most:
                break
            size = min(2 * good, most)
        else:
            bad = size
            size = 0 if good else bad // 2
    while good and bad and bad - good > max(tolerance * good, 1):
        size = (good + bad) // 2
        good, bad = (size, bad) if fits(size) else (good, size)
    return good


def split_batch_size(effective: int, most: int) -> tuple[int, int]:
    """(batch size up to `most`, batches per step) for an effective batch; for a close one if none divides."""
    divisor = next(size for size in range(min(effective, most), 0, -1) if effective % size == 0)
    if 2 * divisor > min(effective, most):
        return divisor, effective // divisor
    accumulate = -(-effective // most)
    return round(effective / accumulate), accumulate


class Trial:
    """Called with a number of samples: whether training steps and an evaluation step of this size fit.

    It makes two steps: the second one has optimizer state. A step has two micro-batches if the effective
    batch must be split: the second one has gradients. The learning rate is 0, so the weights do not change.
    """

    def __init__(self, trainer: TriedTraining):
        self._trainer, self._effective = trainer, trainer.data.batch_size * trainer.accumulate
        self._eval_follows = trainer.data.eval_batch_size == trainer.data.batch_size
        for updater in trainer.updaters.values():
            updater.hold_lr()
            for group in updater.optimizer.param_groups:
                group["lr"] = 0.0
        self._first_states = [{parameter: dict(state) for parameter, state in updater.optimizer.state.items()}
                              for updater in trainer.updaters.values()]

    def __call__(self, size: int) -> bool:
        device, data = self._trainer.device, self._trainer.data
        data.resize_batches(size, size if self._eval_follows else data.eval_batch_size)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            fits = self._make_steps(size)
        except (ConfigError, TrainingError, NonFinite):
            raise
        except Exception as error:
            if not is_out_of_memory(error):
                raise ConfigError(f"A step with {size} samples was tried, and failed: "
                                  f"{describe_error(error)}\n(--verbose shows the traceback)") from error
            fits = False
        self._free_memory()  # after the handler, since its error keeps tensors alive
        peak = (f", at most {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB"
                if device.type == "cuda" else "")
        log.info("  %8s  %s%s", f"{size:,}", "fits" if fits else "does not fit", peak)
        return fits

    def _make_steps(self, size: int) -> bool:
        trainer, data = self._trainer, self._trainer.data
        batch = data.first_batch("train")
        trainer.set_mode(training=True)
        for _ in range(2):
            trainer.optimizer_step([batch] * (1 if size >= self._effective else 2))
        for split in data.sets("val"):
            held_out = data.first_batch(split)
            with trainer.evaluating():
                trainer.eval_values(0, held_out)
        return batch.num_samples >= size  # a stream may give fewer samples

    def _free_memory(self) -> None:
        """Frees everything that complete or failed steps leave in memory."""
        trainer = self._trainer
        trainer.forget_step()
        for updater, first in zip(trainer.updaters.values(), self._first_states, strict=True):
            updater.abandon_step()
            updater.optimizer.state.clear()
            updater.optimizer.state.update({parameter: dict(state) for parameter, state in first.items()})
        if torch.cuda.is_available():
            gc.collect()  # frames of an error may hold each other, and tensors, in a cycle
            torch.cuda.empty_cache()
