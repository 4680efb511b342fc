"""A fork adds one file and one config, and nothing else: each kind of thing, in a copy of the project."""
import json

import pytest

from conftest import copy_project, program

SMALL = """
name: fork
dataset: {type: Digits}
data_loader: {batch_size: 64, validation_split: 0.1, batches_per_epoch: 2}
model: {type: MLP, args: {sizes: [64, 10]}}
loss: CrossEntropyLoss
optimizer: SGD
trainer: {type: Trainer, args: {epochs: 1}}
writers: []
"""
FORKS = {
    "a model with its own loss and metric": ("model/my_net.py", """
import torch
from torch import nn
from base import LOSSES, METRICS, MODELS

@MODELS.register
class MyNet(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, images):
        return self.layers(images)

@LOSSES.register
def my_loss(outputs, targets, scale: float = 1.0):
    return scale * nn.functional.cross_entropy(outputs, targets)

@METRICS.register
def confidence(outputs, targets):
    return outputs.softmax(1).max(1).values
""", ["model={type: MyNet, args: {width: 16}}", "loss={type: my_loss, args: {scale: 2}}", "metrics=[confidence]"],
        "val/confidence"),
    "a dataset with a collate function": ("data_loader/noise.py", """
import torch
from torch.utils.data import Dataset
from base import DATASETS

@DATASETS.register
class Noise(Dataset):
    def __init__(self, split, num_samples=100):
        self.num_samples = {"train": num_samples, "val": 20, "test": 30}[split]

    def __len__(self):
        return self.num_samples

    def __getitem__(self, index):
        return torch.randn(64), index % 10

    @staticmethod
    def collate_fn(samples):
        return torch.stack([x for x, _ in samples]), torch.tensor([y for _, y in samples])
""", ["dataset={type: Noise, args: {num_samples: 70}}", "data_loader={batch_size: 30}"], "val/loss"),
    "a transform, as a class and as a function": ("data_loader/my_transforms.py", """
import torch
from base import TRANSFORMS

@TRANSFORMS.register
class AddNoise:
    def __init__(self, std: float):
        self.std = std

    def __call__(self, image):
        return image.float() / 255 + self.std * torch.randn(image.shape)

@TRANSFORMS.register
def invert(image):
    return 255 - image
""", ["transforms={train: [invert, {type: AddNoise, args: {std: 0.1}}], eval: [invert]}"], "val/loss"),
    "a trainer": ("trainer/my_trainer.py", """
from base import TRAINERS
from trainer.trainer import Trainer

@TRAINERS.register
class PenaltyTrainer(Trainer):
    def __init__(self, *, penalty: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.penalty = penalty

    def train_step(self, batch):
        images, labels = batch
        with self.autocast():
            loss = self.loss(self.model(images), labels)
            size = sum(p.square().sum() for p in self.model.parameters())
        self.update(loss + self.penalty * size)
        return {"loss": loss, "size": size}
""", ["trainer={type: PenaltyTrainer, args: {epochs: 1, penalty: 0.01}}"], "train/size"),
    "a writer": ("logger/csv_writer.py", """
import csv
from logger import WRITERS, Writer

@WRITERS.register
class CSV(Writer):
    def __init__(self, folder, start_step, name: str = "scalars.csv"):
        super().__init__(folder, start_step)
        self.file = open(folder / name, "a", newline="")

    def scalars(self, values, step):
        csv.writer(self.file).writerows((step, name, value) for name, value in values.items())

    def close(self):
        self.file.close()
""", ["writers=[{type: CSV, args: {name: all.csv}}]"], "val/loss"),
    "an optimizer and a scheduler": ("trainer/my_optimizer.py", """
import torch
from base import OPTIMIZERS, SCHEDULERS

@OPTIMIZERS.register
class SignSGD(torch.optim.Optimizer):
    def __init__(self, params, lr: float = 1e-3):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * p.grad.sign())

@SCHEDULERS.register
def warmup(optimizer, steps: int):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / steps))
""", ["optimizer={type: SignSGD, args: {lr: 0.01}}", "scheduler={type: warmup, args: {steps: 4}, per: step}"], "val/loss"),
}


@pytest.fixture(scope="module")
def fork(tmp_path_factory):
    """A copy of the project with every file of FORKS in it at once, and one that is broken."""
    folder = tmp_path_factory.mktemp("fork") / "MyProject"
    copy_project(folder)
    for file, code, _, _ in FORKS.values():
        (folder / file).write_text(code)
    (folder / "model" / "broken.py").write_text("import a_package_that_is_not_there\n")
    (folder / "fork.yaml").write_text(SMALL)
    return folder


@pytest.mark.parametrize("name", FORKS)
def test_one_new_file_and_a_config_are_enough(fork, name):
    _, _, options, produced = FORKS[name]
    run_name = name.split()[1].strip(",")
    program("train.py", "-c", "fork.yaml", "--run-name", run_name, *options, cwd=fork)
    run = fork / "saved" / "fork" / run_name
    assert produced in json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert name != "a writer" or "val/loss" in (run / "all.csv").read_text()


def test_a_fork_is_scored_and_resumed_like_any_run(fork):
    options = FORKS["a model with its own loss and metric"][2]
    program("train.py", "-c", "fork.yaml", "--run-name", "whole", *options, cwd=fork)
    program("test.py", "-r", "saved/fork/whole", cwd=fork)
    assert "test/confidence" in json.loads((fork / "saved/fork/whole/test.json").read_text())
    program("train.py", "-r", "saved/fork/whole", "trainer.args.epochs=2", cwd=fork)


def test_a_broken_file_is_named_when_a_look_up_fails(fork):
    done = program("train.py", "-c", "fork.yaml", "model=MyNett", cwd=fork, code=2)
    assert "Did you mean 'MyNet'?" in done.stderr
    assert "model/broken.py could not be imported: ModuleNotFoundError" in done.stderr and "model/broken.py:1" in done.stderr
