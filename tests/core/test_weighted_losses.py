"""Several losses in a config: their sum trains, and each is logged, checked and saved."""
import pytest
import torch
import yaml
from torch import nn

from base import LOSSES
from base.build import build_loss
from conftest import assert_same_run, epochs, load, metrics, train
from test_empty_losses import Spares  # noqa: F401 (registers it)
from utils.config.loading import load_config
from utils.errors import ConfigError, Interrupted


@LOSSES.register
def size(outputs, targets):
    return outputs.square().mean()


@LOSSES.register
class BothByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.ce = nn.CrossEntropyLoss(weight=torch.arange(1.0, 11.0))

    def forward(self, outputs, targets):
        return self.ce(outputs, targets) + 0.1 * outputs.square().mean()


BOTH = ("loss={ce: {type: CrossEntropyLoss, args: {weight: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}}, "
        "size: {type: size, scale: 0.1}}")


def test_several_losses_train_as_their_weighted_sum_does(small, tmp_path):
    options = ["-c", small, "trainer.args.log_every=2"]
    several = train(*options, BOTH, out=tmp_path / "several")
    one = train(*options, "loss=BothByHand", out=tmp_path / "one")
    states = [load(run)["state"] for run in (several, one)]
    assert all(torch.equal(value, states[1]["model"][name]) for name, value in states[0]["model"].items())
    for split in ("train", "val"):
        values = epochs(several)[-1]
        assert values[f"{split}/loss"] == epochs(one)[-1][f"{split}/loss"]
        assert values[f"{split}/loss"] == pytest.approx(
            values[f"{split}/ce"] + 0.1 * values[f"{split}/size"], rel=1e-6)
    assert {"step/ce", "step/size", "step/loss"} <= metrics(several)[0].keys()
    assert states[0]["loss"].keys() == {"ce.weight"}


def test_a_run_with_several_losses_is_stopped_and_resumed_to_the_same_bits(small, tmp_path):
    whole = train("-c", small, BOTH, out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        train("-c", small, BOTH, "--steps", 3, out=tmp_path / "parts")
    assert_same_run(train("-r", tmp_path / "parts" / "small", out=tmp_path / "parts"), whole)


def test_each_of_several_losses_is_checked_as_a_single_one_is(small, tmp_path, capsys):
    for losses, options, said in (
            ("{size: size, ce: {type: CrossEntropyLoss, args: {reduction: sum}}}",
             ["trainer.args.accumulate=2"], r"loss\.ce\.args\.reduction: 'sum' gives other steps"),
            ("{size: size, ce: CrossEntropyLoss}", ["model.args.sizes=[64, 8, 9]"], "the labels are 0 to 9"),
            ("{size: size, l1: L1Loss}", [], r"loss.*l1.*class numbers")):
        with pytest.raises(ConfigError, match=said):
            train("-c", small, f"loss={losses}", *options, out=tmp_path / "refused")
    capsys.readouterr()
    train("-c", small, "loss={a: Spares, size: size}", "data_loader.eval_batch_size=15", out=tmp_path)
    said = capsys.readouterr().err
    assert "val/a (first in batch 2)" in said and "(ignore_index -1)" in said


def test_a_part_with_the_name_of_a_method_is_a_part_like_others():
    block = {"half": "MSELoss", "items": {"type": "CrossEntropyLoss", "args": {"weight": [1.0, 2.0]}}}
    loss = build_loss(block, torch.device("cpu"))
    assert loss.half() is loss and loss.state_dict().keys() == {"items.weight"}
    values = loss(torch.ones(3, 2), torch.ones(3, 2))
    assert values.keys() == {"half", "items", "loss"}


def test_the_scale_is_written_into_a_run_and_one_loss_can_become_several(small, tmp_path):
    (tmp_path / "child.yaml").write_text(
        f"extends: {small.name}\nloss: {{ce: CrossEntropyLoss, size: {{type: size}}}}\n")
    assert load_config(tmp_path / "child.yaml", [])[0]["loss"].keys() == {"ce", "size"}
    run = train("-c", tmp_path / "child.yaml", "loss.size.scale=0.5", "trainer.args.epochs=1",
                out=tmp_path / "first")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["loss"] == {"ce": {"type": "CrossEntropyLoss", "scale": 1.0},
                              "size": {"type": "size", "scale": 0.5}}
    train("-c", run / "config.yaml", out=tmp_path / "again")
    train("-r", run, "loss.size.scale=1.5", "trainer.args.epochs=2", out=tmp_path / "first")
