"""A config of pytorch-template becomes one of this project, and nothing of it is lost unseen; docs/migrate.md is right."""
import copy
import functools
import json
import operator
import re
from pathlib import Path

import pytest
import torch

from base import MODELS
from base.run.initial_weights import load_initial_weights
from base.config.validate import validate_config
from conftest import PROJECT, program
from tools.migrate import main, migrate
from utils.config.loading import load_config
from utils.config.values import flatten

SHIPPED = {
    "name": "Mnist_LeNet", "n_gpu": 1,
    "arch": {"type": "MnistModel", "args": {}},
    "data_loader": {"type": "MnistDataLoader", "args": {
        "data_dir": "data/", "batch_size": 128, "shuffle": True, "validation_split": 0.1, "num_workers": 2}},
    "optimizer": {"type": "Adam", "args": {"lr": 0.001, "weight_decay": 0, "amsgrad": True}},
    "loss": "nll_loss", "metrics": ["accuracy", "top_k_acc"],
    "lr_scheduler": {"type": "StepLR", "args": {"step_size": 50, "gamma": 0.1}},
    "trainer": {"epochs": 100, "save_dir": "saved/", "save_period": 1, "verbosity": 2, "monitor": "min val_loss",
                "early_stop": 10, "tensorboard": True}}
FORK = {
    "name": "Fork", "n_gpu": 4, "seed": 7, "globals": {"verbose": True, "sizes": [1, 2]},
    "arch": {"type": "UNet", "args": {"depth": 4}, "pretrained": "unet.pth"},
    "data_loader": {"type": "ScansDataLoader", "args": {
        "data_dir": "scans", "csv": "train.csv", "batch_size": 4, "validation_split": 0.0, "num_workers": 8,
        "drop_last": True}},
    "valid_data_loader": {"type": "ScansDataLoader", "args": {"data_dir": "held_out", "batch_size": 9}},
    "optimizer": {"type": "SGD", "args": {"lr": 0.1}}, "loss": "dice_loss", "metrics": ["dice", "accuracy"],
    "trainer": {"epochs": 5, "len_epoch": 300, "save_period": 2, "monitor": "max val_dice", "early_stop": 3,
                "tensorboard": False, "log_step": 20}}
GAN = {
    "name": "Deblur", "arch": {"generator": {"type": "Net", "args": {"width": 3}}, "discriminator": {"type": "Judge"}},
    "data_loader": {"type": "ImageLoader", "args": {"shuffle": False}, "sampler": {"type": "Even", "args": {"seed": 1}}},
    "optimizer": {"generator": {"type": "Adam", "args": {"lr": 0.1}}, "discriminator": {"type": "SGD", "args": {"lr": 0.2}}},
    "lr_scheduler": {"generator": {"type": "StepLR", "args": {"step_size": 5}}},
    "loss": {"adversarial": "wgan", "content": "perceptual"}, "metrics": {"train": ["psnr"], "val": ["psnr", "ssim"]},
    "trainer": {"type": "GANTrainer", "epochs": 9, "monitor": "max PSNR", "early_stop": 5, "save_freq": 10}}
FIRST_OF_ALL = {  # as config.json was in the project's first year
    "name": "Old", "cuda": True, "arch": "MnistModel", "model": {"width": 3}, "data_loader": {"data_dir": "d", "batch_size": 8},
    "validation": {"validation_split": 0.1}, "optimizer_type": "Adam", "optimizer": {"lr": 0.1},
    "loss": {"type": "cross_entropy", "args": {"label_smoothing": 0.1}}, "metrics": [{"type": "top_k_acc", "args": {"k": 5}}],
    "trainer": {"monitor": "val_loss", "monitor_mode": "min", "early_stop": 4}}
CONFIGS = {"shipped": SHIPPED, "fork": FORK, "gan": GAN, "first of all": FIRST_OF_ALL}


def changed(config: dict, **values) -> dict:
    """`config` with some values of its trainer replaced, or without them where they are None."""
    trainer = {key: value for key, value in {**config["trainer"], **values}.items() if value is not None}
    return {**config, "trainer": trainer}


