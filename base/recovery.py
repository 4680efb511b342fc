"""Handling of failed steps: explain them, undo them, repeat them in smaller pieces if memory is too small."""
import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from base.base_metric import as_values
from base.nan_report import report_non_finite
from utils.errors import ConfigError, TrainingError
from utils.moved import former_names_of
from utils.torch_messages import is_out_of_memory
from utils.training.non_finite_guard import NonFinite

__getattr__ = former_names_of(__name__)

log = logging.getLogger(__name__)


@contextmanager
def errors_explained(trainer):
    """Turns a non-finite loss or a lack of memory inside into a TrainingError that says what helps."""
    try:
        yield
    except NonFinite as error:
        raise TrainingError(report_non_finite(trainer, error)) from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"{trainer.position}: {describe_out_of_memory(trainer)}") from error


def make_step(trainer, window: list[tuple[int, Any]]) -> tuple[list, bool | torch.Tensor]:
    """One optimizer step: what `trainer.run_window` returned, and whether the step was skipped (non-finite).

    If memory is too small, the step is undone and repeated in smaller pieces, if `on_oom` allows it.
    """
    before = StepSnapshot(trainer) if trainer.guard.tolerated or trainer.splitting.enabled else None
    step = trainer.position.step
    trainer.step_seeds.begin(step)
    try:
        while (values := trainer.splitting.attempt(trainer.run_window, window)) is None:
            before.undo_passes()
        skipped = trainer.guard.end_step()
        trainer.step_seeds.end(step)
    except NonFinite as error:
        error.window = window
        raise
    if skipped is not False:
        before.restore(skipped)
    return values, skipped


def evaluate_batch(trainer, number: int, batch: tuple[int, Any]) -> list[tuple[Mapping[str, Any], int]]:
    """(values, number of samples) of an evaluation batch; in pieces if memory is too small for the whole."""
    kept = trainer.metrics.snapshot() if trainer.splitting.enabled else None

    def evaluate(pieces):
        trainer.seed_for("eval", number)
        values = []
        for count, piece in pieces:
            trainer.metrics.padding = count == 0
            prepared = trainer.data.prepare(piece, trainer.device, trainer.channels_last)
            values.append((as_values(trainer.eval_step(prepared)), count))
        return values

    while (values := trainer.splitting.attempt(evaluate, [batch])) is None:
        trainer.metrics.restore(kept)
    return values


class StepSnapshot:
    """The state before a step, except gradients and weights: buffers, metrics, a trainer's own parts."""

    def __init__(self, trainer):
        self._trainer, self._metrics = trainer, trainer.metrics.snapshot()
        parts = [trainer.unwrapped_model] + [trainer.loss] * isinstance(trainer.loss, nn.Module)
        modules = [module for part in parts for module in part.modules()]
        # by name: a module may replace a tensor by a new one
        self._buffers = [(module, name, buffer.clone()) for module in modules
                         for name, buffer in module.named_buffers(recurse=False)]
        known = [trainer.unwrapped_model, trainer.loss, trainer.position, trainer.totals, trainer.metrics,
                 trainer.monitor, trainer.splitting, trainer.guard, trainer.ema, trainer.data.place,
                 trainer.step_seeds, *trainer.updaters.values()]
        own = [part for name, part in trainer.state.items()
               if name != "metrics_file" and not any(part is k for k in known)]
        self._own = [(part, copy.deepcopy(part.state_dict())) for part in own]

    @torch.no_grad()
    def restore(self, skipped: bool | torch.Tensor = True) -> None:
        """Restores the state. With a 0-dim bool tensor the device decides; buffers need no wait for it."""
        for module, name, before in self._buffers:
            now = getattr(module, name)
            if now.shape != before.shape:
                setattr(module, name, now := before.clone())
            now.copy_(torch.where(skipped, before, now) if isinstance(skipped, torch.Tensor) else before)
        if (self._own or self._trainer.metrics.objects) and bool(skipped):
            self._trainer.metrics.restore(self._metrics)
            for part, before in self._own:
                part.load_state_dict(copy.deepcopy(before))

    def undo_passes(self) -> None:
        """Undoes passes that ran out of memory. Raises TrainingError if an optimizer step is half done."""
        trainer, updaters = self._trainer, self._trainer.updaters.values()
        if any(updater.stepping for updater in updaters):
            raise TrainingError(f"{trainer.position}, in the optimizer: {describe_out_of_memory(trainer)}")
        self.restore()
        for updater in updaters:
            updater.optimizer.zero_grad(set_to_none=True)
        trainer.guard.skipped = False
        trainer.step_seeds.begin(trainer.position.step)


