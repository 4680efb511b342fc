"""The preflight's trials, which leave nothing behind, and what is said of a step that fails later."""
from collections import deque

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import Dataset, IterableDataset

from base import DATASETS, METRICS, MODELS, OPTIMIZERS, TRAINERS
from base.preflight.attributes import AttributeSnapshot
from base.preflight.trial_step import try_steps
from base.run.setup import set_up_training
from base.config.validate import validate_config
from base.config.complete_config import complete_config
from conftest import assert_same_state, epochs, load, score, train
from trainer.trainer import Trainer
from utils.checkpoint.state import bit_equal
from utils.config.loading import load_config
from utils.distributed.strategy import AveragedGradients
from utils.errors import ConfigError, Interrupted, TrainingError
from utils.training.ema import WeightAverage


class Memory:
    """A user's own class that a model keeps its past in."""

    def __init__(self):
        self.vectors, self.num_seen = torch.zeros(0, 16), 0

    def add(self, vectors):
        self.vectors, self.num_seen = torch.cat([self.vectors, vectors]), self.num_seen + len(vectors)


@MODELS.register
class TrialRemembers(nn.Module):
    """Keeps a past of every kind: growing buffers, counters, lists, hidden states, a generator."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 16), nn.Linear(16, 10)
        self.register_buffer("bank", torch.zeros(0, 16))
        self.register_buffer("late", None)
        self.calls, self.hidden, self.past, self.memory = 0, None, [], Memory()
        self.table, self.queue, self.ring = {"n": torch.zeros(2)}, deque(maxlen=3), torch.zeros(4)
        self.generator, self.pair = torch.Generator().manual_seed(3), (torch.zeros(1), [])

    def forward(self, images):
        hidden = self.body(images.flatten(1)).tanh()
        if self.hidden is not None:  # of the step before; its graph is gone
            hidden = hidden + 0.01 * self.hidden.mean()
        if self.training:
            kept = hidden.detach()
            self.bank, self.late, self.hidden = torch.cat([self.bank, kept])[-70:], kept.mean(0), kept
            self.calls += 1
            self.past.append(self.calls)
            self.memory.add(kept)
            self.table["n"] += 1
            self.table["new"] = 1
            self.queue.append(self.calls)
            self.ring[self.calls % 4] += torch.rand((), generator=self.generator)
            self.pair[0].add_(1)
            self.pair[1].append(0)
            self.made_later = True
        return self.head(hidden) + 0.01 * self.ring.sum()


@TRAINERS.register
class TrialCounts(Trainer):
    """Has a counter and a list of its own, and freezes the body in its first step."""

    def __init__(self, **rest):
        super().__init__(**rest)
        self.num_steps, self.seen = 0, []

    def on_train_start(self):
        model = self.unwrapped_model
        TrialCounts.found = {
            "steps": self.num_steps, "seen": [*self.seen], "calls": model.calls, "past": [*model.past],
            "hidden": model.hidden, "bank": model.bank.shape, "late": model.late,
            "memory": (model.memory.num_seen, len(model.memory.vectors)),
            "table": {**model.table, "n": model.table["n"].clone()}, "queue": [*model.queue],
            "ring": model.ring.clone(), "pair": (model.pair[0].item(), [*model.pair[1]]),
            "made": hasattr(model, "made_later"), "trained": model.body.weight.requires_grad,
            "next": torch.rand((), generator=model.generator).item()}

    def train_step(self, batch):
        self.num_steps += 1
        self.seen.append(self.num_steps)
        self.unwrapped_model.body.weight.requires_grad_(self.num_steps > 1)
        return super().train_step(batch)


def test_nothing_that_a_model_or_trainer_keeps_is_left_of_the_preflight(small, tmp_path):
    options = ["model=TrialRemembers", "trainer.type=TrialCounts", "trainer.args.ema=0.9"]
    train("-c", small, *options, out=tmp_path)
    found = TrialCounts.found
    assert (found["steps"], found["seen"], found["calls"]) == (0, [], 0)
    assert (found["past"], found["hidden"]) == ([], None)
    assert (found["bank"], found["late"], found["memory"]) == ((0, 16), None, (0, 0))
    assert found["table"].keys() == {"n"} and not found["table"]["n"].any() and not found["ring"].any()
    assert (found["queue"], found["pair"], found["made"], found["trained"]) == ([], (0.0, []), False, True)
    assert found["next"] == torch.rand((), generator=torch.Generator().manual_seed(3)).item()


@pytest.mark.parametrize("model, bank", [("TrialGrows", (70, 16)), ("TrialReshapes", (16,))])
def test_a_run_with_buffers_that_grow_resumes_and_is_scored(small, tmp_path, model, bank):
    options = ["-c", small, f"model={model}", "trainer.args.ema=0.9", "trainer.args.save_every=1"]
    whole = train(*options, out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(*options, "--steps", "3", out=tmp_path / "short")
    run = next(tmp_path.glob("short/*/*"))
    train("-r", run, out=tmp_path / "short")
    assert_same_state(load(whole)["state"], load(run)["state"])
    state = load(run)["state"]
    assert state["model"]["bank"].shape == bank == state["ema"]["model"]["bank"].shape
    assert score("-r", run, "--split", "val")["val/loss"] == epochs(run)[-1]["val/loss"]


@MODELS.register
class TrialGrows(nn.Module):
    """A memory bank in a buffer that grows, and one that is None at first."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 16), nn.Linear(16, 10)
        self.register_buffer("bank", torch.zeros(0, 16))
        self.register_buffer("late", None)

    def forward(self, images):
        hidden = self.body(images.flatten(1)).tanh()
        if self.training:
            self.bank = torch.cat([self.bank, hidden.detach()])[-70:]
            self.late = self.bank.mean(0)
        return self.head(hidden) + (0 if self.late is None else self.late.sum())


