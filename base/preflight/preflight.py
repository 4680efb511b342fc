"""One batch of training and one of evaluation before the run, so that a mistake shows in the first second."""
import logging
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from base.base_metric import Totals, as_values
from base.data.sampler import Batch
from base.config.locate_error import Parts, locate_error
from base.data.nested import describe_shapes
from base.preflight.geometry import warn_of_moved_images
from base.preflight.loss import loss_inputs_watched, require_samples_for_a_batch
from base.recovery import StepSnapshot, UndoableStep
from utils.checkpoint.state import StateCopier
from utils.config.blocks import as_block
from utils.config.suggestions import list_briefly, suggest_name
from utils.distributed import collectives as dist
from utils.distributed.group import is_peer_failure
from utils.errors import ConfigError, describe_error
from utils.torch_messages import is_freed_graph, is_loader_worker_death, is_out_of_memory
from utils.training.monitor import Monitor

log = logging.getLogger(__name__)


class PreparedTrainer(Parts, UndoableStep, Protocol):
    """What `preflight` needs of a trainer that has its optimizers."""

    updaters: Mapping[str, Any]
    state: Mapping[str, Any]

    def train_step(self, batch: Any) -> Mapping[str, Any]: ...
    def device_batch(self, batch: Batch) -> Any: ...
    def eval_values(self, number: int, batch: Batch) -> Mapping[str, Any]: ...
    def evaluating(self) -> AbstractContextManager: ...
    def without_steps(self) -> AbstractContextManager: ...
    def seed_for(self, purpose: str, number: int) -> None: ...


def preflight(trainer: PreparedTrainer, config: Mapping) -> dict[str, float]:
    """Runs `train_step` and `eval_step` on a first batch, without optimizer step, and restores everything.

    Returns their values, `{"train/loss": 2.3, ...}`. Raises ConfigError if there are too few samples for a
    batch, or if a step fails.
    """
    require_samples_for_a_batch(config, trainer.data)
    produced = _preflight_split(trainer, "train", config)
    for split in trainer.data.sets("val"):
        if trainer.data.num_batches(split) is None:
            log.warning("%s is a stream that does not tell its length; an endless one needs "
                        "data_loader.eval_batches", split)
        produced |= _preflight_split(trainer, split, config)
    for updater in trainer.updaters.values():
        updater.schedule.preflight()
    return produced


def require_monitored(monitor: Monitor, produced: Mapping[str, float]) -> None:
    """Raises ConfigError if the monitored value is not among those that an experiment produces."""
    name = monitor.name
    if (value := monitor.value_in(produced)) is not None:
        if math.isnan(value):
            log.warning("%s, which tells the best epoch, is nan on the first batch", name)
        return
    hint = suggest_name(name, produced)
    if name.startswith("val/") and not any(other.startswith("val/") for other in produced):
        hint = (" There is no validation: set data_loader.validation_split, such as 0.1, or monitor a train "
                "value.")
    raise ConfigError.at("trainer.args.monitor", f"nothing produces {name!r}.{hint} "
                                                 f"This experiment produces: {list_briefly(produced)}.")


def _preflight_split(trainer: PreparedTrainer, split: str, config: Mapping) -> dict[str, float]:
    batch = None
    try:
        batch = trainer.data.first_batch(split)
        with _state_restored(trainer), trainer.without_steps():
            trainer.seed_for("rehearsal", 0)  # the former name: with another, numbers would change
            values = (_try_training(trainer, batch, config) if split == "train"
                      else _try_evaluation(trainer, batch, split))
    except ConfigError:
        raise
    except Exception as error:
        if _is_of_the_machine(error):
            raise
        if is_freed_graph(error):
            raise ConfigError.at("optimizer", "update() had this loss before. Optimizers of one loss are "
                                              "named in one call: self.update(loss, 'a', 'b')") from error
        what = "training" if split == "train" else "evaluation"
        key, given = locate_error(trainer, error)
        shapes = (f"The batch: {describe_shapes(batch.data)}." if batch is not None
                  else "It could not be fetched.")
        shapes += f" Given to {key}: {given}." if given else ""
        message = f"One batch of {what} was tried before the run, and failed: {describe_error(error)}\n"
        message += f"{shapes} (--verbose shows the traceback)"
        if (key or "").startswith("metrics."):
            message = f"{as_block(config['metrics'][int(key[8:])])['type']}: {message}"
        raise (ConfigError.at(key, message) if key else ConfigError(message)) from error
    return {f"{split}/{name}": value for name, value in values.items()}


