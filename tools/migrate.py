"""Converts a config.json of pytorch-template to a config of this project.

    python -m tools.migrate config.json > configs/mine.yaml

The YAML goes to stdout. Notes on what was not converted, and on what to do by hand, go to stderr, with their
key in config.json. docs/migrate.md explains how to move the code.
"""
import argparse
import re
import sys
from pathlib import Path
from typing import Any

from tools.migration.fork_names import DATASETS, LOADERS, OF_SPLITS, OPTIMIZERS, SCHEDULERS, TRAINER
from tools.migration.old_config import OldConfig
from utils.config.loading import load_config, place_of
from utils.config.sections import REQUIRED, SECTIONS
from utils.config.syntax import dump_yaml
from utils.errors import ConfigError, exit_codes

# In pytorch-template losses have names of torch.nn.functional. These classes of torch.nn compute the same.
_LOSSES = {"nll_loss": "NLLLoss", "cross_entropy": "CrossEntropyLoss", "mse_loss": "MSELoss",
           "l1_loss": "L1Loss", "smooth_l1_loss": "SmoothL1Loss", "huber_loss": "HuberLoss",
           "kl_div": "KLDivLoss",
           "binary_cross_entropy": "BCELoss", "binary_cross_entropy_with_logits": "BCEWithLogitsLoss"}
_METRICS = {"accuracy": "accuracy", "top_k_acc": "top_k_accuracy"}
# Arguments of its data loaders that are options of data_loader here. The others are arguments of the dataset.
_LOADING = ("batch_size", "shuffle", "validation_split", "num_workers", "drop_last", "pin_memory",
            "prefetch_factor", "persistent_workers", "timeout")


def migrate(config: dict, places: dict | None = None) -> tuple[dict, dict[str, str]]:
    """Converts a config of pytorch-template. Returns it with notes by key: all values are converted or noted.

    `places` says where its values were written, for messages. Raises ConfigError if `config` is not from
    pytorch-template, or if a value has another type than pytorch-template expects.
    """
    if "arch" not in config:
        raise ConfigError(f"{place_of(places or {}, ()).source}: no config of pytorch-template: it has no "
                          "'arch'")
    old = OldConfig({"seed": 123, **config}, places or {})
    metrics = _metrics(old)
    new = {"name": old.take("name", kind=str), "seed": old.take("seed", kind=int),
           **_data(old), "model": _model(old), "loss": _loss(old),
           "metrics": metrics, "optimizer": _optimizer(old), "scheduler": _scheduler(old),
           "trainer": {"type": "Trainer", "args": _trainer_args(old, metrics)},
           "writers": [] if old.take("trainer", "tensorboard", kind=bool) is False else None}
    old.note_rest()
    if new["name"] and (folder := re.sub(r"[^\w.+=-]|^\W+", "_", new["name"])) != new["name"]:
        old.notes["name"] = f"'{new['name']}' cannot be the name of a folder: now '{folder}'"
        new["name"] = folder
    if "seed" not in config:
        old.notes["seed"] = "123, as in train.py there; what is drawn from it differs here"
    old.notes |= {key: "missing, and nothing in the old config tells it"
                  for key in REQUIRED if not new.get(key)}
    return {key: new[key] for key in SECTIONS if new.get(key) is not None}, old.sorted_notes()


def _data(old: OldConfig) -> dict:
    """The sections dataset, data_loader and transforms, from the loaders of all splits."""
    found = {split: path for split, paths in LOADERS.items()
             if (path := next((tuple(key.split(".")) for key in paths if _is_loader(old, key)), None))}
    loading, blocks = {}, {}
    for split, path in found.items():
        args = old.arguments(*path) if isinstance(old.look(*path), dict) else {}
        loading[split] = {key: args.pop(key) for key in _LOADING if key in args}
        blocks[split] = _dataset(old, path, args)
    options = loading.get("train", {})
    if batches := old.take("trainer", "len_epoch"):
        options["batches_per_epoch"] = batches
    _join_options(old, found, loading)
    options = {key: value for key, value in options.items() if value is not None}
    return {**_dataset_and_transforms(old, blocks), "data_loader": options}


def _dataset_and_transforms(old: OldConfig, blocks: dict[str, dict]) -> dict:
    """The sections dataset and transforms: one block if those of all splits are equal."""
    if not blocks:
        return {}
    first = next(iter(blocks.values()))
    apart = any(block != first for block in blocks.values())
    if apart:
        old.notes["dataset"] = (f"a block for each split, since the loaders of {', '.join(blocks)} had other "
                                "classes or arguments")
    data = {"dataset": blocks if apart else first}
    if any(block["type"] == "MNIST" for block in blocks.values()):
        data["transforms"] = {"batch": [{"type": "Normalize", "args": {"mean": [0.1307], "std": [0.3081]}}]}
    return data


def _is_loader(old: OldConfig, key: str) -> bool:
    """Whether there is a loader at a key: a name, or a table that is not one of splits."""
    value = old.rest
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    tables = isinstance(value, dict) and all(isinstance(item, dict) for item in value.values()) and value
    return isinstance(value, str) or (isinstance(value, dict) and bool(value) and not (
        tables and not {"args", "dataset"} & value.keys()))


