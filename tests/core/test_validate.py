"""A config is checked whole before anything is built: every fault at once, each with its mend."""
import copy
import re

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset, TensorDataset

from base import (
    DATASETS,
    LOSSES,
    METRICS,
    MODELS,
    OPTIMIZERS,
    SCHEDULERS,
    TRAINERS,
    TRANSFORMS,
    WRITERS,
    BaseTrainer,
)
from base.build import build_trainer
from base.config.validate import validate_config
from conftest import PROJECT, needs
from logger.writer import Writer
from utils.config.loading import load_config
from utils.device import pick_device
from utils.errors import ConfigError

CONFIGS = sorted(file for file in PROJECT.glob("configs/*")
                 if file.is_file() and file.name != "schema.json" and "\nsweep:" not in file.read_text())
REGISTRIES = [MODELS, LOSSES, METRICS, DATASETS, TRANSFORMS, OPTIMIZERS, SCHEDULERS, TRAINERS, WRITERS]
GOOD = {
    "name": "good",
    "seed": 1,
    "dataset": {"type": "NoisyPoints", "args": {"noise": 0.1}},
    "transforms": {"train": [{"type": "RandomCrop", "args": {"size": 8}}, "RandomHorizontalFlip"], "eval": [], "batch": None},
    "data_loader": {"batch_size": 8, "validation_split": 0.1},
    "model": {"type": "MLP", "args": {"sizes": [4, 2]}},
    "loss": {"type": "CrossEntropyLoss", "args": {"label_smoothing": 0.1}},
    "metrics": ["accuracy", {"type": "top_k_accuracy", "args": {"k": 3}, "name": "top3"}],
    "optimizer": {"type": "AdamW", "args": {"lr": 1e-3}, "decay_bias_and_norm": False,
                  "groups": [{"match": "layers.0.*", "lr": 1e-4}, {"match": "layers.1.*", "frozen": True}]},
    "scheduler": [{"type": "StepLR", "args": {"step_size": 3}, "per": "step"}, "CosineAnnealingLR"],
    "trainer": {"type": "Trainer", "args": {"epochs": 3, "monitor": "max val/accuracy"}},
    "writers": ["TensorBoard"],
}


@DATASETS.register
class NoisyPoints(TensorDataset):
    def __init__(self, split: str, num_samples: int = 20, noise: float = 0.1):
        super().__init__(noise * torch.randn(num_samples, 4), torch.zeros(num_samples))


def message_of(config: dict) -> str:
    """What is said of a config with faults."""
    with pytest.raises(ConfigError) as error:
        validate_config(config)
    return str(error.value)


def faults(**sections) -> dict[str, str]:
    """The faults of GOOD with other sections, as {key: message}."""
    lines = message_of({**GOOD, **sections}).splitlines()
    found = [re.match(r"\S+\s+(?P<key>[\w.]+): (?P<message>.+)", line).groups() for line in lines]
    return dict(found)


@pytest.fixture
def from_yaml(tmp_path):
    """Checks the text of a config file; returns the message with which it is refused."""
    def check(text):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(ConfigError) as error:
            validate_config(*load_config(tmp_path / "c.yaml"))
        return str(error.value)

    return check


# -- what is good passes -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_shipped_config_passes(file):
    validate_config(*load_config(file))


@pytest.mark.parametrize("file", [file for file in CONFIGS if "mnist" not in file.name and "cifar" not in file.name],
                         ids=lambda file: file.name)
def test_every_shipped_config_whose_data_is_here_can_be_built(file):
    trainer = build_trainer(validate_config(*load_config(file)), pick_device("cpu"))
    trainer.prepare_training()
    assert trainer.updaters


def test_omitted_sections_are_filled_in_and_the_config_given_stays_as_it_was():
    config = {key: GOOD[key] for key in ("name", "dataset", "model", "loss", "optimizer")}
    before = copy.deepcopy(config)
    full = validate_config(config)
    assert config == before and full.items() >= config.items()
    assert full["metrics"] == [] and full["scheduler"] is None and full["trainer"] == {"type": "Trainer"}
    assert validate_config(full) == full


