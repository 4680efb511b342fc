"""Every optimizer and scheduler that torch offers works from a config: it steps, is stored, and goes on as if it never was."""
import copy
import math

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from base import OPTIMIZERS, SCHEDULERS
from base.build import build_optimizer, build_scheduler_factory
from conftest import assert_same_state
from utils.checkpoint.loading import load_checkpoint
from utils.checkpoint.store import CheckpointStore, SavePolicy
from utils.errors import ConfigError
from utils.training.schedule import Schedule
from utils.training.updater import Updater, Window

EPOCHS, STEPS_PER_EPOCH = 6, 2


def public(module, kind) -> list[str]:
    """The names of a module's public subclasses of `kind`."""
    return sorted(name for name, thing in vars(module).items() if isinstance(thing, type) and issubclass(thing, kind)
                  and thing is not kind and not name.startswith("_"))


class Bag(nn.Module):
    """Sums of embeddings with sparse gradients."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(8, 4, mode="sum", sparse=True)

    def forward(self, inputs):
        return self.embedding(inputs.abs().mul(5).long() % 8)


def network(kind: str = "dense") -> nn.Module:
    torch.manual_seed(0)
    if kind == "SparseAdam":
        return Bag()
    if kind == "Muon":  # matrices only
        return nn.Sequential(nn.Linear(4, 8, bias=False), nn.Tanh(), nn.Linear(8, 2, bias=False))
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2))


def loss_of(module: nn.Module, step: int = 0) -> torch.Tensor:
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
    return (module(inputs) - 1).square().mean()


class Run:
    """A network with its updater: the least that can train."""

    def __init__(self, optimizer, schedulers=(), epochs: int = EPOCHS, steps_per_epoch: int | None = STEPS_PER_EPOCH,
                 kind: str = "dense", monitor: str = "min val/loss"):
        self.module, self.lrs, self.steps = network(kind), [], 0
        self.optimizer = build_optimizer(optimizer, "optimizer", self.module)
        factories = [build_scheduler_factory(block, {"type": "Trainer", "args": {"monitor": monitor}}) for block in schedulers]
        schedule = Schedule(self.optimizer, factories, epochs, steps_per_epoch)
        self.updater = Updater(self.optimizer, schedule, torch.amp.GradScaler("cpu", enabled=False))

    def step(self, count: int = 1, same_batch: bool = False) -> "Run":
        for _ in range(count):
            self.lrs.append([group["lr"] for group in self.optimizer.param_groups])
            self.updater.update(loss_of(self.module, 0 if same_batch else self.steps), Window())
            self.steps += 1
            if self.steps % STEPS_PER_EPOCH == 0:
                self.updater.schedule.epoch(value=1.0)
        return self

    @property
    def state(self) -> dict:
        return {"model": self.module.state_dict(), "optimizer": self.updater.state_dict()}

    def store(self, folder) -> None:
        progress = {"epoch": 0, "batch": 0, "step": self.steps}
        store, weights = CheckpointStore(folder, {}), self.module.state_dict()
        store.save({**self.state, "progress": progress}, ["last.pt"], weights, SavePolicy(background=False))

    def load(self, folder, steps: int) -> "Run":
        state = load_checkpoint(folder / "last.pt")["state"]  # with weights_only=True
        self.module.load_state_dict(state["model"])
        self.updater.load_state_dict(state["optimizer"])
        self.steps = steps
        return self


# -- optimizers ----------------------------------------------------------------------------------------------------

def block_of(name: str) -> dict:
    return {"type": name, "args": {"max_iter": 1} if name == "LBFGS" else {}}


@pytest.mark.parametrize("name", public(optim, optim.Optimizer))
def test_every_optimizer_changes_all_weights_and_lowers_the_loss(name):
    run = Run(block_of(name), kind=name)
    weights, loss = copy.deepcopy(run.module.state_dict()), loss_of(run.module)
    run.step(3, same_batch=True)
    assert loss_of(run.module) < loss
    assert not any(torch.equal(weights[key], value) for key, value in run.module.state_dict().items())


@pytest.mark.parametrize("name", public(optim, optim.Optimizer))
def test_every_optimizer_goes_on_from_a_checkpoint_bit_for_bit(name, tmp_path):
    straight = Run(block_of(name), kind=name).step(6)
    Run(block_of(name), kind=name).step(3).store(tmp_path)
    resumed = Run(block_of(name), kind=name).load(tmp_path, steps=3).step(3)
    assert_same_state(straight.state, resumed.state)
    assert straight.optimizer.state_dict()["state"].keys() == resumed.optimizer.state_dict()["state"].keys()


@pytest.mark.parametrize("name", [name for name in public(optim, optim.Optimizer)
                                  if "fused" in OPTIMIZERS.signature(getattr(optim, name)).parameters])
def test_optimizers_are_fused_where_torch_offers_it_and_the_config_does_not_object(name):
    assert all(group["fused"] is True for group in Run(name).optimizer.param_groups)
    assert not any(group["fused"] for group in Run({"type": name, "args": {"fused": False}}).optimizer.param_groups)
    assert not any(group["fused"] for group in Run({"type": name, "args": {"foreach": True}}).optimizer.param_groups)


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "SparseAdam"])
def test_sparse_gradients_train_with_every_optimizer_that_takes_them(name):
    run = Run({"type": name, "args": {"lr": 0.1}}, kind="SparseAdam")
    before = loss_of(run.module)
    assert loss_of(run.step(3, same_batch=True).module) < before


def test_an_optimizer_that_cannot_be_built_is_a_config_error_with_the_reason():
    with pytest.raises(ConfigError, match="optimizer: SGD could not be built: ValueError: Nesterov"):
        Run({"type": "SGD", "args": {"lr": 0.1, "nesterov": True}})


# -- groups of parameters ------------------------------------------------------------------------------------------

class Backbone(nn.Module):
    """A part that was trained before, with a norm, and a new head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2))
        self.embedding = nn.Embedding(4, 2)
        self.head = nn.Linear(2, 2)


