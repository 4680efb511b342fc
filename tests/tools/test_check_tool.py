"""`train.py --check`: everything short of training, with a list of what is wrong, or OK and an estimate."""
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from base import DATASETS, LOSSES, METRICS, MODELS, TRAINERS, TRANSFORMS, WRITERS, ArrayDataset
from base.base_data_loader import DataSplits
from conftest import PROJECT, needs, program, train
from logger.writer import Writer
from tools.data_checks.overlap import find_overlap
from train import main
from trainer.trainer import Trainer
from utils.cli import train_arguments
from utils.errors import ConfigError


@pytest.fixture
def check(small, capsys, tmp_path):
    """`python train.py --check -c SMALL OVERRIDES`, in this process; returns what it prints."""
    def check(*overrides):
        main(train_arguments(["--check", "-c", str(small), *overrides]))
        return capsys.readouterr().out

    return check


def listed(check, *overrides) -> str:
    """The list with which --check ends where there is something to mend."""
    with pytest.raises(ConfigError) as error:
        check(*overrides)
    return str(error.value)


def test_the_digits_are_ok_in_little_time_and_nothing_is_left():
    needs("configs/digits.yaml")
    code = "import resource, runpy, sys, torch; before = resource.getrusage(resource.RUSAGE_SELF)\n" \
           "sys.argv[0] = 'train.py'\n" \
           "try: runpy.run_path('train.py', run_name='__main__')\n" \
           "finally: after = resource.getrusage(resource.RUSAGE_SELF)\n" \
           "print('seconds', after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)"
    files = sorted(PROJECT.glob("saved/**"))
    done = program("-c", code, "--check", "-c", "configs/digits.yaml")
    assert re.search(r"^OK$", done.stdout, re.MULTILINE)
    assert float(re.search(r"^seconds (\S+)", done.stdout, re.MULTILINE)[1]) < 10  # measured: 1.5
    assert re.search(r"time +\S+ s an epoch: 21 steps of \S+ ms, 3 batches of evaluation.* for 40 epochs", done.stdout)
    assert re.search(r"memory +\S+ MB", done.stdout) and re.search(r"disk +\S+ MB for at most 3 checkpoints", done.stdout)
    assert sorted(PROJECT.glob("saved/**")) == files


def test_the_estimate_of_the_disk_is_what_a_run_leaves(check, small, tmp_path):
    kept = "trainer.args={epochs: 4, save_every: 1, keep_last: 2}"
    overrides = ["model.args.sizes=[64,500,10]", kept]
    text = check(*overrides)
    run = train("-c", small, *overrides, out=tmp_path)
    files = list((run / "checkpoints").glob("*.pt"))
    size, number = re.search(r"disk +(\S+) MB for at most (\d) checkpoints", text).groups()
    assert len(files) == int(number) == 5
    assert sum(file.stat().st_size for file in files) / 1e6 == pytest.approx(float(size), rel=0.1)


@MODELS.register
class HalfUsed(nn.Module):
    def __init__(self, used: bool = False):
        super().__init__()
        self.body, self.spare, self.used = nn.Linear(64, 10), nn.Linear(3, 3), used

    def forward(self, images):
        return self.body(images.flatten(1)) + (0 * self.spare(images.new_zeros(1, 3)).sum() if self.used else 0)


def test_parameters_that_get_no_gradient_are_named(check):
    text = listed(check, "model=HalfUsed")
    assert re.match(r"command line +model: 2 trainable parameters got no gradient in \d+ steps: spare.weight, spare.bias", text)
    assert "OK" in check("model={type: HalfUsed, args: {used: true}}")
    assert "OK" in check("model=HalfUsed", "optimizer.groups=[{match: 'spare.*', frozen: true}]")


@LOSSES.register
def never_finite(outputs, targets):
    return outputs.sum() / 0


@LOSSES.register
class FiniteAtFirst(nn.Module):
    def __init__(self, breaks: bool = False):
        super().__init__()
        self.calls, self.breaks = 0, breaks

    def forward(self, outputs, targets):
        self.calls += 1
        if self.breaks and self.calls > 6:
            raise RuntimeError("out of ideas")
        return outputs.sum() * (float("nan") if self.calls > 6 else 1.0)


@pytest.mark.parametrize("loss, said", [
    ("never_finite", "train/loss is"), ("FiniteAtFirst", "at step"),
    ("{type: FiniteAtFirst, args: {breaks: true}}", "a step failed: RuntimeError: out of ideas (tests/tools/test_check_tool.py:"),
])
def test_a_loss_that_is_not_finite_or_breaks_is_found(check, loss, said):
    text = listed(check, f"loss={loss}")
    assert "loss: " in text and said in text


