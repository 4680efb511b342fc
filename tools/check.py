"""`train.py --check`: tests everything except a full run. Reports mistakes, or OK and what a run needs."""
import itertools
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch

from base.base_data_loader import DataSplits
from base.data.sampler import Batch
from base.preflight.locate_error import locate_error
from base.preflight.loss import Parts
from base.registries import WRITERS
from base.run.writers import run_info
from base.summary import describe_parts
from logger.feeder import Feeder
from logger.run_log import SilentRun
from logger.writer import build_writer
from tools.compute_advice import describe_advice
from tools.find_lr import Placed, steps
from tools.data_checks.image_headers import describe_images
from tools.monitor_direction import warn_of_direction, warn_of_plateau_mode
from tools.data_checks.moved_images import warn_of_moved_images
from tools.data_checks.overlap import find_overlap
from tools.verify_resume import describe_difference
from utils.checkpoint.loading import load_checkpoint
from utils.checkpoint.state import flatten_state
from utils.checkpoint.store import CheckpointStore, SavePolicy
from utils.cli import print_answer
from utils.config.blocks import as_block
from utils.device import peak_memory, synchronize
from utils.errors import ConfigError, Fault, TrainingError, describe_error
from utils.training.non_finite_guard import NonFinite, NonFiniteGuard
from utils.training.progress import Position

log = logging.getLogger(__name__)
NUM_STEPS, MIN_STEPS, LIMIT_S = 20, 5, 0.7


class Stepping(Placed, Protocol):
    """What is needed to make steps: data, position, accumulate of `Placed`, and these."""

    device: torch.device
    guard: NonFiniteGuard
    epochs: int

    def optimizer_step(self, batches: list) -> None: ...
    def on_step_end(self) -> None: ...
    def on_train_start(self) -> None: ...
    def set_mode(self, training: bool) -> None: ...
    def seed_for(self, purpose: str, number: int) -> None: ...


class Restorable(Stepping, Protocol):
    """What is needed to save, load and restore a state after more steps."""

    state: Mapping[str, Any]
    unwrapped_model: torch.nn.Module

    def resume(self, state: Mapping) -> None: ...


class Evaluating(Protocol):
    """What is needed to evaluate batches."""

    data: DataSplits
    device: torch.device

    def evaluating(self) -> AbstractContextManager: ...
    def eval_values(self, number: int, batch: Batch) -> Mapping[str, Any]: ...


class Plan(Protocol):
    """What an estimate needs."""

    data: DataSplits
    device: torch.device
    epochs: int
    accumulate: int
    eval_every: int
    save_every: int | None
    save_policy: SavePolicy
    monitor: Any


def run_tool(args, setup, config: dict) -> None:
    """Runs `--check`: logs the estimate, prints OK."""
    with setup.trainer.errors_explained():
        log.info("%s\n%s", describe_parts(setup.trainer), check_experiment(setup, config, args.writers))
    print_answer("OK")


def check_experiment(setup, config: dict, outside: bool = False) -> str:
    """Checks what a TrainingSetup holds. Its trainer cannot be used afterwards.

    `outside`: whether to build also the writers that talk to a service.
    Returns an estimate for a run. Logs a warning for what is odd. Raises one ConfigError for all mistakes.
    """
    trainer = setup.trainer
    faults = [] if trainer.guard.tolerated else [*_non_finite(setup.first_values)]
    step_s = eval_s = None
    if monitor := trainer.monitor:
        warn_of_direction(f"{monitor.mode} {monitor.name}")
        warn_of_plateau_mode([updater.schedule for updater in trainer.updaters.values()], monitor.mode)
    with TemporaryDirectory() as folder, closing(trainer.data):
        trainer.use_run(SilentRun(Path(folder), bars=False))
        for number, block in enumerate(config["writers"]):
            with _faults_noted(faults, trainer, trainer.position):
                if outside or not getattr(WRITERS.get(as_block(block)["type"]), "outside", False):
                    writer = build_writer(block, f"writers.{number}", run_info(Path(folder), config))
                    Feeder([writer]).close("checked")
        with _faults_noted(faults, trainer, trainer.position):
            for split in trainer.data.sets("val"):
                faults += _overlap_faults(trainer.data, split)
            for line in describe_images(trainer.data):
                log.warning("dataset: %s", line)
            warn_of_moved_images(trainer.data, trainer.data.first_batch("train").data)
        with _faults_noted(faults, trainer, trainer.position):
            with _gradients_seen(trainer.unwrapped_model) as seen:
                step_s, all_made = _time_steps(trainer)
            if step_s:
                faults += _untrained(trainer.unwrapped_model, seen, trainer.position.step, all_made)
            eval_s = _time_evaluation(trainer)
            faults += _state_faults(trainer, config, Path(folder))
        size = sum(file.stat().st_size for file in Path(folder).glob("last.pt"))
    if faults:
        raise ConfigError.of(faults)
    return "\n".join([*_estimate(trainer, step_s, eval_s, size), *describe_advice(trainer, config, step_s)])