def _join_options(old: OldConfig, found: dict[str, tuple], loading: dict[str, dict]) -> None:
    """Options of the loaders of val and test go into those of train, or become notes."""
    options = loading.get("train", {})
    if "val" in found and options.pop("validation_split", None) is not None:
        key = ".".join((*old.home(*found["train"]), "validation_split"))
        old.notes[key] = "dropped; val has a loader of its own"
    for split in [split for split in ("val", "test") if split in found]:
        size = loading[split].pop("batch_size", None)
        if size != options.get("batch_size") and size is not None:
            options.setdefault("eval_batch_size", size)
            if options["eval_batch_size"] != size:
                loading[split]["batch_size"] = size
        for key, value in loading[split].items():
            if key not in ("shuffle", "validation_split", "drop_last") and options.get(key) != value:
                old.notes[".".join((*old.home(*found[split]), key))] = (
                    f"dropped, {value!r}; all loaders share their options")


def _dataset(old: OldConfig, path: tuple, args: dict) -> dict:
    """The block of the dataset behind a loader, with the arguments that are no options of loading."""
    their_name, args = _named_dataset(old, path, args)
    _drop_passed(old, ".".join(old.home(*path)), args)
    if their_name.lower() == "mnistdataloader":
        return {"type": "MNIST", "args": {"root": args.pop("data_dir", None), "download": True, **args}}
    name = re.sub("_?data_?loader$", "", their_name, flags=re.IGNORECASE) or "MyDataset"
    old.notes[".".join((*path, "type"))] = (
        f"put the dataset of {their_name or 'this loader'} into data_loader/{_snake(name)}.py as class "
        f"{name} with @DATASETS.register, and its transforms under transforms")
    return {"type": name, "args": args}


def _named_dataset(old: OldConfig, path: tuple, args: dict) -> tuple[str, dict]:
    """The name and the arguments of the dataset that a loader is given, or of the loader."""
    loader = old.take(*path, "type", kind=str) if isinstance(old.look(*path), dict) else old.take(*path)
    given = args.pop("dataset", None)
    if given is None and path[0] not in DATASETS:
        given = _dataset_beside(old)
    if isinstance(given, str):
        return given, args
    if isinstance(given, dict) and isinstance(given.get("type"), str):
        beside_type = {key: value for key, value in given.items() if key not in ("type", "args")}
        return given["type"], {**(given.get("args") or {}), **beside_type, **args}
    return loader or "", args


def _dataset_beside(old: OldConfig) -> dict | None:
    """The block of a fork's dataset that stands beside the loader, under a key of its own."""
    for key in DATASETS:
        value = old.rest.get(key)
        if isinstance(value, str) or isinstance(value, dict) and "type" in value:
            return old.block(key)
    return None


def _drop_passed(old: OldConfig, where: str, args: dict) -> None:
    """Drops the arguments at `where` that the program passes, or has for all, with notes on them."""
    for key in OF_SPLITS:
        if isinstance(args.get(key), bool) or args.get(key) in (
                "train", "training", "val", "valid", "validation", "test"):
            old.notes[f"{where}.{key}"] = f"dropped, {args.pop(key)!r}; the program passes 'split'"
    if "verbose" in args:
        old.notes[f"{where}.verbose"] = f"dropped, {args.pop('verbose')!r}; -q and -v are for all messages"


def _optimizer(old: OldConfig) -> dict | None:
    optimizer = old.blocks("optimizer")
    for key, block in _each(optimizer, "optimizer"):
        if block["type"] not in OPTIMIZERS:
            old.notes[key] = (f"torch has no optimizer {block['type']}: put the class into a file of "
                              "trainer/ with @OPTIMIZERS.register")
    return optimizer


def _scheduler(old: OldConfig) -> dict | None:
    """The scheduler without `verbose`, which torch has dropped; OneCycleLR after each step, as meant."""
    scheduler, epochs = old.blocks("lr_scheduler"), old.look("trainer", "epochs")
    for key, block in _each(scheduler, "lr_scheduler"):
        args = block.get("args", {})
        if "verbose" in args:
            old.notes[f"{key}.args.verbose"] = f"dropped, {args.pop('verbose')!r}; the rate is in the log"
        if block["type"] in ("OneCycleLR", "CyclicLR"):
            block["per"] = "epoch" if args.get("total_steps", object()) == epochs else "step"
        if block["type"] not in SCHEDULERS:
            old.notes[key] = (f"torch has no scheduler {block['type']}: put the class into a file of "
                              "trainer/ with @SCHEDULERS.register; SequentialLR with LinearLR is a warm-up")
    return scheduler


def _each(blocks: dict | None, key: str) -> list[tuple[str, dict]]:
    """A block, or several by name, with their keys."""
    if not blocks:
        return []
    return [(key, blocks)] if isinstance(blocks.get("type"), str) else [
        (f"{key}.{name}", block) for name, block in blocks.items() if block]