def test_the_shipped_config_passes_the_check_once_the_model_is_there(monkeypatch):
    class MnistModel(torch.nn.Module):
        pass

    monkeypatch.setitem(MODELS._own, "MnistModel", MnistModel)  # for this test only: registries are everybody's
    config, notes = migrate(SHIPPED)
    assert validate_config(config)["model"] == {"type": "MnistModel", "args": {}}
    assert notes.keys() == {"n_gpu", "arch.type", "trainer.save_dir", "trainer.verbosity", "seed"}
    assert config == {
        "name": "Mnist_LeNet", "seed": 123,
        "dataset": {"type": "MNIST", "args": {"root": "data/", "download": True}},
        "transforms": {"batch": [{"type": "Normalize", "args": {"mean": [0.1307], "std": [0.3081]}}]},
        "data_loader": {"batch_size": 128, "shuffle": True, "validation_split": 0.1, "num_workers": 2},
        "model": {"type": "MnistModel", "args": {}}, "loss": {"type": "NLLLoss"},
        "metrics": [{"type": "accuracy"}, {"type": "top_k_accuracy", "args": {"k": 3}}],
        "optimizer": {"type": "Adam", "args": {"lr": 0.001, "weight_decay": 0, "amsgrad": True}},
        "scheduler": {"type": "StepLR", "args": {"step_size": 50, "gamma": 0.1}},
        "trainer": {"type": "Trainer", "args": {
            "epochs": 100, "save_every": 1, "monitor": "min val/loss", "early_stop": 10}}}


def test_a_fork_is_carried_as_far_as_it_goes_and_the_rest_is_named():
    config, notes = migrate(FORK)
    assert config["seed"] == 7 and config["writers"] == []
    assert config["dataset"] == {"train": {"type": "Scans", "args": {"data_dir": "scans", "csv": "train.csv"}},
                                 "val": {"type": "Scans", "args": {"data_dir": "held_out"}}}
    assert config["data_loader"] == {"batch_size": 4, "eval_batch_size": 9, "num_workers": 8, "drop_last": True,
                                     "batches_per_epoch": 300}
    assert config["trainer"]["args"] == {"epochs": 5, "save_every": 2, "log_every": 20, "monitor": "max val/dice",
                                         "early_stop": 3}
    assert {"globals", "arch.pretrained", "dataset", "data_loader.args.validation_split", "loss", "metrics.0"} <= notes.keys()
    assert "model/unet.py" in notes["arch.type"] and "data_loader/scans.py" in notes["data_loader.type"]
    assert "a value per sample" in notes["metrics.0"] and "@LOSSES.register" in notes["loss"]


def test_several_networks_keep_their_optimizers_and_what_is_missing_is_said():
    config, notes = migrate(GAN)
    assert config["optimizer"] == GAN["optimizer"] and config["scheduler"] == GAN["lr_scheduler"]
    assert "model" not in config and {"model", "arch", "loss", "metrics"} <= notes.keys()
    assert notes["loss"].endswith("(adversarial, content)") and "generator.args.width" in notes["arch"]
    assert list(notes)[0] == "model" and list(notes)[-1] == "seed"


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("theirs, ours", [
    ("nll_loss", "NLLLoss"), ("cross_entropy", "CrossEntropyLoss"), ("mse_loss", "MSELoss"), ("l1_loss", "L1Loss"),
    ("smooth_l1_loss", "SmoothL1Loss"), ("huber_loss", "HuberLoss"), ("kl_div", "KLDivLoss"),
    ("binary_cross_entropy", "BCELoss"), ("binary_cross_entropy_with_logits", "BCEWithLogitsLoss")])
def test_a_loss_is_the_class_that_computes_what_the_function_does(theirs, ours):
    config, notes = migrate({**SHIPPED, "loss": theirs})
    assert config["loss"] == {"type": ours} and "loss" not in notes
    outputs = torch.full((2, 3), 0.2)
    targets = torch.tensor([1, 2]) if theirs in ("nll_loss", "cross_entropy") else torch.full((2, 3), 0.5)
    assert getattr(torch.nn, ours)()(outputs, targets) == getattr(torch.nn.functional, theirs)(outputs, targets)


@pytest.mark.parametrize("theirs, ours, noted", [
    ("min val_loss", "min val/loss", False), ("min loss", "min train/loss", False),
    ("max val_accuracy", "max val/accuracy", False), ("max val_top_k_acc", "max val/top_k_accuracy", False),
    ("max val_f1", "max val/f1", True), ("val_loss", None, True), ("off", None, False), (None, None, False)])
def test_a_monitor_is_called_by_the_names_that_are_measured_here(theirs, ours, noted):
    config, notes = migrate(changed(SHIPPED, monitor=theirs))
    assert config["trainer"]["args"]["monitor"] == ours and ("trainer.monitor" in notes) == noted
    assert ("early_stop" in config["trainer"]["args"]) == (ours is not None) == ("trainer.early_stop" not in notes)


def test_an_early_stop_that_is_off_there_is_off_here():
    config, notes = migrate(changed(SHIPPED, early_stop=0))
    assert "early_stop" not in config["trainer"]["args"] and "trainer.early_stop" in notes


def replaced(value):
    """Another value of the same kind."""
    if isinstance(value, (list, dict, str)):
        return {list: ["other"], dict: {"other": 1}, str: "other"}[type(value)]
    return not value if isinstance(value, bool) else value + 1


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_leaf_is_named_in_the_notes_or_changes_the_result(config):
    before, notes = migrate(config)
    for key, value in flatten(config).items():
        other = copy.deepcopy(config)
        *path, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        table = functools.reduce(operator.getitem, path, other)
        table[last] = replaced(value)
        named = any(f"{key}.".startswith(f"{noted}.") for noted in notes)
        assert named or migrate(other)[0] != before, key