class Splitting:
    """Halves batches until memory suffices: more pieces per step, the same samples in the same order.

    `num_pieces` grows as needed and never shrinks. It is part of the state: sums in another order differ in
    the last bits. BatchNorm sees the smaller batches.
    """

    def __init__(self, enabled: bool = True):
        self.enabled, self.num_pieces = enabled, 1

    def pieces(self, window: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        """The batches of a window as (number of samples, batch), each in up to `num_pieces` pieces."""
        if self.num_pieces == 1:
            return window
        return [piece for count, batch in window for piece in _pieces(count, batch, self.num_pieces)]

    def attempt(self, step: Callable, window: list[tuple[int, Any]]):
        """The result of `step(pieces)`; None if memory was too small, and then the pieces are halved."""
        try:
            return step(self.pieces(window))
        except RuntimeError as error:
            if not self.enabled or not is_out_of_memory(error) or (
                    self.num_pieces >= max(count for count, _ in window)):
                raise
            self.num_pieces *= 2
            log.warning("out of memory: from here on every batch is taken in %d pieces, at the same "
                        "effective batch",
                        self.num_pieces)
        if torch.cuda.is_available():  # after the handler, whose error keeps the tensors alive
            torch.cuda.empty_cache()
        return None

    def state_dict(self) -> dict:
        return {"num_parts": self.num_pieces}

    def load_state_dict(self, state: dict) -> None:
        self.num_pieces = max(int(state["num_parts"]), 1)


def _pieces(count: int, batch: Any, num_pieces: int) -> Iterator[tuple[int, Any]]:
    bounds = [number * count // num_pieces for number in range(num_pieces + 1)]
    for first, last in zip(bounds, bounds[1:], strict=False):
        if first < last:
            yield (count.piece(slice(first, last)),
                   _slice_samples(batch, slice(first, last), count, whole=True))


def _slice_samples(batch: Any, piece: slice, count: int, whole: bool = False) -> Any:
    """The samples `piece` of a batch of `count`: slices tensors, and lists with one item per sample.

    The `whole` batch is never such a list, but for example a tuple of inputs and targets, which may also have
    `count` items.
    """
    if isinstance(batch, torch.Tensor) and batch.ndim and len(batch) == count:
        return batch[piece]
    if isinstance(batch, Mapping):
        return type(batch)({key: _slice_samples(value, piece, count) for key, value in batch.items()})
    if isinstance(batch, (list, tuple)):
        if not whole and len(batch) == count and not all(
                isinstance(i, torch.Tensor) and len(i) == count for i in batch):
            return batch[piece]
        items = [_slice_samples(value, piece, count) for value in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    if batch is None or isinstance(batch, (bool, int, float, str)):
        return batch
    what = f"a tensor {list(batch.shape)}" if isinstance(batch, torch.Tensor) else f"a {type(batch).__name__}"
    raise ConfigError.at("trainer.args.on_oom",
                         f"a batch of {count} samples with {what} in it cannot be split. Set on_oom: stop.")


def describe_out_of_memory(trainer) -> str:
    """What was tried, how much memory it took, and the settings that help, in numbers."""
    data, device = trainer.data, trainer.device
    lines = [f"out of memory with batches of {data.batch_size} samples, "
             f"{data.batch_size * trainer.accumulate} to a step, in {trainer.precision}"]
    if device.type == "cuda":
        peak, total = (torch.cuda.max_memory_allocated(device),
                       torch.cuda.get_device_properties(device).total_memory)
        lines[0] += f"; at most {peak / 1e9:.1f} GB were taken of the {total / 1e9:.1f} GB of {device}"
    splits = trainer.splitting.enabled
    half = (f"data_loader.batch_size={max(data.batch_size // 2, 1)} "
            f"trainer.args.accumulate={2 * trainer.accumulate}")
    lines += ["What helps:"]
    lines += [f"  {half}  (the same effective batch in half the memory)"] * (
        data.batch_size > 1 and not splits)
    lines += ["  trainer.args.on_oom=split  (does that by itself, as often as it takes)"] * (not splits)
    lines += ["  trainer.args.precision=bf16  (nearly halves what activations take)"] * (
        trainer.precision == "fp32")
    lines += [f"  data_loader.eval_batch_size={max(data.eval_batch_size // 2, 1)}  (if it happened in "
              "evaluation)",
              "  torch.utils.checkpoint in the model  (computes activations again instead of keeping them)"]
    return "\n".join(lines)
