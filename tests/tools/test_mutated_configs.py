"""Whatever a config comes to be by mistake, `train.py --check` answers with a message, and never with a traceback."""
import contextlib
import copy
import io
import json
import math
import warnings

import pytest
from conftest import needs
from hypothesis import HealthCheck, given, settings, strategies as st

from train import main
from utils.cli import train_arguments
from utils.config.syntax import dump_yaml
from utils.errors import ConfigError, TrainingError

LINE = {
    "name": "line", "dataset": {"type": "NoisyLine", "args": {"num_samples": 64, "noise": 0.1}},
    "data_loader": {"batch_size": 16, "eval_batch_size": 32, "drop_last": True}, "model": "Line", "loss": "MSELoss",
    "metrics": ["absolute_error", {"type": "absolute_error", "name": "again"}],
    "optimizer": {"type": "SGD", "args": {"lr": 0.1, "momentum": 0.9}, "decay_bias_and_norm": False},
    "scheduler": ["CosineAnnealingLR", {"type": "OneCycleLR", "args": {"max_lr": 0.1}, "per": "step"}],
    "trainer": {"args": {"epochs": 3, "eval_every": 2, "early_stop": 2, "min_delta": 0.01}}, "writers": [],
}
DIGITS = {
    "name": "digits", "seed": 3, "dataset": {"type": "Digits"},
    "transforms": {"train": [{"type": "RandomAffine", "args": {"degrees": 10, "translate": [0.1, 0.1]}}], "eval": [],
                   "batch": [{"type": "Normalize", "args": {"mean": [0.3], "std": [0.4]}}]},
    "data_loader": {"batch_size": 16, "validation_split": 0.1, "batches_per_epoch": 2, "eval_batches": 2, "num_workers": 0},
    "model": {"type": "MLP", "args": {"sizes": [64, 16, 10], "dropout": 0.1}},
    "loss": {"type": "CrossEntropyLoss", "args": {"label_smoothing": 0.1}},
    "metrics": ["accuracy", {"type": "top_k_accuracy", "args": {"k": 3}, "name": "top3"}],
    "optimizer": {"type": "AdamW", "args": {"lr": 1e-3, "betas": [0.9, 0.99], "weight_decay": 0.01},
                  "groups": [{"match": "layers.1.*", "lr": 1e-4}, {"match": "layers.4.bias", "frozen": True}]},
    "scheduler": {"type": "StepLR", "args": {"step_size": 1, "gamma": 0.5}, "per": "epoch"},
    "trainer": {"type": "Trainer", "args": {
        "epochs": 2, "monitor": "max val/accuracy", "accumulate": 2, "clip_norm": 1.0, "ema": 0.9, "max_time": "1:00:00",
        "checkpoint_every": {"epochs": 1, "minutes": 5}, "save_every": 1, "keep_last": 2, "precision": "fp32"}},
    "writers": ["TensorBoard"],
}
PATCHES = {
    "name": "patches", "dataset": "Digits",
    "transforms": {"batch": ["BatchRandomHorizontalFlip", {"type": "BatchRandomCrop", "args": {"size": 8, "padding": 1}},
                             {"type": "BatchMixUp", "args": {"num_classes": 10, "alpha": 0.4}}]},
    "data_loader": {"batch_size": 20, "validation_split": 100, "batches_per_epoch": 2, "eval_batches": 1, "shuffle": True},
    "model": {"type": "LeNet", "args": {"num_classes": 10, "image_size_px": 8, "width": 4}}, "loss": "CrossEntropyLoss",
    "optimizer": {"type": "Adam", "args": {"lr": "${env:RATE,1e-3}", "weight_decay": "${optimizer.args.lr}"}}, "writers": [],
    "trainer": {"args": {"epochs": 2, "accumulate": 2, "on_nan": "skip", "max_nan_steps": 3,
                         "strategy": {"type": "ddp", "args": {"bucket_cap_mb": 25}}, "log_every": 1}},
}
GAN = {
    "name": "gan", "seed": 1, "dataset": "Digits",
    "data_loader": {"batch_size": 8, "validation_split": 0, "batches_per_epoch": 1},
    "model": {"type": "DigitsGAN", "args": {"latent_size": 4, "width": 8}},
    "optimizer": {"generator": {"type": "Adam", "args": {"lr": 1e-3, "betas": [0.5, 0.999]}}, "discriminator": "SGD"},
    "scheduler": {"generator": "CosineAnnealingLR", "discriminator": [{"type": "StepLR", "args": {"step_size": 2}}]},
    "trainer": {"type": "GANTrainer", "args": {"epochs": 2, "monitor": None}}, "writers": [],
}
CONFIGS = [LINE, DIGITS, PATCHES, GAN]
ODD = [  # numbers are small or far too large: nothing in between, which would be built and take its time
    None, True, False, 0, 1, -1, 3, 7, 100, 10**12, 2**63, 10**30, -10**18, 0.0, 0.5, -1.5, 1e-300, 1e300, math.inf, -math.inf,
    math.nan, "", " ", "x", "None", "true", "10", "1e-3", "0,5", "10%", "\u00e9", "\U0001F331", "a\nb", "a/b", "..", "~", "off",
    "*", "[1, 2]", "x" * 5000, "${seed}", "${nope}", "${", "$${", "${model.args}", "${env:NOPE}", "${env:NOPE,3}", "x ${name}",
    "Linear", "LeNet", "MNIST", "Trainer", "accuracy", "SGD", "LBFGS", "StepLR", "resnet18", "ReduceLROnPlateau", "Identity",
    [], [[]], [{}], [None], [1], [0, 0], [1, "a"], [0.1] * 3, ["x"], [[1], 2], [64, 10**12, 10],
    {}, {"a": 1}, {"type": None}, {"type": "Identity"}, {"type": "MLP", "args": 5}, {"args": {}}, {"": {"": None}}, {"0": 1},
    {"match": "*"}, {"type": "SGD", "args": {"lr": 1e30}}, {"type": "SequentialLR", "args": {"schedulers": ["StepLR"]}},
    {"type": "SequentialLR", "args": {"schedulers": ["LinearLR", "CosineAnnealingLR"], "milestones": [1]}},
]
KEYS = ["", "~", "~x", "~model", "a.b", "0", "x", "\u00e9", "type", "args", "name", "lr", "per", "groups", "match", "frozen",
        "epochs", "device", "weight", "reduction", "extends", "$schema", "split", "root", "num_classes", "fused", "on_nan",
        "strategy"]