def after_decay(**block) -> dict[str, bool]:
    """Which parameters shrink in a step whose gradients are all zero."""
    module = Backbone()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1.0)
    optimizer = build_optimizer({"type": "SGD", "args": {"lr": 0.1, "weight_decay": 0.5}, **block}, "optimizer", module)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {name: bool((parameter < 1).all()) for name, parameter in module.named_parameters()}


def test_weight_decay_spares_biases_and_norms_where_the_config_says_so():
    assert all(after_decay().values())
    decayed = {name for name, shrinks in after_decay(decay_bias_and_norm=False).items() if shrinks}
    assert decayed == {"backbone.0.weight", "embedding.weight", "head.weight"}


def options_of(optimizer, module) -> dict[str, dict]:
    """The options of the group that each parameter is in, by its name."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {names[p]: group for group in optimizer.param_groups for p in group["params"]}


def test_rules_give_what_they_match_options_of_its_own_and_the_first_that_matches_counts():
    module = Backbone()
    rules = [{"match": "*.bias", "lr": 0.3}, {"match": "backbone.*", "lr": 0.01, "weight_decay": 0.2}]
    block = {"type": "AdamW", "args": {"lr": 0.1, "weight_decay": 0.5}, "groups": rules, "decay_bias_and_norm": False}
    options = options_of(build_optimizer(block, "optimizer", module), module)
    assert {name: group["lr"] for name, group in options.items()} == {
        "backbone.0.weight": 0.01, "backbone.0.bias": 0.3, "backbone.1.weight": 0.01, "backbone.1.bias": 0.3,
        "embedding.weight": 0.1, "head.weight": 0.1, "head.bias": 0.3}
    assert {name: group["weight_decay"] for name, group in options.items()} == {
        "backbone.0.weight": 0.2, "backbone.0.bias": 0, "backbone.1.weight": 0.2, "backbone.1.bias": 0,
        "embedding.weight": 0.5, "head.weight": 0.5, "head.bias": 0}
    assert all(group["fused"] for group in options.values())


@pytest.mark.parametrize("keep_frozen", [True, False])
def test_every_parameter_is_in_one_group_frozen_ones_last_or_as_in_1_0_0_in_none(keep_frozen):
    module = Backbone()
    module.embedding.requires_grad_(False)
    rules = [{"match": "backbone.0.*", "frozen": True}, {"match": "backbone.*", "lr": 0.01},
             {"match": "embedding.*", "lr": 0.02}]
    block = {"type": "SGD", "args": {"lr": 0.1}, "groups": rules, "keep_frozen": keep_frozen}
    groups = build_optimizer(block, "optimizer", module).param_groups
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    grouped = [(group["lr"], sorted(names[id(p)] for p in group["params"])) for group in groups]
    frozen = [(0.1, ["backbone.0.bias", "backbone.0.weight"]), (0.02, ["embedding.weight"])]
    assert grouped == [(0.1, ["head.bias", "head.weight"]), (0.01, ["backbone.1.bias", "backbone.1.weight"]),
                       *(frozen if keep_frozen else [])]
    assert not any(parameter.requires_grad for parameter in module.backbone[0].parameters())


@pytest.mark.parametrize("keep_frozen, trained", [(True, {"head.bias", "head.weight"}), (False, {"head.weight"})])
def test_the_first_rule_that_matches_counts_but_in_runs_of_1_0_0_those_that_freeze(keep_frozen, trained):
    module = Backbone()
    rules = [{"match": "head.*", "lr": 0.01}, {"match": "*.bias", "frozen": True},
             {"match": "*.weight", "frozen": True}]
    if not keep_frozen:
        rules[2]["match"] = "[be]*.weight"
    build_optimizer({"type": "SGD", "groups": rules, "keep_frozen": keep_frozen}, "optimizer", module)
    assert {name for name, parameter in module.named_parameters() if parameter.requires_grad} == trained


def test_a_rule_that_earlier_ones_shadow_is_an_error_that_names_them():
    rules = [{"match": "head.*", "lr": 1}, {"match": "back*", "lr": 1}, {"match": "*bias", "frozen": True}]
    with pytest.raises(ConfigError) as error:
        build_optimizer({"type": "SGD", "groups": rules}, "optimizer", Backbone())
    assert "'*bias' has no effect: earlier rules match all of its parameters: 'back*', 'head.*'" in str(error.value)


@pytest.mark.parametrize("rules, said", [
    ([{"match": "backbon.*", "lr": 1}], "backbon.*"), ([{"match": "backbon.*", "frozen": True}], "backbon.*"),
    ([{"match": "*", "lr": 1}, {"match": "head.*", "lr": 2}], "head.*"),  # an earlier rule left nothing over
    ([{"match": "*", "frozen": True}], "no parameters"),
])
def test_rules_that_match_nothing_or_leave_nothing_to_train_are_config_errors(rules, said):
    with pytest.raises(ConfigError) as error:
        build_optimizer({"type": "SGD", "groups": rules}, "optimizer", Backbone())
    assert said in str(error.value)
    assert "no parameters" in said or "backbone.0.weight" in str(error.value)  # the names there are


# -- schedulers ----------------------------------------------------------------------------------------------------

@SCHEDULERS.register
def InverseRoot(optimizer, num_warm: int):
    """Functions of the step have no plain arguments; they come in as a scheduler of the project's own."""
    return lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / num_warm, math.sqrt(num_warm / (step + 1))))


