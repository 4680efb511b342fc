"""Finds all faults of a config before anything is built or any data is read."""
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from base.base_data_loader import PROVIDED, DataSplits
from base.build import (
    FUSED_WHEN_SHARDED,
    as_block,
    log_name,
    open_split_arguments,
    optimizer_blocks,
    optimizer_path,
    scheduler_blocks,
    split_device_argument,
)
from base.data.augmentation import BatchAugmentation
from base.key_hints import add_key_hints
from base.registries import (
    DATASETS,
    LOSSES,
    METRICS,
    MODELS,
    OPTIMIZERS,
    SCHEDULERS,
    TRAINERS,
    TRANSFORMS,
    WRITERS,
)
from base.trainer_options import TrainerOptions
from utils.config.annotations import mismatch
from utils.config.loading import format_faults
from utils.config.registry import Registry
from utils.config.sections import REQUIRED, SECTIONS, TRANSFORM_KEYS, with_defaults
from utils.config.signature import Signature, UnknownKey
from utils.config.suggestions import suggest_name, suggest_value
from utils.device import device_fault
from utils.errors import ConfigError, Fault
from utils.run_folder import folder_name_fault

log = logging.getLogger(__name__)


def validate_config(config: Mapping, places: Mapping | None = None, num_processes: int = 1,
                    found: Iterable[Fault] = ()) -> dict:
    """The config for `num_processes` processes, with defaults for omitted sections.

    Raises one ConfigError that lists all faults, including those `found` before. Each has the place where it
    was written, its key, and how to correct it.
    """
    full = _without_former_keys(with_defaults(config))
    unknown = [((key,), UnknownKey(f"there is no such section.{suggest_name(key, SECTIONS)} Sections: "
                                   f"{', '.join(SECTIONS)}."))
               for key in config if key not in SECTIONS]
    found, faults = [*found], [*unknown, *_faults(full),
                               *(_process_faults(full, num_processes) if num_processes > 1 else ())]
    unresolved = {tuple(map(str, path)) for path, *_ in found}  # one message is enough for these
    faults = found + [fault for fault in faults
                      if not (tuple(map(str, fault[0])) in unresolved and "${" in fault[1])]
    if faults:
        raise ConfigError(format_faults(add_key_hints(faults, {**config, **full}), places or {}))
    return full


def _without_former_keys(config: dict) -> dict:
    """The config without keys of earlier versions whose value says how it is now in any case."""
    args = _args(config["trainer"])
    if args.get("on_oom") != "stop":
        return config
    log.warning("trainer.args.on_oom is gone: without memory for a batch a run always stops. Leave it out.")
    kept = {key: value for key, value in args.items() if key != "on_oom"}
    return {**config, "trainer": {**config["trainer"], "args": kept}}


def _faults(config: Mapping) -> Iterator[Fault]:
    for key in REQUIRED:
        if config[key] is None:
            yield (key,), "is missing." + (" Runs are kept in saved/<name>/." if key == "name" else "")
    if config["name"] is not None and (fault := mismatch(config["name"], str)
                                       or folder_name_fault(config["name"])):
        yield ("name",), fault
    if fault := mismatch(config["seed"], int):
        yield ("seed",), fault
    if config["dataset"] is not None:
        yield from _dataset_faults(config["dataset"], config["transforms"])
    yield from _transform_faults(config["transforms"])
    data_loader = Signature(DataSplits, PROVIDED, name="data_loader")
    yield from _table_faults(config["data_loader"], ("data_loader",), data_loader)
    for key, registry in {"model": MODELS, "loss": LOSSES}.items():
        if config[key] is not None:
            yield from registry.faults(config[key], (key,))
    yield from _list_faults(METRICS, config["metrics"], ("metrics",), keys=SECTIONS["metrics"].keys)
    if config["optimizer"] is not None:
        yield from _optimizer_faults(config["optimizer"], config["scheduler"])
    yield from _trainer_faults(config["trainer"], config)
    yield from _list_faults(WRITERS, config["writers"], ("writers",))


