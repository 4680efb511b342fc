"""From a checked config to its parts, and to the trainer that holds them."""
import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch.nn.parameter import is_lazy
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR
from torch.utils.data import Dataset

from base.base_data_loader import DataSplits
from base.base_model import as_floats, parameter_groups
from base.base_trainer import BaseTrainer
from base.data.arrays import move_arrays
from base.optimizers import OptimizersByPattern
from base.registries import (
    DATASETS, LOSSES, METRICS, MODELS, OPTIMIZERS, SAMPLERS, SCHEDULERS, TRAINERS, TRANSFORMS)
from base.weighted_losses import WeightedLosses
from utils.config.blocks import args_of, as_block, blocks_by_name, dataset_blocks
from utils.config.signature import Signature
from utils.distributed.sharding import is_sharded
from utils.errors import Attempts, ConfigError
from utils.moved import former_names_of
from utils.random import derive, seed_all
from utils.training.monitor import parse_monitor

__getattr__ = former_names_of(__name__)

FUSED_WHEN_SHARDED = ("Adam", "AdamW")  # optimizers whose fused step accepts the weights of strategy fsdp
_NO_VAL = ("Without a val split of its own, set data_loader.validation_split: 0.1, say, or 0 for no "
           "validation.")


def build_trainer(config: dict, device: torch.device, splits: Iterable[str] = (),
                  train_dataset: Dataset | None = None) -> BaseTrainer:
    """The trainer that a config describes, on `device`, with the initial weights that its seed gives.

    Datasets are built on first use, those of `splits` now, but for a `train_dataset` that is given. Raises
    one ConfigError for all parts that cannot be built.
    """
    seed, attempts, data = config["seed"], Attempts(), None
    seed_all(derive(seed, "data"), device)
    with attempts:
        data = build_data(config, device, train_dataset)
    seed_all(derive(seed, "model"), device)
    with attempts:
        model = build_model(config["model"])
    with attempts:
        loss = config.get("loss") and build_loss(config["loss"], device)
    metrics = {}
    for number, block in enumerate(config["metrics"]):
        with attempts:
            metrics[log_name(block)] = build_callable(METRICS, block, f"metrics.{number}", device)
    # Now: a dataset that draws random numbers has always been built at this place in their sequence.
    in_one_block = ("dataset",) in dataset_blocks(config["dataset"])
    for name in [name for split in splits if data for name in data.evaluation_sets.get(split, [split])]:
        num_before = len(attempts.errors)
        with attempts:
            data.dataset(name)
        if in_one_block and len(attempts.errors) > num_before:  # the other splits would say the same
            break
    attempts.end()
    optimizers = optimizer_factories(config["optimizer"])
    schedulers = {name: [build_scheduler_factory(block, config["trainer"]) for block in chain]
                  for name, chain in scheduler_blocks(config.get("scheduler"), config["optimizer"]).items()}
    return TRAINERS.build(config["trainer"], "trainer", model=model, data=data, optimizers=optimizers,
                          schedulers=schedulers, loss=loss, metrics=metrics, seed=seed, device=device)


def build_model(block) -> torch.nn.Module:
    """The model of a `model` block. Raises ConfigError for lazy layers: all weights need known sizes."""
    model = MODELS.build(block, "model")
    if lazy := [name for name, parameter in model.named_parameters() if is_lazy(parameter)]:
        raise ConfigError.at("model", f"{lazy[0]} has no size before the first batch, which optimizer and "
                                      "checkpoints want to know. Write Linear(in_features, ...) instead of "
                                      "LazyLinear(...), and so on.")
    return model


def build_data(config: dict, device: torch.device, train_dataset: Dataset | None = None) -> DataSplits:
    """The splits of the config's dataset, with their transforms. Reads no data yet."""
    built = {} if train_dataset is None else {"train": train_dataset}
    options = dict(config["data_loader"])
    if options.get("pin_memory") is None:
        options["pin_memory"] = device.type == "cuda"
    transforms = {key: [TRANSFORMS.build(block, f"transforms.{key}.{i}")
                        for i, block in enumerate(blocks or [])]
                  for key, blocks in config["transforms"].items() if key != "joint"}
    transforms["joint"] = config["transforms"].get("joint")
    if options.get("sampler") is not None:
        options["sampler"] = SAMPLERS.build(options["sampler"], "data_loader.sampler")
    return DataSplits(lambda split: built[split] if split in built else build_dataset(
        config["dataset"], device, split), transforms, config["seed"],
        evaluation_sets=_evaluation_sets(config["dataset"]), **options)