VALID = [
    ("model", "resnet18"), ("model", {"type": "resnet18", "args": {"num_classes": 10}}),
    ("model", {"type": "mobilenet_v3_small", "args": {"weights": None}}),
    ("model", "Sequential"), ("model", {"type": "Linear", "args": {"in_features": 2, "out_features": 1}}),
    ("loss", "L1Loss"), ("loss", {"type": "BCEWithLogitsLoss", "args": {"reduction": "mean"}}),
    ("metrics", [{"type": "F1Score", "args": {"task": "multiclass", "num_classes": 3}}]),
    ("metrics", [{"type": "MulticlassF1Score", "args": {"num_classes": 3, "average": "macro"}}]),
    ("metrics", ["accuracy", {"type": "accuracy", "name": "again"}]),
    ("dataset", {"type": "CIFAR10", "args": {"root": "data/", "download": True}}),
    ("dataset", {"type": "SVHN", "args": {"root": "data/"}}), ("dataset", {"type": "ImageFolder", "args": {"root": "data/"}}),
    ("transforms", {"train": [{"type": "RandomResizedCrop", "args": {"size": [8, 8]}}], "batch": ["RandomGrayscale"]}),
    ("optimizer", "SGD"), ("optimizer", {"type": "SGD", "args": {"lr": 1, "momentum": 0.9}}),  # 1 is a number, too
    ("optimizer", {"type": "LBFGS", "args": {"max_iter": 1}}), ("optimizer", {"type": "Adam", "args": {"betas": [0.5, 0.9]}}),
    ("scheduler", None), ("scheduler", "CosineAnnealingLR"), ("scheduler", {"type": "OneCycleLR", "args": {"max_lr": 1}}),
    ("scheduler", "ReduceLROnPlateau"),
    ("scheduler", {"type": "SequentialLR", "args": {"schedulers": ["LinearLR", "CosineAnnealingLR"], "milestones": [2]}}),
    ("trainer", "Trainer"), ("trainer", {"type": "Trainer", "args": {"monitor": None, "early_stop": None}}),
    ("trainer", {"type": "Trainer", "args": {"max_time": "1:30:00"}}),
    ("trainer", {"type": "Trainer", "args": {"max_time": 5400, "ema": 0.99, "clip_norm": 1, "precision": "bf16"}}),
    ("writers", []),
]


@pytest.mark.parametrize("section, value", VALID)
def test_what_the_libraries_offer_can_be_named_with_its_own_arguments(section, value):
    validate_config({**GOOD, section: value})


# -- all faults at once --------------------------------------------------------------------------------------------

def test_all_faults_are_reported_at_once_each_with_file_line_key_and_mend(from_yaml):
    needs("model/lenet.py")
    message = from_yaml("""\
name: my/run
modle: LeNet
dataset: {type: Digit}
model:
  type: LeNet
  args: {num_clases: 10, dropout: much}
loss: CrossEntropy
metrics: [acuracy]
optimizer: {type: AdamW, args: {learning_rate: 1e-3}}
scheduler: {type: StepLR}
trainer: {type: Trainer, args: {epochs: 0, monitor: off}}
""")
    lines = message.splitlines()
    for number, key, said in [
        (1, "name", "no slashes"), (2, "modle", "'model'"), (3, "dataset.type", "'Digits'"),
        (6, "model.args.num_clases", "'num_classes'"), (6, "model.args.dropout", "'much' is text; a number"),
        (7, "loss.type", "'CrossEntropyLoss'"), (8, "metrics.0.type", "Did you mean"),
        (9, "optimizer.args.learning_rate", "'lr'"), (10, "scheduler.args", "'step_size'"),
        (11, "trainer.args.epochs", "at least 1"), (11, "trainer.args.monitor", "null"),
    ]:
        assert any(re.search(rf"c\.yaml:{number}\s+{key}: .*{said}", line) for line in lines), (key, message)
    assert len(lines) == 11


