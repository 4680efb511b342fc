"""What the core promises to its users, seen from outside: files, exit codes, plain PyTorch beside it."""
import copy
import json
import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import going_wrong  # noqa: F401  (its trainer is resumed here)
import pytest
import torch
from conftest import assert_same_run, assert_same_state, epochs, load, program, train
from torch import nn
from torch.utils.data import TensorDataset

from base import DATASETS, MODELS, TRAINERS, TRANSFORMS, BatchAugmentation
from trainer.trainer import Trainer
from utils.checkpoint.state import flatten_state
from utils.errors import ConfigError, Interrupted

NUM_TRAIN, NUM_VAL = 24, 17  # in batches of 7 the last has 3 samples, in both


@DATASETS.register
class Few(TensorDataset):
    """A few random images [1, 8, 8] of ten classes."""

    def __init__(self, split: str):
        generator = torch.Generator().manual_seed(len(split))
        number = NUM_TRAIN if split == "train" else NUM_VAL
        super().__init__(torch.randn(number, 1, 8, 8, generator=generator),
                         torch.randint(10, (number,), generator=generator))


FEW = ["dataset=Few", "transforms=null",
       "data_loader={batch_size: 7, validation_split: null, batches_per_epoch: null}"]


@TRANSFORMS.register
class Blank(BatchAugmentation):
    """An augmentation that leaves nothing of an image."""

    def augment(self, inputs, draws):
        return torch.zeros_like(inputs)


@TRAINERS.register
class Watched(Trainer):
    """Keeps the first weights, the batches, and what dropout made of ones in each step."""

    def __init__(self, **rest):
        super().__init__(**rest)
        self.inputs, self.masks = [], []

    def on_train_start(self):
        self.inputs, self.masks = [], []  # without those of the preflight
        self.before = copy.deepcopy(self.model)
        Watched.latest = self

    def train_step(self, batch):
        self.inputs.append(batch)
        self.masks.append(nn.functional.dropout(torch.ones(64)).tolist())
        return super().train_step(batch)


@TRAINERS.register
class LosesOne(Trainer):
    """The loss of its fourth step is not finite. Keeps weights, buffers and optimizer of after each step."""

    def on_train_start(self):
        self.states = []
        LosesOne.latest = self

    def forward(self, batch):
        outputs, targets, terms = super().forward(batch)
        return outputs, targets, {"loss": terms["loss"] * (float("nan") if self.position.step == 3 else 1)}

    def on_step_end(self):
        state = {name: self.state[name].state_dict() for name in ("model", "optimizer")}
        self.states.append(copy.deepcopy(state))