@contextmanager
def _faults_noted(faults: list[Fault], trainer: Parts, position: Position):
    """Records an error in the block as a fault of the part that caused it."""
    try:
        yield
    except ConfigError as error:
        faults += error.faults or [Fault((), str(error))]
    except NonFinite as error:
        advice = "A lower learning rate, or trainer.args.clip_norm, may help."
        faults.append(Fault(("loss",), f"{error} at step {position.step + 1}. {advice}"))
    except Exception as error:
        key, given = locate_error(trainer, error)
        given = f" Given to {key}: {given}." if given else ""
        faults.append(Fault(tuple((key or "trainer").split(".")),
                            f"a step failed: {describe_error(error)}{given}"))
        log.debug("a step failed", exc_info=True)


def _non_finite(preflight_values: dict[str, float]) -> Iterator[Fault]:
    for name, value in preflight_values.items():
        if name.endswith("/loss") and not math.isfinite(value):
            yield Fault(("loss",), f"{name} is {value} on the first batch. Look at the inputs' scale and at "
                                   "what the loss takes.")


@contextmanager
def _gradients_seen(model: torch.nn.Module):
    """Yields a set, to which each parameter that gets a gradient in the block adds its name."""
    seen: set[str] = set()
    watches = [parameter.register_hook(lambda gradient, name=name: seen.add(name))
               for name, parameter in model.named_parameters() if parameter.requires_grad]
    try:
        yield seen
    finally:
        for watch in watches:
            watch.remove()