@pytest.mark.parametrize("section, wrong, right", [
    ("model", "MPL", "MLP"), ("model", "mlp", "MLP"), ("model", "resnet_18", "resnet18"),
    ("loss", "CrossEntropy", "CrossEntropyLoss"), ("metrics", "top_k_acuracy", "top_k_accuracy"),
    ("metrics", "F1score", "F1Score"), ("dataset", "Digts", "Digits"), ("dataset", "cifar10", "CIFAR10"),
    ("transforms", "RandomHorizontalFlp", "RandomHorizontalFlip"), ("optimizer", "adamw", "AdamW"),
    ("scheduler", "OneCycle", "OneCycleLR"), ("scheduler", "CosineAnealingLR", "CosineAnnealingLR"),
    ("trainer", "Trainr", "Trainer"), ("trainer", "trainer", "Trainer"), ("writers", "Tensorboard", "TensorBoard"),
])
def test_an_unknown_name_is_answered_with_the_nearest(section, wrong, right):
    value = {"transforms": {"train": [wrong]}}.get(section, [wrong] if section in ("metrics", "writers") else wrong)
    (key, message), = faults(**{section: value}).items()
    assert key.startswith(section) and f"'{wrong}'" in message and f"Did you mean '{right}'?" in message


@pytest.mark.parametrize("section, args, wrong, right", [
    ("optimizer", {"learning_rate": 1e-3}, "learning_rate", "lr"),
    ("optimizer", {"wieght_decay": 0.1}, "wieght_decay", "weight_decay"),
    ("model", {"sizes": [1, 2], "drop_out": 0.1}, "drop_out", "dropout"),
    ("model", {"sizes": [1, 2], "Dropout": 0.1}, "Dropout", "dropout"),
    ("dataset", {"noize": 0.1}, "noize", "noise"), ("loss", {"label_smooth": 0.1}, "label_smooth", "label_smoothing"),
    ("trainer", {"epoch": 3}, "epoch", "epochs"), ("trainer", {"early_stopping": 3}, "early_stopping", "early_stop"),
])
def test_a_misspelt_argument_is_answered_with_the_nearest_and_the_signature(section, args, wrong, right):
    found = faults(**{section: {"type": GOOD[section]["type"], "args": args}})
    message = found[f"{section}.args.{wrong}"]
    assert f"'{wrong}'" in message and f"Did you mean '{right}'?" in message
    assert f"{GOOD[section]['type']}(" in message and len(found) == 1


def test_arguments_of_list_items_and_options_of_the_loader_are_checked_like_all_others():
    assert "'k'" in faults(metrics=[{"type": "top_k_accuracy", "args": {"kk": 3}}])["metrics.0.args.kk"]
    assert "'size'" in faults(transforms={"train": ["RandomCrop"]})["transforms.train.0.args"]
    assert "'batch_size'" in faults(data_loader={"batchsize": 8})["data_loader.batchsize"]
    assert "'train'" in faults(transforms={"trian": []})["transforms.trian"]
    assert "'step_size'" in faults(scheduler=["CosineAnnealingLR", "StepLR"])["scheduler.1.args"]
    assert "'LinearLR'" in faults(scheduler={"type": "SequentialLR", "args": {
        "schedulers": ["LinarLR", "CosineAnnealingLR"], "milestones": [1]}})["scheduler.args.schedulers.0.type"]


@pytest.mark.parametrize("section, block, missing", [
    ("model", "MLP", "'sizes'"), ("model", {"type": "Linear", "args": {"in_features": 1}}, "'out_features'"),
    ("dataset", "MNIST", "'root'"), ("scheduler", {"type": "ExponentialLR", "args": None}, "'gamma'"),
])
def test_a_missing_argument_is_named(section, block, missing):
    assert missing in faults(**{section: block})[f"{section}.args"]


