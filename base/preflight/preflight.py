"""One batch of training and one of evaluation before the run, so that a mistake shows in the first second."""
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Protocol

from torch import nn

from base.base_data_loader import DataSplits
from base.base_metric import Totals, as_values
from base.data.bad_samples import LoadError
from base.data.sampler import Batch
from base.preflight.locate_error import explain_error, locate_error
from base.preflight.attributes import AttributeSnapshot
from base.preflight.loss import Parts, loss_inputs_watched, require_samples_for_a_batch
from base.preflight.own_trainer import precision_watched, report_no_gradients
from base.preflight.trial_step import try_steps
from utils.checkpoint.state import StateCopier
from utils.config.blocks import as_block
from utils.config.suggestions import list_briefly, suggest_name
from utils.distributed import collectives as dist
from utils.distributed.group import is_peer_failure
from utils.errors import ConfigError, describe_error
from utils.torch_messages import is_freed_graph, is_loader_worker_death, is_missing_graph, is_out_of_memory
from utils.training.monitor import Monitor

log = logging.getLogger(__name__)


class PreparedTrainer(Parts, Protocol):
    """What `preflight` needs of a trainer that has its optimizers."""

    updaters: Mapping[str, Any]
    precision: str
    compile: Any

    def train_step(self, batch: Any) -> Mapping[str, Any]: ...
    def device_batch(self, batch: Batch) -> Any: ...
    def eval_values(self, number: int, batch: Batch) -> Mapping[str, Any]: ...
    def evaluating(self) -> AbstractContextManager: ...
    def without_steps(self) -> AbstractContextManager: ...
    def seed_for(self, purpose: str, number: int) -> None: ...


def preflight(trainer: PreparedTrainer, config: Mapping, resumed: bool = False) -> dict[str, float]:
    """Runs `train_step` and `eval_step` on a first batch, without optimizer step, and restores everything.

    Returns their values, `{"train/loss": 2.3, ...}`. Raises ConfigError if there are too few samples for a
    batch, or if a step fails; in a new run also if a step never makes gradients.
    """
    require_samples_for_a_batch(config, trainer.data)
    produced = _preflight_split(trainer, "train", config, resumed)
    for split in trainer.data.sets("val"):
        if trainer.data.num_batches(split) is None:
            log.warning("%s is a stream that does not tell its length; an endless one needs "
                        "data_loader.eval_batches", split)
        produced |= _preflight_split(trainer, split, config)
    return produced


def require_monitored(monitor: Monitor, produced: Mapping[str, float], has_val: bool = False) -> None:
    """Raises ConfigError if the monitored value is none of the values that an experiment produces."""
    name = monitor.name
    if (value := monitor.value_in(produced)) is not None:
        if math.isnan(value):
            log.warning("%s, which tells the best epoch, is nan on the first batch", name)
        return
    hint = suggest_name(name, produced)
    if name.startswith("val/") and not any(other.startswith("val/") for other in produced):
        hint = (" Evaluation on val gives no values: add metrics, or monitor a train value." if has_val else
                " There is no validation: set data_loader.validation_split, such as 0.1, or monitor a train "
                "value.")
    raise ConfigError.at("trainer.args.monitor", f"nothing produces {name!r}.{hint} "
                                                 f"This experiment produces: {list_briefly(produced)}.")


def _preflight_split(trainer: PreparedTrainer, split: str, config: Mapping,
                     resumed: bool = False) -> dict[str, float]:
    try:
        batch = _first_batch(trainer.data, split)
        with _state_restored(trainer), trainer.without_steps():
            trainer.seed_for("rehearsal", 0)  # the former name: with another, numbers would change
            values = (_try_training(trainer, batch, config, resumed) if split == "train"
                      else _try_evaluation(trainer, split, batch))
    except LoadError as error:
        key = locate_error(trainer, error.__cause__)[0] or "dataset"
        raise LoadError.at(key, _failed(split, error.faults[0].message)) from error.__cause__
    except ConfigError:
        raise
    except Exception as error:
        if _is_of_the_machine(error):
            raise
        raise _explained(error, trainer, split, config) from error
    return {f"{split}/{name}": value for name, value in values.items()}


