"""`train.py --find-lr`: trains some steps at a rising learning rate, and suggests a rate from the loss curve.

The range test of L. N. Smith, Cyclical Learning Rates for Training Neural Networks, 2017, section 3.3.
"""
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import numpy as np

from base.base_data_loader import DataSplits
from base.base_metric import Totals
from base.build import optimizer_blocks, optimizer_path, scheduler_blocks
from logger.run_log import SilentRun
from utils.config.blocks import as_block
from utils.errors import ConfigError, TrainingError
from utils.training.non_finite_guard import NonFinite
from utils.training.progress import Position, ProgressBar, accumulation_windows

log = logging.getLogger(__name__)
LOWEST, HIGHEST, NUM_STEPS = 1e-7, 10.0, 100
_BESIDE = 5  # steps on either side that are averaged with one step: 0.9 decades in total
_FOLLOWED = ("There is nothing to suggest. What is followed is the value 'loss' that train_step returns, or "
             "else its first.")
_WIDTH, _HEIGHT = 65, 16  # of the plot in characters; eight columns are a decade


class Suggestion(NamedTuple):
    """A learning rate, and its sources: where the loss begins to fall, falls fastest and is lowest."""

    value: float
    falls_at: float
    steepest_at: float
    lowest_at: float


class Placed(Protocol):
    """What is needed to know a trainer's next batches."""

    data: DataSplits
    position: Position
    accumulate: int


class TestedTraining(Placed, Protocol):
    """What this test needs of a trainer."""

    totals: Totals
    updaters: Mapping[str, Any]
    run: Any

    def optimizer_step(self, batches: list) -> None: ...
    def on_step_end(self) -> None: ...
    def on_train_start(self) -> None: ...
    def set_mode(self, training: bool) -> None: ...
    def seed_for(self, purpose: str, number: int) -> None: ...
    def use_run(self, run: SilentRun) -> None: ...
    def errors_explained(self) -> AbstractContextManager: ...


def run_tool(args, setup, config: dict) -> None:
    """Runs `--find-lr`. Prints the overrides, even with `-q`.

    Intended for `$(python train.py -q --find-lr -c CONFIG)`.
    """
    resumed_from = setup.checkpoint and setup.checkpoint.file
    print(find_lr(setup.trainer, config, resumed_from, bars=not args.quiet))


def find_lr(trainer: TestedTraining, config: dict, resumed_from: Path | None = None,
            bars: bool = True) -> str:
    """Runs the test with a trainer that is ready to train. It cannot train afterwards. Logs the curve.

    Returns the overrides for the suggested rate. Leaves no file behind. Raises TrainingError if the loss
    cannot be followed or never falls.
    """
    rates = np.geomspace(LOWEST, HIGHEST, NUM_STEPS)
    log.info("Learning rates from %g to %g in %d steps on training batches.%s", LOWEST, HIGHEST, NUM_STEPS,
             _describe_groups(trainer))
    with TemporaryDirectory() as folder, closing(trainer.data), trainer.errors_explained():
        trainer.use_run(SilentRun(Path(folder), bars))  # for the output of the trainer's own methods
        name, losses = record_losses(trainer, rates)
    if len(losses) <= 2 * _BESIDE:
        raise TrainingError(f"--find-lr: {name or 'the loss'} is not finite, or not there, after "
                            f"{len(losses)} steps. {_FOLLOWED}")
    suggestion = suggest(rates[: len(losses)], np.array(losses))
    log.info("%s over the learning rate: . each step, o smoothed\n%s", name, plot(rates, losses, suggestion))
    if suggestion is None:
        raise TrainingError(f"--find-lr: {name} falls at no learning rate by more than it varies from step "
                            f"to step. {_FOLLOWED}")
    log.info("%s begins to fall at %.2g, falls fastest at %.2g and is lowest at %.2g.\n"
             "Suggested: %.2g (|), the second of them or a tenth of the third, whichever is less. "
             "Worth a try: %.2g to %.2g.", name, *suggestion[1:], suggestion.value,
             min(suggestion.falls_at, suggestion.value), suggestion.lowest_at / 10)
    if resumed_from:
        log.info("A run under way keeps its optimizer: this is for a new one, python train.py -c CONFIG "
                 "--init-from %s", resumed_from)
    rates = scaled_rates(trainer, config, float(f"{suggestion.value:.2g}"))
    return " ".join(f"{key}={rate:.3g}" for key, rate in rates.items())


