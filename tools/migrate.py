"""Converts a config.json of pytorch-template to a config of this project.

    python -m tools.migrate config.json > configs/mine.yaml

The YAML goes to stdout. Notes on what was not converted, and on what to do by hand, go to stderr, with their
key in config.json. docs/migrate.md explains how to move the code.
"""
import argparse
import copy
import re
import sys
from pathlib import Path

from utils.config.annotations import mismatch
from utils.config.loading import flatten, load_config, place_of
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
# What to do about what was not converted, by the beginning of its key. The first match is used.
_BY_HAND = {
    "n_gpu": "belongs to the command line: --device cpu for 0, --distributed --nproc N for several",
    "arch": ("not carried; a model is one class here, with all it needs in args, and several networks as its "
             "submodules"),
    "loss": "not carried; one function computes all terms here, and returns their sum or a dict of them",
    "valid_data_loader": ("not carried; with data_loader.validation_split null the dataset gives its own "
                          "split 'val'"),
    "trainer.type": "not carried; move the class as docs/migrate.md says, then name it as trainer.type",
    "trainer.save_dir": "belongs to the command line: --out DIR (saved/)",
    "trainer.verbosity": "belongs to the command line: -q for warnings only, -v for more messages",
    "trainer": "not carried; a trainer of your own takes further options from trainer.args"}


class _Old:
    """The old config during the conversion. Values that were not taken stay in `rest`, and become notes."""

    def __init__(self, config: dict, places: dict):
        self.rest, self.places, self.notes = copy.deepcopy(config), places, {}

    def look(self, *path: str):
        """The value at `path`; None if there is none."""
        value = self.rest
        for end, key in enumerate(path):
            self._require(value, dict | None, path[:end])
            value = (value or {}).get(key)
        return value

    def take(self, *path: str, kind=object):
        """Like `look`, and removes the value from `rest`. Raises ConfigError if it is not of that kind."""
        value = self.look(*path)
        self._require(value, kind | None, path)
        (self.look(*path[:-1]) or {}).pop(path[-1], None)
        return value

    def block(self, *path: str) -> dict | None:
        """Takes a block `{type, args}` or a bare name; None without one. A table without `type` stays."""
        if isinstance(self.look(*path), dict):
            name = self.take(*path, "type", kind=str)
            return ({"type": name, "args": self.take(*path, "args", kind=dict) or {}}
                    if name is not None else None)
        name = self.take(*path, kind=str)
        return {"type": name} if name is not None else None

    def blocks(self, *path: str) -> dict | None:
        """Takes a block, or several blocks by name (for several networks)."""
        several = self.look(*path)
        if (isinstance(several, dict) and several
                and all(isinstance(b, dict) and "type" in b for b in several.values())):
            self.notes[".".join(path)] = (f"{', '.join(several)}: these have to be the names of the model's "
                                          "submodules")
            return {name: self.block(*path, name) for name in list(several)}
        return self.block(*path)

    def note_rest(self) -> None:
        """Notes what was not taken, with what to do about it."""
        for key in [key for key, value in flatten(self.rest).items() if value != {}]:
            fitting = (text for start, text in _BY_HAND.items() if f"{key}.".startswith(f"{start}."))
            self.notes[key] = next(fitting, "not carried; nothing here has this name")

    def _require(self, value, kind, path: tuple) -> None:
        if fault := mismatch(value, kind):
            raise ConfigError(f"{place_of(self.places, path).source}  {'.'.join(path)}: {fault}")


