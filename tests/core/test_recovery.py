"""Runs that go wrong, end in between, are retried, or are asked to prove themselves."""
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from base import DATASETS, LOSSES, METRICS, MODELS, TRAINERS, TRANSFORMS
from conftest import assert_same_run, assert_same_state, epochs, load, metrics, program, score, train
from model.mlp import MLP
from trainer.trainer import Trainer
from utils.checkpoint.loading import load_checkpoint
from utils.errors import ConfigError, Interrupted, TrainingError


@MODELS.register
class Sick(nn.Module):
    """Gives NaN in its second layer at chosen training steps."""

    def __init__(self, at: list):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(64, 16), nn.BatchNorm1d(16), Breaks()
        self.head, self.at, self.num_calls = nn.Linear(16, 10), at, 0

    def forward(self, images):
        self.num_calls += self.training
        self.second.broken = self.training and self.num_calls in self.at
        return self.head(self.second(self.norm(self.first(images.flatten(1)))))


class Breaks(nn.Module):
    broken = False

    def forward(self, inputs):
        return inputs / 0 * 0 if self.broken else inputs.relu()


@DATASETS.register
class Private(Dataset):
    """Digits at random from a generator of its own, which is in no checkpoint."""

    def __init__(self, split: str):
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return torch.randn(1, 8, 8, generator=self.generator), index % 10


@TRAINERS.register
class Recorder(Trainer):
    """Keeps the state of after every step, and of before."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.weights = []

    def on_step_end(self):
        self.weights.append({name: p.detach().clone() for name, p in self.unwrapped_model.named_parameters()})
        Recorder.latest = self


def sick(**args) -> str:
    return f"model={{type: Sick, args: {json.dumps(args)}}}"


RECORDED = "trainer={type: Recorder, args: {epochs: 2, log_every: 2}}"


def test_a_loss_that_is_not_finite_leaves_the_weights_the_batch_and_the_culprit(small, tmp_path):
    with pytest.raises(TrainingError, match=r"(?s)batch 6, step 3: the loss is nan. The first module.*: second \(Breaks\)"):
        train("-c", small, sick(at=list(range(8, 99))), RECORDED, "trainer.args.accumulate=2",
              "data_loader.batches_per_epoch=20", out=tmp_path)
    report = next(tmp_path.glob("*/*")) / "nan_report"
    assert json.loads((report / "report.json").read_text())["step"] == 3
    state = load_checkpoint(report / "checkpoint.pt")["state"]
    for name, weight in Recorder.latest.weights[2].items():
        assert torch.equal(state["model"][name], weight)
    assert state["progress"]["step"] == 3 and state["progress"]["batch"] == 6
    batches = torch.load(report / "batch.pt", weights_only=True)["batches"]
    assert [list(inputs.shape) for inputs, _ in batches] == [[30, 1, 8, 8]] * 2
    assert load(report.parent)["state"]["progress"]["step"] == 0  # the last good checkpoint


def test_weights_that_are_not_finite_are_named_and_never_saved(small, tmp_path):
    with pytest.raises(TrainingError, match="learning rate"):
        train("-c", small, "optimizer={type: SGD, args: {lr: 1e38}}", "trainer.args.checkpoint_every={steps: 1}", out=tmp_path)
    assert list(tmp_path.rglob("nan_report/batch.pt")) and list(tmp_path.rglob("nan_report/report.json"))
    for file in tmp_path.rglob("*.pt"):
        if file.name != "batch.pt":
            assert all(torch.isfinite(tensor).all() for tensor in load_checkpoint(file)["state"]["model"].values())


def test_steps_with_a_bad_loss_can_be_left_out_as_if_they_had_not_been(small, tmp_path):
    options = [RECORDED, "trainer.args.on_nan=skip", "trainer.args.max_nan_steps=2", "metrics=[accuracy]"]
    run = train("-c", small, sick(at=[3, 4, 7]), *options, out=tmp_path)
    weights = Recorder.latest.weights
    assert len(weights) == 10
    unchanged = [all(torch.equal(weights[i][name], weights[i - 1][name]) for name in weights[i]) for i in range(1, 10)]
    assert [number + 1 for number, still in enumerate(unchanged) if still] == [2, 3, 6]
    model = load(run)["state"]["model"]
    assert all(torch.isfinite(tensor).all() for tensor in model.values())  # the statistics of BatchNorm, too
    assert all(line["train/loss"] is not None for line in epochs(run))
    assert "not finite in 2 steps since the last look" in (run / "run.log").read_text()
    with pytest.raises(TrainingError, match="not finite in 3 steps in a row"):
        train("-c", small, sick(at=[3, 4, 5]), *options, out=tmp_path / "more")


@pytest.mark.parametrize("tolerated", [0, 2])
def test_on_an_accelerator_a_guard_counts_without_waiting(tolerated):
    """The 0-dim tensors that a device would hold; this machine's are on the CPU, where `meta` stands in for the look."""
    from utils.training.non_finite_guard import NonFinite, NonFiniteGuard

    guard, seen = NonFiniteGuard(tolerated), []
    for bad in (0, 1, 1, 0, 1, 1, 1, 0):
        guard.skipped = torch.tensor(bool(bad))
        seen.append(bool(guard.mask))
        lost = guard.end_step()
        assert lost is False if not tolerated else bool(lost) == bool(bad)
    assert seen == ([False, True, True, True, True, True, True, True] if not tolerated else
                    [False, True, True, False, True, True, True, True])
    with pytest.raises(NonFinite) as error:
        guard.check()
    assert error.value.num_late == (2 if tolerated else 7)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_masked_first_step_leaves_nothing_behind_in_the_momentum(scaled):
    from utils.training.schedule import Schedule
    from utils.training.updater import Updater, Window

    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9, fused=True)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=1.0)
    updater = Updater(optimizer, Schedule(optimizer), scaler)
    for lost, expected in ((True, 1.0), (False, 0.0), (False, -1.9)):
        updater.guard.skipped = torch.tensor(lost)
        updater.update(weight.sum(), Window())
        updater.guard.tolerated = 9
        updater.guard.end_step()
        assert torch.allclose(weight, torch.full((4,), expected)), (lost, weight)