@MODELS.register
class TrialReshapes(nn.Module):
    """Buffers that get another shape and dtype, and one that is made when it is needed."""

    def __init__(self, persistent: bool = False):
        super().__init__()
        self.body, self.head, self.persistent = nn.Linear(64, 16), nn.Linear(16, 10), persistent
        self.register_buffer("bank", torch.zeros(()))

    def forward(self, images):
        if not hasattr(self, "mask"):
            self.register_buffer("mask", torch.ones(16), self.persistent)
        hidden = self.body(images.flatten(1)).tanh() * self.mask
        if self.training:
            self.bank = self.bank * 0.9 + hidden.detach().double().mean(0) / 3
        return self.head(hidden + self.bank.float())


@OPTIMIZERS.register
class TrialFallible(torch.optim.SGD):
    """Fails in its step as those of users do."""

    def step(self, closure=None):
        if self.param_groups[0]["lr"] == 7:
            raise ValueError("vectors have no singular values")
        assert closure is not None or self.param_groups[0]["lr"] != 8, "a closure is needed"
        self.num_steps = getattr(self, "num_steps", 0) + 1
        super().step(closure)


@MODELS.register
class TrialEmbeds(nn.Module):
    def __init__(self, sparse: bool = True):
        super().__init__()
        self.e, self.head = nn.Embedding(17, 8, sparse=sparse), nn.Linear(8, 10)

    def forward(self, images):
        return self.head(self.e((images.flatten(1) * 3).long().abs() % 17).mean(1))


SPARSE_ALONE = "optimizer={e: {type: SparseAdam, match: 'e.*'}, rest: AdamW}"


@pytest.mark.parametrize("options, key, words", [
    (["model=TrialEmbeds", "optimizer.type=AdamW"], "optimizer", "of e.weight are sparse. Set sparse: false"),
    (["model=TrialEmbeds", "optimizer.type=SparseAdam"], "optimizer", "'match': SparseAdam"),
    (["optimizer.type=SparseAdam"], "optimizer", "Adam steps the others"),
    (["model={type: TrialEmbeds, args: {sparse: false}}", SPARSE_ALONE], "optimizer.e",
     "SparseAdam is for layers"),
    (["optimizer={type: TrialFallible, args: {lr: 7.0}}"], "optimizer", "no singular values (tests/core/"),
    (["optimizer={type: TrialFallible, args: {lr: 8.0}}"], "optimizer", "a closure is needed")])
def test_an_optimizer_whose_step_fails_is_found_before_the_run(small, tmp_path, options, key, words):
    with pytest.raises(ConfigError) as error:
        train("-c", small, *options, out=tmp_path)
    said = str(error.value)
    assert f"{key}: its first step was tried before the run, and failed" in said and words in said
    assert not list(tmp_path.glob("small"))


@pytest.mark.parametrize("options", [
    ["optimizer={type: SGD, args: {lr: 0.1, momentum: 0.9}}", "trainer.args.clip_norm=0.1"],
    ["optimizer.args.fused=true"],
    ["optimizer={type: LBFGS, args: {lr: 0.1, max_iter: 1}}"], ["optimizer={type: Adagrad, args: {lr: 0.1}}"],
    ["model=TrialEmbeds", SPARSE_ALONE], ["optimizer={type: TrialFallible, args: {lr: 0.1}}"],
    ["trainer.args.precision=fp16", "scheduler={type: OneCycleLR, args: {max_lr: 0.1}, per: step}"]])
