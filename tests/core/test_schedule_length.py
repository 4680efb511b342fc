"""Schedulers that count steps get steps, and a length that does not fit the run is reported before it."""
import logging

import pytest
import torch

from base.build import build_scheduler_factory
from base.config.complete_config import complete_config
from conftest import epochs, load, train
from utils.checkpoint import format_1
from utils.errors import ConfigError
from utils.training.schedule import Schedule
from utils.training.schedule_length import check_lengths

CYCLE = {"type": "OneCycleLR", "args": {"max_lr": 0.1}}
CYCLIC = {"type": "CyclicLR",
          "args": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3, "cycle_momentum": False}}


def sequence(*schedulers, milestone: int = 4) -> dict:
    return {"type": "SequentialLR", "args": {"schedulers": [*schedulers], "milestones": [milestone]}}


def reported(caplog, *blocks, may_end_early: bool = False, resumed: bool = False) -> str:
    """What is reported of schedulers in a run of 10 epochs of 20 steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    schedule = Schedule(optimizer, [build_scheduler_factory(block, "Trainer") for block in blocks], 10, 20)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        check_lengths([schedule], may_end_early, resumed)
    return caplog.text


@pytest.mark.parametrize("block, per", [
    (CYCLE, "step"), (CYCLIC, "step"), ("CosineAnnealingLR", "epoch"),
    (sequence("LinearLR", CYCLE), "step"),
    ({"type": "ChainedScheduler", "args": {"schedulers": ["LinearLR"]}}, "epoch"),
    ({**CYCLE, "per": "epoch"}, "epoch"),
])
def test_cycles_are_stepped_after_each_step_unless_the_config_or_an_older_run_says_otherwise(block, per):
    assert build_scheduler_factory(block, "Trainer")[1] == per
    config = {"scheduler": block}
    new = complete_config(config).complete
    assert new["scheduler"]["per"] == per and "scheduler.args.schedulers.0.per" not in new["default_values"]
    older = complete_config(config, {**config, "default_values": {"scheduler.per": "epoch"}}).config
    without_key = complete_config(config, config, format_1.DEFAULTS).config
    for kept in (older, without_key):
        assert build_scheduler_factory(kept["scheduler"], "Trainer")[1] == "epoch"


@pytest.mark.parametrize("block, said", [
    ({"type": "OneCycleLR", "args": {"max_lr": 1, "total_steps": 200}, "per": "epoch"},
     "OneCycleLR is stepped 10 times (per: epoch), and its total_steps is 200. Set per: step"),
    ({"type": "OneCycleLR", "args": {"max_lr": 1, "epochs": 50, "steps_per_epoch": 20}},
     "its total_steps is 1000"),
    ({"type": "CosineAnnealingLR", "args": {"T_max": 200}},
     "per: epoch), and its T_max is 200. Set per: step"),
    ({"type": "CosineAnnealingLR", "args": {"T_max": 5000}}, "Leave T_max out: it is then 10."),
    ({"type": "CosineAnnealingLR", "args": {"T_max": 10}, "per": "step"}, "Set per: epoch"),
    ({"type": "PolynomialLR", "args": {"total_iters": 10}, "per": "step"}, "its total_iters is 10"),
    ({"type": "LinearLR", "args": {"total_iters": 500}}, "its total_iters is 500"),
    ({"type": "CyclicLR", "args": {"base_lr": 0.1, "max_lr": 1, "cycle_momentum": False}},
     "its total_size is 4000"),
    ({"type": "MultiStepLR", "args": {"milestones": [9000]}}, "milestones is 9000. Set milestones below 10."),
    ({"type": "StepLR", "args": {"step_size": 100}}, "its step_size is 100"),
    (sequence("LinearLR", "CosineAnnealingLR", milestone=100),
     "the first of its milestones is 100"),
    (sequence("LinearLR", {"type": "CosineAnnealingLR", "args": {"T_max": 120}}),
     "CosineAnnealingLR is stepped 6 times"),
])
def test_a_length_far_from_that_of_the_run_is_reported_with_both_numbers(caplog, block, said):
    assert said in reported(caplog, block)


@pytest.mark.parametrize("block", [
    CYCLE, CYCLIC, "CosineAnnealingLR", {"type": "CosineAnnealingLR", "args": {"T_max": 20}},
    "LinearLR",
    {"type": "LinearLR", "args": {"total_iters": 5}, "per": "step"},
    {"type": "PolynomialLR", "args": {"total_iters": 6}},
    {"type": "MultiStepLR", "args": {"milestones": [6, 80]}},
    {"type": "StepLR", "args": {"step_size": 12}},
    {"type": "OneCycleLR", "args": {"max_lr": 1, "total_steps": 200}},
    sequence("LinearLR", "CosineAnnealingLR"),
    sequence({"type": "OneCycleLR", "args": {"max_lr": 1, "total_steps": 3}}, "ConstantLR"),
    "ReduceLROnPlateau",
])
def test_lengths_that_fit_are_not_reported(caplog, block):
    assert not reported(caplog, block)


def test_a_schedule_may_be_short_where_the_run_may_end_early(caplog):
    short = {"type": "CosineAnnealingLR", "args": {"T_max": 2}}
    assert "T_max is 2" in reported(caplog, short) and not reported(caplog, short, may_end_early=True)


def test_a_one_cycle_that_ends_before_the_run_is_an_error_before_a_new_one_and_a_warning_at_a_resume(caplog):
    short = {"type": "OneCycleLR", "args": {"max_lr": 1, "total_steps": 199}}
    with pytest.raises(ConfigError, match="OneCycleLR is stepped 200 times .*total_steps is 199"):
        reported(caplog, short)
    assert "total_steps is 199" in reported(caplog, short, resumed=True)


def test_a_new_run_with_one_cycle_goes_up_and_down_within_the_run(small, tmp_path):
    run = train("-c", small, "scheduler={type: OneCycleLR, args: {max_lr: 0.1}}", out=tmp_path)
    assert load(run)["config"]["scheduler"]["per"] == "step"
    first, last = [line["lr/optimizer"] for line in epochs(run)]
    assert first > 0.05 > last
