"""The config of a run: what was read, checked and completed, and what may change when a run is resumed."""
import logging
from collections.abc import Iterable
from typing import NamedTuple

from base.config.complete_config import complete_config, in_tables
from base.config.validate import validate_config
from base.registries import KINDS
from base.run.checkpoints import Checkpoint
from utils.checkpoint import format_1
from utils.config.interpolation import data_references
from utils.config.loading import ChangedType, Reading, located, override_config
from utils.config.syntax import DATA_VALUES, DEFAULT_VALUES, format_value
from utils.config.values import (
    default_values, differences, flatten, set_value, value_at, written_config)
from utils.errors import ConfigError, Fault

log = logging.getLogger(__name__)
# Parts of the config whose values are kept in the checkpoint: a change at resume would have no effect.
_KEPT_SECTIONS = ("name", "seed", "init", "optimizer", "scheduler")
LIMIT, _BATCH_SIZE, _ACCUMULATE = "data_loader.limit", "data_loader.batch_size", "trainer.args.accumulate"
# Keys that decide which samples the batches of an epoch hold.
_WITHIN_EPOCH = (_BATCH_SIZE, "data_loader.shuffle", "data_loader.drop_last", _ACCUMULATE)
# Keys that decide which samples of train validate.
_SPLIT = {f"data_loader.{key}" for key in ("validation_split", "folds", "fold", "stratify", "group_by")}


class RunConfig(NamedTuple):
    """`config`: what parts are built from. `complete`: as kept. `reading`: as written; its places: where."""

    config: dict
    places: dict
    complete: dict
    reading: Reading


def resolve_config(given: Reading | None, checkpoint: Checkpoint | None, overrides: list[str],
                   num_processes: int = 1) -> RunConfig:
    """The checked and completed config: `given`, else the checkpoint's with `overrides`.

    `given` wins over the checkpoint's config, and differences are logged; a key that neither has written
    keeps the value that the run has. Raises ConfigError for all faults, and for changes that cannot have an
    effect on a resumed run.
    """
    warn_of_repeated(overrides)
    reading = given or override_config(written_config(checkpoint.config), str(checkpoint.file), overrides)
    return resolve_reading(keep_arguments(reading), checkpoint, num_processes)


def resolve_reading(reading: Reading, checkpoint: Checkpoint | None, num_processes: int) -> RunConfig:
    """The checked and completed config of what was read; see `resolve_config`."""
    if checkpoint is None:
        config = validate_config(reading.config, reading.places, num_processes, reading.faults)
        config, complete = complete_config(config)
        return RunConfig(config, reading.places, complete, reading)
    # kept values of the engine's own keys are checked with what is written
    checked = complete_config(reading.config, checkpoint.config, format_1.DEFAULTS, engine_only=True).config
    config = validate_config(checked, reading.places, num_processes, reading.faults)
    config = written_config({**config, DEFAULT_VALUES: default_values(checkpoint.config)})
    config, complete = complete_config(config, checkpoint.config, format_1.DEFAULTS)
    with located(reading.places):
        _refuse_changes_without_effect(checkpoint, complete)
    return RunConfig(config, reading.places, complete, reading)


def warn_of_repeated(overrides: list[str]) -> None:
    """Logs a warning for each key that is given twice on the command line."""
    keys = [override.partition("=")[0] for override in overrides]
    for key in dict.fromkeys(key for key in keys if keys.count(key) > 1):
        log.warning("command line  %s: given %d times. The last one counts.", key, keys.count(key))


def keep_arguments(reading: Reading) -> Reading:
    """The reading, where blocks of another type keep the arguments that the new one takes. Logs the others.

    Keys beside `args` (a scheduler's `per`, a metric's `name`) are kept, too.
    """
    config, places, hidden = reading.config, dict(reading.places), reading.from_environment
    for change in reading.changed_types:
        block = value_at(config, ".".join(change.path))
        free = _free_arguments(change, block["type"])
        new, old = (given.get("args") or {} for given in (block, change.block))
        if free is None or not isinstance(new, dict) or not isinstance(old, dict):
            continue  # validation says what is wrong
        taken = {name: value for name, value in old.items() if name in free and name not in new}
        dropped = [name for name in old if name not in free]
        beside = {key: value for key, value in change.block.items() if key not in ("type", "args")}
        args = {"args": {**taken, **new}} if taken or new else {}
        config = set_value(config, change.path, {**beside, **block, **args})
        places, hidden = {**change.places, **places}, hidden | change.from_environment
        if dropped:
            log.warning("%s is now %s, which does not take these arguments of %s: %s. They are dropped.",
                        ".".join(change.path), block["type"], change.block["type"], ", ".join(dropped))
    return reading._replace(config=config, places=places, from_environment=hidden)