@pytest.mark.parametrize("section, name, args", [
    ("optimizer", "params", {"params": [1]}), ("scheduler", "optimizer", {"optimizer": "Adam", "T_max": 3}),
    ("trainer", "model", {"model": "LeNet"}), ("trainer", "seed", {"seed": 3}),
])
def test_arguments_that_the_program_fills_in_are_refused(section, name, args):
    kind = {"optimizer": "AdamW", "scheduler": "CosineAnnealingLR", "trainer": "Trainer"}[section]
    assert "by the program" in faults(**{section: {"type": kind, "args": args}})[f"{section}.args.{name}"]


def test_the_loader_and_the_metrics_are_not_given_what_the_program_fills_in():
    assert "by the program" in faults(data_loader={"seed": 3})["data_loader.seed"]
    assert "by the program" in faults(metrics=[{"type": "accuracy", "args": {"outputs": 1}}])["metrics.0.args.outputs"]


@pytest.mark.parametrize("key, value, said", [
    ("trainer.epochs", "ten", "'ten' is text; a whole number is needed"), ("trainer.epochs", 1.5, "a whole number is needed"),
    ("trainer.epochs", True, "the value is true; a whole number is needed"), ("trainer.epochs", None, "the value is null"),
    ("trainer.compile", 1, "true or false or text or a table of keys is needed"),
    ("trainer.compile", "fast", "there is no mode 'fast'"), ("trainer.compile", {"cache": True}, "'cache' is no option"),
    ("trainer.matmul_precision", "low", "'highest'"), ("trainer.precision", "fp17", "'bf16'"),
    ("trainer.epochs", 0, "at least 1"), ("trainer.clip_norm", 0, "above 0"), ("trainer.clip_norm", -1.0, "above 0"),
    ("trainer.ema", 1.0, "below 1"), ("trainer.ema", -0.1, "at least 0"), ("trainer.early_stop", 0, "at least 1"),
    ("trainer.max_time", "1h", "h:mm:ss"), ("trainer.max_time", 0, "above 0"), ("trainer.accumulate", 0, "at least 1"),
    ("trainer.monitor", "val/loss", "min val/loss"), ("trainer.monitor", "max", "min val/loss"),
    ("trainer.monitor", "best val/loss", "min val/loss"), ("trainer.monitor", "max accuracy", "max val/accuracy"),
    ("model.sizes", 3, "a list is needed"), ("model.dropout", "0.1", "'0.1' is text; a number is needed"),
    ("optimizer.lr", "fast", "a number is needed"), ("optimizer.lr", "1e-3", "'1e-3' is text; a number is needed"),
    ("optimizer.lr", [1], "a number is needed"), ("optimizer.weight_decay", "none", "a number is needed"),
    ("optimizer.betas", 0.9, "a list is needed"), ("optimizer.fused", "yes", "true or false or null is needed"),
    ("dataset.num_samples", 2.5, "a whole number is needed"), ("loss.label_smoothing", "a bit", "a number is needed"),
])
def test_an_argument_of_the_wrong_type_or_out_of_range_is_told_what_is_needed(key, value, said):
    section, name = key.split(".")
    block = {"type": GOOD[section]["type"], "args": {**GOOD[section]["args"], name: value}}
    found = faults(**{section: block})
    assert list(found) == [f"{section}.args.{name}"] and said in found[f"{section}.args.{name}"]


@pytest.mark.parametrize("name, value, said", [
    ("batch_size", 0, "at least 1"), ("batch_size", "all", "a whole number"), ("num_workers", -1, "at least 0"),
    ("validation_split", -0.1, "at least 0"), ("validation_split", 1.5, "neither a part"), ("validation_split", 1.0, "neither"),
    ("shuffle", 1, "true or false"), ("timeout", -1, "at least 0"),
])
def test_options_of_the_loader_are_held_against_their_ranges(name, value, said):
    assert said in faults(data_loader={name: value})[f"data_loader.{name}"]


