"""Finds all faults of a config before anything is built or any data is read."""
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from base.build import (
    FUSED_WHEN_SHARDED, log_name, optimizer_blocks, optimizer_path, scheduler_blocks)
from base.data.augmentation import BatchAugmentation
from base.config.key_hints import add_key_hints
from base.registries import (
    LOSSES, METRICS, MODELS, OPTIMIZERS, SCHEDULERS, TRAINERS, TRANSFORMS, WRITERS)
from base.trainer_options import TrainerOptions
from base.config.validate_data_loader import data_loader_faults
from base.config.validate_dataset import dataset_faults
from base.config.validate_init import init_faults
from utils.config.annotations import FiniteFloat, PositiveInt, mismatch
from utils.config.blocks import args_of, as_block, blocks_by_name, holds_blocks
from utils.config.loading import format_faults
from utils.config.values import written_config
from utils.config.registry import Registry
from utils.config.sections import REQUIRED, SECTIONS, TRANSFORM_KEYS, with_defaults
from utils.config.signature import Signature, UnknownKey
from utils.config.suggestions import suggest_value
from utils.config.syntax import format_value
from utils.errors import ConfigError, Fault, UnresolvedReference, WrongValue
from utils.run_folder import folder_name_fault

log = logging.getLogger(__name__)
_SWEEP = ("is for sweep.py, which starts many runs: python sweep.py -c CONFIG. For a single run delete it, "
          "with '~sweep' on the command line.")
_METRIC_NAME = re.compile(r"\w[\w .,:/@+=%#^*()\[\]-]*")  # harmless in a shell, a table, a page


def validate_config(config: Mapping, places: Mapping | None = None, num_processes: int = 1,
                    found: Iterable[Fault] = ()) -> dict:
    """The config for `num_processes` processes, with defaults for omitted sections.

    Raises one ConfigError that lists all faults, including those `found` before. Each has the place where it
    was written, its key, and how to correct it.
    """
    config = written_config(config)
    full, found = _without_former_keys(with_defaults(config)), [*found]
    unknown = [UnknownKey.of((key,), "there is no such section.", SECTIONS,
                             f"Sections: {', '.join(SECTIONS)}.")
               for key in config if key not in SECTIONS and key != "sweep"]
    if "sweep" in config:
        unknown.append(Fault(("sweep",), _SWEEP))
    faults = [*unknown, *_faults(full), *_process_faults(full, num_processes)]
    unresolved = {fault.key for fault in found if isinstance(fault, UnresolvedReference)}
    faults = found + [fault for fault in faults  # one message is enough for a reference that leads nowhere
                      if not (isinstance(fault, WrongValue) and fault.key in unresolved)]
    if faults:
        raise ConfigError(format_faults(add_key_hints(faults, {**config, **full}), places or {}))
    return full


def _without_former_keys(config: dict) -> dict:
    """The config without keys of earlier versions whose value says how it is now in any case."""
    args = args_of(config["trainer"])
    if args.get("on_oom") != "stop":
        return config
    log.warning("trainer.args.on_oom is gone: without memory for a batch a run always stops. Leave it out.")
    kept = {key: value for key, value in args.items() if key != "on_oom"}
    return {**config, "trainer": {**config["trainer"], "args": kept}}


def _faults(config: Mapping) -> Iterator[Fault]:
    for key in REQUIRED:
        if config[key] is None:
            yield Fault((key,), "is missing." + (" Runs are kept in saved/<name>/." if key == "name" else ""))
    if config["name"] is not None and (wrong := mismatch(config["name"], str)
                                       or folder_name_fault(config["name"])):
        yield WrongValue(("name",), wrong)
    yield from _mismatches(config["seed"], int, ("seed",))
    if config["dataset"] is not None:
        yield from dataset_faults(config["dataset"], config["transforms"], config["data_loader"])
    yield from _transform_faults(config["transforms"])
    yield from data_loader_faults(config["data_loader"])
    if config["model"] is not None:
        yield from MODELS.faults(config["model"], ("model",))
    yield from _loss_faults(config["loss"], config["metrics"])
    yield from init_faults(config["init"])
    yield from _metric_faults(config["metrics"])
    if config["optimizer"] is not None:
        yield from _optimizer_faults(config["optimizer"])
        yield from _schedule_faults(config["scheduler"], config["optimizer"])
    yield from _trainer_faults(config["trainer"], config)
    yield from _list_faults(WRITERS, config["writers"], ("writers",))