def _describe_groups(trainer: TestedTraining) -> str:
    """A text about several learning rates; '' if there is only one."""
    num_groups = sum(len(updater.optimizer.param_groups) for updater in trainer.updaters.values())
    if len(trainer.updaters) > 1:
        return (f" The {len(trainer.updaters)} optimizers ({', '.join(trainer.updaters)}) rise together, in "
                "the proportions of the config; the largest rate is shown.")
    return (f" The {num_groups} parameter groups keep their proportions; the largest rate is shown."
            if num_groups > 1 else "")


# -- training ----------------------------------------------------------------------------------------------

def record_losses(trainer: TestedTraining, rates) -> tuple[str | None, list[float]]:
    """Trains a step per learning rate until the loss diverges. Returns the loss's name and values."""
    fractions = _proportions(trainer)
    for updater in trainer.updaters.values():
        updater.hold_lr()
    name, losses, smoothed = None, [], []
    trainer.set_mode(training=True)
    trainer.seed_for("start", trainer.position.step)
    trainer.on_train_start()
    with closing(ProgressBar("learning rate", len(rates), shown=trainer.run.bars)) as bar:
        for rate, batches in zip(rates, steps(trainer), strict=False):
            for group, fraction in fractions:
                group["lr"] = float(rate) * fraction
            values = _step(trainer, batches)
            name = name or ("loss" if "loss" in values else next(iter(values), None))
            if not math.isfinite(loss := values.get(name, math.nan)):
                break
            losses.append(loss)
            smoothed.append(_running_mean(losses))
            bar.update(1)
            best = min(smoothed[2 * _BESIDE:], default=math.inf)  # the first values are only noise
            if smoothed[-1] > best + 3 * abs(best):  # four times the best; a loss may be negative
                break
    return name, losses


def _step(trainer: TestedTraining, batches: list) -> Mapping[str, float]:
    """Makes an optimizer step. Returns the means of its values, or nothing if the loss was not finite."""
    trainer.totals.reset()
    try:
        trainer.optimizer_step(batches)
    except NonFinite:
        return {}
    trainer.on_step_end()
    return trainer.totals.means()


def steps(trainer: Placed) -> Iterator[list]:
    """The batches of each step, from the trainer's position on, epoch after epoch."""
    position = trainer.position
    while True:
        first = position.batch
        yield from accumulation_windows(trainer.data.batches("train", position.epoch, position.batch),
                                        trainer.accumulate)
        if position.batch == first == 0:
            raise ConfigError.at("dataset", f"the train split gives no batch in epoch {position.epoch + 1}")
        position.next_epoch()


def _proportions(trainer: TestedTraining) -> list[tuple[dict, float]]:
    """Each parameter group with its fraction of the largest learning rate, from the config or a peak."""
    groups = [group for updater in trainer.updaters.values() for group in updater.optimizer.param_groups]
    if lacking := [updater for updater in trainer.updaters.values()
                   if "lr" not in updater.optimizer.defaults]:
        raise ConfigError(f"--find-lr: {type(lacking[0].optimizer).__name__} has no learning rate")
    rates = [float(group.get("max_lr", group.get("initial_lr", group["lr"]))) for group in groups]
    if not max(rates) > 0:
        raise ConfigError("--find-lr: every learning rate of the config is 0, and stays so in proportion")
    return [(group, rate / max(rates)) for group, rate in zip(groups, rates, strict=True)]


def _running_mean(values: list[float], keep: float = 0.8) -> float:
    weights = keep ** np.arange(len(values))[::-1]
    return float(np.average(values, weights=weights))


# -- reading the curve -------------------------------------------------------------------------------------