@pytest.mark.parametrize("section, text", [
    ("monitor", "trainer: {type: Trainer, args: {monitor: off}}"), ("scheduler", "scheduler: off"),
    ("early_stop", "trainer: {type: Trainer, args: {early_stop: no}}"),
    ("precision", "trainer: {type: Trainer, args: {precision: no}}"),
])
def test_off_and_no_are_explained(from_yaml, section, text):
    message = from_yaml(f"name: x\ndataset: Digits\nmodel: LeNet\nloss: MSELoss\noptimizer: SGD\n{text}\n")
    word = "off" if "off" in text else "no"
    assert "c.yaml:6" in message and section in message
    assert f"YAML reads {word} as false" in message and "null" in message and f"'{word}'" in message


@pytest.mark.parametrize("text", ["none", "None", "off"])
def test_a_scheduler_called_none_is_told_to_be_null(text):
    assert "null" in faults(scheduler=text)["scheduler"]


# -- blocks --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("section", ["model", "loss", "dataset", "optimizer", "scheduler", "trainer"])
def test_an_unknown_key_in_a_block_is_answered_with_the_nearest(section):
    block = GOOD[section] if isinstance(GOOD[section], dict) else GOOD[section][0]
    message = faults(**{section: {"type": block["type"], "args": block["args"], "arg": {}}})[f"{section}.arg"]
    assert "'arg'" in message and "Did you mean 'args'?" in message


def test_only_schedulers_take_per_and_only_metrics_take_a_name():
    assert "'per'" in faults(model={**GOOD["model"], "per": "step"})["model.per"]
    assert "'name'" in faults(loss={"type": "MSELoss", "name": "mine"})["loss.name"]
    assert "'batch'" in faults(scheduler={"type": "CosineAnnealingLR", "per": "batch"})["scheduler.per"]


@pytest.mark.parametrize("value", [3, [], {}, [["LeNet"]], {"args": {}}, {"type": None}, {"type": ["LeNet"]}, {"type": 3}])
@pytest.mark.parametrize("section", ["model", "loss", "dataset"])
def test_a_block_is_a_name_or_a_type_with_args(section, value):
    assert {key.removesuffix(".type") for key in faults(**{section: value})} == {section}


def test_a_trainer_without_a_type_is_the_supervised_one():
    assert validate_config({**GOOD, "trainer": {"args": {"epochs": 2}}})["trainer"] == {"type": "Trainer", "args": {"epochs": 2}}
    assert validate_config({**GOOD, "trainer": {}})["trainer"] == {"type": "Trainer"}
    for value in (3, [], {"type": None}, {"type": 3}):
        assert {key.removesuffix(".type") for key in faults(trainer=value)} == {"trainer"}


def test_sections_that_are_lists_or_tables_are_told_so():
    wrong = {"metrics": "accuracy", "writers": "TensorBoard", "transforms": ["RandomCrop"], "data_loader": 32}
    for section, value in wrong.items():
        (key, message), = faults(**{section: value}).items()
        assert key == section and ("a list of" in message or "a table" in message)
    assert "a table of arguments" in faults(model={"type": "MLP", "args": [4, 2]})["model.args"]
    assert "a list of transforms" in faults(transforms={"train": "RandomCrop"})["transforms.train"]