def _evaluation_sets(section) -> dict[str, list[str]]:
    """The names of val's and test's sets with blocks of their own; for test none, if it has no block."""
    sets: dict[str, list[str]] = {}
    blocks = dataset_blocks(section)
    for _, split, *name in (path for path in blocks if len(path) > 2):
        sets.setdefault(split, []).append("/".join([split, *name]))
    if not any(path[1:2] in ((), ("test",)) for path in blocks):
        sets["test"] = []
    return sets


def build_dataset(section, device: torch.device, split: str):
    """The dataset of a split or of one of its sets, `val/clean`; None if there is none.

    Its arrays are on `device` if its block says so.
    """
    blocks = dataset_blocks(section)
    path = ("dataset",) if ("dataset",) in blocks else ("dataset", *split.split("/"))
    if path not in blocks:
        return None
    block, kept = split_device_argument(blocks[path])
    where = ".".join(path)
    dataset = _build_split(block, split.partition("/")[0], where)
    return move_arrays(dataset, kept, device, where) if kept and dataset is not None else dataset


def split_device_argument(block) -> tuple[dict, str | None]:
    """A dataset's block without `args.device`, and that device; None if the dataset itself takes one."""
    block, args = as_block(block), dict(args_of(block))
    if "device" not in args or "device" in Signature(DATASETS.get(block["type"])).parameters:
        return block, None
    device = args.pop("device")
    return {**block, "args": args}, device


def _build_split(block: dict, split: str, where: str):
    """Uses the dataset's argument `split`, or torchvision's `train`, which has no val."""
    name, args, left_open = block["type"], args_of(block), open_split_arguments(block)
    if "split" in left_open:
        try:
            return DATASETS.build(block, where, split=split)
        except ConfigError as error:
            raise error.with_hint(_NO_VAL) if (where, split) == ("dataset", "val") else error
    if split == "val" and where == "dataset":
        return None
    try:
        return DATASETS.build(block, where, **({"train": split == "train"} if left_open else {}))
    except ConfigError as error:
        raise error.with_hint(_download_hint(DATASETS.get(name), args)) from error


def open_split_arguments(block) -> set[str]:
    """Which of `split` and `train` the program passes: those the dataset takes and the config omits."""
    block = as_block(block)
    parameters = Signature(DATASETS.get(block["type"])).parameters.keys()
    return {"split", "train"} & (parameters - args_of(block).keys())


def _download_hint(dataset: type, args: dict) -> str:
    root = args.get("root", ".")
    if hasattr(dataset, "resources"):  # the MNIST family
        folder = os.path.join(root, dataset.__name__, "raw")
        files = ", ".join(os.path.basename(url) for url, _ in dataset.resources)
        return f"Where there is no network, put these files, unpacked, into the folder {folder}: {files}"
    if hasattr(dataset, "base_folder"):  # the CIFAR family
        folder = os.path.join(root, dataset.base_folder)
        return f"Where there is no network, unpack {dataset.filename} so that its files lie in {folder}"
    return f"Where there is no network, put its files into {root}"


def build_callable(registry, block, where: str, device: torch.device):
    """A loss or metric; on `device` if it has tensors of its own (such as class weights)."""
    thing = registry.build(as_block(block), where)
    return thing.to(device) if isinstance(thing, torch.nn.Module) else thing


def build_loss(section, device: torch.device):
    """The loss of the section `loss`, or the weighted sum of several."""
    blocks = {name: as_block(block) for name, block in blocks_by_name(section, "loss").items()}
    if blocks.keys() == {"loss"}:
        return build_callable(LOSSES, section, "loss", device)
    return WeightedLosses({name: build_callable(LOSSES, block, f"loss.{name}", device)
                           for name, block in blocks.items()},
                          {name: block.get("scale", 1.0) for name, block in blocks.items()})


def optimizer_factories(section) -> dict:
    """What builds each optimizer of the section `optimizer`, by name; see `build_optimizer`."""
    blocks = {name: as_block(block) for name, block in optimizer_blocks(section).items()}
    patterns = {name: block.get("match") for name, block in blocks.items()}
    factories = {name: partial(build_optimizer, block, optimizer_path(name))
                 for name, block in blocks.items()}
    return OptimizersByPattern(factories, patterns) if any(patterns.values()) else factories


