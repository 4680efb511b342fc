"""Measures whether channels_last and bf16 make the steps of a model with convolutions shorter on the CPU."""
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from statistics import median
from typing import Any, Protocol

from torch import nn

from base.base_data_loader import DataSplits
from base.base_trainer import BaseTrainer
from base.build import build_trainer
from base.data.fingerprint import generators_kept
from tools.data_checks.cache_advice import describe_cache
from utils.config.blocks import args_of, as_block
from utils.distributed import collectives as dist

WORTH, NUM_PAIRS, MIN_PAIRS, LIMIT_S = 0.9, 20, 3, 0.7
SLOW_S = 0.1  # a step that takes longer is measured with fewer samples


class Computing(Protocol):
    """What is needed of a trainer to measure copies of it."""

    data: DataSplits
    device: Any
    compile: Any
    accumulate: int
    channels_last: bool
    precision: str
    unwrapped_model: nn.Module


class Stepping(Protocol):
    """What is needed of a trainer to time its steps."""

    def optimizer_step(self, batches: list) -> bool: ...


def describe_advice(trainer: Computing, config: Mapping, step_s: float | None) -> list[str]:
    """What would make a run with steps of `step_s` seconds faster, one per line."""
    num_batches = step_s and trainer.data.num_batches("train")
    cache = num_batches and describe_cache(trainer.data, config["dataset"],
                                           step_s * num_batches / trainer.accumulate)
    return [*([cache] if cache else []), *(describe_compute(trainer, config) if step_s else [])]


def describe_compute(trainer: Computing, config: Mapping) -> list[str]:
    """`compute  channels_last would make a step 0.68 times as long ...`, for each option that saves a tenth.

    Copies of the trainer make the steps, for about a second for each option. An option with which a step
    fails is left out, and so are other devices, compiled models and several processes.
    """
    convolutions = [layer for layer in trainer.unwrapped_model.modules()
                    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]
    if (not convolutions or trainer.device.type != "cpu" or trainer.compile is not None
            or dist.world_size() > 1):
        return []
    options = {"channels_last": ("channels_last", True)} if not trainer.channels_last else {}
    options |= {"bf16": ("precision", "bf16")} if trainer.precision == "fp32" else {}
    lines = []
    with suppress(Exception), _unnoticed(trainer):  # errors of any plug-in: the run does not need this
        plain = _copy(trainer, config, {})
        window = _short_window(trainer, plain)
        num_samples = sum(batch.num_samples for batch in window)
        is_part = num_samples < trainer.data.batch_size * trainer.accumulate
        part = f", with {num_samples:,} samples" if is_part else ""
        for name, (key, value) in options.items():
            with suppress(Exception):  # such as those of a layer that does not know bf16
                before_s, after_s = _step_times(plain, _copy(trainer, config, {key: value}), window)
                if after_s < WORTH * before_s:
                    lines.append(f"compute  {name} would make a step {after_s / before_s:.2f} times as long "
                                 f"({after_s * 1000:.3g} ms in place of {before_s * 1000:.3g}{part}): "
                                 f"trainer.args.{key}={str(value).lower()}")
    return lines


@contextmanager
def _unnoticed(trainer: Computing) -> Iterator[None]:
    """Inside, nothing is logged, and draws do not count."""
    former = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), generators_kept(trainer.data.dataset("train")):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(former)


def _copy(trainer: Computing, config: Mapping, option: dict) -> BaseTrainer:
    """A trainer of the same config, with an option more and with the same weights."""
    block = as_block(config["trainer"])
    config = {**config, "trainer": {**block, "args": {**args_of(block), **option}}}
    copy = build_trainer(config, trainer.device, train_dataset=trainer.data.dataset("train"))
    copy.unwrapped_model.load_state_dict(trainer.unwrapped_model.state_dict())
    copy.prepare_training()
    copy.set_mode(training=True)
    return copy


def _short_window(trainer: Computing, copy: Stepping) -> list:
    """Batches of a step that takes no longer than SLOW_S: the first one, or a part of it, repeated."""
    batch = trainer.data.first_batch("train")
    _step_s(copy, [batch])  # the first step is slower
    part = SLOW_S / (_step_s(copy, [batch]) * trainer.accumulate)
    if part < 1:
        batch = trainer.data.first_batch("train", at_most=max(int(part * batch.num_samples), 2))
    return [batch] * trainer.accumulate


def _step_times(plain: Stepping, other: Stepping, window: list) -> tuple[float, float]:
    """The median seconds of a step of two trainers, which take turns."""
    started, pairs = time.perf_counter(), []
    for _ in range(NUM_PAIRS):
        pairs.append((_step_s(plain, window), _step_s(other, window)))
        is_worse = pairs[-1][1] > pairs[-1][0]
        if time.perf_counter() - started > LIMIT_S and (is_worse or len(pairs) > MIN_PAIRS):
            break
    before, after = zip(*(pairs[1:] or pairs), strict=True)
    return median(before), median(after)


def _step_s(trainer: Stepping, window: list) -> float:
    started = time.perf_counter()
    trainer.optimizer_step(window)
    return time.perf_counter() - started