def test_the_trial_changes_no_bit_of_the_run_nor_of_the_optimizer(small, tmp_path, monkeypatch, options):
    small = ["-c", small, *options, "trainer.args.epochs=1", "data_loader.batches_per_epoch=2"]
    tried = train(*small, out=tmp_path / "tried")
    monkeypatch.setattr("base.preflight.preflight.try_steps", lambda updaters: None)
    plain = train(*small, out=tmp_path / "plain")
    assert_same_state(load(tried)["state"], load(plain)["state"])
    assert (tried / "metrics.jsonl").read_text() == (plain / "metrics.jsonl").read_text()


def test_after_the_trial_weights_gradients_and_optimizer_are_as_before(small, monkeypatch):
    given, _ = load_config(small, ["optimizer.args.fused=true"])
    trials, config = [], complete_config(validate_config(given)).config

    def watched(updaters):
        updater, = updaters.values()
        before = [p.detach().clone() for p in updater.parameters]
        steps = []
        step = updater.optimizer.step
        updater.optimizer.step = lambda *args: (step(*args), steps.append(
            [not bit_equal(p.detach(), old) for p, old in zip(updater.parameters, before)]))
        try_steps(updaters)
        trials.append((steps, before))

    monkeypatch.setattr("base.preflight.preflight.try_steps", watched)
    trainer = set_up_training(config, None, torch.device("cpu"), small.parent).trainer
    [[moved], before], = trials
    updater, = trainer.updaters.values()
    assert any(moved) and not updater.optimizer.state and updater.schedule.num_steps_done == 0
    assert all(bit_equal(p.detach(), old) for p, old in zip(updater.parameters, before))
    assert all(p.grad is None and p.requires_grad for p in trainer.unwrapped_model.parameters())


def test_without_memory_for_it_the_trial_of_a_step_tells_nothing(small, tmp_path, monkeypatch):
    def try_step(updater):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("utils.training.updater.Updater.try_step", try_step)
    expected = "(?s)epoch 1, batch 0, step 0: RuntimeError: Adam.*The batch: "
    with pytest.raises(TrainingError, match=expected) as error:
        train("-c", small, "model=TrialEmbeds", "optimizer.type=AdamW", out=tmp_path)
    assert "Traceback" not in str(error.value)


def test_what_has_changed_in_place_or_was_replaced_is_put_back():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide = torch.zeros(3, 1).expand(3, 1000)
            self.nan, self.graph = torch.tensor([float("nan")]), torch.eye(3).to_sparse()
            self.short = torch.zeros(2)

    odd = Odd()
    short, kept = odd.short, AttributeSnapshot(odd)
    odd.graph.mul_(2)
    odd.short.resize_(5)
    odd.short, odd.nan, odd.extra = None, 1, nn.Linear(2, 2)
    kept.restore()
    assert odd.short is short and odd.short.tolist() == [0, 0]
    assert odd.nan.isnan().all() and not hasattr(odd, "extra")
    assert torch.equal(odd.graph.to_dense(), torch.eye(3))


@MODELS.register
class TrialBuildsLater(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 10)

    def forward(self, images):
        if not hasattr(self, "head"):
            self.head = nn.Linear(10, 10)
        return self.head(self.body(images.flatten(1)))


@pytest.mark.parametrize("model, made", [
    ("TrialBuildsLater", "head.weight, head.bias"),
    ("{type: TrialReshapes, args: {persistent: true}}", "mask")])
def test_weights_and_buffers_that_the_forward_pass_makes_are_reported(small, tmp_path, model, made):
    with pytest.raises(ConfigError, match=f"model: its forward pass made {made}, which optimizers and"):
        train("-c", small, f"model={model}", out=tmp_path)


@TRAINERS.register
class TrialIdle(Trainer):
    """Makes no update; or steps an optimizer of its own; or keeps what has no state."""

    def __init__(self, *, how: str, **options):
        super().__init__(**options)
        self.how = how
        self.state |= {"seen": [1]} if how == "list" else {}

    def train_step(self, batch):
        loss = self.forward(batch)[2]["loss"]
        if self.how == "alone":
            loss.backward()
            for updater in self.updaters.values():
                updater.optimizer.step()
                updater.optimizer.zero_grad()
        return {"loss": loss}


@pytest.mark.parametrize("how, warned", [("idle", True), ("alone", False)])
def test_a_step_without_update_is_reported(small, tmp_path, capsys, how, warned):
    train("-c", small, f"trainer={{type: TrialIdle, args: {{how: {how}, epochs: 1}}}}",
          "optimizer={type: SGD, args: {lr: 0.1, fused: false}}", out=tmp_path)
    assert ("train_step made no gradients, so that nothing is learned" in capsys.readouterr().err) is warned