def _process_faults(config: Mapping, num_processes: int) -> Iterator[Fault]:
    """Faults of settings that work with one process only."""
    size = config["data_loader"].get("batch_size", 32) if isinstance(config["data_loader"], dict) else None
    if isinstance(size, int) and size > 0 and size % num_processes:
        near = [n for n in (size // num_processes * num_processes, -(-size // num_processes) * num_processes)
                if n]
        yield ("data_loader", "batch_size"), (f"{size} samples cannot be divided among {num_processes} "
                                              "processes. The nearest that can: "
                                              f"{' and '.join(map(str, near))}.")
    args = _args(config["trainer"])
    strategy = args.get("strategy")
    if (strategy.get("type") if isinstance(strategy, dict) else strategy) == "fsdp":
        yield from _sharding_faults(args, config["optimizer"])


def _sharding_faults(args: Mapping, optimizer) -> Iterator[Fault]:
    """Faults of settings that do not work with sharded weights."""
    if args.get("channels_last"):
        yield ("trainer", "args", "channels_last"), ("fsdp takes weights in their usual order only. Leave it "
                                                     "out.")
    for name, block in optimizer_blocks(optimizer or {}).items():
        path, kind = optimizer_path(name).split("."), as_block(block).get("type")
        if kind == "LBFGS":
            yield (*path, "type"), "LBFGS needs all of the weights; with fsdp a process holds a part of them"
        if _args(block).get("fused") and kind not in FUSED_WHEN_SHARDED:
            yield (*path, "args", "fused"), (f"{kind} has no fused step for fsdp, where a process holds a "
                                             "part of the weights")


def _args(block) -> Mapping:
    """The arguments of a block of any form; empty if it has none."""
    args = block.get("args") if isinstance(block, dict) else None
    return args if isinstance(args, dict) else {}


def _dataset_faults(block, transforms) -> Iterator[Fault]:
    kept = None
    if "device" in _args(block):
        with suppress(ConfigError):  # unknown type; reported below
            block, kept = split_device_argument(block)
    if kept is not None and (fault := device_fault(kept)):
        yield ("dataset", "args", "device"), fault
    elif kept and isinstance(transforms, dict) and (transforms.get("train") or transforms.get("eval")):
        yield ("dataset", "args", "device"), ("what is kept on a device is not transformed sample by sample. "
                                              "Move transforms.train and transforms.eval to "
                                              "transforms.batch, or leave it out.")
    faults = DATASETS.faults(block, ("dataset",), provided={"split", "train"} - _args(block).keys())
    yield from faults
    if not faults and not open_split_arguments(block):
        yield ("dataset",), (f"{as_block(block)['type']} is not told which split to give: it has no argument "
                             "'split' or 'train' left open. Wrap it in a dataset of your own that takes "
                             "'split'.")


def _misplaced(blocks: list, key: str) -> Iterator[Fault]:
    """Batch augmentations among the transforms of samples, or the other way round."""
    for number, block in enumerate(blocks):
        name = as_block(block)["type"]
        transform, twin = TRANSFORMS.get(name), f"Batch{name}"
        of_batches = isinstance(transform, type) and issubclass(transform, BatchAugmentation)
        if of_batches and key != "batch":
            yield ("transforms", key, number), (f"{name} augments whole batches, in training alone. Move it "
                                                "to transforms.batch.")
        if not of_batches and key == "batch" and twin in TRANSFORMS.names():
            yield ("transforms", key, number), (f"{name} would draw once for a whole batch, in evaluation "
                                                f"too. {twin} draws for each sample, in training alone.")


def _transform_faults(transforms) -> Iterator[Fault]:
    if not isinstance(transforms, dict):
        yield ("transforms",), f"a table with {', '.join(TRANSFORM_KEYS)} is needed; this is {transforms!r}"
        return
    for key, blocks in transforms.items():
        if key in TRANSFORM_KEYS:
            faults = list(_list_faults(TRANSFORMS, [] if blocks is None else blocks, ("transforms", key)))
            yield from faults or _misplaced(blocks or [], key)
        else:
            known = f"There are: {', '.join(TRANSFORM_KEYS)}."
            yield ("transforms", key), UnknownKey(f"there are no '{key}' "
                                                  f"transforms.{suggest_name(key, TRANSFORM_KEYS)} {known}")


def _list_faults(registry: Registry, blocks, path: tuple, keys: tuple = ()) -> Iterator[Fault]:
    if not isinstance(blocks, list):
        yield path, (f"a list of {registry.kind}s is needed; this is "
                     f"{blocks!r}.{suggest_value(blocks, [list])}")
        return
    for number, block in enumerate(blocks):
        if "name" in keys and block == "loss":
            yield (*path, number), "the loss is measured anyway. Leave it out here."
            continue
        yield from registry.faults(block, (*path, number), keys=keys)
        if "name" in keys and log_name(block) in [log_name(earlier) for earlier in blocks[:number]]:
            yield (*path, number), (f"two {registry.kind}s are called '{log_name(block)}'. Give one a 'name' "
                                    "of its own.")
        if "name" in keys and log_name(block) == "loss":
            yield (*path, number), "'loss' is what the loss is called. Give this metric another 'name'."


def _table_faults(table, path: tuple, signature: Signature) -> Iterator[Fault]:
    if not isinstance(table, dict):
        yield path, f"a table of options is needed; this is {table!r}"
        return
    for name, message in signature.faults(table):
        yield (*path, *[name] * bool(name)), message


def _optimizer_faults(optimizer, scheduler) -> Iterator[Fault]:
    blocks = optimizer_blocks(optimizer)
    for name, block in blocks.items():
        path = tuple(optimizer_path(name).split("."))
        faults = OPTIMIZERS.faults(block, path, keys=SECTIONS["optimizer"].keys)
        yield from faults or _group_faults(as_block(block), path)
        args = _args(block)
        if as_block(block).get("type") == "LBFGS" and (args.get("max_iter") != 1
                                                       or args.get("line_search_fn")):
            yield (*path, "args"), ("LBFGS sees the loss once a step here: it needs max_iter: 1 and no "
                                    "line_search_fn")
    for name, chain in scheduler_blocks(scheduler, optimizer).items():
        path = ("scheduler",) if name == "optimizer" else ("scheduler", name)
        if name not in blocks:
            yield path, (f"there is no optimizer '{name}'. Write the scheduler under one of: "
                         f"{', '.join(blocks)}.")
        for number, block in enumerate(chain):
            yield from _scheduler_faults(block, (*path, *[number] * isinstance(scheduler, list)))


def _group_faults(block: Mapping, path: tuple) -> Iterator[Fault]:
    if fault := mismatch(block.get("decay_bias_and_norm", True), bool):
        yield (*path, "decay_bias_and_norm"), fault
    groups = block.get("groups") or []
    if not isinstance(groups, list):
        yield (*path, "groups"), "a list of rules is needed, such as [{match: 'backbone.*', lr: 1e-4}]"
        return
    for number, rule in enumerate(groups):
        where = (*path, "groups", number)
        if not isinstance(rule, dict) or not isinstance(rule.get("match"), str):
            yield where, "a rule is {match: PATTERN} with options of the optimizer, or with frozen: true"
            continue
        if fault := mismatch(rule.get("frozen", True), bool):
            yield (*where, "frozen"), fault
        options = {key: value for key, value in rule.items() if key not in ("match", "frozen")}
        signature = OPTIMIZERS.signature(OPTIMIZERS.get(block["type"]))
        yield from (((*where, key), message) for key, message in signature.faults(options) if key)


def _scheduler_faults(block, path: tuple) -> Iterator[Fault]:
    if isinstance(block, str) and block.lower() in ("none", "off"):
        yield path, f"'{block}' is text. For no scheduler write null, or leave the section out."
        return
    args = _args(block)
    yield from SCHEDULERS.faults(block, path, provided={"T_max", "total_steps"} - args.keys(),
                                 keys=SECTIONS["scheduler"].keys)
    per = block.get("per", "epoch") if isinstance(block, dict) else "epoch"
    if per not in ("epoch", "step"):
        yield (*path, "per"), f"{per!r} is neither step nor epoch"
    if per == "step" and block.get("type") == "ReduceLROnPlateau":
        yield (*path, "per"), ("ReduceLROnPlateau waits for the monitored value, which comes once an epoch. "
                               "Leave 'per' out.")
    for number, inner in enumerate(args["schedulers"] if isinstance(args.get("schedulers"), list) else []):
        yield from _scheduler_faults(inner, (*path, "args", "schedulers", number))


def _trainer_faults(block, config: Mapping) -> Iterator[Fault]:
    faults = TRAINERS.faults(block, ("trainer",))
    yield from faults
    if any(path == ("trainer", "type") or len(path) == 1 for path, _ in faults):
        return
    name, args = as_block(block)["type"], _args(block)
    signature = Signature(TRAINERS.get(name))
    if config["loss"] is None and signature.is_required("loss"):
        yield ("loss",), f"is missing: {name} needs one, such as CrossEntropyLoss."
    if "monitor" in args and args["monitor"] is None:
        plateau = [b for chain in scheduler_blocks(config["scheduler"], config["optimizer"]).values()
                   for b in chain
                   if as_block(b).get("type") == "ReduceLROnPlateau"]
        if args.get("early_stop") is not None:
            yield ("trainer", "args", "early_stop"), ("has no effect without a monitor. Set monitor: min "
                                                      "val/loss.")
        if plateau:
            yield ("scheduler",), ("ReduceLROnPlateau has nothing to look at without a monitor. Set monitor: "
                                   "min val/loss.")
    yield from _recovery_faults(args, config["optimizer"])
    epochs, eval_every = args.get("epochs", 10), args.get("eval_every", 1)
    if isinstance(epochs, int) and isinstance(eval_every, int) and eval_every > max(epochs, 1):
        yield ("trainer", "args", "eval_every"), (f"{eval_every} is more than the {epochs} epochs: nothing "
                                                  "would be evaluated")
    if isinstance(args.get("keep_last"), int) and args.get("save_every") is None:
        yield ("trainer", "args", "keep_last"), ("has no effect without save_every: last.pt and best.pt are "
                                                 "always kept.")


def _recovery_faults(args: Mapping, optimizer) -> Iterator[Fault]:
    if args.get("max_nan_steps", TrainerOptions.max_nan_steps) != TrainerOptions.max_nan_steps and (
            args.get("on_nan") != "skip"):
        yield ("trainer", "args", "max_nan_steps"), "has no effect without on_nan: skip."
    if args.get("on_nan") == "skip" and len(optimizer_blocks(optimizer or {})) > 1:
        yield ("trainer", "args", "on_nan"), ("skip needs a single optimizer: where the second one's step goes "
                                              "wrong, the first one's is made already.")