def _is_of_the_machine(error: Exception) -> bool:
    """Whether an error says nothing on the config: it is explained elsewhere."""
    return is_peer_failure(error) or is_out_of_memory(error) or is_loader_worker_death(error)


def _try_training(trainer: PreparedTrainer, batch: Batch, config: Mapping) -> dict[str, float]:
    warn_of_moved_images(trainer.data, batch.data)
    with loss_inputs_watched(trainer, config, batch):
        values = _train_on(trainer, batch)
    if values.get("loss") == 0 and not any(updater.measure_norm() for updater in trainer.updaters.values()):
        log.warning("the first batch's loss is exactly 0, and so are its gradients: nothing would be learned "
                    "from it. Check the loss, and the labels it gets.")
    # all processes decide alike, though a collate function may have left them different numbers of samples
    if trainer.data.smallest_local_batch() == 1 and any(dist.agree(batch.num_samples != 1)):
        _try_one_sample(trainer)
    shared = [updater.gradients for updater in trainer.updaters.values() if updater.gradients]
    for gradients in shared:
        gradients.connect()
    if shared:  # from here on backward involves all processes; DDP builds its buckets in the first one
        _train_on(trainer, batch)
    return values


def _try_one_sample(trainer: PreparedTrainer) -> None:
    """Tries a single sample: some models cannot train on it, and a process may get one as its last batch."""
    batch = trainer.data.first_batch("train", at_most=1)
    if not trainer.data.num_in_step([batch]):  # a collate function has left it out
        return
    try:
        _train_on(trainer, batch)
    except Exception as error:
        if _is_of_the_machine(error):
            raise
        raise ConfigError.at("data_loader",
                             "an epoch's last batch leaves a process a single sample, and one was tried: "
                             f"{error}\n"
                             "Set data_loader.drop_last=true, or choose another batch_size; several "
                             "processes may also set "
                             "trainer.args.sync_batchnorm=true, where that is BatchNorm's.") from error


def _train_on(trainer: PreparedTrainer, batch: Batch) -> dict[str, float]:
    totals = Totals()
    # else a process whose batch does not count would take a result from before, and not wait for the others
    trainer.metrics.reset()
    totals.add(as_values(trainer.train_step(trainer.device_batch(batch))), batch.num_samples)
    return totals.means() | trainer.metrics.compute(trainer.data.dataset("train"))


def _try_evaluation(trainer: PreparedTrainer, batch: Batch, split: str) -> dict[str, float]:
    totals = Totals()
    with trainer.evaluating():
        totals.add(trainer.eval_values(0, batch), batch.num_samples)
        return totals.means() | trainer.metrics.compute(trainer.data.dataset(split))


@contextmanager
def _state_restored(trainer: PreparedTrainer):
    """Inside, the trainer's state may change; afterwards it is restored, and there are no gradients."""
    updaters = trainer.updaters.values()
    kept = {name: part for name, part in trainer.state.items()
            if not any(part is updater for updater in updaters)}
    before = StateCopier().copy({name: part.state_dict() for name, part in kept.items()})
    before_step = StepSnapshot(trainer)
    try:
        yield
    finally:
        for name, part in kept.items():
            part.load_state_dict(before[name])
        before_step.restore()
        trainer.unwrapped_model.zero_grad(set_to_none=True)
        for updater in updaters:  # may have parameters besides the model's, such as a loss's
            updater.optimizer.zero_grad(set_to_none=True)