@SCHEDULERS.register
def Decades(optimizer, total_steps: int):
    """Falls by a factor of ten over the run."""
    return lr_scheduler.MultiplicativeLR(optimizer, lambda step: 0.1 ** (1 / total_steps))


ARGS = {
    "StepLR": {"step_size": 2},
    "MultiStepLR": {"milestones": [1, 3], "gamma": 0.5},
    "ConstantLR": {"total_iters": 3},
    "LinearLR": {"start_factor": 0.1, "total_iters": 4},
    "ExponentialLR": {"gamma": 0.9},
    "PolynomialLR": {"total_iters": 8, "power": 2.0},
    "CosineAnnealingLR": {"eta_min": 0.001},
    "CosineAnnealingWarmRestarts": {"T_0": 2, "T_mult": 2},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3, "cycle_momentum": False},
    "OneCycleLR": {"max_lr": 0.5},
    "ReduceLROnPlateau": {"patience": 1, "factor": 0.5},
    "SequentialLR": {"schedulers": [{"type": "LinearLR", "args": {"total_iters": 3}}, "CosineAnnealingLR"], "milestones": [3]},
    "ChainedScheduler": {"schedulers": ["LinearLR", {"type": "ExponentialLR", "args": {"gamma": 0.9}}]},
    "InverseRoot": {"num_warm": 4},
    "Decades": {},
}
NEED_FUNCTIONS = {"LambdaLR", "MultiplicativeLR"}  # InverseRoot and Decades stand for them
OPTIMIZER = {"type": "SGD", "args": {"lr": 0.1, "momentum": 0.9}, "groups": [{"match": "3.*", "lr": 0.02}]}
CHAINS = {
    "warmup-then-steps": [{"type": "LinearLR", "args": {"total_iters": 3}, "per": "step"},
                          {"type": "MultiStepLR", "args": {"milestones": [2, 4]}}],
    "warmup-then-plateau": [{"type": "LinearLR", "args": {"total_iters": 3}, "per": "step"},
                            {"type": "ReduceLROnPlateau", "args": {"patience": 0}}],
    "two-lengths": [{"type": "CosineAnnealingLR", "per": "step"}, {"type": "PolynomialLR", "args": {"total_iters": 5}}],
}