def migrate(config: dict, places: dict | None = None) -> tuple[dict, dict[str, str]]:
    """Converts a config of pytorch-template. Returns it with notes by key: all values are converted or noted.

    `places` says where its values were written, for messages. Raises ConfigError if `config` is not from
    pytorch-template, or if a value has another type than pytorch-template expects.
    """
    if "arch" not in config:
        raise ConfigError(f"{place_of(places or {}, ()).source}: no config of pytorch-template: it has no "
                          "'arch'")
    old = _Old({"seed": 123, **config}, places or {})
    metrics = _metrics(old)
    new = {"name": old.take("name", kind=str), "seed": old.take("seed", kind=int),
           "data_loader": _data_loader(old), **_dataset(old), "model": _model(old), "loss": _loss(old),
           "metrics": metrics, "optimizer": old.blocks("optimizer"), "scheduler": old.blocks("lr_scheduler"),
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
    return {key: new[key] for key in SECTIONS if new.get(key) is not None}, old.notes


def _data_loader(old: _Old) -> dict:
    options = {key: old.take("data_loader", "args", key) for key in _LOADING}
    options["batches_per_epoch"] = old.take("trainer", "len_epoch")
    return {key: value for key, value in options.items() if value is not None}


def _dataset(old: _Old) -> dict:
    """The dataset, with the arguments that `_data_loader` left of the loader's, and its known transforms."""
    loader = old.take("data_loader", "type", kind=str)
    if loader is None:
        return {}
    if loader.lower() == "mnistdataloader":
        normalize = {"type": "Normalize", "args": {"mean": [0.1307], "std": [0.3081]}}
        return {"dataset": {"type": "MNIST",
                            "args": {"root": old.take("data_loader", "args", "data_dir"), "download": True}},
                "transforms": {"batch": [normalize]}}
    name = re.sub("_?data_?loader$", "", loader, flags=re.IGNORECASE) or loader
    old.notes["data_loader.type"] = (f"put the dataset of {loader} into data_loader/{_snake(name)}.py as "
                                     f"class {name} with @DATASETS.register, and its transforms under "
                                     "transforms")
    return {"dataset": {"type": name, "args": old.take("data_loader", "args", kind=dict) or {}}}


def _model(old: _Old) -> dict | None:
    model = old.block("arch")
    if model:
        shipped = (" (or take the shipped LeNet, with CrossEntropyLoss)"
                   if model["type"] == "MnistModel" else "")
        old.notes["arch.type"] = _copy("class", model["type"], "model/model.py", "MODELS") + shipped
    return model


def _loss(old: _Old) -> dict | None:
    loss = old.block("loss")
    if loss and loss["type"] not in (*_LOSSES, *_LOSSES.values()):
        old.notes["loss"] = _copy("function", loss["type"], "model/loss.py", "LOSSES")
    return loss and loss | {"type": _LOSSES.get(loss["type"], loss["type"])}


def _metrics(old: _Old) -> list[dict]:
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


def _trainer_args(old: _Old, metrics: list[dict]) -> dict:
    args = {"epochs": old.take("trainer", "epochs"), "save_every": old.take("trainer", "save_period"),
            "monitor": _monitor(old, metrics), "early_stop": old.take("trainer", "early_stop", kind=int)}
    if args["early_stop"] is not None and (args["monitor"] is None or args["early_stop"] <= 0):
        args["early_stop"] = None
        old.notes["trainer.early_stop"] = "not carried; without a monitor, or at 0, nothing ends a run early"
    return {key: value for key, value in args.items() if value is not None or key == "monitor"}


def _monitor(old: _Old, metrics: list[dict]) -> str | None:
    monitor, measured = (old.take("trainer", "monitor", kind=str),
                         ["loss", *(metric["type"] for metric in metrics)])
    known = re.fullmatch(r"(min|max) (val_)?(\S+)", monitor or "")
    if not known:
        if monitor not in (None, "off"):
            old.notes["trainer.monitor"] = "not carried; it is neither 'min NAME' nor 'max NAME' nor 'off'"
        return None
    mode, val, name = known[1], known[2], _METRICS.get(known[3], known[3])
    if name not in measured:
        old.notes["trainer.monitor"] = (f"'{name}' is not measured; there are {', '.join(measured)}, in "
                                        "train/ and in val/")
    return f"{mode} {'val' if val else 'train'}/{name}"


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