def _untrained(model: torch.nn.Module, seen: set[str], num_steps: int, all_made: bool) -> Iterator[Fault]:
    """A fault for parameters without a gradient. Because of them, processes also wait for each other.

    If there was no time for all steps, or if they are few, a later step might use them. Then it only logs a
    warning, as for parameters that other steps or another loss may use.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    unused, too_few = [name for name in trained if name not in seen], not all_made or num_steps < MIN_STEPS
    rare = [name for name in unused if too_few or _may_be_used(model, name, seen)]
    for names in (rare, [name for name in unused if name not in rare]):
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        message = (f"{len(names)} trainable parameters got no gradient in {num_steps} steps: "
                   f"{shown}")
        if names and names is rare:
            log.warning("model: %s", message)
        elif names:
            yield Fault(("model",), f"{message}. Use them in forward, take them out or freeze them: "
                                    "optimizer.groups=[{match: NAME, frozen: true}].")


def _may_be_used(model: torch.nn.Module, name: str, seen: set[str]) -> bool:
    """Whether a parameter without a gradient may get one in other steps, or from another loss.

    So it is in a layer that takes turns with layers like it, and in an expert that had no sample; and with a
    bias that a loss of derivatives (physics-informed) does not depend on, while its layer's weights are used.
    """
    def used(path: str) -> bool:
        return any(other.startswith(f"{path}.") for other in seen)

    def shapes(module: torch.nn.Module) -> list:
        return [parameter.shape for parameter in module.parameters()]

    path = name.rpartition(".")[0]
    if path and used(path):
        return True
    while path:
        above, _, own = path.rpartition(".")
        parent, module = model.get_submodule(above), model.get_submodule(path)
        for other, sibling in parent.named_children():
            alike = isinstance(parent, (torch.nn.ModuleList, torch.nn.ModuleDict)) or (
                type(sibling) is type(module) and shapes(sibling) == shapes(module))
            if other != own and alike and used(f"{above}.{other}".lstrip(".")):
                return True
        path = above
    return False


def _overlap_faults(data: DataSplits, split: str) -> Iterator[Fault]:
    overlap = find_overlap(data, split)
    if overlap is None or not overlap.shared:
        return
    which = "validation samples" if split == "val" else f"samples of {split}"
    message = (f"{overlap.shared:,} of {overlap.num_val:,} {which} are training samples, too (of "
               f"{overlap.num_train:,} looked at)")
    if overlap.shared > max(2, overlap.num_val / 100) and not overlap.repeats:
        yield Fault(("dataset",), f"{message}: what validation measures is in part memory. Take them out of "
                                  "one of the two.")
    else:
        log.warning("dataset: %s", message)


def _time_steps(trainer: Stepping) -> tuple[float | None, bool]:
    """The median time of a step, including the wait for data, and whether there was time for all steps.

    The time is None if no step is left. Raises NonFinite.
    """
    times: list[float] = []
    trainer.set_mode(training=True)
    trainer.seed_for("start", trainer.position.step)
    trainer.on_train_start()
    begun = last = time.perf_counter()
    num_batches = trainer.data.num_batches("train")
    num_left = num_batches and trainer.epochs * -(-num_batches // trainer.accumulate) - trainer.position.step
    num_steps = max(min(num_left or NUM_STEPS, NUM_STEPS) - 1, 1)  # _state_faults makes one more
    for batches in itertools.islice(_steps_left(trainer), num_steps):
        _make_step(trainer, batches)
        synchronize(trainer.device)
        times.append(time.perf_counter() - last)
        last = time.perf_counter()
        if last - begun > LIMIT_S and len(times) > 2:
            break
    trainer.guard.check()
    return (median(times[1:] or times) if times else None), len(times) == num_steps


def _make_step(trainer: Stepping, batches: list) -> None:
    trainer.optimizer_step(batches)
    trainer.on_step_end()


def _steps_left(trainer: Stepping) -> Iterator[list]:
    """The batches of each step, up to the end of the run, where schedules end."""
    return itertools.takewhile(lambda batches: trainer.position.epoch < trainer.epochs, steps(trainer))


def _time_evaluation(trainer: Evaluating) -> float | None:
    """The median time of an evaluation batch; None without validation."""
    sets = trainer.data.sets("val")
    if not sets:
        return None
    times, begun = [], time.perf_counter()
    with trainer.evaluating():
        for number, batch in enumerate(
                itertools.islice(trainer.data.batches(sets[0], training=False), NUM_STEPS)):
            started = time.perf_counter()
            trainer.eval_values(number, batch)
            synchronize(trainer.device)
            times.append(time.perf_counter() - started)
            if time.perf_counter() - begun > LIMIT_S / 2:
                break
    return median(times[1:] or times)


def _state_faults(trainer: Restorable, config: dict, folder: Path) -> list[Fault]:
    """Saves, loads and restores the state. It must be the same after each of these, to the last bit."""
    try:
        state = {name: part.state_dict() for name, part in trainer.state.items()}
        weights = dict(trainer.unwrapped_model.named_parameters())
        CheckpointStore(folder, config).save(state, ["last.pt"], weights,
                                             SavePolicy(background=False, max_failures=1))
        loaded = load_checkpoint(folder / "last.pt")["state"]
        found = flatten_state(loaded)  # before resume: CyclicLR removes entries from a state that it loads
        different = describe_difference(flatten_state(state), found, "the state", ("as it was", "loaded"))
        for batches in itertools.islice(_steps_left(trainer), 1):  # resume must start from another state
            _make_step(trainer, batches)
        trainer.resume(loaded)
        again = {name: part.state_dict() for name, part in trainer.state.items()}
        different = different or describe_difference(found, flatten_state(again), "the state",
                                                     ("loaded", "put back"))
    except (ConfigError, TrainingError) as error:
        return [Fault(("trainer",), f"its state cannot be saved and taken up again: {error}")]
    except Exception as error:  # of any plug-in's state_dict or load_state_dict
        return [Fault(("trainer",), f"its state cannot be saved and taken up again: {describe_error(error)}")]
    return [Fault(("trainer",), f"saved and taken up again, {different}")] if different else []


def _estimate(trainer: Plan, step_s: float | None, eval_s: float | None, size: int) -> list[str]:
    """Time, memory and disk space of a run, one per line."""
    data, store = trainer.data, trainer.save_policy
    num_batches = data.num_batches("train")
    lines = []
    if step_s is None:
        lines.append("time     no step is left to make")
    elif num_batches is None:
        lines.append(f"time     {step_s * 1000:.3g} ms a step; the number of steps in an epoch of this "
                     "stream is unknown")
    else:
        num_steps = -(-num_batches // trainer.accumulate)
        num_evaluated = sum(data.num_batches(split, training=False) or 0 for split in data.sets("val"))
        epoch_s = num_steps * step_s + num_evaluated * (eval_s or 0) / trainer.eval_every
        lines.append(f"time     {_duration(epoch_s)} an epoch: {num_steps:,} steps of {step_s * 1000:.3g} ms"
                     + (f", {num_evaluated:,} batches of evaluation of {eval_s * 1000:.3g} ms"
                        if eval_s else "")
                     + f". At most {_duration(epoch_s * trainer.epochs)} for {trainer.epochs} epochs")
    if (peak := peak_memory(trainer.device)) is not None:
        whose = f"of {trainer.device}" if trainer.device.type == "cuda" else "of main memory, by this process"
        lines.append(f"memory   {_size(peak)} at its peak so far, {whose}")
    num_numbered = trainer.epochs // trainer.save_every if trainer.save_every else 0
    num_kept = 2 + bool(trainer.monitor) + min(num_numbered, store.keep_last or num_numbered)
    lines.append(f"disk     {_size(size * num_kept)} for at most {num_kept} checkpoints of {_size(size)}")
    return lines


def _duration(time_s: float) -> str:
    if time_s < 100:
        return f"{time_s:.2g} s"
    return f"{time_s / 60:.0f} min" if time_s < 7200 else f"{time_s / 3600:.1f} h"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