def _free_arguments(change: ChangedType, name: object) -> set[str] | None:
    """The arguments of the new type; None for what is no block, or for a name that does not exist."""
    registry = KINDS.get(change.path[0])
    if registry is None or ("args" in change.path and change.path[0] != "scheduler"):
        return None
    signature = registry.signature_of(name)
    return {*signature.free()} if signature else None


def _refuse_changes_without_effect(checkpoint: Checkpoint, config: dict) -> None:
    """Logs the changes to a resumed run; raises ConfigError for changes without effect."""
    changes, faults = user_changes(checkpoint.config, config), []
    waits = any(data_references(config))  # the changes are looked at once more, and then logged
    begun = checkpoint.state["progress"]["batch"] > 0 and not _keeps_steps(changes, checkpoint.config, config)
    for key, (old, new) in changes.items():
        if any(data_references(new)):
            continue
        if begun and _decides_batches(key):
            why = (f"the epoch under way was begun with {old!r}; it cannot continue with {new!r}. Resume "
                   "without this change, or from a checkpoint at the end of an epoch."
                   f"{_hint(key, checkpoint.config)}")
        elif key in _SPLIT:
            why = (f"a run under way keeps its split ({old!r}); with another it would train on samples that "
                   "it validates on.")
        elif key == LIMIT or key.split(".")[0] in _KEPT_SECTIONS:
            what = "limit" if key == LIMIT else key.split(".")[0]
            before = "not set" if old is None else format_value(old)
            now = "be left out" if new is None else f"become {format_value(new)}"
            why = (f"was {before} when the run began, and cannot {now}: a run under way keeps its {what}. "
                   "For a new run from these weights: python train.py -c CONFIG --init-from "
                   f"{checkpoint.file}")
        else:
            log.log(logging.DEBUG if waits else logging.INFO, "%s is now %s; the checkpoint was made with %s",
                    key, format_value(new), format_value(value_at(checkpoint.config, key, old)))
            continue
        faults.append(Fault(tuple(key.split(".")), why))
    if faults:
        raise ConfigError.of(faults)


def user_changes(old: dict, new: dict) -> dict[str, tuple]:
    """What users have changed from one complete config to another, by key.

    An argument without a value on one side, that is a default on the other, came or went with the code.
    """
    plain = [in_tables({**config, DEFAULT_VALUES: None, DATA_VALUES: None}) for config in (old, new)]
    sides = [(default_values(old), flatten(plain[0])), (default_values(new), flatten(plain[1]))]
    return {key: values for key, values in differences(*plain).items()
            if not all(key in defaults or key not in keys for defaults, keys in sides)}


def _keeps_steps(changes: Iterable[str], old: dict, new: dict) -> bool:
    """Whether every step of the epoch still has the samples that it had: other batches of equal steps."""
    if not {*filter(_decides_batches, changes)} <= {_BATCH_SIZE, _ACCUMULATE}:
        return False
    return not _leaves_samples_out(new) and _step_size(old) == _step_size(new)


def _decides_batches(key: str) -> bool:
    """Whether a key decides which samples the batches of an epoch hold."""
    return key in _WITHIN_EPOCH or key.startswith("data_loader.sampler")


def _leaves_samples_out(config: dict) -> bool:
    """Whether an epoch leaves samples out, or a sampler chooses them: with other batches these may change."""
    return any(value_at(config, f"data_loader.{key}")
               for key in ("drop_last", "batches_per_epoch", "sampler"))


def _step_size(config: dict) -> int | None:
    """Samples in an optimizer step; None if the config does not say it."""
    size, accumulate = value_at(config, _BATCH_SIZE), value_at(config, _ACCUMULATE, 1)
    return size * accumulate if type(size) is type(accumulate) is int else None


def _hint(key: str, config: dict) -> str:
    if key not in (_BATCH_SIZE, _ACCUMULATE):
        return ""
    if _leaves_samples_out(config):
        return (" (With drop_last, batches_per_epoch or a sampler other batches would hold other samples; "
                "else batch_size and accumulate of the same product could change.)")
    return f" What may change is {_BATCH_SIZE} and {_ACCUMULATE} of the same product, {_step_size(config)}."