class Rebinding(nn.Module):
    """A loss whose running mean is a new tensor after every call."""

    def __init__(self):
        super().__init__()
        self.register_buffer("center", torch.zeros(10))

    def forward(self, outputs, targets):
        self.center = 0.9 * self.center + 0.1 * outputs.detach().mean(0)
        return nn.functional.cross_entropy(outputs - self.center, targets)


class Counting:
    """A metric without a state_dict: the samples it has seen."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.count = torch.zeros(())

    def update(self, outputs, targets):
        self.count += len(outputs)

    def compute(self):
        return self.count


def test_lost_steps_leave_no_trace_in_buffers_and_metrics(small, tmp_path):
    LOSSES.register(Rebinding), METRICS.register(Counting)
    options = ["loss=Rebinding", "metrics=[Counting]"]
    lost = train("-c", small, sick(at=[2, 7]), *options, "trainer.args.on_nan=skip", out=tmp_path / "lost")
    assert torch.isfinite(load(lost)["state"]["loss"]["center"]).all()
    assert [line["train/Counting"] for line in epochs(lost)] == [120, 120]


@TRAINERS.register
class OwnUpdaters(Trainer):
    """Makes its updaters itself, as a fork may that has several optimizers."""

    def build_updaters(self):
        from utils.training.schedule import Schedule
        from utils.training.updater import Updater
        optimizer = torch.optim.SGD(self.unwrapped_model.parameters(), lr=0.1)
        return {"optimizer": Updater(optimizer, Schedule(optimizer), torch.amp.GradScaler("cpu", enabled=False))}


def test_updaters_that_a_trainer_made_itself_are_guarded_too(small, tmp_path):
    run = train("-c", small, sick(at=[2, 7]), "trainer={type: OwnUpdaters, args: {epochs: 2, on_nan: skip}}", out=tmp_path)
    assert all(torch.isfinite(tensor).all() for tensor in load(run)["state"]["model"].values())
    assert load(run)["state"]["guard"] == {"num_in_a_row": 0}


@LOSSES.register
def breaks(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets) * float("nan")


def test_a_loss_function_that_breaks_is_told_from_a_module_that_does(small, tmp_path):
    with pytest.raises(TrainingError, match="it begins in the loss function, or after it: 'loss' is not finite"):
        train("-c", small, "loss=breaks", out=tmp_path)


@LOSSES.register
class Kinked(nn.Module):
    """A loss with a parameter; at its call number `at` its value is finite and its gradient is not."""

    def __init__(self, at: int):
        super().__init__()
        self.scale, self.at, self.num_calls = nn.Parameter(torch.ones(())), at, 0

    def forward(self, outputs, targets):
        self.num_calls += self.training
        kink = (outputs.mean() * self.scale * (self.num_calls != self.at) * 0).abs()
        return nn.functional.cross_entropy(outputs, targets) + kink.sqrt() * (self.num_calls == self.at)


def test_a_gradient_that_is_not_finite_is_left_out_and_never_saved(small, tmp_path):
    options = ["loss={type: Kinked, args: {at: 4}}", "trainer.args.checkpoint_every={steps: 1}"]
    run = train("-c", small, *options, "trainer.args.on_nan=skip", out=tmp_path / "skip")
    assert "left out" in (run / "run.log").read_text() and load(run)["state"]["progress"]["finished"]
    with pytest.raises(TrainingError, match="not finite"):
        train("-c", small, *options, "trainer.args.log_every=50", out=tmp_path / "stop")
    for file in tmp_path.rglob("checkpoints/*.pt"):
        state = load_checkpoint(file)["state"]
        assert all(torch.isfinite(tensor).all() for tensor in [*state["model"].values(), *state["loss"].values()]), file


@TRAINERS.register
class Counter(Trainer):
    """Counts the samples it trains on, in a part of the state of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = self.state["seen"] = Seen()

    def train_step(self, batch):
        self.seen.num_samples += len(batch[0])
        return super().train_step(batch)


