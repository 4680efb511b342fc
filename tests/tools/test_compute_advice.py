"""`--check` says whether channels_last and bf16 would make steps shorter on the CPU."""
import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import assert_same_state
from torch import nn

from base import MODELS
from base.run.run_config import resolve_config
from base.run.setup import set_up_training
from tools import compute_advice
from tools.compute_advice import describe_compute
from utils.config.loading import read_config

LENET = "model={type: LeNet, args: {num_classes: 10, image_size_px: 8, dropout: 0.5}}"


@MODELS.register
class TakesOnlySome(nn.Module):
    """A model with a convolution that refuses bf16, or channels_last."""

    def __init__(self, refused: str):
        super().__init__()
        self.first, self.last, self.refused = nn.Conv2d(1, 4, 3), nn.Linear(144, 10), refused

    def forward(self, images):
        outputs = self.first(images)
        if self.refused == ("bf16" if outputs.dtype == torch.bfloat16 else "channels_last") and (
                outputs.dtype == torch.bfloat16 or not outputs.is_contiguous()):
            raise RuntimeError(f"no {self.refused}")
        return self.last(outputs.flatten(1))


@pytest.fixture
def built(small, tmp_path):
    """A function from overrides to a trainer and its config."""
    def built(*overrides):
        config = resolve_config(read_config(small, [*overrides]), None, [], 1).config
        return set_up_training(config, None, torch.device("cpu"), tmp_path, None).trainer, config

    return built


@pytest.fixture(autouse=True)
def num_steps(monkeypatch) -> list:
    """Grows with each step: with channels_last it takes 6 ms of 10, with bf16 9.5, and is only said to."""
    made = []

    def step_s(trainer, window):
        made.append(trainer.optimizer_step(window))
        return 0.006 if trainer.channels_last else 0.0095 if trainer.precision == "bf16" else 0.01

    monkeypatch.setattr(compute_advice, "_step_s", step_s)
    return made


def test_what_saves_a_tenth_is_advised_and_what_the_config_has_is_not(built):
    assert describe_compute(*built(LENET)) == [
        "compute  channels_last would make a step 0.60 times as long (6 ms in place of 10): "
        "trainer.args.channels_last=true"]
    assert describe_compute(*built(LENET, "trainer.args.channels_last=true")) == []
    assert describe_compute(*built()) == []  # it has no convolutions


def test_nothing_is_measured_on_other_devices_and_with_compiled_models():
    trainer = SimpleNamespace(unwrapped_model=nn.Conv2d(1, 1, 1), device=torch.device("cpu"), compile=None)
    for different in ({"device": torch.device("cuda")}, {"compile": {}}):
        assert describe_compute(SimpleNamespace(**vars(trainer) | different), {}) == []


@pytest.mark.parametrize("refused, advised", [("bf16", ["channels_last"]), ("channels_last", ["bf16"])])
def test_an_option_that_a_model_does_not_take_is_left_out(built, monkeypatch, refused, advised):
    monkeypatch.setattr(compute_advice, "WORTH", 0.96)
    lines = describe_compute(*built(f"model={{type: TakesOnlySome, args: {{refused: {refused}}}}}"))
    assert [line.split()[1] for line in lines] == advised
    if advised == ["bf16"]:
        assert lines[0].endswith(": trainer.args.precision=bf16")


def test_measuring_changes_nothing_and_makes_few_steps(built, num_steps, caplog):
    trainer, config = built(LENET)
    state = copy.deepcopy({name: part.state_dict() for name, part in trainer.state.items()})
    drawn = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    caplog.clear()
    assert describe_compute(trainer, config) and not caplog.records
    assert torch.equal(drawn[0], torch.get_rng_state())
    assert drawn[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert_same_state(state, {name: part.state_dict() for name, part in trainer.state.items()})
    assert 4 * compute_advice.MIN_PAIRS < len(num_steps) <= 4 * compute_advice.NUM_PAIRS + 2


def test_long_steps_are_measured_with_fewer_samples(built, monkeypatch):
    monkeypatch.setattr(compute_advice, "SLOW_S", 0.006)
    trainer, config = built(LENET, "trainer.args.accumulate=2")
    assert "10, with 18 samples): " in describe_compute(trainer, config)[0]


def test_an_error_in_it_is_none_of_the_check(built, monkeypatch):
    monkeypatch.setattr(compute_advice, "build_trainer", lambda *args, **kwargs: 1 / 0)
    assert describe_compute(*built(LENET)) == []