def _failed(split: str, why: str) -> str:
    what = "training" if split == "train" else "evaluation"
    return f"One batch of {what} was tried before the run, and failed: {why}"


def _explained(error: Exception, trainer: PreparedTrainer, split: str, config: Mapping) -> ConfigError:
    """What an error of a step says on the config, with the key that it is about, if that is known."""
    if is_freed_graph(error):
        return ConfigError.at("optimizer", "update() had this loss before. Optimizers of one loss are "
                                           "named in one call: self.update(loss, 'a', 'b')")
    key, text = explain_error(trainer, error)
    if split != "train" and is_missing_graph(error):
        text += " Evaluation computes no gradients; what needs them goes inside torch.enable_grad()."
    message = _failed(split, f"{text} (--verbose shows the traceback)")
    if not key:
        return ConfigError(message)
    if key.startswith("metrics."):
        message = f"{as_block(config['metrics'][int(key[8:])])['type']}: {message}"
    return ConfigError.at(key, message)


def _first_batch(data: DataSplits, split: str) -> Batch:
    """A split's first batch; a slow one is loaded twice: then its files are in the system's memory."""
    limit = data.loader_options.get("timeout") or math.inf  # is there with workers only
    for _ in range(2):
        started, batch = time.monotonic(), data.first_batch(split)
        if (taken := time.monotonic() - started) <= limit:
            return batch
    raise ConfigError.at("data_loader.timeout", f"{limit:g} s are too short: the first batch of {split} took "
                                                f"{taken:.2g} s. Set it to 60, or more.")


def _is_of_the_machine(error: Exception) -> bool:
    """Whether an error says nothing on the config: it is explained elsewhere."""
    return is_peer_failure(error) or is_out_of_memory(error) or is_loader_worker_death(error)


def _try_training(trainer: PreparedTrainer, batch: Batch, config: Mapping,
                  resumed: bool) -> dict[str, float]:
    names = {*_names_in_state(trainer.unwrapped_model)}
    weights = [weight for updater in trainer.updaters.values() for weight in updater.parameters]
    versions = [weight._version for weight in weights]
    # hooks would be compiled, too
    precision = trainer.precision if trainer.compile is None else "fp32"
    with loss_inputs_watched(trainer, config, batch), precision_watched(trainer.unwrapped_model, precision):
        values, learns = _train_on(trainer, batch)
    _require_made_before(names, trainer.unwrapped_model)
    if versions == [weight._version for weight in weights] and all(weight.grad is None for weight in weights):
        report_no_gradients(type(trainer), learns, resumed)
    elif values.get("loss") == 0 and not any(updater.measure_norm() for updater in trainer.updaters.values()):
        log.warning("the first batch's loss is exactly 0, and so are its gradients: nothing would be learned "
                    "from it. Check the loss, and the labels it gets.")
    _try_smallest_batch(trainer, "train", batch,
                        lambda small: as_values(trainer.train_step(trainer.device_batch(small))))
    _try_averaging(trainer, batch)
    try_steps(trainer.updaters)
    return values


def _require_made_before(names: set[str], model: nn.Module) -> None:
    """Raises ConfigError if the forward pass has made weights or buffers besides these that were there."""
    if made := [name for name in _names_in_state(model) if name not in names]:
        raise ConfigError.at("model", f"its forward pass made {', '.join(made)}, which optimizers and "
                                      "checkpoints need from the start. Make it in __init__; a buffer may "
                                      "also get persistent=False.")


def _try_averaging(trainer: PreparedTrainer, batch: Batch) -> None:
    """With several processes: from here on backward involves all; DDP builds its buckets in the first one."""
    shared = [updater.gradients for updater in trainer.updaters.values() if updater.gradients]
    for gradients in shared:
        gradients.connect()
    if shared:
        _train_on(trainer, batch)


def _names_in_state(model: nn.Module) -> list[str]:
    """The weights and buffers that a checkpoint holds, also buffers that are None as yet."""
    return [f"{path}.{name}".lstrip(".") for path, module in model.named_modules()
            for name in [*module._parameters, *(module._buffers.keys() - module._non_persistent_buffers_set)]]