def fork(**changes) -> dict:
    """A small config in the style of forks, with some sections replaced."""
    return {"name": "Fork", "arch": {"type": "Net", "args": {}}, "data_loader": {"type": "PairsDataLoader", "args": {"batch_size": 8}},
            "optimizer": {"type": "SGD", "args": {"lr": 0.1}}, "loss": "mse_loss", "metrics": [],
            "trainer": {"epochs": 3, "monitor": "min val_loss"}, **changes}


def without(config: dict, key: str, **changes) -> dict:
    return {**{name: value for name, value in config.items() if name != key}, **changes}


PAIRS = {"type": "PairsDataLoader", "args": {"root": "a", "batch_size": 8}}
APART = {"train": {"type": "Pairs", "args": {"root": "a"}}, "val": {"type": "Pairs", "args": {"root": "b"}}}


@pytest.mark.parametrize("old, new, noted", [
    (without(fork(), "data_loader", train_loader=PAIRS), {"dataset": {"type": "Pairs", "args": {"root": "a"}}}, "train_loader.type"),
    (without(fork(), "data_loader", train_loader=PAIRS, val_loader={"type": "PairsDataLoader", "args": {"root": "b"}}),
     {"dataset": APART, "data_loader": {"batch_size": 8}}, "dataset"),
    (fork(data_loader=PAIRS, valid_data_loader={**PAIRS, "args": {**PAIRS["args"], "split": "val", "batch_size": 16}}),
     {"dataset": {"type": "Pairs", "args": {"root": "a"}}, "data_loader": {"batch_size": 8, "eval_batch_size": 16}},
     "valid_data_loader.args.split"),
    (without(fork(), "data_loader", data={"train": PAIRS, "val": {"type": "PairsDataLoader", "args": {"root": "b"}}}),
     {"dataset": APART}, "data.train.type"),
    (fork(data_loader={"type": "PairsDataLoader", "root": "a", "batch_size": 8, "training": True}),
     {"dataset": {"type": "Pairs", "args": {"root": "a"}}, "data_loader": {"batch_size": 8}}, "data_loader.training"),
    (fork(data_loader={"type": "DataLoader", "args": {"batch_size": 8, "shuffle": True}}, dataset={"type": "Pairs", "args": {"root": "a"}}),
     {"dataset": {"type": "Pairs", "args": {"root": "a"}}, "data_loader": {"batch_size": 8, "shuffle": True}}, "data_loader.type"),
    (fork(data_loader={"batch_size": 8, "data_dir": "a"}),
     {"dataset": {"type": "MyDataset", "args": {"data_dir": "a"}}, "data_loader": {"batch_size": 8}}, "data_loader.type"),
    (fork(data_loader="PairsDataLoader"), {"dataset": {"type": "Pairs", "args": {}}}, "data_loader.type"),
    (fork(optimizer={"type": "AdamW", "lr": 0.1, "weight_decay": 0.01}),
     {"optimizer": {"type": "AdamW", "args": {"lr": 0.1, "weight_decay": 0.01}}}, "arch.type"),
    (fork(optimizer={"type": "Ranger", "args": {"lr": 0.1}}), {"optimizer": {"type": "Ranger", "args": {"lr": 0.1}}}, "optimizer"),
    (fork(lr_scheduler={"type": "StepLR", "args": {"step_size": 2, "verbose": True}}),
     {"scheduler": {"type": "StepLR", "args": {"step_size": 2}}}, "lr_scheduler.args.verbose"),
    (fork(lr_scheduler={"type": "OneCycleLR", "args": {"max_lr": 0.1, "steps_per_epoch": 9, "epochs": 3}}),
     {"scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.1, "steps_per_epoch": 9, "epochs": 3}, "per": "step"}}, "seed"),
    (fork(lr_scheduler={"type": "OneCycleLR", "args": {"max_lr": 0.1, "total_steps": 3}}),
     {"scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.1, "total_steps": 3}, "per": "epoch"}}, "seed"),
    (fork(lr_scheduler={"type": "GradualWarmup", "args": {"steps": 5}}), {"scheduler": {"type": "GradualWarmup", "args": {"steps": 5}}},
     "lr_scheduler"),
    (fork(wandb={"project": "p", "entity": "e", "mode": {"offline": True}}), {}, "wandb"),
])
def test_what_forks_write_becomes_what_is_written_here(old, new, noted):
    config, notes = migrate(old)
    assert {key: config[key] for key in new} == new and noted in notes
    assert "dataset" in config and notes.keys().isdisjoint({"model", "name"})


@pytest.mark.parametrize("theirs, ours", [
    ({"grad_norm_clip": 1.5}, {"clip_norm": 1.5}), ({"accum_iter": 4}, {"accumulate": 4}), ({"val_freq": 2}, {"eval_every": 2}),
    ({"log_step": 20}, {"log_every": 20}), ({"monitor": ["max val_accuracy", "min val_loss"]}, {"monitor": "max val/accuracy"}),
    ({"monitor": ["val_loss", "min"]}, {"monitor": "min val/loss"}), ({"monitor": None, "mnt_metric": "val_loss", "mnt_mode": "min"},
                                                                      {"monitor": "min val/loss"}),
    ({"monitor": "val/loss", "monitor_mode": "min"}, {"monitor": "min val/loss"}),
    ({"monitor": "off", "mnt_mode": "off"}, {"monitor": None}), ({"grad_norm_clip": "yes"}, {}), ({"accum_iter": 0}, {})])
def test_options_of_trainers_of_forks_have_the_names_that_they_have_here(theirs, ours):
    config, notes = migrate(changed(fork(metrics=["accuracy"]), **theirs))
    args = config["trainer"]["args"]
    assert {"epochs": 3, "monitor": "min val/loss", **ours} == args
    assert ours or f"trainer.{next(iter(theirs))}" in notes


def test_the_names_of_torch_are_known_without_loading_it():
    from base import OPTIMIZERS, SCHEDULERS
    from tools.migration import fork_names

    for registry, names in ((OPTIMIZERS, fork_names.OPTIMIZERS), (SCHEDULERS, fork_names.SCHEDULERS)):
        assert {name for name in registry.libraries[0].members() if name != "LRScheduler"} <= set(names)


def test_the_command_prints_a_config_and_notes(tmp_path, capsys):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(SHIPPED))
    main([str(file)])
    printed = capsys.readouterr()
    (tmp_path / "mine.yaml").write_text(printed.out)
    assert load_config(tmp_path / "mine.yaml")[0] == migrate(SHIPPED)[0]
    assert printed.out.startswith(f"# Made from {file}") and "\n  args: {lr: 0.001, weight_decay: 0, " in printed.out
    assert printed.err in (PROJECT / "docs/migrate.md").read_text()
    assert len(printed.err.splitlines()) == len(migrate(SHIPPED)[1])


@pytest.mark.parametrize("text, message", [
    (None, "cannot be read"), ("{'name': 1}", "this is not JSON"), ("[1, 2]", "a table of sections"),
    ('{"name": "x", "model": {"type": "MLP"}, "optimizer": "SGD"}', "no config of pytorch-template"),
    ('{"arch": 5}', "arch: 5 is a whole number"), ('{"arch": {"type": ["A"]}}', "arch.type: ['A'] is a list"),
    ('{"arch": {"type": "A", "args": 3}}', "arch.args: 3"), ('{"arch": "A", "trainer": "fast"}', "trainer: 'fast' is text"),
    ('{"arch": "A", "metrics": "accuracy"}', "metrics: 'accuracy' is text"), ('{"arch": "A", "metrics": [1]}', "metrics.0: 1"),
    ('{"arch": "A",\n"trainer": {"early_stop": "ten"}}', "config.json:2  trainer.early_stop: 'ten' is text"),
    ('{"arch": "A", "arch": "B"}', "written twice")])
def test_bad_input_is_one_message_and_exit_code_2(text, message, tmp_path, capsys, caplog):
    file = tmp_path / "config.json"
    if text:
        file.write_text(text)
    with pytest.raises(SystemExit) as ended:
        main([str(file)])
    printed = capsys.readouterr()
    assert ended.value.code == 2 and message in caplog.text + printed.err and not printed.out


def test_it_answers_without_loading_torch(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SHIPPED))
    done = program("-X", "importtime", "-m", "tools.migrate", tmp_path / "config.json")
    assert "torch" not in done.stderr and "type: MnistModel" in done.stdout


class ConfigParser:
    """What a checkpoint of pytorch-template holds besides weights: an object of a class that only its project knows."""


def test_weights_carried_over_as_the_page_says_begin_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained, fresh = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    weights = {f"module.{name}": value for name, value in trained.state_dict().items()}  # as DataParallel has them
    torch.save({"arch": "Linear", "epoch": 5, "state_dict": weights, "config": ConfigParser()}, "model_best.pth")
    recipe = re.search(r"```text\n(import torch\n.+?)```", (PROJECT / "docs/migrate.md").read_text(), flags=re.DOTALL)
    exec(recipe[1], {})
    assert "2 loaded: weight, bias" in load_initial_weights(fresh, Path("weights.pt"))
    assert torch.equal(fresh.weight, trained.weight) and torch.equal(fresh.bias, trained.bias)
