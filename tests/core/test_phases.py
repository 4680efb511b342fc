"""Parts that are frozen for the first epochs, and the hook at the beginning of an epoch."""
import logging
from types import SimpleNamespace

import pytest
import torch

from base import TRAINERS
from base.base_model import parameter_groups, set_mode
from base.phases import begin_phase
from base.run.setup import set_up_training
from base.config.validate import validate_config
from conftest import assert_same_run, load, train
from trainer.trainer import Trainer
from utils.config.loading import load_config
from utils.errors import Interrupted

PHASES = "optimizer.groups=[{match: layers.1.*, frozen: {until_epoch: 2}}]"


@TRAINERS.register
class ThawedByHand(Trainer):
    """Does by hand what PHASES says; notes where the hook is called."""

    calls: list = []

    def on_epoch_start(self):
        self.calls.append((self.position.epoch, self.position.batch))
        self.unwrapped_model.layers[1].requires_grad_(self.position.epoch >= 2)


OPTIONS = ("trainer.args.ema=0.9", "optimizer.args.weight_decay=0.1")


def test_a_part_is_frozen_for_the_first_epochs_and_then_trained(small, tmp_path, caplog):
    options = ["-c", small, *OPTIONS, "trainer.args.epochs=4"]
    with caplog.at_level(logging.INFO):
        whole = train(*options, PHASES, out=tmp_path / "whole")
    by_hand = train(*options, "trainer.type=ThawedByHand", out=tmp_path / "by_hand")
    states = [load(run)["state"]["model"] for run in (whole, by_hand)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    stopped = [["--steps", steps] for steps in (3, 10, 12)]  # within a phase, at its end, in the next one
    for number, stop in enumerate(stopped):
        with pytest.raises(Interrupted):
            train(*options, PHASES, *stop, out=tmp_path / str(number))
        assert_same_run(train("-r", tmp_path / str(number) / "small", out=tmp_path / str(number)), whole)
    said = (whole / "run.log").read_text()
    assert "frozen until the end of epoch 2: 1,040 parameters (2 tensors)" in said
    assert "Epoch 1: 1,040 parameters (2 tensors) are frozen until the end of epoch 2" in said
    assert said.count("Epoch 3: 1,040 parameters (2 tensors) are trained from here on") == 1


def test_the_hook_of_an_epochs_start_is_called_before_its_first_batch_and_after_a_resume(small, tmp_path):
    ThawedByHand.calls.clear()
    with pytest.raises(Interrupted):
        train("-c", small, "trainer.type=ThawedByHand", "--steps", 7, out=tmp_path)
    train("-r", tmp_path / "small", out=tmp_path)
    assert ThawedByHand.calls == [(0, 0), (1, 0), (1, 2)]


@pytest.fixture
def trainer(small, tmp_path):
    config = load_config(small, [PHASES])[0]
    return set_up_training(validate_config(config), None, torch.device("cpu"), tmp_path, check=False).trainer


def test_what_tries_a_step_before_the_run_trains_all(trainer):
    assert all(parameter.requires_grad for parameter in trainer.unwrapped_model.parameters())


def test_frozen_normalisation_layers_follow_the_phase():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    groups = parameter_groups(model, [{"match": "0.*", "frozen": {"until_epoch": 1}, "lr": 0.1}])
    updaters = {"optimizer": SimpleNamespace(optimizer=torch.optim.SGD(groups, lr=1.0))}
    modes = []
    for epoch in range(2):
        begin_phase(updaters, epoch)
        set_mode(model, True, "eval")
        modes.append((model[0].training, model[1].training))
    assert modes == [(False, True), (True, True)]
    assert updaters["optimizer"].optimizer.param_groups[1]["lr"] == 0.1