class Seen:
    num_samples = 0

    def state_dict(self):
        return {"num_samples": self.num_samples}

    def load_state_dict(self, state):
        self.num_samples = state["num_samples"]


def test_a_part_of_the_trainers_own_is_put_back_with_the_step(small, tmp_path):
    run = train("-c", small, sick(at=[2, 7]), "trainer={type: Counter, args: {epochs: 2, on_nan: skip}}", out=tmp_path)
    assert load(run)["state"]["seen"] == {"num_samples": 240}


@pytest.mark.parametrize("findings, culprit", [
    ([("gradients", "", False), ("batch", "", True)], 1),
    ([("gradients", "", False), (None, "", True)], 1),  # run again, it was finite: it is still this one
    ([(None, "", True), ("batch", "", True)], 1),  # noticed late: all have seen it
    ([("batch", "", True), ("batch", "", True)], 0),
    ([(None, "", False), (None, "", False)], 0),
])
def test_the_process_that_saw_the_value_that_is_not_finite_is_named_first(findings, culprit):
    from base.nan_report import _guiltiest

    assert _guiltiest(findings) == culprit


@TRANSFORMS.register
def divided_by_nothing(images):
    return images * float("nan")


def test_nan_in_the_data_is_told(small, tmp_path):
    with pytest.raises(TrainingError, match="The batch itself holds values that are not finite"):
        train("-c", small, "transforms.batch=[divided_by_nothing]", out=tmp_path)


def test_a_value_that_is_a_weight_is_averaged_as_it_was(small, tmp_path):
    from base.base_metric import Totals
    totals, weight = Totals(), nn.Parameter(torch.tensor(1.0))
    totals.add({"scale": weight}, 1)
    weight.data.fill_(9)
    assert totals.means() == {"scale": 1.0}


def test_totals_leave_out_what_a_device_says_is_lost():
    from base.base_metric import Totals
    totals = Totals()
    for value, lost in ((1.0, False), (float("nan"), True), (3.0, False)):
        totals.add({"loss": torch.tensor(value)}, 2, torch.tensor(lost))
    assert totals.means() == {"loss": 2.0} and totals.counts == {"loss": 4}