def _mismatches(value, annotation, path: tuple) -> Iterator[Fault]:
    if wrong := mismatch(value, annotation):
        yield WrongValue(path, wrong)


def _trainer_fault(argument: str, message: str) -> Fault:
    return Fault(("trainer", "args", argument), message)


def _process_faults(config: Mapping, num_processes: int) -> Iterator[Fault]:
    """Faults of settings that work with one process only."""
    if num_processes == 1:
        return
    size = config["data_loader"].get("batch_size", 32) if isinstance(config["data_loader"], dict) else None
    if isinstance(size, int) and size > 0 and size % num_processes:
        less = size // num_processes * num_processes
        near = f"{less} and {less + num_processes}" if less else num_processes
        yield Fault(("data_loader", "batch_size"), f"{size} samples cannot be divided among {num_processes} "
                                                   f"processes. The nearest that can: {near}.")
    args = args_of(config["trainer"])
    strategy = args.get("strategy")
    if (strategy.get("type") if isinstance(strategy, dict) else strategy) == "fsdp":
        yield from _sharding_faults(args, config["optimizer"])


def _sharding_faults(args: Mapping, optimizer) -> Iterator[Fault]:
    """Faults of settings that do not work with sharded weights."""
    if args.get("channels_last"):
        yield _trainer_fault("channels_last", "fsdp takes weights in their usual order only. Leave it out.")
    for name, block in optimizer_blocks(optimizer or {}).items():
        path, kind = optimizer_path(name).split("."), as_block(block).get("type")
        if kind == "LBFGS":
            yield Fault((*path, "type"),
                        "LBFGS needs all of the weights; with fsdp a process holds a part of them")
        if args_of(block).get("fused") and kind not in FUSED_WHEN_SHARDED:
            yield Fault((*path, "args", "fused"), f"{kind} has no fused step for fsdp, where a process holds "
                                                  "a part of the weights")


def _transform_faults(transforms) -> Iterator[Fault]:
    known = ", ".join(TRANSFORM_KEYS)
    if not isinstance(transforms, dict):
        yield WrongValue(("transforms",), f"a table with {known} is needed; this is {transforms!r}")
        return
    for key, blocks in transforms.items():
        path = ("transforms", key)
        if key == "joint":
            yield from _mismatches(blocks, bool | None, path)
        elif key in TRANSFORM_KEYS:
            faults = list(_list_faults(TRANSFORMS, [] if blocks is None else blocks, path))
            yield from faults or _misplaced([((*path, i), block) for i, block in enumerate(blocks or [])])
        else:
            yield UnknownKey.of(path, f"there are no {key!r} transforms.", (*TRANSFORM_KEYS, "joint"),
                                f"There are: {known}.")


def _misplaced(blocks: Iterable[tuple[tuple, Any]]) -> Iterator[Fault]:
    """Batch augmentations among the transforms of samples or inside others, or the other way round."""
    for path, block in blocks:
        name = as_block(block)["type"]
        transform, twin = TRANSFORMS.get(name), f"Batch{name}"
        of_batches = isinstance(transform, type) and issubclass(transform, BatchAugmentation)
        if of_batches and (path[1] != "batch" or len(path) > 3):
            yield Fault(path, f"{name} augments whole batches, in training alone. Move it to "
                              "transforms.batch.")
        if not of_batches and path[1] == "batch" and twin in TRANSFORMS.names():
            yield Fault(path, f"{name} would draw once for a whole batch, in evaluation too. {twin} draws "
                              "for each sample, in training alone.")
        yield from _misplaced([((*path, *at), inner) for at, inner in TRANSFORMS.inner_blocks(block)])


def _list_faults(registry: Registry, blocks, path: tuple) -> Iterator[Fault]:
    if not isinstance(blocks, list):
        yield WrongValue(path, f"a list of {registry.kind}s is needed; this is "
                               f"{format_value(blocks)}.{suggest_value(blocks, [list])}")
        return
    for number, block in enumerate(blocks):
        yield from registry.faults(block, (*path, number))


