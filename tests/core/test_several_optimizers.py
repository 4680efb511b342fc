"""Several optimizers on one loss, by patterns or by submodules, and the rates of their groups."""
import pytest
import torch
from torch import nn

from base import MODELS, TRAINERS
from conftest import assert_same_run, epochs, load, metrics, train
from trainer.trainer import Trainer
from utils.errors import ConfigError, Interrupted

PATTERNS = ("optimizer={matrices: {type: Muon, match: ['layers.*.weight'], args: {lr: 0.01}}, "
            "rest: {type: SGD, args: {lr: 0.1, momentum: 0.9}}}")


@pytest.fixture
def plain(small):
    """A config without random numbers and with the batches that a plain loop takes."""
    options = ["transforms.train=[]", "model.args.dropout=0", "data_loader.shuffle=false", "writers=[]",
               "trainer.args.monitor=null"]
    return ["-c", small, *options]


def test_optimizers_by_pattern_step_as_those_of_a_plain_loop(plain, tmp_path):
    run = train(*plain, PATTERNS, "trainer.args.epochs=1", out=tmp_path / "by_pattern")
    seen = {}

    @TRAINERS.register
    class StepRecorder(Trainer):
        def on_train_start(self):
            seen["weights"] = {name: p.detach().clone() for name, p in self.model.named_parameters()}
            seen["model"], seen["batches"] = self.model, []

        def train_step(self, batch):
            if not self.in_preflight:
                seen["batches"].append(batch)
            return super().train_step(batch)

    train(*plain, PATTERNS, "trainer.args.epochs=1", "trainer.type=StepRecorder", out=tmp_path / "recorded")
    model, named = seen["model"], dict(seen["model"].named_parameters())
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(seen["weights"][name])
    optimizers = [torch.optim.Muon([p for p in named.values() if p.ndim == 2], lr=0.01),
                  torch.optim.SGD([p for p in named.values() if p.ndim == 1], lr=0.1, momentum=0.9)]
    model.train()
    for inputs, targets in seen["batches"]:
        nn.functional.cross_entropy(model(inputs), targets).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    state = load(run)["state"]
    assert len(seen["batches"]) == 5 and {"optimizer_matrices", "optimizer_rest"} <= state.keys()
    for name, parameter in named.items():
        torch.testing.assert_close(state["model"][name], parameter.detach(), rtol=1e-5, atol=1e-6)
    assert {"lr/matrices", "lr/rest"} <= epochs(run)[-1].keys()


def test_a_run_with_optimizers_by_pattern_is_resumed_to_the_same_bits(small, tmp_path):
    options = ["-c", small, PATTERNS, "trainer.args.accumulate=2",
               "scheduler={rest: {type: StepLR, args: {step_size: 1}}}"]
    whole = train(*options, out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(*options, "--steps", 4, out=tmp_path / "parts")
    assert_same_run(train("-r", tmp_path / "parts" / "small", out=tmp_path / "parts"), whole)


@MODELS.register
class TwoParts(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(torch.relu(self.body(x.flatten(1))))


@TRAINERS.register
class OneLoss(Trainer):
    def __init__(self, *, together: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.together = together

    def train_step(self, batch):
        _, _, terms = self.forward(batch)
        for names in [[*self.updaters]] if self.together else [[name] for name in self.updaters]:
            self.update(terms["loss"], *names)
        return terms


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_trainer_steps_optimizers_of_submodules_on_one_loss(small, tmp_path, precision):
    options = ["-c", small, "model={type: TwoParts}", "trainer.type=OneLoss",
               f"trainer.args.precision={precision}"]
    block = "{type: SGD, args: {lr: 0.1}}"
    several = train(*options, f"optimizer={{body: {block}, head: {block}}}", out=tmp_path / "several")
    one = train(*options, f"optimizer={block}", out=tmp_path / "one")
    states = [load(run)["state"]["model"] for run in (several, one)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    with pytest.raises(ConfigError, match=r"optimizer: .*named in one call: self\.update\(loss, 'a', 'b'\)"):
        train(*options, "optimizer={body: SGD, head: SGD}", "trainer.args.together=false",
              out=tmp_path / "refused")


def test_rates_of_groups_are_logged_where_they_differ(small, tmp_path):
    rules = "optimizer.groups=[{match: layers.1.*, lr: 0.001}, {match: layers.4.bias, weight_decay: 0}]"
    halved = "scheduler={type: StepLR, args: {step_size: 1, gamma: 0.5}}"
    run = train("-c", small, rules, halved, out=tmp_path)
    rates = [{name: rate for name, rate in line.items() if name.startswith("lr/")} for line in metrics(run)]
    assert all(line.keys() == {"lr/optimizer", "lr/layers.1.*"} for line in rates)
    assert rates[-1] == {"lr/optimizer": 0.005, "lr/layers.1.*": 0.0005}