def _try_smallest_batch(trainer: PreparedTrainer, split: str, batch: Batch, step: Callable) -> None:
    """Tries `step` on a part of `batch` of the size of the last batch, if that is smaller.

    Some models fail there: BatchNorm cannot train on a single sample, `squeeze()` drops its axis. Metrics
    are not computed, which may need more samples.
    """
    size = trainer.data.smallest_local_batch(split)
    # all processes decide alike, though a collate function may have left them different numbers of samples
    if size is None or not any(dist.agree(batch.num_samples > size)):
        return
    small = trainer.data.first_batch(split, at_most=size)
    if not any(dist.agree(small.num_samples > 0)):  # a collate function has left all out
        return
    try:
        Totals().add(step(small), small.num_samples)
    except Exception as error:
        if _is_of_the_machine(error):
            raise
        number = "a single sample, and one was" if size == 1 else f"{size} samples, and {size} were"
        helps = ("Set data_loader.drop_last=true, or choose another batch_size; several processes may also "
                 "set trainer.args.sync_batchnorm=true, where that is BatchNorm's."
                 if split == "train" else "Choose another data_loader.eval_batch_size.")
        helps += " squeeze() drops the axis of a single sample: name its axis, squeeze(1)." * (size == 1)
        raise ConfigError.at("data_loader", f"the last batch of {split} leaves a process {number} tried: "
                                            f"{describe_error(error)}\n{helps}") from error


def _train_on(trainer: PreparedTrainer, batch: Batch) -> tuple[dict[str, float], bool]:
    """The values of a training step, and whether its loss depends on weights that are trained."""
    totals = Totals()
    # else a process whose batch does not count would take a result from before, and not wait for the others
    trainer.metrics.reset()
    values = as_values(trainer.train_step(trainer.device_batch(batch)))
    totals.add(values, batch.num_samples)
    means = totals.means() | trainer.metrics.compute(trainer.data.dataset("train"))
    return means, getattr(values.get("loss"), "requires_grad", False)


def _try_evaluation(trainer: PreparedTrainer, split: str, batch: Batch) -> dict[str, float]:
    totals = Totals()
    with trainer.evaluating():
        totals.add(trainer.eval_values(0, batch), batch.num_samples)
        values = totals.means() | trainer.metrics.compute(trainer.data.dataset(split))
        _try_smallest_batch(trainer, split, batch, partial(trainer.eval_values, 1))
    return values


def _require_loadable(state: Mapping[str, Any]) -> None:
    """Raises ConfigError for a part of a trainer's state that a checkpoint cannot hold."""
    for name, part in state.items():
        if not hasattr(part, "load_state_dict"):
            raise ConfigError.at("trainer", f"self.state['{name}'] is a {type(part).__name__}."
                                            " What a checkpoint holds has state_dict and load_state_dict.")


@contextmanager
def _state_restored(trainer: PreparedTrainer):
    """Inside, the trainer's state may change; afterwards it is restored, and there are no gradients."""
    updaters = trainer.updaters.values()
    _require_loadable(trainer.state)
    kept = {name: part for name, part in trainer.state.items()
            if not any(part is updater for updater in updaters)}
    before, metrics = (StateCopier().copy({name: part.state_dict() for name, part in kept.items()}),
                       trainer.metrics.snapshot())
    attributes = AttributeSnapshot(trainer, trainer.ema and trainer.ema.model, trainer.data.transforms,
                                   *(updater.schedule for updater in updaters))
    trained = [(parameter, parameter.requires_grad) for parameter in trainer.unwrapped_model.parameters()]
    try:
        yield
    finally:
        attributes.restore()  # first: a state fits buffers of their former shapes
        for name, part in kept.items():
            part.load_state_dict(before[name])
        trainer.metrics.restore(metrics)
        for parameter, was_trained in trained:
            parameter.requires_grad_(was_trained)
        trainer.unwrapped_model.zero_grad(set_to_none=True)
        for updater in updaters:  # may have parameters besides the model's, such as a loss's
            updater.optimizer.zero_grad(set_to_none=True)