@MODELS.register
class BatchNormed(nn.Module):
    """With BatchNorm, the statistics of which change in every forward pass."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))

    def forward(self, images):
        return self.layers(images)


@TRAINERS.register
class Scripted(Trainer):
    """Its val/loss in epoch n is number n of `losses`."""

    def __init__(self, *, losses: list[float], **rest):
        super().__init__(**rest)
        self.losses = losses

    def eval_step(self, batch):
        return {"loss": self.losses[self.position.epoch]}


@TRAINERS.register
class EndedInEvaluation(Trainer):
    """Gets a SIGTERM in the first batch of the first evaluation."""

    def __init__(self, *, ended: bool, **rest):
        super().__init__(**rest)
        self.ended, self.ends, self.num_evaluated = ended, False, 0

    def on_train_start(self):
        self.ends, self.num_evaluated = self.ended, 0  # the preflight has evaluated a batch
        EndedInEvaluation.latest = self

    def eval_step(self, batch):
        self.num_evaluated += 1
        if self.ends:
            signal.raise_signal(signal.SIGTERM)
        return super().eval_step(batch)


# -- gradients and averages are those of plain PyTorch -------------------------------------------------------


def plain_training(model: nn.Module, windows: list[list], lr: float, clip_norm: float | None) -> list[float]:
    """A step of SGD for each window, with its batches as one batch; returns the norms of the gradients."""
    norms = []
    for window in windows:
        inputs, targets = (torch.cat(parts) for parts in zip(*window, strict=True))
        loss = nn.functional.cross_entropy(model(inputs), targets)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norms.append(sum(gradient.square().sum() for gradient in gradients).sqrt().item())
        scale = min(1.0, clip_norm / norms[-1]) if clip_norm else 1.0
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= lr * scale * gradient
    return norms


@pytest.mark.parametrize("precision, within", [("fp32", 1e-5), ("fp16", 1e-2)])
@pytest.mark.parametrize("clip_norm", [None, 0.3])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_a_step_follows_the_gradient_over_all_samples_of_its_window(
        small, tmp_path, accumulate, clip_norm, precision, within):
    run = train("-c", small, *FEW, "model.args.dropout=0", "optimizer={type: SGD, args: {lr: 0.5}}",
                "trainer={type: Watched, args: {epochs: 1}}", f"trainer.args.accumulate={accumulate}",
                f"trainer.args.clip_norm={clip_norm or 'null'}", f"trainer.args.precision={precision}",
                out=tmp_path)
    before, batches = Watched.latest.before, Watched.latest.inputs
    assert [len(targets) for _, targets in batches] == [7, 7, 7, 3]
    plain, windows = copy.deepcopy(before), [batches[at:at + accumulate] for at in range(0, 4, accumulate)]
    norms = plain_training(plain, windows, 0.5, clip_norm)
    assert clip_norm is None or min(norms) > 1.2 * clip_norm
    trained, first = load(run)["state"]["model"], before.state_dict()
    expected = torch.cat([(weight - first[name]).flatten() for name, weight in plain.state_dict().items()])
    change = torch.cat([(trained[name] - first[name]).flatten() for name in first])
    assert (change - expected).norm() < within * expected.norm()


def test_an_evaluation_is_the_mean_over_every_sample_by_a_network_in_eval_mode(small, tmp_path):
    run = train("-c", small, *FEW, "data_loader.drop_last=true", "model.args.dropout=0.5",
                "transforms={batch: [Blank]}", "trainer={type: Watched, args: {epochs: 2}}", out=tmp_path)
    assert all(images.count_nonzero() == 0 for images, _ in Watched.latest.inputs)  # of training alone
    inputs, targets = Few("val").tensors
    with torch.no_grad():
        outputs = Watched.latest.model.eval()(inputs)
    line = epochs(run)[-1]
    assert line["val/loss"] == pytest.approx(nn.functional.cross_entropy(outputs, targets).item(), rel=1e-5)
    num_hits = (outputs.argmax(1) == targets).sum().item()
    assert line["val/accuracy"] == pytest.approx(num_hits / NUM_VAL, rel=1e-9)


def test_a_step_that_is_left_out_leaves_everything_as_it_was(small, tmp_path):
    run = train("-c", small, "model=BatchNormed", "trainer={type: LosesOne, args: {epochs: 1, on_nan: skip}}",
                out=tmp_path)
    states = [flatten_state({"model": state["model"], "optimizer": state["optimizer"]["optimizer"]["state"]})
              for state in LosesOne.latest.states]
    changed = [[name for name in after if not torch.equal(before[name], after[name])]
               for before, after in pairwise(states)]
    assert changed[2] == [] and all(changed[number] == list(states[0]) for number in (0, 1, 3))
    assert epochs(run)[0]["train/loss"] > 0


def test_dropout_differs_from_step_to_step(small, tmp_path):
    train("-c", small, "trainer={type: Watched, args: {epochs: 8}}", out=tmp_path)
    masks = {tuple(mask) for mask in Watched.latest.masks}
    assert len(masks) == len(Watched.latest.masks) == 40


# -- the best epoch ------------------------------------------------------------------------------------------


def scripted(losses: list[float], **args) -> str:
    return f"trainer={json.dumps({'type': 'Scripted', 'args': {'losses': losses, **args}})}"


def test_a_plateau_of_the_monitored_value_lowers_the_learning_rate_of_the_next_epoch(small, tmp_path):
    run = train("-c", small, scripted([2, 2, 1, 1, 0.5], epochs=5), "optimizer={type: SGD, args: {lr: 0.5}}",
                "scheduler={type: ReduceLROnPlateau, args: {patience: 0, factor: 0.5}}", out=tmp_path)
    assert [line["lr/optimizer"] for line in epochs(run)] == [0.5, 0.5, 0.25, 0.25, 0.125]


@pytest.mark.parametrize("num_first", [2, 3, 4])
def test_early_stopping_counts_on_after_a_resume(small, tmp_path, num_first):
    losses = [3, 1, 2, 2, 2, 2, 2, 2, 2]
    run = train("-c", small, scripted(losses, epochs=num_first, early_stop=3), out=tmp_path)
    train("-r", run, "trainer.args.epochs=9", out=tmp_path)
    assert [line["val/loss"] for line in epochs(run)] == [3, 1, 2, 2, 2]


def test_a_resumed_run_keeps_its_best_epoch_until_there_is_a_better_one(small, tmp_path):
    run = train("-c", small, scripted([3, 1, 2, 2, 0.5], epochs=2), out=tmp_path)
    for num_epochs, best in [(4, 2), (5, 5)]:
        train("-r", run, f"trainer.args.epochs={num_epochs}", out=tmp_path)
        assert load(run, "best.pt")["state"]["progress"]["epoch"] == best


@pytest.mark.parametrize("first, then", [("null", "0.9"), ("0.9", "null")])
def test_a_part_that_the_checkpoint_lacks_or_has_too_much_is_named(small, tmp_path, first, then):
    run = train("-c", small, f"trainer.args.ema={first}", out=tmp_path)
    with pytest.raises(ConfigError, match="ema"):
        train("-r", run, f"trainer.args.ema={then}", "trainer.args.epochs=3", out=tmp_path)


# -- files ---------------------------------------------------------------------------------------------------


class Action(NamedTuple):
    """A file or folder is flushed to the disk, or a file gets a name.

    `file` is its inode, `changed_ns` when its content was written last, `there` are the names in the folder
    of checkpoints after the action.
    """

    what: str
    file: int
    changed_ns: int
    name: str | None
    there: set[str]


@pytest.fixture
def actions(monkeypatch) -> list[Action]:
    """All of them from now on, in their order."""
    done, fsync, replace, folder = [], os.fsync, os.replace, None

    def note(what: str, status: os.stat_result, name: str | None = None) -> None:
        there = set(os.listdir(folder)) if folder else set()
        done.append(Action(what, status.st_ino, status.st_mtime_ns, name, there))

    def flush(descriptor):
        fsync(descriptor)
        note("flushed", os.fstat(descriptor))

    def rename(source, target):
        nonlocal folder
        replace(source, target)
        if str(target).endswith(".pt"):
            folder = Path(target).parent
        note("named", os.stat(target), Path(target).name)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    return done


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
def test_content_is_flushed_before_its_name_and_names_before_an_older_checkpoint_goes(
        small, tmp_path, monkeypatch, actions, links):
    """A power failure takes along what was not flushed. A name is on the disk when its folder is flushed."""
    if not links:
        def refuse(*args):
            raise OSError("Operation not permitted")
        monkeypatch.setattr(os, "link", refuse)
    run = train("-c", small, "trainer.args={epochs: 3, save_every: 1, keep_last: 1}", out=tmp_path)
    folder = run / "checkpoints"
    named = {at: action for at, action in enumerate(actions) if action.name and action.name.endswith(".pt")}
    last = {action.name: action.file for action in named.values()}
    assert all(last.get(file.name) == file.stat().st_ino for file in folder.iterdir())  # all by renaming
    older = {"epoch_0002.pt": "epoch_0001.pt", "epoch_0003.pt": "epoch_0002.pt"}
    for at, (_, file, changed_ns, name, _) in named.items():
        flushed = [action for action in actions[:at] if action.what == "flushed" and action.file == file]
        assert flushed and flushed[-1].changed_ns == changed_ns, f"{name} has its name before it is flushed"
        later = [action for action in actions[at:] if action.what == "flushed"]
        later = [action for action in later if action.file == folder.stat().st_ino]
        assert later, f"the name {name} is never flushed"
        assert name not in older or older[name] in later[0].there, f"{older[name]} is gone too early"
    assert [file.name for file in folder.glob("epoch_*")] == ["epoch_0003.pt"]


# -- signals and kills ---------------------------------------------------------------------------------------


HARMED = "trainer={type: Harmed, args: {epochs: 2, log_every: 2}}"  # else as in `small`


def harmed(config: Path, out: Path, *options, code: int) -> Path:
    """A run that harms itself as `options` say; its process ends with `code`."""
    program("-m", "tests.core.going_wrong", "-q", "-c", config, HARMED, *options, "--out", out, code=code)
    return next(out.glob("*/*"))


@pytest.mark.parametrize("num_epochs", [1, 2])
def test_a_kill_between_the_two_names_of_the_best_epoch_changes_nothing(
        small, tmp_path, undisturbed, num_epochs):
    """It comes in the last epoch: no later one makes up for a best.pt that is not written."""
    straight = undisturbed(f"trainer.args.epochs={num_epochs}")
    assert load(straight, "best.pt")["state"]["progress"]["epoch"] == num_epochs
    run = harmed(small, tmp_path / "killed", f"trainer.args.epochs={num_epochs}",
                 f"trainer.args.kill_between_names={num_epochs}", code=-signal.SIGKILL)
    train("-r", run, "trainer.args.kill_between_names=null", out=tmp_path / "killed")
    assert_same_run(straight, run)
    assert_same_state(load(straight, "best.pt")["state"], load(run, "best.pt")["state"])


def test_a_plain_run_saves_at_a_hangup_and_can_be_resumed(small, tmp_path, undisturbed):
    run = harmed(small, tmp_path / "ended", "trainer.args.signals=[1]", code=128 + signal.SIGHUP)
    assert load(run)["state"]["progress"]["step"] == 3
    train("-r", run, "trainer.args.signals=[]", out=tmp_path / "ended")
    assert_same_run(undisturbed(), run)


def test_a_second_ctrl_c_ends_a_plain_run_at_once_and_costs_no_file(small, tmp_path, undisturbed):
    run = harmed(small, tmp_path / "ended", "trainer.args.signals=[2, 2]", code=-signal.SIGINT)
    assert load(run)["state"]["progress"]["step"] == 0
    train("-r", run, "trainer.args.signals=[]", out=tmp_path / "ended")
    assert_same_run(undisturbed(), run)


def test_a_signal_that_was_ignored_at_the_start_stays_ignored(small, tmp_path):
    """nohup does so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = train("-c", small, HARMED, "trainer.args.signals=[1]", out=tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert load(run)["state"]["progress"]["finished"]


def test_a_signal_in_an_evaluation_ends_it_at_the_next_batch_and_it_is_made_up_for(small, tmp_path):
    options = [*FEW, "data_loader.eval_batch_size=2",
               "trainer={type: EndedInEvaluation, args: {epochs: 2, ended: false}}"]
    straight = train("-c", small, *options, out=tmp_path / "straight")
    with pytest.raises(Interrupted) as stop:
        train("-c", small, *options, "trainer.args.ended=true", out=tmp_path / "ended")
    assert stop.value.signal_number == signal.SIGTERM and EndedInEvaluation.latest.num_evaluated == 1
    run = next((tmp_path / "ended").glob("*/*"))
    train("-r", run, "trainer.args.ended=false", out=tmp_path / "ended")
    assert_same_run(straight, run)


# -- names ---------------------------------------------------------------------------------------------------


def test_two_things_of_one_name_are_a_mistake_that_names_both_files():
    models = type(MODELS)("model", "model")  # not the one that all tests share
    for file in ("one", "another"):
        models.register(type("Twin", (nn.Module,), {"__module__": file}))
    with pytest.raises(ConfigError, match="two models are called 'Twin': in one and another"):
        models.get("Twin")