# -- samples in two splits -----------------------------------------------------------------------------------------

@DATASETS.register
class Leaking(ArrayDataset):
    """The first `leaked` of 100 validation samples are samples of the training."""

    def __init__(self, split: str, leaked: int = 0):
        generator = torch.Generator().manual_seed(["train", "val", "test"].index(split))
        images, targets = torch.rand(100, 1, 8, 8, generator=generator), torch.randint(10, (100,), generator=generator)
        if split == "val":
            train = Leaking("train")
            images[:leaked], targets[:leaked] = train.arrays[0][-leaked or 100:], train.arrays[1][-leaked or 100:]
        super().__init__(images, targets)


@DATASETS.register
class LeakingOneByOne(Dataset):
    """The same, sample by sample, as tables of other things."""

    def __init__(self, split: str, leaked: int = 0):
        self.arrays = Leaking(split, leaked)

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, index):
        image, target = self.arrays[index]
        return image.numpy(), int(target)


LEAKING = ["transforms=null", "data_loader={batch_size: 20, validation_split: null}"]


@pytest.mark.parametrize("name", ["Leaking", "LeakingOneByOne"])
def test_validation_samples_that_are_trained_on_are_counted(check, caplog, name):
    assert "OK" in check(f"dataset={name}", *LEAKING)
    text = listed(check, f"dataset={{type: {name}, args: {{leaked: 30}}}}", *LEAKING)
    assert "dataset: 30 of 100 validation samples are training samples, too (of 100 looked at)" in text
    assert "OK" in check(f"dataset={{type: {name}, args: {{leaked: 1}}}}", *LEAKING)  # data may hold a pair of twins


def test_a_split_of_one_dataset_with_copies_in_it_leaks_and_is_found():
    images = torch.rand(50, 3).repeat(2, 1)
    data = DataSplits(lambda split: ArrayDataset(images, torch.zeros(100)), validation_split=0.2, batch_size=10)
    assert find_overlap(data).shared > 10


@pytest.mark.parametrize("samples", [
    [{"a": torch.rand(3), "b": "text"}, {"a": torch.rand(3), "b": "text"}], [(1, "x", None), (2, "x", None)],
    [np.zeros(3), np.ones(3)], [[torch.zeros(2, dtype=torch.bfloat16)], [torch.ones(2, dtype=torch.bfloat16)]],
])
def test_samples_of_any_kind_are_told_apart(samples):
    def build(split):
        return {"train": samples, "val": samples[:1], "test": None}[split]

    data = DataSplits(lambda split: build(split) and Samples(build(split)), batch_size=1)
    assert find_overlap(data) == (1, 1, 2, False)


class Samples(Dataset):
    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


@DATASETS.register
class BrokenSample(LeakingOneByOne):
    def __getitem__(self, index):
        if index == 71:
            raise OSError("truncated image")
        return super().__getitem__(index)


def test_a_sample_that_cannot_be_read_is_found(check):
    assert re.search(r"dataset: .*OSError: truncated image", listed(check, "dataset=BrokenSample", *LEAKING))


# -- the state -----------------------------------------------------------------------------------------------------

class Counter:
    def __init__(self, keeps: bool):
        self.count, self.keeps = 0, keeps

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"] if self.keeps else 0