def chain_of(name: str, per: str) -> list[dict]:
    """The scheduler blocks called `name`; skips what nobody gave arguments."""
    if name in CHAINS:
        return CHAINS[name]
    if name not in ARGS:
        pytest.skip(f"{name} is new in torch {torch.__version__}: give it arguments in ARGS")
    return [{"type": name, "args": ARGS[name], "per": per}]


NAMES = {*public(lr_scheduler, lr_scheduler.LRScheduler), "InverseRoot", "Decades"} - NEED_FUNCTIONS
every_scheduler = pytest.mark.parametrize("name, per", [
    *((name, "epoch") for name in sorted(NAMES)), *((name, "step") for name in sorted(NAMES - {"ReduceLROnPlateau"})),
    *((name, "both") for name in CHAINS)])


@every_scheduler
def test_every_scheduler_moves_every_group_and_keeps_to_its_pace(name, per):
    run = Run(OPTIMIZER, chain_of(name, per)).step(EPOCHS * STEPS_PER_EPOCH)
    for lrs in zip(*run.lrs, strict=True):
        assert len(set(lrs)) > 1 and all(lr >= 0 for lr in lrs)
        if per == "epoch":
            assert lrs[0::2] == lrs[1::2]  # the same at all steps of an epoch
        elif per == "step" and name not in ("StepLR", "MultiStepLR", "ConstantLR"):
            assert any(first != second for first, second in zip(lrs[0::2], lrs[1::2], strict=True))


@every_scheduler
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_every_scheduler_goes_on_from_a_checkpoint_bit_for_bit(name, per, steps, tmp_path):
    blocks, rest = chain_of(name, per), EPOCHS * STEPS_PER_EPOCH - steps
    straight = Run(OPTIMIZER, blocks).step(steps + rest)
    Run(OPTIMIZER, blocks).step(steps).store(tmp_path)
    resumed = Run(OPTIMIZER, blocks).load(tmp_path, steps).step(rest)
    assert resumed.lrs == straight.lrs[steps:]
    assert_same_state(straight.state, resumed.state)