def build_optimizer(block, where: str, module: torch.nn.Module, others: Sequence[torch.nn.Parameter] = (),
                    choose: Callable | None = None):
    """The optimizer of a module's parameters, in the block's groups, and `others`; fused if torch can.

    `choose`: which of the parameters it steps, by their names; by default all.
    """
    block = as_block(block)
    groups = parameter_groups(module, block.get("groups") or (), block.get("decay_bias_and_norm", True),
                              block.get("keep_frozen", True), choose)
    groups += [{"params": list(others)}] if others else []
    args = dict(args_of(block))
    parameters = [p for group in groups for p in group["params"]]
    fits = as_floats(parameters) and (
        block["type"] in FUSED_WHEN_SHARDED or not any(map(is_sharded, parameters)))
    sparse = any(getattr(layer, "sparse", False) for layer in module.modules())  # embeddings
    offered = "fused" in OPTIMIZERS.signature(OPTIMIZERS.get(block["type"])).parameters
    if offered and fits and not sparse and not args.keys() & {"fused", "foreach", "differentiable"}:
        args["fused"] = True  # one kernel for all parameters; `fused: false` in the config turns it off
    return OPTIMIZERS.build({"type": block["type"], "args": args}, where, params=groups)


def build_scheduler_factory(block, trainer_block) -> tuple:
    """`(build, per)` of a scheduler block, for utils.training.schedule.Schedule."""
    block = as_block(block)
    return partial(build_scheduler, block, args_of(trainer_block)), block.get("per", default_per(block))


def default_per(block) -> str:
    """What a scheduler is stepped after if its block does not say it: the lengths of cycles are steps."""
    kind = SCHEDULERS.get(as_block(block)["type"])
    if inspect.isclass(kind) and issubclass(kind, (OneCycleLR, CyclicLR)):
        return "step"
    inner = args_of(block).get("schedulers")
    return "step" if "step" in map(default_per, inner if isinstance(inner, list) else ()) else "epoch"


def build_scheduler(block, trainer_args: dict, optimizer, length: int | None):
    """A scheduler. If the config does not set `T_max` or `total_steps`, they become `length`."""
    block, args = as_block(block), dict(args_of(block))
    parameters = SCHEDULERS.signature(SCHEDULERS.get(block["type"])).parameters.keys()
    left_open = set() if "steps_per_epoch" in args else ({"T_max", "total_steps"} & parameters) - args.keys()
    for name in left_open:
        if length is None:
            raise ConfigError.at("scheduler",
                                 f"{block['type']} needs '{name}', or data_loader.batches_per_epoch: "
                                 "the length of an epoch of this dataset is unknown")
        args[name] = length
    if block["type"] == "ReduceLROnPlateau" and "mode" not in args and trainer_args.get("monitor"):
        args["mode"] = parse_monitor(trainer_args["monitor"])[0]
    if "schedulers" in parameters and isinstance(args.get("schedulers"), list):
        lengths = _phase_lengths(args.get("milestones") or [], length, len(args["schedulers"]))
        args["schedulers"] = [build_scheduler(inner, trainer_args, optimizer, stretch)
                              for inner, stretch in zip(args["schedulers"], lengths, strict=True)]
    return SCHEDULERS.build({"type": block["type"], "args": args}, "scheduler", optimizer=optimizer)


def _phase_lengths(milestones: list, length: int | None, num_phases: int) -> list[int | None]:
    """The lengths of the phases of SequentialLR; None if the length of the run is unknown."""
    if not length:
        return [length] * num_phases
    starts, ends = [0, *milestones], [*milestones, length]
    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    return (lengths + [length] * num_phases)[:num_phases]


def log_name(block) -> str:
    """The name of a metric in the logs: its `name`, or its type."""
    return str(as_block(block).get("name") or as_block(block).get("type"))


def optimizer_path(name: str) -> str:
    """The config key of an optimizer."""
    return "optimizer" if name == "optimizer" else f"optimizer.{name}"


def optimizer_blocks(optimizer) -> dict:
    """Optimizer blocks by name. A single one is called "optimizer"."""
    return blocks_by_name(optimizer, "optimizer")


def scheduler_blocks(scheduler, optimizer) -> dict[str, list]:
    """Lists of scheduler blocks, by the name of the optimizer."""
    if scheduler is None:
        return {}
    single = list(optimizer_blocks(optimizer)) == ["optimizer"] or not isinstance(scheduler, dict)
    named = {"optimizer": scheduler} if single else scheduler
    return {name: blocks if isinstance(blocks, list) else [blocks] for name, blocks in named.items()}