def _loss_faults(section, metrics) -> Iterator[Fault]:
    blocks = {} if section is None else blocks_by_name(section, "")
    taken = ["loss", *map(log_name, metrics if isinstance(metrics, list) else ())]
    for name, block in blocks.items():
        path = ("loss", name) if name else ("loss",)
        yield from LOSSES.faults(block, path, keys=SECTIONS["loss"].keys if name else ())
        if name in taken or (name and not str(name).isidentifier()):
            yield Fault(path, f"{name!r} cannot name a loss: letters, digits and _ are needed, and not "
                              f"what other values are called: {', '.join(taken)}.")
        yield from _mismatches(as_block(block).get("scale", 1.0), FiniteFloat, (*path, "scale"))


def _metric_faults(blocks) -> Iterator[Fault]:
    if not isinstance(blocks, list):
        yield from _list_faults(METRICS, blocks, ("metrics",))
        return
    for number, block in enumerate(blocks):
        path, name = ("metrics", number), log_name(block)
        if name == "loss":
            yield Fault(path, "the loss is measured anyway: 'loss' is what the loss is called. Leave it out "
                              "here, or give this metric another 'name'.")
            continue
        yield from METRICS.faults(block, path, keys=SECTIONS["metrics"].keys)
        if name in map(log_name, blocks[:number]):
            yield Fault(path, f"two metrics are called {name!r}. Give one a 'name' of its own.")
        if not _METRIC_NAME.fullmatch(name):
            yield WrongValue((*path, "name"), f"{name!r} names values in logs and tables: it begins with a "
                                              "letter or a digit; spaces and _ . , : / @ + - = % # ^ * ( ) "
                                              "[ ] may follow.")


def _optimizer_faults(optimizer) -> Iterator[Fault]:
    blocks = optimizer_blocks(optimizer)
    rest = [name for name, block in blocks.items() if "match" not in as_block(block)]
    for name, block in blocks.items():
        if len(rest) < len(blocks) and name in rest[1:]:
            yield Fault(("optimizer", name), f"'match' is missing, as in {rest[0]}: only one takes the rest")
        path, args = tuple(optimizer_path(name).split(".")), args_of(block)
        faults = OPTIMIZERS.faults(block, path, keys=SECTIONS["optimizer"].keys)
        yield from faults or _group_faults(as_block(block), path)
        is_lbfgs = as_block(block).get("type") == "LBFGS"
        if is_lbfgs and (args.get("max_iter") != 1 or args.get("line_search_fn")):
            yield Fault((*path, "args"), "LBFGS sees the loss once a step here: it needs max_iter: 1 and no "
                                         "line_search_fn")


def _group_faults(block: Mapping, path: tuple) -> Iterator[Fault]:
    yield from _mismatches(block.get("match", ""), str | list[str], (*path, "match"))
    if "match" in block and path == ("optimizer",):
        yield Fault((*path, "match"), "is for one of several: "
                                      "{matrices: {type: Muon, match: '*.weight'}, rest: {type: AdamW}}.")
    for key in ("decay_bias_and_norm", "keep_frozen"):
        yield from _mismatches(block.get(key, True), bool, (*path, key))
    groups = block.get("groups") or []
    if not isinstance(groups, list):
        yield Fault((*path, "groups"), "a list of rules is needed, such as [{match: 'backbone.*', lr: 1e-4}]")
        return
    signature = OPTIMIZERS.signature(OPTIMIZERS.get(block["type"]))
    for number, rule in enumerate(groups):
        yield from _rule_faults(rule, (*path, "groups", number), signature)


def _rule_faults(rule, where: tuple, signature: Signature) -> Iterator[Fault]:
    if not isinstance(rule, dict) or not isinstance(rule.get("match"), str):
        yield Fault(where, "a rule is {match: PATTERN} with options of the optimizer, or with frozen: true")
        return
    frozen = rule.get("frozen", True)
    if isinstance(frozen, dict) and frozen.keys() == {"until_epoch"}:
        yield from _mismatches(frozen["until_epoch"], PositiveInt, (*where, "frozen", "until_epoch"))
    elif type(frozen) is not bool:
        yield WrongValue((*where, "frozen"), f"true, false or {{until_epoch: 3}} is needed; this is "
                                             f"{frozen!r}.{suggest_value(frozen, [bool])}")
    options = {key: value for key, value in rule.items() if key not in ("match", "frozen")}
    yield from (fault.below(where) for fault in signature.faults(options) if fault.path)