@MODELS.register
class Short(MLP):
    """An MLP that runs out of memory above a number of samples: in evaluation, or in training from a call on."""

    def __init__(self, limit: int, training: bool = True, first: int = 0):
        super().__init__([64, 16, 10])
        self.limit, self.in_training, self.first, self.num_calls = limit, training, first, 0

    def forward(self, images):
        self.num_calls += self.training
        if len(images) > self.limit and self.training == self.in_training and self.num_calls > self.first:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        return super().forward(images)


@pytest.mark.parametrize("batch_size, limit, half", [
    (30, 16, "data_loader.batch_size=15 trainer.args.accumulate=4"),
    (9, 8, "data_loader.batch_size=3 trainer.args.accumulate=6"), (1, 0, None)])
def test_without_memory_the_run_ends_with_numbers_that_help(small, tmp_path, batch_size, limit, half):
    """`half`: batches into which those there are can be divided."""
    options = [f"model={{type: Short, args: {{limit: {limit}}}}}", f"data_loader.batch_size={batch_size}"]
    with pytest.raises(TrainingError) as error:
        train("-c", small, *options, "trainer.args.accumulate=2", out=tmp_path)
    tried = f"out of memory with batches of {batch_size} samples, {2 * batch_size} to a step, in fp32"
    for text in (f"epoch 1, batch 0, step 0: {tried}", half or "What helps:", "trainer.args.precision=bf16",
                 f"data_loader.eval_batch_size={max(batch_size // 2, 1)}", "torch.utils.checkpoint"):
        assert text in str(error.value)
    assert ("accumulate" in str(error.value)) == (half is not None) and "on_oom" not in str(error.value)
    with pytest.raises(TrainingError) as error:
        train("-c", small, *options, "trainer.args.precision=bf16", out=tmp_path)
    assert "in bf16" in str(error.value) and "precision" not in str(error.value)


def test_without_memory_in_evaluation_the_setting_that_is_told_helps(small, tmp_path):
    short = "model={type: Short, args: {limit: 20, training: false}}"
    options = ["-c", small, short, "data_loader.eval_batch_size=40", "metrics=[Counting]"]
    METRICS.register(Counting)
    with pytest.raises(TrainingError, match="data_loader.eval_batch_size=20  .if it happened in evaluation"):
        train(*options, out=tmp_path / "ends")
    run = train(*options, "data_loader.eval_batch_size=20", out=tmp_path / "helped")
    assert [line["val/Counting"] for line in epochs(run)] == [40, 40]


def ended_without_memory(small: Path, out: Path, *options, at: int) -> tuple[Path, str]:
    """A run that saves every step and has no memory for the batch number `at`; and what it says."""
    short = f"model={{type: Short, args: {{limit: 16, first: {at}}}}}"
    with pytest.raises(TrainingError) as error:
        train("-c", small, *options, short, "trainer.args.checkpoint_every={steps: 1}", out=out)
    return next(out.glob("*/*")), str(error.value)


def commands_in(said: str) -> list[list[str]]:
    """The arguments of train.py in each command that a message tells."""
    return [line.split("train.py ")[1].split() for line in said.splitlines() if "train.py " in line]


def test_a_run_without_memory_goes_on_by_the_command_that_it_tells_with_the_same_samples_in_each_step(small, tmp_path):
    """It ends within the second epoch; the numbers of all steps and epochs are those of a run with the memory."""
    options = ["data_loader.batches_per_epoch=null", "trainer.args.log_every=1"]
    whole = train("-c", small, *options, "model={type: Short, args: {limit: 30}}", out=tmp_path / "whole")
    run, said = ended_without_memory(small, tmp_path / "short", *options, at=49)
    assert load(run)["state"]["progress"] == {"epoch": 1, "batch": 2, "samples": 60, "step": 49, "finished": False, "draws": False}
    command, = commands_in(said)
    assert command == ["-r", str(run), "data_loader.batch_size=15", "trainer.args.accumulate=2"]
    train(*command, out=tmp_path / "short")
    assert load(run)["state"]["progress"]["step"] == load(whole)["state"]["progress"]["step"] == 94
    for one, other in zip(metrics(whole), metrics(run), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@DATASETS.register
class KillsItsWorker(Dataset):
    """Its worker is killed, as the system does without memory, once it reads its 140th sample; `split`: where."""

    def __init__(self, split: str, at: str = "train"):
        self.num_read, self.kills = 0, split == at

    def __len__(self):
        return 150

    def __getitem__(self, index):
        self.num_read += 1
        if self.kills and self.num_read == 140 and torch.utils.data.get_worker_info():
            time.sleep(0.2)  # by then the loader knows its worker
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1, 8, 8), index % 10


