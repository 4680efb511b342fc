"""The texts that a run prints at its beginning and its end."""
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from base.base_data_loader import DataSplits
from base.base_model import summarize
from base.phases import describe_phases
from utils.device import describe_device
from utils.distributed import collectives as dist
from utils.moved import former_names_of
from utils.run_folder import CHECKPOINTS
from utils.training.monitor import Monitor
from utils.training.progress import Position
from utils.training.timers import Timers, advice, describe_times

__getattr__ = former_names_of(__name__)


class Ended(Protocol):
    """What a text on the result needs of a trainer."""

    position: Position
    monitor: Monitor | None
    epochs: int


class Finished(Ended, Protocol):
    """A trainer that has nothing left to do."""

    finished: bool


class Described(Protocol):
    """What the other texts need of a trainer."""

    data: DataSplits
    position: Position
    monitor: Monitor | None
    epochs: int
    accumulate: int
    precision: str
    ema_decay: float | None
    compile: dict | None
    strategy: Any
    device: torch.device
    unwrapped_model: torch.nn.Module
    updaters: Mapping[str, Any]
    timers: Timers
    run: Any

    def learning_rates(self) -> dict[str, float]: ...


def describe_parts(trainer: Described) -> str:
    """Layers, parameters, device, sizes of the splits."""
    data = trainer.data
    sizes = {split: data.num_samples(split) for split in ("train", *data.sets("val"))}
    splits = " | ".join(f"{split} {size:,}" if size is not None else f"{split} a stream"
                        for split, size in sizes.items())
    limited = f" (data_loader.limit: {data.limit})" if data.limit else ""
    num_batches = data.num_batches("train")
    epoch = (f"{num_batches:,} batches of {data.batch_size} an epoch" if num_batches
             else f"batches of {data.batch_size}")
    num_processes = dist.world_size()
    options = {trainer.precision: True, f"{trainer.accumulate} batches a step": trainer.accumulate > 1,
               f"ema {trainer.ema_decay}": trainer.ema_decay is not None,
               "compiled": trainer.compile is not None,
               f"{num_processes} processes ({trainer.strategy})": num_processes > 1}
    options = [text for text, applies in options.items() if applies]
    optimizers = ", ".join(type(updater.optimizer).__name__ for updater in trainer.updaters.values())
    return "\n".join([summarize(trainer.unwrapped_model), *describe_phases(trainer.updaters),
                      f"data: {splits} samples{limited}; {epoch}",
                      f"device: {describe_device(trainer.device)}; {', '.join(options)}; {optimizers}"])


def describe_end(trainer: Described, elapsed_s: float) -> str:
    """The result, the run's folder, and the commands to continue from there."""
    run, seconds_of = trainer.run.folder, trainer.timers.total_s
    hint, num_dropped = advice(seconds_of), trainer.data.num_dropped()
    scored = "val" if trainer.data.sets("val") else "train"
    option = f" --split {scored}" if trainer.data.evaluation_sets.get("test") == [] else ""
    dropped = [f"  dropped {num_dropped:,} samples that collate_fn left out"] if num_dropped else []
    skipped = trainer.data.skipped_samples
    dropped += [f"  skipped {skipped}"] if skipped and skipped.num_skipped else []
    has_best = trainer.monitor and trainer.monitor.best_epoch
    best = [f"  best    {trainer.monitor}: {run / CHECKPOINTS / 'best.pt'}"] if has_best else []
    return "\n".join([
        f"{_epochs_trained(trainer)}, in {elapsed_s:.1f} s.", *dropped, *best,
        f"  time    {describe_times(seconds_of)}{f': {hint}' if hint else ''}",
        f"  run     {run}",
        f"  curves  tensorboard --logdir {run.parent}",
        f"  score   python test.py -r {run}{option}",
        f"  resume  python train.py -r {run} trainer.args.epochs={2 * trainer.epochs}"])


def describe_resumed(trainer: Described) -> str:
    """`Resumed at epoch 4 of 9, batch 9 of 422, step 1,275, lr/optimizer 0.1, best val/loss 2 at epoch 2`."""
    at, monitor = trainer.position, trainer.monitor
    num_batches = trainer.data.num_batches("train", epoch=at.epoch)
    rates = "".join(f", {name} {rate:.3g}" for name, rate in trainer.learning_rates().items())
    patience = f", early stop {monitor.num_bad} of {monitor.patience}" if monitor and monitor.patience else ""
    return (f"Resumed at epoch {at.epoch + 1} of {trainer.epochs}, batch {at.batch:,} of "
            f"{num_batches or 'a stream'}, step "
            f"{at.step:,}{rates}{patience}{f', best {monitor}' if monitor and monitor.best_epoch else ''}")


def describe_finished(trainer: Finished, run) -> str:
    """Why there is nothing to resume, and how to train longer."""
    if not trainer.finished:  # only further than was asked for
        return f"Nothing to do: {describe_outcome(trainer)}. To train on: python train.py -r {run}"
    patience = (trainer.monitor is not None and trainer.monitor.exhausted
                and trainer.position.epoch < trainer.epochs)
    override = "trainer.args.early_stop=null" if patience else f"trainer.args.epochs={2 * trainer.epochs}"
    command = f"python train.py -r {run} {override}"
    return f"This run is finished: {describe_outcome(trainer)}. To train on: {command}"


def describe_outcome(trainer: Ended) -> str:
    """`10 of 10 epochs; best val/accuracy 0.9876 at epoch 8`."""
    monitor = trainer.monitor
    return _epochs_trained(trainer) + (f"; best {monitor}" if monitor and monitor.best_epoch else "")


def _epochs_trained(trainer: Ended) -> str:
    monitor, epoch = trainer.monitor, trainer.position.epoch
    text = f"{epoch} of {trainer.epochs} epochs"
    if monitor and monitor.exhausted and epoch < trainer.epochs:
        text += f", stopped early: no better {monitor.name} in {monitor.num_bad} evaluations"
    return text


def describe_scores(data: DataSplits, splits: list[str], values: dict[str, float]) -> str:
    """`test split: 360 samples`, with a table of the values below."""
    sizes = ", ".join(f"{split} split: {data.num_samples(split) or 'a stream of'} samples"
                      for split in splits)
    return f"{sizes}\n{format_table(values) or '  no numbers: evaluation gives neither a loss nor metrics'}"


def format_table(values: dict[str, float]) -> str:
    """Names and values in two columns."""
    width = max(map(len, values), default=0)
    return "\n".join(f"  {name:<{width}}  {value:.6g}" for name, value in values.items())