SIGNS = [*"\t\n :,-[]{}()'\"#&*!|>%@`~$?=.0159eExnN_/\\\u00e9\x00\x07\u2028",
         "  ", ": ", "- ", "\n  ", "${", "<<: ", "1e9", "---\n", "!!"]


def paths(value, path=()):
    """The path of everything inside a config."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from paths(item, (*path, key))


def within(config, path):
    """What lies at a path."""
    for key in path:
        config = config[key]
    return config


def near(value) -> list:
    """Values like this one, of which some may do."""
    if isinstance(value, list):
        return [value[:-1], value * 2, value[:1] * 3, [*value, None], dict(enumerate(value)), value[::-1]]
    if isinstance(value, (int, float)) and abs(value) < 1e300:
        return [value + 1, value - 1, -value, value * 2, value * 10, -2.5 * value, str(value), [value, value]]
    return [{"type": value}, [value], f"{value} ", str(value).lower(), str(value)[1:], f"{value}{value}", {"name": value}]


def mutate(draw, config) -> None:
    """Makes one value or key of a config another, takes it away or adds one."""
    found = list(paths(config))
    *above, key = draw(st.sampled_from(found))
    table = within(config, above)
    value = draw(st.one_of(st.sampled_from(ODD), st.sampled_from(near(table[key]))))
    how = draw(st.sampled_from(["replace"] * 5 + ["delete", "rename", "add", "swap"]))
    if how == "delete":
        del table[key]
    elif how == "rename" and isinstance(table, dict):
        table[draw(st.sampled_from(KEYS))] = table.pop(key)
    elif how == "add" and isinstance(table, dict):
        table[draw(st.sampled_from(KEYS))] = copy.deepcopy(value)
    elif how == "swap":
        table[key] = copy.deepcopy(within(config, draw(st.sampled_from(found))))
    else:
        table[key] = copy.deepcopy(value)


def written(draw, config) -> str:
    """A config as JSON, or as YAML with its references."""
    return json.dumps(config, indent=1) if draw(st.booleans()) else dump_yaml(config).replace("$${", "${")


@st.composite
def other_values(draw) -> str:
    """The text of a config in which up to three things are other than they were."""
    config = copy.deepcopy(draw(st.sampled_from(CONFIGS)))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        mutate(draw, config)
    return written(draw, config)


@st.composite
def other_text(draw) -> str:
    """The text of a config with up to four pieces cut out, doubled or made something else."""
    text = written(draw, draw(st.sampled_from(CONFIGS)))
    for _ in range(draw(st.integers(1, 4))):
        at, cut = draw(st.integers(0, max(len(text) - 1, 0))), draw(st.sampled_from([0, 0, 1, 1, 2, 5, 30]))
        text = text[:at] + draw(st.sampled_from(["", *SIGNS, text[at:at + cut] * 2])) + text[at + cut:]
    return text


def check(text: str, folder) -> str:
    """What `python train.py --check` says of a file with that text: its message, or OK."""
    file = folder / ("c.json" if text.lstrip()[:1] == "{" else "c.yaml")
    file.write_text(text, encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()) as said, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            main(train_arguments(["--quiet", "--device", "cpu", "--check", "-c", str(file)]))
        except (ConfigError, TrainingError) as error:
            return str(error)
    return said.getvalue().strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to write configs to."""
    return tmp_path_factory.mktemp("mutants")


def test_a_schedule_that_takes_apart_the_state_it_takes_up_is_no_mistake(folder):
    needs("data_loader/line.py", "model/linear_regression.py")
    cyclic = {"type": "CyclicLR", "args": {"base_lr": 0.01, "max_lr": 0.1}, "per": "step"}
    assert check(dump_yaml({**LINE, "scheduler": cyclic}), folder) == "OK"


def quietly(num_examples: int):
    """Settings of a test that tries the same examples at every run, however long each takes."""
    return settings(max_examples=num_examples, deadline=None, derandomize=True, database=None,
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@quietly(150)
@given(text=other_values())
def test_a_config_with_other_values_is_checked_without_a_traceback(folder, text):
    assert check(text, folder)


@quietly(100)
@given(text=other_text())
def test_a_config_with_other_text_is_checked_without_a_traceback(folder, text):
    assert check(text, folder)


@pytest.mark.slow
@quietly(2000)
@given(text=st.one_of(other_values(), other_text()))
def test_two_thousand_mutated_configs_are_checked_without_a_traceback(folder, text):
    assert check(text, folder)


@pytest.mark.faults
@quietly(5000)
@given(text=st.one_of(other_values(), other_text()))
def test_thousands_of_mutated_configs_are_checked_without_a_traceback(folder, text):
    assert check(text, folder)