def test_a_killed_loader_worker_ends_the_run_with_settings_that_help_and_the_last_checkpoint(small, tmp_path):
    with pytest.raises(TrainingError) as error:
        train("-c", small, "dataset=KillsItsWorker", "~transforms", "data_loader.num_workers=1", out=tmp_path)
    said, run = str(error.value), next(tmp_path.glob("*/*"))
    for text in ("epoch 1, batch ", "a loader worker ended: DataLoader worker (pid", "out-of-memory killer", "data_loader.num_workers=0", "data_loader.prefetch_factor=1", "/dev/shm",
                 str(run / "checkpoints" / "last.pt")):
        assert text in said
    command, = commands_in(said)
    assert command == ["-r", str(run), "data_loader.num_workers=0"]
    train(*command, out=tmp_path)
    with pytest.raises(TrainingError, match="num_workers=0") as error:  # in test.py
        score("-r", run, "dataset.args.at=test", "--split", "test", "data_loader.num_workers=1")
    assert "-r" not in str(error.value)


@pytest.mark.parametrize("said", [
    "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory.", "DataLoader worker (pid(s) 7) exited unexpectedly",
    "unable to allocate shared memory(shm) for file </torch_7>: No space left on device (28)",
    "DataLoader timed out after 0.1 seconds"])
def test_what_ends_a_worker_is_no_mistake_of_a_config(small, tmp_path, monkeypatch, said):
    monkeypatch.setattr("base.base_data_loader.DataSplits.first_batch", lambda *args: raises(RuntimeError(said)))
    with pytest.raises(TrainingError) as error:
        train("-c", small, out=tmp_path)
    assert said in str(error.value) and "/dev/shm" in str(error.value)