def _schedule_faults(scheduler, optimizer) -> Iterator[Fault]:
    optimizers = optimizer_blocks(optimizer)
    if "optimizer" not in optimizers and scheduler and not holds_blocks(("scheduler",), scheduler):
        yield Fault(("scheduler",), f"there are several optimizers: {', '.join(optimizers)}. Write it under "
                                    f"the name of one: scheduler: {{{[*optimizers][0]}: BLOCK}}.")
        return
    for name, chain in scheduler_blocks(scheduler, optimizer).items():
        path = ("scheduler",) if name == "optimizer" else ("scheduler", name)
        if name not in optimizers:
            yield Fault(path, f"there is no optimizer {name!r}. Write the scheduler under one of: "
                              f"{', '.join(optimizers)}.")
        for number, block in enumerate(chain):
            yield from _scheduler_faults(block, (*path, number) if isinstance(scheduler, list) else path)


def _scheduler_faults(block, path: tuple) -> Iterator[Fault]:
    args = args_of(block)
    yield from SCHEDULERS.faults(block, path, provided={"T_max", "total_steps"} - args.keys(),
                                 keys=SECTIONS["scheduler"].keys)
    per = block.get("per", "epoch") if isinstance(block, dict) else "epoch"
    if per not in ("epoch", "step"):
        yield WrongValue((*path, "per"), f"{per!r} is neither step nor epoch")
    if per == "step" and block.get("type") == "ReduceLROnPlateau":
        yield Fault((*path, "per"), "ReduceLROnPlateau waits for the monitored value, which comes once an "
                                    "epoch. Leave 'per' out.")
    if isinstance(args.get("schedulers"), list):
        for number, inner in enumerate(args["schedulers"]):
            yield from _scheduler_faults(inner, (*path, "args", "schedulers", number))


def _trainer_faults(block, config: Mapping) -> Iterator[Fault]:
    faults = TRAINERS.faults(block, ("trainer",))
    yield from faults
    if any(fault.path == ("trainer", "type") or len(fault.path) == 1 for fault in faults):
        return
    name, args = as_block(block)["type"], args_of(block)
    if config["loss"] is None and Signature(TRAINERS.get(name)).is_required("loss"):
        yield Fault(("loss",), f"is missing: {name} needs one, such as CrossEntropyLoss.")
    if "monitor" in args and args["monitor"] is None:
        yield from _unmonitored_faults(args, scheduler_blocks(config["scheduler"], config["optimizer"]))
    yield from _recovery_faults(args, config["optimizer"])
    epochs, eval_every = args.get("epochs", 10), args.get("eval_every", 1)
    if isinstance(epochs, int) and isinstance(eval_every, int) and eval_every > max(epochs, 1):
        yield _trainer_fault("eval_every",
                             f"{eval_every} is more than the {epochs} epochs: nothing would be evaluated")
    if isinstance(args.get("keep_last"), int) and args.get("save_every") is None:
        yield _trainer_fault("keep_last",
                             "has no effect without save_every: last.pt and best.pt are always kept.")


def _unmonitored_faults(args: Mapping, schedulers: Mapping[str, list]) -> Iterator[Fault]:
    """Faults of settings that need a monitor."""
    if args.get("early_stop") is not None:
        yield _trainer_fault("early_stop", "has no effect without a monitor. Set monitor: min val/loss.")
    kinds = [as_block(block).get("type") for chain in schedulers.values() for block in chain]
    if "ReduceLROnPlateau" in kinds:
        yield Fault(("scheduler",), "ReduceLROnPlateau has nothing to look at without a monitor. Set "
                                    "monitor: min val/loss.")


def _recovery_faults(args: Mapping, optimizer) -> Iterator[Fault]:
    usual = TrainerOptions.max_nan_steps
    if args.get("max_nan_steps", usual) != usual and args.get("on_nan") != "skip":
        yield _trainer_fault("max_nan_steps", "has no effect without on_nan: skip.")
    if args.get("on_nan") == "skip" and len(optimizer_blocks(optimizer or {})) > 1:
        yield _trainer_fault("on_nan", "skip needs a single optimizer: where the second one's step goes "
                                       "wrong, the first one's is made already.")