def paths(value, path=()):
    """The path of everything inside a config."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from paths(item, (*path, key))


@pytest.mark.parametrize("base", [
    GOOD, {**GOOD, "optimizer": {"type": "LBFGS", "args": {"max_iter": 1}}},
    {**GOOD, "optimizer": {"generator": {"type": "Adam", "args": {"lr": 0.1}}, "discriminator": "SGD"},
     "scheduler": {"generator": [{"type": "StepLR", "args": {"step_size": 3}}], "discriminator": "CosineAnnealingLR"}},
], ids=["one-optimizer", "lbfgs", "two-optimizers"])
def test_whatever_stands_anywhere_in_a_config_the_worst_is_a_config_error(base):
    validate_config(base)
    for path in paths(base):
        if base is not GOOD and path[0] not in ("optimizer", "scheduler"):  # the rest is as in GOOD
            continue
        for odd in (None, 3, -1.5, True, "x", [], {}, [[]], [{}], {"a": 1}, {"type": None}, {"type": "MNIST", "args": 5}):
            config = copy.deepcopy(base)
            inner = config
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = odd
            try:
                validate_config(config)
            except ConfigError:
                pass
            except Exception as error:
                raise AssertionError(f"{path} = {odd!r} raises {error!r}") from error


# -- faults of a whole ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("section", ["name", "dataset", "model", "optimizer"])
def test_a_missing_section_is_named(section):
    assert "missing" in faults(**{section: None})[section]
    without = {key: value for key, value in GOOD.items() if key != section}
    assert f"{section}: is missing" in message_of(without)


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "", "-x", 3])
def test_a_name_that_can_be_no_folder_is_refused(name):
    assert set(faults(name=name)) == {"name"}


@pytest.mark.parametrize("seed", ["x", 1.5, True])
def test_a_seed_is_a_whole_number(seed):
    assert "a whole number is needed" in faults(seed=seed)["seed"]


def test_a_trainer_that_needs_a_loss_is_not_left_without():
    @TRAINERS.register
    class WithALoss(TRAINERS.get("Trainer")):
        def __init__(self, *, loss, **kwargs):
            super().__init__(loss=loss, **kwargs)

    assert "WithALoss needs one" in faults(loss=None, trainer="WithALoss")["loss"]
    validate_config({**GOOD, "loss": None})  # the model may give its own


def test_a_trainer_with_a_loss_of_its_own_needs_none():
    needs("trainer/gan_trainer.py")
    validate_config({**GOOD, "loss": None, "trainer": "GANTrainer"})


@pytest.mark.parametrize("metrics", [
    ["accuracy", "accuracy"], ["accuracy", {"type": "accuracy", "args": {}}],
    [{"type": "accuracy", "name": "same"}, {"type": "absolute_error", "name": "same"}],
    ["accuracy", {"type": "F1Score", "args": {"task": "binary"}, "name": "accuracy"}],
])
def test_two_metrics_of_one_name_would_overwrite_each_other_and_are_refused(metrics):
    assert "two metrics" in faults(metrics=metrics)["metrics.1"]


def test_a_dataset_must_leave_its_split_to_the_program():
    assert "split" in faults(dataset={"type": "NoisyPoints", "args": {"split": "train"}})["dataset.args.split"]
    assert "split" in faults(dataset={"type": "MNIST", "args": {"root": "data/", "train": True}})["dataset.args.train"]
    assert "split" in faults(dataset="FakeData")["dataset"]


@pytest.mark.parametrize("block", [{"type": 3}, {"type": ["MNIST"]}, {"type": None}, {}])
def test_a_dataset_kept_on_a_device_needs_a_name_like_any_other(block):
    (key, message), = faults(dataset={**block, "args": {"device": "cpu"}}).items()
    assert key.removesuffix(".type") == "dataset" and ("'type' is missing" in message or "a name is needed" in message)


def test_a_scheduler_for_an_optimizer_that_is_not_there_is_refused():
    two = {"generator": "Adam", "discriminator": "Adam"}
    validate_config({**GOOD, "optimizer": two, "scheduler": {"generator": "CosineAnnealingLR"}})
    message = faults(optimizer=two, scheduler={"generatr": "CosineAnnealingLR"})["scheduler.generatr"]
    assert "'generatr'" in message and "generator, discriminator" in message
    assert "generator, discriminator" in faults(optimizer=two, scheduler="CosineAnnealingLR")["scheduler"]


def test_faults_of_several_optimizers_carry_the_name_of_theirs():
    two = {"generator": {"type": "Adam", "args": {"learning_rate": 1}}, "discriminator": "Adm"}
    found = faults(optimizer=two, scheduler=None)
    assert set(found) == {"optimizer.generator.args.learning_rate", "optimizer.discriminator.type"}


def test_a_plateau_is_looked_for_once_an_epoch_only():
    assert "once an epoch" in faults(scheduler={"type": "ReduceLROnPlateau", "per": "step"})["scheduler.per"]


@pytest.mark.parametrize("args", [{}, {"lr": 1}, {"max_iter": 20}, {"max_iter": 1, "line_search_fn": "strong_wolfe"}])
def test_lbfgs_is_allowed_to_look_once_only(args):
    assert "max_iter: 1" in faults(optimizer={"type": "LBFGS", "args": args})["optimizer.args"]


@pytest.mark.parametrize("groups, key", [
    ("layers.*", "groups"), ([3], "groups.0"), ([{"lr": 1e-3}], "groups.0"), ([{"match": 3}], "groups.0"),
    ([{"match": "*"}, {"match": "*", "learning_rate": 1}], "groups.1.learning_rate"),
    ([{"match": "*", "lr": "fast"}], "groups.0.lr"), ([{"match": "*", "frozen": "maybe"}], "groups.0.frozen"),
])
def test_rules_for_groups_of_parameters_are_checked(groups, key):
    assert set(faults(optimizer={"type": "AdamW", "groups": groups})) == {f"optimizer.{key}"}


# -- what cannot be named ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
@pytest.mark.parametrize("name", [
    "os.system", "system", "subprocess.Popen", "Popen", "builtins.eval", "eval", "exec", "__import__", "open", "print",
    "torch.load", "load", "torch.hub.load", "hub", "pickle.loads", "get_model", "get_model_builder", "list_models",
    "torch.nn.Linear", "nn", "Module", "Dataset", "BaseTrainer", "BaseModel", "Optimizer", "LRScheduler", "Metric",
    "Writer", "Registry", "__class__", "__builtins__", "../model/lenet", "model.lenet", "", " ",
])
def test_nothing_but_things_of_the_kind_can_be_named(registry, name):
    with pytest.raises(ConfigError, match=f"no {registry.kind} "):
        registry.get(name)


KINDS = {
    "model": ("MLP", "resnet18", "Linear"), "loss": ("CrossEntropyLoss",), "metric": ("accuracy", "F1Score"),
    "dataset": ("Digits", "MNIST"), "transform": ("RandomCrop",), "optimizer": ("Adam",), "scheduler": ("StepLR",),
    "trainer": ("Trainer",), "writer": ("TensorBoard",),
}


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_a_name_of_one_kind_is_not_a_name_of_another(registry):
    for kind, names in KINDS.items():
        for name in names:
            if kind == registry.kind or (kind, registry.kind) == ("loss", "model"):  # a loss of torch.nn is a Module
                assert callable(registry.get(name))
            else:
                with pytest.raises(ConfigError, match=f"no {registry.kind} '{name}'"):
                    registry.get(name)


@pytest.mark.parametrize("registry, kind", [
    (OPTIMIZERS, Optimizer), (SCHEDULERS, LRScheduler), (DATASETS, Dataset), (LOSSES, nn.Module), (TRAINERS, BaseTrainer),
    (WRITERS, Writer),
], ids=lambda value: getattr(value, "kind", ""))
def test_what_the_libraries_of_a_kind_offer_are_public_classes_of_that_kind(registry, kind):
    for library in registry.libraries:
        assert library.members()
        for name, thing in library.members().items():
            assert issubclass(thing, kind) and thing is not kind and not name.startswith("_")
    for name in registry.names():
        thing = registry.get(name)
        assert not isinstance(thing, type) or issubclass(thing, kind)


def test_nothing_is_built_and_no_data_is_read_while_a_config_is_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    validate_config({**GOOD, "dataset": {"type": "MNIST", "args": {"root": "data/", "download": True}},
                     "model": {"type": "Linear", "args": {"in_features": 10**7, "out_features": 10**7}}})  # 400 TB
    assert not list(tmp_path.iterdir())