def raises(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("limit", ["data_loader.batches_per_epoch=5", "data_loader={batches_per_epoch: null, drop_last: true}"])
def test_a_run_without_memory_is_told_no_command_that_is_refused(small, tmp_path, limit):
    """Where epochs leave samples out, other batches would leave out others."""
    run, said = ended_without_memory(small, tmp_path, limit, at=2)
    assert commands_in(said) or "within an epoch" not in said
    for command in commands_in(said):
        train(*command, out=tmp_path)
        assert load(run)["state"]["progress"]["finished"]


@pytest.mark.parametrize("options, message", [
    (["trainer.args.max_nan_steps=3"], "no effect without on_nan"),
    (["trainer.args.checkpoint_every={hours: 1}"], "'hours' is no interval"),
    (["trainer.args.checkpoint_every={steps: 0}"], "steps: 0 is no whole number above 0"),
    (["trainer.args.checkpoint_every={}"], "is empty"),
    (["trainer.args.on_nan=skipp"], "one of"),
    (["optimizer={first: Adam, second: Adam}", "trainer.args.on_nan=skip"], "needs a single optimizer"),
    (["trainer.args.max_failed_saves=0"], "too small"),
])
def test_options_without_meaning_are_errors(small, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        train("-c", small, *options, out=tmp_path)


@pytest.mark.parametrize("every, expected", [
    ("{steps: 2}", [0, 2, 4, 5, 6, 8, 10]), ("{steps: 7}", [0, 5, 7, 10]), ("{epochs: 2}", [0, 5, 10]),
    ("{epochs: 1, steps: 3}", [0, 3, 5, 6, 9, 10]), ("{minutes: 1e-9}", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
])
def test_checkpoints_are_written_as_often_as_asked_for_and_where_it_gets_better(small, tmp_path, monkeypatch, every, expected):
    from utils.checkpoint.store import CheckpointStore
    steps, save = [], CheckpointStore.save
    monkeypatch.setattr(CheckpointStore, "save", lambda store, state, *args: (
        steps.append(state["progress"]["step"]), save(store, state, *args)))
    run = train("-c", small, f"trainer.args.checkpoint_every={every}", out=tmp_path)
    assert steps == expected and all(line["val/loss"] is not None for line in epochs(run))


@pytest.mark.parametrize("background, steps", [
    ("true", (7, 14, 21, 28)),
    *(pytest.param(*more, marks=pytest.mark.slow) for more in (("true", (5, 10, 15, 20, 25)), ("false", (7, 14, 21, 28))))])
def test_a_resume_from_every_seventh_step_and_every_epoch_ends_with_the_same_bits(small, tmp_path, background, steps):
    """Every leaf: weights, optimizer, schedule, average, early stopping, best value, running means."""
    options = ["trainer.args.ema=0.9", "trainer.args.early_stop=9", "trainer.args.epochs=6", "trainer.args.accumulate=2",
               "scheduler={type: OneCycleLR, args: {max_lr: 0.01}, per: step}", "data_loader.batches_per_epoch=9",
               "trainer.args.save_every=1", f"trainer.args.async_save={background}"]
    straight = train("-c", small, *options, out=tmp_path / "straight")
    assert load(straight)["state"]["progress"]["step"] == 30
    for step in steps:
        with pytest.raises(Interrupted):
            train("-c", small, *options, "--steps", step, "--run-name", f"at{step}", out=tmp_path / "stopped")
        run = train("-r", tmp_path / "stopped" / "small" / f"at{step}", out=tmp_path / "stopped")
        assert_same_run(straight, run)
        assert_same_state(load(straight, "best.pt")["state"], load(run, "best.pt")["state"])
    for epoch in range(1, 6):
        train("-r", run / "checkpoints" / f"epoch_{epoch:04d}.pt", out=tmp_path / "stopped")
        assert_same_run(straight, run)


def test_a_run_that_is_retried_with_auto_goes_on_until_it_is_finished_and_then_another_begins(small, tmp_path):
    auto = ["-c", small, "-r", "auto"]
    straight = train("-c", small, out=tmp_path / "straight")
    for step in (2, 4, 7):
        with pytest.raises(Interrupted):
            train(*auto, "--steps", step, out=tmp_path / "auto")
    run = train(*auto, out=tmp_path / "auto")
    assert_same_run(straight, run)
    assert len(list((tmp_path / "auto").glob("*/*"))) == 1
    again = train(*auto, out=tmp_path / "auto")
    assert again != run and len(list((tmp_path / "auto").glob("*/*"))) == 2
    named = [*auto, "--run-name", "mine"]
    with pytest.raises(Interrupted):
        train(*named, "--steps", 3, out=tmp_path / "auto")
    mine = train(*named, out=tmp_path / "auto")
    assert_same_run(straight, mine)
    before = (mine / "run.log").read_text()
    train(*named, out=tmp_path / "auto")  # finished: says so and changes nothing
    assert (mine / "run.log").read_text() == before


def test_auto_begins_anew_in_the_folder_of_a_start_that_died_before_its_first_checkpoint(small, tmp_path):
    (tmp_path / "small" / "mine" / "checkpoints").mkdir(parents=True)
    run = train("-c", small, "-r", "auto", "--run-name", "mine", out=tmp_path)
    assert run.name == "mine" and load(run)["state"]["progress"]["finished"]


def test_auto_needs_a_config(tmp_path):
    assert "name it with -c" in program("train.py", "-r", "auto", code=2).stderr


def test_a_start_may_end_after_a_step_and_says_so_again(small, tmp_path):
    for _ in range(2):
        with pytest.raises(Interrupted, match="step 3 is done: saved at epoch 1, batch 3, step 3") as stop:
            train("-c", small, "-r", "auto", "--steps", 3, out=tmp_path)
        assert stop.value.signal_number is None