def suggest(rates: np.ndarray, losses: np.ndarray) -> Suggestion | None:
    """The suggestion from losses over rising rates; None if the loss does not fall by more than its noise."""
    means, slopes = smooth(losses)
    lowest = int(means.argmin())
    start = means[: lowest + 1].max()
    noise = np.std(np.diff(losses[: max(lowest, 4 * _BESIDE)])) / math.sqrt(2)
    if start - means[lowest] <= 2 * noise:  # about 1 % of losses that are pure noise fall further
        return None
    steepest = slopes[: lowest + 1].argmin()
    falls = np.flatnonzero(means[: lowest + 1] > start - (start - means[lowest]) / 10)[-1]  # 1/10 of the fall
    return Suggestion(min(rates[steepest], rates[lowest] / 10), rates[falls], rates[steepest], rates[lowest])


def smooth(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of each loss and its neighbours, and slopes of the lines that fit them best.

    Values above all those before the lowest loss are clipped: the end of a test must not hide the minimum.
    """
    losses = np.minimum(losses, losses[: losses.argmin() + 1].max())
    means, slopes = [], []
    for number in range(len(losses)):
        first = max(number - _BESIDE, 0)
        near = losses[first : number + _BESIDE + 1]
        slope, _ = np.polyfit(np.arange(len(near)), near, 1)
        means.append(near.mean())
        slopes.append(slope)
    return np.array(means), np.array(slopes)


def plot(rates, losses, suggestion: Suggestion | None) -> str:
    """A plot of the losses so far over the logarithm of all the rates, in characters."""
    means, _ = smooth(np.array(losses))
    low, high = min(means.min(), min(losses)), means.max()
    span = max(high - low, 1e-12)
    low, high = low - 0.02 * span, high + 0.1 * span
    step = (high - low) / (_HEIGHT - 1)
    rows = [[" "] * _WIDTH for _ in range(_HEIGHT)]

    def column(rate):
        return round(math.log(rate / rates[0]) / math.log(rates[-1] / rates[0]) * (_WIDTH - 1))

    for row in rows if suggestion else ():
        row[column(suggestion.value)] = "|"
    for mark, values in ((".", losses), ("o", means)):
        for rate, value in zip(rates, values, strict=False):
            if low <= value <= high:
                rows[round((high - value) / step)][column(rate)] = mark
    scale = [f"{high - number * step:9.4g}" if number % 3 == 0 else 9 * " " for number in range(_HEIGHT)]
    lines = [f"{text} |{''.join(row).rstrip()}" for text, row in zip(scale, rows, strict=True)]
    decades = range(round(math.log10(rates[0])), round(math.log10(rates[-1])) + 1)
    labels = "".join(f"{f'1e{power}':<{(_WIDTH - 1) // (len(decades) - 1)}}" for power in decades)
    return "\n".join([*lines, 10 * " " + "+" + _WIDTH * "-", 11 * " " + labels.rstrip()])


def scaled_rates(trainer: TestedTraining, config: dict, value: float) -> dict[str, float]:
    """The learning rates of a config by key, scaled in proportion so that the largest is `value`."""
    rates = {}
    chains = scheduler_blocks(config.get("scheduler"), config["optimizer"])
    for name, block in optimizer_blocks(config["optimizer"]).items():
        peaks = _peaks(config["scheduler"], chains.get(name, []), name)
        rates |= peaks or {f"{optimizer_path(name)}.args.lr": trainer.updaters[name].optimizer.defaults["lr"]}
        rules = enumerate(as_block(block).get("groups") or [])
        rates |= {f"{optimizer_path(name)}.groups.{number}.lr": rule["lr"] for number, rule in rules
                  if rule.get("lr") and not peaks}
    largest = max(rates.values())
    return {key: rate * value / largest for key, rate in rates.items()}


def _peaks(scheduler, chain: list, name: str) -> dict[str, float]:
    """The learning rates of OneCycleLR and similar schedulers. They replace those of the optimizer."""
    if not chain:
        return {}
    where, own = ("scheduler", scheduler) if name == "optimizer" else (f"scheduler.{name}", scheduler[name])
    blocks = {f"{where}.{number}" if isinstance(own, list) else where: as_block(block)
              for number, block in enumerate(chain)}
    return {f"{path}.args.{key}": rate for path, block in blocks.items()
            for key, rate in (block.get("args") or {}).items()
            if key in ("max_lr", "base_lr") and isinstance(rate, (int, float))}