@every_scheduler
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_run_resumed_at_another_length_has_the_rates_of_one_planned_at_that_length(name, per, steps, tmp_path):
    blocks = chain_of(name, per)
    Run(OPTIMIZER, blocks).step(steps).store(tmp_path)
    for epochs in (10, 4):
        rest = epochs * STEPS_PER_EPOCH - steps
        planned = Run(OPTIMIZER, blocks, epochs).step(steps + rest)
        resumed = Run(OPTIMIZER, blocks, epochs).load(tmp_path, steps).step(rest)
        assert resumed.lrs == planned.lrs[steps:]
        assert [{**group, "params": 0} for group in resumed.optimizer.param_groups] == [
            {**group, "params": 0} for group in planned.optimizer.param_groups]  # cycled momentum included


@pytest.mark.parametrize("per", ["epoch", "step"])
@pytest.mark.parametrize("block, first, highest, last", [
    ({"type": "CosineAnnealingLR"}, 0.1, 0.1, 0.0), ({"type": "OneCycleLR", "args": {"max_lr": 0.5}}, 0.02, 0.5, 0.0),
    ({"type": "Decades"}, 0.1, 0.1, 0.01),
], ids=["cosine", "one-cycle", "own"])
def test_the_length_of_the_run_goes_in_where_the_config_leaves_it_open(block, first, highest, last, per):
    run = Run({"type": "SGD", "args": {"lr": 0.1}}, [{**block, "per": per}], epochs=50).step(50 * STEPS_PER_EPOCH)
    assert run.lrs[0] == pytest.approx([first]) and run.lrs[-1] == pytest.approx([last], abs=0.001)
    assert max(run.lrs) == pytest.approx([highest], abs=0.002)


def test_a_length_that_the_config_gives_stays():
    block = {"type": "CosineAnnealingLR", "args": {"T_max": 40}}
    run = Run({"type": "SGD", "args": {"lr": 0.1}}, [block], epochs=21).step(21 * STEPS_PER_EPOCH)
    assert run.lrs[-1] == pytest.approx([0.05])  # half-way


def test_a_scheduler_that_needs_a_length_nobody_knows_is_a_config_error():
    with pytest.raises(ConfigError, match="'T_max'"):
        Run(OPTIMIZER, [{"type": "CosineAnnealingLR", "per": "step"}], steps_per_epoch=None)
    Run(OPTIMIZER, [{"type": "CosineAnnealingLR", "per": "epoch"}], steps_per_epoch=None)
    Run(OPTIMIZER, [{"type": "CosineAnnealingLR", "args": {"T_max": 9}, "per": "step"}], steps_per_epoch=None)


@pytest.mark.parametrize("monitor, good, bad", [
    ("min val/loss", [3, 2, 1], [1, 2, 3]), ("max val/accuracy", [1, 2, 3], [3, 2, 1]),
])
def test_a_plateau_looks_at_the_monitored_value_the_way_the_monitor_does(monitor, good, bad):
    def rate_after(values):
        plateau = {"type": "ReduceLROnPlateau", "args": {"patience": 0}}
        run = Run({"type": "SGD", "args": {"lr": 1.0}}, [plateau], monitor=monitor)
        for value in values:
            run.updater.schedule.epoch(value)
        return run.updater.lr

    assert rate_after(good) == 1.0
    assert rate_after(bad) == pytest.approx(0.01)
    assert rate_after([bad[0], None, None, bad[1]]) == pytest.approx(0.1)  # epochs without a value do not count


def test_an_argument_that_torch_refuses_is_a_config_error_with_the_reason():
    with pytest.raises(ConfigError, match="scheduler: SequentialLR could not be built: "):
        Run(OPTIMIZER, [{"type": "SequentialLR", "args": {"schedulers": ["LinearLR"], "milestones": [1, 2]}}])