@TRAINERS.register
class CountingTrainer(Trainer):
    def __init__(self, *, keeps: bool = True, storable: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.counter = self.state["counter"] = Counter(keeps)
        self.storable = storable

    def train_step(self, batch):
        self.counter.count = self.counter.count + 1 if self.storable else object()
        return super().train_step(batch)


def test_a_state_that_is_not_taken_up_again_is_found(check):
    assert "OK" in check("trainer.type=CountingTrainer", "trainer.args.epochs=2")
    text = listed(check, "trainer={type: CountingTrainer, args: {keeps: false}}")
    assert re.search(r"trainer: saved and taken up again, the state: counter\.count is \d+ loaded, 0 put back", text)
    text = listed(check, "trainer={type: CountingTrainer, args: {storable: false}}")
    assert "trainer: its state cannot be saved and taken up again" in text and "counter" in text


def test_no_step_is_made_that_a_run_would_not_make(check, small, tmp_path):
    schedule = "scheduler={type: OneCycleLR, args: {max_lr: 0.01}, per: step}"  # refuses a step too many
    assert "5 steps of" in check(schedule, "trainer.args.epochs=1")
    train("-c", small, schedule, "trainer.args.epochs=1", out=tmp_path)
    main(train_arguments(["--check", "-r", str(tmp_path / "small")]))


# -- what is healthy, though it looks odd --------------------------------------------------------------------------

@DATASETS.register
class Ages(Dataset):
    """Whole numbers that are no classes, and others that `__getitem__` makes classes of."""

    def __init__(self, split: str, classes: int | None = None, ignored: int | None = None):
        generator = torch.Generator().manual_seed(["train", "val", "test"].index(split))
        self.images = torch.rand(60, 1, 8, 8, generator=generator)
        self.targets = torch.randint(90, (60,), generator=generator)
        self.classes = classes
        if ignored is not None:
            self.targets = torch.where(self.targets < 30, ignored, self.targets % 10)

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return self.images[index], self.targets[index] % self.classes if self.classes else self.targets[index]


@LOSSES.register
def distance_in_years(outputs, targets):
    return (outputs[:, 0] - targets.float()).abs().mean()


@TRAINERS.register
class ContrastiveTrainer(Trainer):
    def forward(self, batch):
        images, labels = batch
        outputs = self.model(images)
        return outputs, labels, {"loss": self.loss(outputs @ outputs.T, torch.arange(len(outputs)))}


@MODELS.register
class NowAndThen(nn.Module):
    """Uses one of its parts in one step and the other in the next."""

    def __init__(self):
        super().__init__()
        self.parts, self.calls = nn.ModuleList([nn.Linear(64, 10), nn.Linear(64, 10)]), 0

    def forward(self, images):
        self.calls += self.training
        return self.parts[self.calls % 2](images.flatten(1))


FIVE = "model={type: SoManyClasses, args: {num_classes: 5}}"
HEALTHY = {
    "whole numbers to come near": ["dataset=Ages", "model={type: SoManyClasses, args: {num_classes: 1}}", "metrics=[]",
                                   "loss=distance_in_years"],
    "labels made of others": ["dataset={type: Ages, args: {classes: 5}}", FIVE],
    "labels that the loss ignores": ["dataset={type: Ages, args: {ignored: 255}}", "metrics=[]",
                                     "loss={type: CrossEntropyLoss, args: {ignore_index: 255}}"],
    "a loss over something else": ["trainer.type=ContrastiveTrainer", "model.args.sizes=[64, 4]", "metrics=[]"],
    "parts that take turns": ["model=NowAndThen"],
    "a dataset that is only counted": ["dataset=CountedOnly", "model=Constant", "loss=of_nothing", "metrics=[]"],
    "a metric with classes of its own": ["metrics=[{type: coarse_hits, args: {num_classes: 2}}]"],
    "a loss that is called by names": ["trainer.type=NamingTrainer"],
    "a last batch of one, squeezed": ["dataset=Ages", "model=Squeezed", "loss=SmoothL1Loss", "metrics=[]",
                                      "transforms={batch: [halved]}", "data_loader.batch_size=59",
                                      "data_loader.batches_per_epoch=null"],
    "steps that may be left out": ["loss=NanAtFirst", "trainer.args.on_nan=skip"],
    "a state with NaN": ["trainer.type=NanTrainer"],
    "a schedule that takes its state apart": [
        "scheduler={type: CyclicLR, args: {base_lr: 0.1, max_lr: 1, cycle_momentum: false}}"],
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_experiment_is_ok(check, name):
    options = HEALTHY[name]
    own = LEAKING if any(option.startswith("dataset") for option in options) else []
    assert check(*options, *own, "trainer.args.monitor=null").endswith("OK\n")


@METRICS.register
def coarse_hits(outputs, targets, num_classes: int):
    return (outputs.argmax(1) % num_classes == targets % num_classes).float()


@TRAINERS.register
class NamingTrainer(Trainer):
    def forward(self, batch):
        outputs = self.model(batch[0])
        return outputs, batch[1], {"loss": self.loss(input=outputs, target=batch[1])}


@MODELS.register
class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 1)

    def forward(self, images):
        return self.layer(images.flatten(1)).squeeze()


@TRANSFORMS.register
def halved(images):
    return images / 2


@DATASETS.register
class CountedOnly(Dataset):
    def __init__(self, split: str):
        pass

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return torch.zeros(3), 0


@MODELS.register
class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.ones(1))

    def forward(self, numbers):
        return numbers + self.value


@LOSSES.register
def of_nothing(outputs, targets):
    return outputs.square().mean()