def test_what_has_no_state_is_named_in_the_state(small, tmp_path):
    with pytest.raises(ConfigError, match=r"trainer: self\.state\['seen'\] is a list\. What a checkpoint"):
        train("-c", small, "trainer={type: TrialIdle, args: {how: list}}", out=tmp_path)


def test_sparse_gradients_are_refused_by_several_processes():
    layer = nn.Embedding(3, 2, sparse=True)
    layer(torch.tensor([1])).sum().backward()
    with pytest.raises(ConfigError, match="model: its gradients are sparse, which only one process can use"):
        AveragedGradients(layer.parameters(), None).connect()


# -- the smallest batches ------------------------------------------------------------------------------------


@MODELS.register
class TrialSqueezes(nn.Module):
    """Fails with a single sample in evaluation, or with one of `size` samples in any mode."""

    def __init__(self, size: int = 0):
        super().__init__()
        self.body, self.size = nn.Linear(64, 10), size

    def forward(self, images):
        assert len(images) != self.size, "this size does not fit"
        outputs = self.body(images.flatten(1))
        return outputs if self.training else outputs[:, None].squeeze()


@METRICS.register
class TrialNeedsTwo:
    """A metric over an epoch, as R2 is, that one sample does not suffice for."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.count = 0

    def update(self, outputs, targets):
        self.count += len(targets)

    def compute(self):
        assert self.count > 1
        return float(self.count)


LAST = ["data_loader.batches_per_epoch=null", "trainer.args.epochs=1"]


@pytest.mark.parametrize("options, words", [
    (["model=TrialSqueezes", "data_loader.validation_split=31"],
     "the last batch of val leaves a process a single sample, and one"),
    (["model=TrialSqueezes", "data_loader={validation_split: 41, eval_batch_size: 10}"], "squeeze(1)"),
    (["model={type: TrialSqueezes, args: {size: 10}}"],
     "the last batch of val leaves a process 10 samples, and 10 were tried"),
    (["model={type: TrialSqueezes, args: {size: 17}}", *LAST],
     "the last batch of train leaves a process 17 samples")])
def test_a_last_batch_that_a_model_cannot_take_is_found_before_the_run(small, tmp_path, options, words):
    with pytest.raises(ConfigError) as error:
        train("-c", small, *options, out=tmp_path)
    assert words in str(error.value)


@pytest.mark.parametrize("options", [
    ["model=TrialSqueezes", "data_loader.validation_split=30"],
    ["model=TrialSqueezes", "data_loader={validation_split: 31, eval_batches: 1}"],
    ["model={type: TrialSqueezes, args: {size: 17}}"],  # batches_per_epoch leaves the last one out
    ["model={type: TrialSqueezes, args: {size: 17}}", *LAST, "data_loader.drop_last=true"],
    ["metrics=[TrialNeedsTwo]", "data_loader.validation_split=31"]])
def test_a_size_that_does_not_occur_is_not_tried(small, tmp_path, options):
    train("-c", small, *options, "trainer.args.epochs=1", out=tmp_path)


# -- averaged weights ----------------------------------------------------------------------------------------


@MODELS.register
class TrialNormed(nn.Module):
    def __init__(self, how: str):
        super().__init__()
        self.body = nn.Linear(64, 10)
        if how == "lock":
            import threading
            self.lock = threading.Lock()
        else:
            nn.utils.weight_norm(self.body)
            prune.l1_unstructured(self.body, "bias", 0.5)

    def forward(self, images):
        return self.body(images.flatten(1))


def test_a_model_that_cannot_be_averaged_is_refused_with_the_way_out(small, tmp_path):
    with pytest.raises(ConfigError, match="trainer.args.ema: the model cannot be copied: .*lock"):
        train("-c", small, "model.type=TrialNormed", "model.args={how: lock}", "trainer.args.ema=0.9",
              out=tmp_path)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_weights_that_a_model_computes_are_averaged_by_what_they_come_from(small, tmp_path):
    model, images = TrialNormed("old"), torch.ones(2, 64)
    before = model(images) - model.body.bias  # leaves a weight that has a graph
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model.body.weight_g *= 2
    average.update()  # its first decay is 2 / 11
    assert torch.allclose(average.model(images) - model.body.bias, before * 20 / 11)
    train("-c", small, "model.type=TrialNormed", "model.args={how: old}", "trainer.args.ema=0.9",
          "trainer.args.epochs=1", out=tmp_path)


# -- what fails later ----------------------------------------------------------------------------------------


@DATASETS.register
class TrialLabels(Dataset):
    """Labels that are out of range in one split, from one sample on; or a sample that cannot be read."""

    def __init__(self, split: str, bad: str = "test", at: int = 0, raises: bool = False):
        self.bad, self.at, self.raises = split == bad, at, raises

    def __len__(self):
        return 42

    def __getitem__(self, index):
        if self.bad and index >= self.at:
            if self.raises:
                raise OSError("the file is broken")
            return torch.zeros(1, 8, 8), -1
        return torch.zeros(1, 8, 8), index % 10


OWN = ["~transforms", "data_loader={batch_size: 8, shuffle: false, validation_split: null}",
       "data_loader.batches_per_epoch=null", "trainer.args.epochs=1"]


def test_a_split_without_labels_is_not_scored_and_why_stands_last(small, tmp_path):
    run = train("-c", small, "dataset=TrialLabels", *OWN, out=tmp_path)
    expected = r"(?s)loss: scoring failed: IndexError.*The batch: .*int64 \[8\].*labels are -1 to -1"
    with pytest.raises(ConfigError, match=expected):
        score("-r", run)
    for num_workers in (0, 1):
        with pytest.raises(ConfigError, match="dataset: test sample 0 cannot be read: OSError: the file"):
            score("-r", run, "dataset.args.raises=true", f"data_loader.num_workers={num_workers}")


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_what_fails_within_a_run_ends_with_batch_and_place(small, tmp_path, capsys, split, num_workers):
    options = [*OWN, f"dataset.args={{bad: {split}, at: 20}}", f"data_loader.num_workers={num_workers}"]
    where = "epoch 1, batch 2, step 2" if split == "train" else "epoch 1, batch 6, step 6"
    expected = rf"(?s){where}: loss: IndexError: Target -1.*The batch: .*labels are -1 to"
    with pytest.raises(TrainingError, match=expected) as error:
        train("-c", small, "dataset.type=TrialLabels", *options, out=tmp_path)
    assert "Traceback" not in str(error.value) + "".join(capsys.readouterr())
    run, = tmp_path.glob("*/*")
    assert "Traceback (most recent call last)" in (run / "run.log").read_text()


# -- streams -------------------------------------------------------------------------------------------------


@DATASETS.register
class TrialStream(IterableDataset):
    """Promises another number of samples than it gives."""

    def __init__(self, split: str, promised: int, given: int):
        self.promised, self.given = promised, given

    def __len__(self):
        return self.promised

    def __iter__(self):
        generator = torch.Generator().manual_seed(5)
        return iter([(torch.rand(1, 8, 8, generator=generator), index % 10) for index in range(self.given)])


@DATASETS.register
class TrialTape(TrialStream):
    """One that saves its place."""

    place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]

    def __iter__(self):
        for index, sample in enumerate([*super().__iter__()][self.place:], self.place + 1):
            self.place = index
            yield sample
        self.place = 0


@pytest.mark.parametrize("dataset, promised, given, remedy, num_workers", [
    ("TrialStream", 40, 48, 5, 0), pytest.param("TrialStream", 40, 30, 4, 2, marks=pytest.mark.slow),
    ("TrialTape", 40, 44, 5, 1), ("TrialStream", 44, 44, None, 0)])
def test_a_stream_of_a_wrong_length_is_reported_and_resumes(small, tmp_path, dataset, promised, given,
                                                            remedy, num_workers):
    options = ["-c", small, *OWN, f"data_loader.num_workers={num_workers}",
               f"dataset={{type: {dataset}, args: {{promised: {promised}, given: {given}}}}}",
               "trainer.args.epochs=3",
               "scheduler={type: OneCycleLR, args: {max_lr: 0.1}, per: step}", "trainer.args.log_every=1"]
    whole = train(*options, out=tmp_path / "whole")
    said = [line for line in (whole / "run.log").read_text().splitlines() if "__len__" in line]
    texts = [f"{dataset} has {promised} samples by its __len__, and gave {given}"] * bool(remedy)
    assert [text for text in said if "batches_per_epoch" in text] == said[:len(texts)]
    assert len(said) == 2 * len(texts)
    assert all(text in said[0] and f"data_loader.batches_per_epoch={remedy}" in said[0] for text in texts)
    for stop in (5, 6, 11):
        with pytest.raises(Interrupted):
            train(*options, "--steps", str(stop), out=tmp_path / f"short{stop}")
        run, = tmp_path.glob(f"short{stop}/*/*")
        train("-r", run, out=run.parent.parent)
        assert_same_state(load(whole)["state"], load(run)["state"])
