"""One batch of training and one of evaluation before the run, so that a mistake shows in the first second."""
import logging
import math
from collections.abc import Mapping
from contextlib import contextmanager
from functools import partial

from base.base_metric import as_values
from base.locate_error import describe_shapes, locate_error
from base.preflight_loss import loss_inputs_watched, require_samples_for_a_batch
from base.recovery import StepSnapshot, describe_out_of_memory, evaluate_batch, is_out_of_memory
from utils.checkpoint.state import StateCopier
from utils.config.suggestions import suggest_name
from utils.distributed import collectives as dist
from utils.distributed.group import is_peer_failure
from utils.distributed.model_sync import average_gradients
from utils.errors import ConfigError, TrainingError, describe_error

log = logging.getLogger(__name__)


def preflight(trainer, config: Mapping) -> dict[str, float]:
    """Runs `train_step` and `eval_step` on a first batch, without optimizer step, and restores everything.

    Returns their values, `{"train/loss": 2.3, ...}`. Raises ConfigError if there are too few samples for a
    batch, if a step fails, or if the monitored name is not among the values.
    """
    require_samples_for_a_batch(config, trainer.data)
    splits = ["train"] + ["val"] * (trainer.data.dataset("val") is not None)
    if "val" in splits and trainer.data.num_batches("val") is None:
        log.warning("val is a stream that does not tell its length; an endless one needs "
                    "data_loader.eval_batches")
    produced = {name: value for split in splits
                for name, value in _preflight_split(trainer, split, config).items()}
    for updater in trainer.updaters.values():
        updater.schedule.preflight()
    if trainer.monitor is None or trainer.monitor.name in produced:
        if trainer.monitor and math.isnan(produced[trainer.monitor.name]):
            log.warning("%s, which tells the best epoch, is nan on the first batch", trainer.monitor.name)
        return produced
    hint = suggest_name(trainer.monitor.name, produced)
    if trainer.monitor.name.startswith("val/") and "val" not in splits:
        hint = (" There is no validation: set data_loader.validation_split, such as 0.1, or monitor a train "
                "value.")
    raise ConfigError.at("trainer.args.monitor",
                         f"nothing produces '{trainer.monitor.name}'.{hint} "
                         f"This experiment produces: {', '.join(produced)}.")


def _preflight_split(trainer, split: str, config: Mapping) -> dict[str, float]:
    batch = None
    try:
        count, batch = trainer.data.first_batch(split)
        with _state_restored(trainer):
            trainer.seed_for("rehearsal", 0)  # the former name: with another, numbers would change
            if split == "train":
                trainer.set_mode(training=True)
                values = None
                with loss_inputs_watched(trainer, config, count):
                    while values is None:
                        values = trainer.splitting.attempt(partial(_train_on, trainer), [(count, batch)])
                _try_smallest(trainer, count)
                average_gradients(trainer)
                # from here on backward involves all processes; DDP builds its buckets in the first one
                if dist.world_size() > 1:
                    _train_on(trainer, [(count, batch)])
            else:
                with trainer.evaluating():
                    for named, num_samples in evaluate_batch(trainer, 0, (count, batch)):
                        trainer.totals.add(named, num_samples)
                    values = trainer.totals.means() | trainer.metrics.compute()
    except ConfigError:
        raise
    except Exception as error:
        if is_peer_failure(error):
            raise
        if is_out_of_memory(error):
            raise TrainingError(f"before the first step: {describe_out_of_memory(trainer)}") from error
        what = "training" if split == "train" else "evaluation"
        key, given = locate_error(trainer, error)
        shapes = f"The batch: {describe_shapes(batch)}." if batch is not None else "It could not be fetched."
        shapes += f" Given to {key}: {given}." if given else ""
        message = f"One batch of {what} was tried before the run, and failed: {describe_error(error)}\n"
        message += f"{shapes} (--verbose shows the traceback)"
        raise (ConfigError.at(key, message) if key else ConfigError(message)) from error
    return {f"{split}/{name}": value for name, value in values.items()}


def _try_smallest(trainer, usual: int) -> None:
    """Tries a single sample: some models cannot train on it, and a process may get one as its last batch.

    It costs one more forward and backward pass, only if the last batch is that small.
    """
    if trainer.data.smallest_local_batch() != 1 or usual == 1:
        return
    try:
        _train_on(trainer, [trainer.data.first_batch("train", at_most=1)])
    except Exception as error:
        if is_peer_failure(error) or is_out_of_memory(error):
            raise
        raise ConfigError.at("data_loader",
                             "an epoch's last batch leaves a process a single sample, and one was tried: "
                             f"{error}\n"
                             "Set data_loader.drop_last=true, or choose another batch_size; several "
                             "processes may also set "
                             "trainer.args.sync_batchnorm=true, where that is BatchNorm's.") from error


def _train_on(trainer, pieces: list) -> dict[str, float]:
    for count, batch in pieces:
        trainer.metrics.padding = count == 0
        values = trainer.train_step(trainer.data.prepare(batch, trainer.device, trainer.channels_last,
                                                         count.chosen))
        trainer.totals.add(as_values(values), count)
    return trainer.totals.means() | trainer.metrics.compute()


@contextmanager
def _state_restored(trainer):
    """Inside, the trainer's state may change; all but the splitting is restored. No optimizer steps."""
    kept = {name: part for name, part in trainer.state.items()
            if part not in trainer.updaters.values() and part is not trainer.splitting}
    before, before_step = (StateCopier().copy({name: part.state_dict() for name, part in kept.items()}),
                           StepSnapshot(trainer))
    trainer.in_preflight = True
    trainer.totals.reset()
    try:
        yield
    finally:
        trainer.in_preflight = False
        for name, part in kept.items():
            part.load_state_dict(before[name])
        before_step.restore()
        trainer.eval_metrics.reset()
        trainer.unwrapped_model.zero_grad(set_to_none=True)
        for updater in trainer.updaters.values():  # may have parameters besides the model's, such as a loss's
            updater.optimizer.zero_grad(set_to_none=True)
