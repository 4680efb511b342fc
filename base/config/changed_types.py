"""What a block keeps when an override gives it another type: `trainer.type=MyTrainer`; repeated keys."""
import logging

from base.registries import KINDS
from utils.config.loading import ChangedType, Reading, set_value, value_at

log = logging.getLogger(__name__)


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
        if free is None:
            continue
        new, old = block.get("args") or {}, change.block.get("args") or {}
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