@LOSSES.register
class NanAtFirst(nn.CrossEntropyLoss):
    calls = 0

    def forward(self, outputs, targets):
        self.calls += 1
        return super().forward(outputs, targets) * (float("nan") if self.calls < 4 else 1)


@TRAINERS.register
class NanTrainer(Trainer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state["best so far"] = Counter(keeps=True)
        self.state["best so far"].count = float("nan")


# -- what is not ---------------------------------------------------------------------------------------------------

@TRAINERS.register
class ForgetfulTrainer(Trainer):
    """Its counter is saved, and never taken up."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.counter = self.state["counter"] = Counter(keeps=True)
        self.counter.load_state_dict = lambda state: None

    def on_step_end(self):
        self.counter.count += 1


class RaisingWriter(Writer):
    def __init__(self, folder, start_step):
        raise RuntimeError("no server")


WRITERS.register(RaisingWriter)


@WRITERS.register
class OutsideWriter(RaisingWriter):
    outside = True


def test_a_writer_that_talks_to_a_service_is_built_if_that_is_wanted(check):
    assert "OK" in check("writers=[OutsideWriter]")
    assert "OutsideWriter could not be built: RuntimeError: no server" in listed(check, "--writers", "writers=[OutsideWriter]")


@MODELS.register
class Normed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))


@pytest.mark.parametrize("options, said", [
    (["trainer.type=ForgetfulTrainer"], r"saved and taken up again, the state: counter\.count is \d+ loaded, \d+ put back"),
    (["writers=[RaisingWriter]"], "writers.0: RaisingWriter could not be built: RuntimeError: no server"),
    (["model=Normed", "data_loader.batch_size=698", "data_loader.batches_per_epoch=null"], "a single sample, and one was"),
    (["model=LazyOne"], r"model: \w+\.weight has no size before the first batch"),
])
def test_what_would_show_later_is_found(check, options, said):
    assert re.search(said, listed(check, *options))


@MODELS.register
class LazyOne(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.LazyLinear(10))


# -- what does not fit ---------------------------------------------------------------------------------------------

@MODELS.register
class SoManyClasses(nn.Module):
    def __init__(self, num_classes: int):
        super().__init__()
        self.layer = nn.Linear(64, num_classes)

    def forward(self, images):
        return self.layer(images.flatten(1))


@pytest.mark.parametrize("overrides, place, said", [
    (["model={type: SoManyClasses, args: {num_classes: 7}}"], "model.args.num_classes",
     "7 classes are 0 to 6, and the labels are 0 to 9. Set it to 10."),
    (["metrics=[{type: F1Score, args: {task: multiclass, num_classes: 3}}]"], "metrics.0.args.num_classes", "Set it to 10."),
    (["data_loader.batch_size=5000", "data_loader.drop_last=true"], "data_loader.batch_size", "more than the 1397 samples of train"),
    (["model.args.sizes=[64, 9]", "data_loader.batch_size=3"], "", "classes|labels|out of bounds"),
    (["metrics=[{type: top_k_accuracy, args: {k: 11}}]"], "metrics.0", "One batch of training was tried"),
    (["loss=L1Loss", "model.args.sizes=[64, 1]"], "loss", "targets [30] would be spread over each other, to [30, 30]"),
    (["loss=BCEWithLogitsLoss"], "loss", "Given to loss: float32"),
    (["model.args.sizes=[60, 10]"], "model", "Given to model: float32 [30, 1, 8, 8]"),
    (["transforms={train: [], batch: [{type: CenterCrop, args: {size: 4}}, {type: FiveCrop, args: {size: 9}}]}"],
     "transforms.batch.1", "crop size"),
    (["transforms={eval: [{type: CenterCrop, args: {size: [1, 2, 3]}}]}"], "transforms.eval.0", "could not be built"),
    (["trainer.args.monitor=max val/acc"], "trainer.args.monitor", "Did you mean 'val/accuracy'?"),
    (["data_loader.validation_split=0.0001"], "data_loader.validation_split", "0 for validation"),
])
def test_what_does_not_fit_is_told_of_the_part_to_blame(check, overrides, place, said):
    text = listed(check, *overrides)
    assert re.match(rf"command line +{re.escape(place)}", text) and (said in text or re.search(said, text)), text


def test_outputs_that_the_first_batch_does_not_need_are_missed_before_the_run(check):
    text = listed(check, "dataset=RareLabel", "transforms=null", "model.args.sizes=[64, 3]", "data_loader={batch_size: 2}")
    assert "model: it gives 3 outputs, one for each class, and the labels are 0 to 3: 4 are needed" in text


@DATASETS.register
class RareLabel(ArrayDataset):
    def __init__(self, split: str):
        targets = torch.zeros(500, dtype=torch.int64)
        targets[::100] = 3
        generator = torch.Generator().manual_seed(["train", "val", "test"].index(split))
        super().__init__(torch.rand(500, 64, generator=generator), targets)


def test_labels_that_begin_at_one_are_told_to_begin_at_zero(check):
    text = listed(check, "dataset=FromOne", "transforms=null", "data_loader={batch_size: 5, validation_split: 10}",
                  "model={type: SoManyClasses, args: {num_classes: 4}}")
    assert "4 classes are 0 to 3, and the labels are 1 to 4. They have to begin at 0." in text


@DATASETS.register
class FromOne(Dataset):
    def __init__(self, split: str):
        self.targets = [1 + index % 4 for index in range(40)]

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.zeros(1, 8, 8) + index, self.targets[index]


@LOSSES.register
def breaks_with_args(outputs, targets, args: int | None = None):
    raise KeyError("out of ideas")


def test_the_part_to_blame_is_found_whatever_its_variables_are_called(check):
    assert re.search(r"loss: .*KeyError: 'out of ideas'", listed(check, "loss=breaks_with_args"))


def test_all_parts_that_cannot_be_built_are_told_at_once(check):
    text = listed(check, "model={type: SoManyClasses, args: {num_classes: -1}}",
                  "loss={type: NLLLoss, args: {weight: [[1], [2, 3]]}}",
                  "dataset={type: ArrayFiles, args: {root: nowhere}}",
                  "metrics=[{type: F1Score, args: {task: multiclass, num_classes: -1}}]")
    keys = ["model", "loss", "metrics.0.args.num_classes", "dataset.args.root"]
    assert re.findall(r"command line +(\w\S*): \w+ could not be built", text) == keys


# -- what not every step uses ----------------------------------------------------------------------------------------

@MODELS.register
class TakesTurns(nn.Module):
    """Uses `even` and `odd` in turn."""

    def __init__(self):
        super().__init__()
        self.even, self.odd, self.num_steps = nn.Linear(64, 10), nn.Linear(64, 10), 0

    def forward(self, images):
        self.num_steps += self.training
        return (self.odd if self.num_steps % 2 else self.even)(images.flatten(1))


@MODELS.register
class Experts(nn.Module):
    """A mixture of experts of several sizes; the gate never chooses the last one."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(64, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(64, size), nn.ReLU(), nn.Linear(size, 10)) for size in (4, 5, 6))

    def forward(self, images):
        inputs = images.flatten(1)
        weights, chosen = self.gate(inputs)[:, :2].softmax(1).max(1)
        outputs = torch.zeros(len(inputs), 10)
        for number, expert in enumerate(self.experts):
            mine = chosen == number
            if mine.any():
                outputs[mine] = expert(inputs[mine]) * weights[mine, None]
        return outputs


@TRAINERS.register
class OfDerivatives(Trainer):
    """The loss is that of an equation for the derivative: it does not depend on the last bias."""

    def __init__(self, *, forgets: bool = False, **rest):
        super().__init__(**rest)
        self.forgets = forgets

    def forward(self, batch):
        with torch.set_grad_enabled(torch.is_grad_enabled() or not self.forgets):
            inputs = batch[0].flatten(1).requires_grad_()
            outputs = self.model(inputs).sum(1)
            slopes, = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
            return outputs, batch[1], {"loss": (slopes - 1).square().mean()}


@pytest.mark.parametrize("overrides", [
    ["model=TakesTurns"], ["model=TakesTurns", "trainer.args.epochs=1", "data_loader.batches_per_epoch=2"], ["model=Experts"],
    ["model.args={sizes: [64, 8, 1]}", "trainer.type=OfDerivatives", "metrics=[]"]])
def test_parts_that_not_every_step_uses_are_no_fault(check, overrides):
    assert "OK" in check(*overrides)


def test_a_loss_of_derivatives_is_told_what_evaluation_needs(check):
    text = listed(check, "model.args={sizes: [64, 8, 1]}", "trainer={type: OfDerivatives, args: {forgets: true}}", "metrics=[]")
    assert "torch.enable_grad()" in text


@pytest.mark.slow
def test_a_reader_that_stops_early_sees_no_traceback():
    needs("configs/linear_regression.yaml")
    done = subprocess.run(f"{sys.executable} train.py -c configs/linear_regression.yaml --check | head -n 1",
                          shell=True, capture_output=True, text=True, cwd=PROJECT)
    assert done.stdout.count("\n") == 1 and "Traceback" not in done.stderr