def _model(old: OldConfig) -> dict | None:
    model = old.block("arch")
    if model:
        shipped = (" (or take the shipped LeNet, with CrossEntropyLoss)"
                   if model["type"] == "MnistModel" else "")
        old.notes["arch.type"] = _copy("class", model["type"], "model/model.py", "MODELS") + shipped
    return model


def _loss(old: OldConfig) -> dict | None:
    loss = old.block("loss")
    if loss and loss["type"] not in (*_LOSSES, *_LOSSES.values()):
        old.notes["loss"] = _copy("function", loss["type"], "model/loss.py", "LOSSES")
    return loss and loss | {"type": _LOSSES.get(loss["type"], loss["type"])}


def _metrics(old: OldConfig) -> list[dict]:
    if isinstance(old.look("metrics"), dict):  # a fork with another format
        return []
    old.rest["metrics"] = {str(number): metric
                           for number, metric in enumerate(old.take("metrics", kind=list) or [])}
    metrics = {number: metric for number in list(old.rest["metrics"])
               if (metric := old.block("metrics", number))}
    for number, metric in metrics.items():
        name = metric["type"]
        metric["type"] = _METRICS.get(name, name)
        if name == "top_k_acc":
            metric["args"] = {"k": 3} | metric.get("args", {})
        elif name not in _METRICS:
            old.notes[f"metrics.{number}"] = (_copy("function", name, "model/metric.py", "METRICS")
                                              + "; it is to return a value per sample, not their mean")
    return list(metrics.values())


def _trainer_args(old: OldConfig, metrics: list[dict]) -> dict:
    args = {"epochs": old.take("trainer", "epochs")}
    for name, theirs in TRAINER.items():
        given = [key for key in theirs if _is_positive(old.look("trainer", key), name)]
        if given:
            args[name] = old.take("trainer", given[0])
    args |= {"monitor": _monitor(old, metrics), "early_stop": old.take("trainer", "early_stop", kind=int)}
    if args["early_stop"] is not None and (args["monitor"] is None or args["early_stop"] <= 0):
        args["early_stop"] = None
        old.notes["trainer.early_stop"] = "not carried; without a monitor, or at 0, nothing ends a run early"
    return {key: value for key, value in args.items() if value is not None or key == "monitor"}


def _is_positive(value, name: str) -> bool:
    kinds = (int, float) if name == "clip_norm" else (int,)
    return type(value) in kinds and value > 0


def _monitor(old: OldConfig, metrics: list[dict]) -> str | None:
    """The monitor, if it is of a form that is known; notes on it, if not or if it is not measured."""
    given, mode = _given_monitor(old)
    known = re.fullmatch(r"(min|max) (?:(val|valid|validation|train)[_/])?(\S+)", str(given))
    if not known:
        if given not in (None, "off", "None") or mode not in (None, "off"):
            old.notes["trainer.monitor"] = (f"not carried, {given!r}; it is neither 'min NAME' nor "
                                            "'max NAME' nor 'off'")
        return None
    measured = ["loss", *(metric["type"] for metric in metrics)]
    name = _METRICS.get(known[3], known[3])
    if name not in measured:
        old.notes["trainer.monitor"] = (f"'{name}' is not measured; there are {', '.join(measured)}, in "
                                        "train/ and in val/")
    return f"{known[1]} {'train' if known[2] in (None, 'train') else 'val'}/{name}"


def _given_monitor(old: OldConfig) -> tuple[Any, Any]:
    """The monitor and the mode: from one text, or from a mode and a metric, in one list or under two keys."""
    monitor = old.take("trainer", "monitor")
    metric, mode = old.take("trainer", "mnt_metric"), old.take("trainer", "mnt_mode")
    mode = mode or old.take("trainer", "monitor_mode")
    given = monitor if monitor is not None else metric
    if isinstance(given, list):
        first = given[:1] if given and len(str(given[0]).split()) > 1 else given[:2]
        if given[len(first):]:
            old.notes["trainer.monitor"] = f"one value is monitored; not carried: {given[len(first):]}"
        given = " ".join(sorted(map(str, first), key=lambda word: word not in ("min", "max")))
    if isinstance(given, str) and mode in ("min", "max") and not given.startswith(("min ", "max ")):
        given = f"{mode} {given}"
    return given, mode


def _copy(kind: str, name: str, file: str, registry: str) -> str:
    return (f"copy {kind} {name} from {file} into model/{_snake(name)}.py and put @{registry}.register above "
            "it")


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name).lower()  # MnistModel as mnist_model


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tools.migrate", description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="config.json of a project made from pytorch-template")
    file = parser.parse_args(argv).config
    with exit_codes():
        config, notes = migrate(*load_config(file))
        print(f"# Made from {file} by python -m tools.migrate; result and time are not measured yet.\n"
              f"#   python train.py -c configs/mine.yaml\n{dump_yaml(config, flow=None)}", end="")
        print("\n".join(f"{key}: {text}" for key, text in notes.items()), file=sys.stderr)


if __name__ == "__main__":
    main()
