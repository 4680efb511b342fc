"""Training and predicting from Python: what the programs do, with exceptions in place of exit codes."""
import json
import logging

import pytest
import torch

from base import MODELS, fit, load
from conftest import assert_same_run, train
from data_loader.digits import Digits
from utils.errors import ConfigError

CONFIG = {"name": "from_python", "dataset": "Digits",
          "data_loader": {"batch_size": 64, "validation_split": 0.1},
          "model": {"type": "MLP", "args": {"sizes": [64, 10]}}, "loss": "CrossEntropyLoss",
          "optimizer": {"type": "SGD", "args": {"lr": 0.1}},
          "trainer": {"args": {"epochs": 2, "monitor": "min val/loss", "log_every": 5}}}


def test_fit_trains_as_the_program_does(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    program = train("-c", tmp_path / "config.json", "trainer.args.epochs=3", out=tmp_path / "program")
    result = fit(CONFIG, ["trainer.args.epochs=3"], out=tmp_path / "python", run_name="mine")
    assert result.run == tmp_path / "python" / "from_python" / "mine"
    assert_same_run(program, result.run)
    assert result.history["epoch"] == [1, 2, 3] and len(result.history["val/loss"]) == 3
    assert result.best == {"name": "val/loss", "value": min(result.history["val/loss"]), "epoch": 3}
    assert "epoch 3/3" in (result.run / "run.log").read_text()
    files = [getattr(handler, "baseFilename", "") for handler in logging.getLogger().handlers]
    assert not any(file.startswith(str(result.run)) for file in files)  # closed


def test_fit_goes_on_with_a_run(tmp_path):
    whole = fit(CONFIG, ["trainer.args.epochs=3"], out=tmp_path / "whole")
    begun = fit(CONFIG, ["trainer.args.epochs=2"], out=tmp_path / "begun")
    again = fit(CONFIG, ["trainer.args.epochs=3"], out=tmp_path / "begun", resume=begun.run)
    assert again.run == begun.run
    assert_same_run(whole.run, again.run)


def test_mistakes_are_exceptions_with_the_text_of_the_command_line(tmp_path):
    with pytest.raises(ConfigError, match=r"config +model.args.size: MLP has no argument 'size'.*'sizes'"):
        fit({**CONFIG, "model": {"type": "MLP", "args": {"size": [64, 10]}}}, out=tmp_path)
    with pytest.raises(ConfigError, match="neither a run"):
        load(tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_a_class_that_is_defined_again_is_the_one_that_counts(tmp_path):
    """As in a notebook, whose cells run again."""
    for width in (4, 8):
        class DefinedAgain(torch.nn.Module):
            """A model."""

            def __init__(self, width: int = width):
                super().__init__()
                self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, width),
                                                  torch.nn.Linear(width, 10))

            def forward(self, images):
                return self.layers(images)

        DefinedAgain.__module__ = "__main__"
        MODELS.register(DefinedAgain)
        result = fit({**CONFIG, "model": "DefinedAgain"}, out=tmp_path)
        assert result.trainer.unwrapped_model.layers[1].out_features == width
    assert len(load(result.run)(Digits("test").images[:3])["class"]) == 3


def test_a_predictor_scores_with_averaged_weights_in_eval_mode(tmp_path):
    result = fit(CONFIG, ["trainer.args.ema=0.9", "model.args.dropout=0.5"], out=tmp_path)
    predictor, images = load(result.run), Digits("test").images
    assert torch.equal(predictor.model.state_dict()["layers.1.weight"],
                       predictor.checkpoint.state["ema"]["model"]["layers.1.weight"])
    first, second = predictor(images[:40]), predictor(images[:40])  # dropout is off
    assert torch.equal(first["probabilities"], second["probabilities"])
    assert predictor.trainer.evaluate("test")["test/loss"] > 0
    assert torch.equal(predictor(images[:40])["class"], first["class"])  # evaluation leaves training mode
    assert predictor([]) == {}
