"""The jobs that several benchmarks share, and the program itself, run as a user runs it. Imports torch only when called."""
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import PROJECT, Clock

BATCH_SIZE = 128
EPOCH_FIELDS = {"epoch_s": "later epochs [s]", "first_epoch_s": "first epoch [s]", "accuracy": "val accuracy",
                "train_accuracy": "train accuracy", "faults_per_step": "page faults a step", "peak_rss_mib": "peak memory [MiB]"}


def data_option(parser) -> None:
    parser.add_argument("--data", metavar="DIR", type=lambda text: str(Path(text).resolve()),
                        help="the root of torchvision's MNIST; by default the bundled digits")


def image_job(data: str | None) -> dict:
    """Config sections: real MNIST under the folder `data`, else the bundled digits in a network ten times as wide."""
    mnist = {"dataset": {"type": "MNIST", "args": {"root": data}},
             "transforms": {"batch": [{"type": "Normalize", "args": {"mean": [0.1307], "std": [0.3081]}}]},
             "model": {"type": "LeNet", "args": {"num_classes": 10, "image_size_px": 28}}}
    digits = {"dataset": {"type": "Digits"},
              "transforms": {"batch": [{"type": "Normalize", "args": {"mean": [0.305], "std": [0.376]}}]},
              "model": {"type": "LeNet", "args": {"num_classes": 10, "image_size_px": 8, "width": 160}}}
    return {**(mnist if data else digits), "seed": 1, "loss": "CrossEntropyLoss",
            "optimizer": {"type": "AdamW", "args": {"lr": 1e-3}}}


def scale(data: str | None) -> dict:
    """Mean and standard deviation of the job's images in [0, 1]."""
    return image_job(data)["transforms"]["batch"][0]["args"]


def build_lenet(data: str | None):
    from model.lenet import LeNet

    return LeNet(**image_job(data)["model"]["args"])


def arrays(data: str | None):
    """All images that train, uint8 `[N, 1, H, W]`, and their classes, int64 `[N]`."""
    import torch
    from torchvision.datasets import MNIST

    from base import DATASETS

    if data:
        mnist = MNIST(data, train=True)
        return mnist.data[:, None], mnist.targets
    digits = DATASETS.get("Digits")(split="train")
    images, labels = zip(*(digits[index] for index in range(len(digits))), strict=True)
    return torch.stack(images), torch.tensor(labels)


def samples(data: str | None):
    """The same as a Dataset as people write it: a PIL image, ToTensor and Normalize for each sample."""
    from PIL import Image
    from torch.utils.data import Dataset
    from torchvision.datasets import MNIST
    from torchvision.transforms import Compose, Normalize, ToTensor

    transform = Compose([ToTensor(), Normalize(**scale(data))])
    if data:
        return MNIST(data, train=True, transform=transform)

    class DigitImages(Dataset):
        def __init__(self):
            images, self.labels = arrays(None)
            self.images = images.squeeze(1).numpy()

        def __len__(self):
            return len(self.labels)

        def __getitem__(self, index):
            return transform(Image.fromarray(self.images[index])), int(self.labels[index])

    return DigitImages()


def loaders(data: str | None):
    """DataLoaders of nine tenths of the samples, shuffled, and of the others."""
    import torch
    from torch.utils.data import DataLoader, random_split

    train, val = random_split(samples(data), [0.9, 0.1], torch.Generator().manual_seed(1))
    return DataLoader(train, batch_size=BATCH_SIZE, shuffle=True), DataLoader(val, batch_size=BATCH_SIZE)


def steps_per_epoch(data: str | None) -> int:
    return -(-(54_000 if data else 1_293) // BATCH_SIZE)


def template_epochs(config: dict, data: str | None, num_epochs: int, project: Path = PROJECT) -> dict:
    """Epochs of the program itself, from their first batch to the next one's: evaluation, logs and checkpoints counted.

    `project`: the checkout whose modules this process imports.
    """
    from base import TRAINERS
    from logger import WRITERS, Writer
    from trainer.trainer import Trainer

    clocks, scores = [], {}

    @TRAINERS.register
    class TimedEpochs(Trainer):
        def on_train_start(self):
            clocks.append(Clock())

        def on_epoch_end(self):
            clocks[0].mark()

    @WRITERS.register
    class Scores(Writer):
        def scalars(self, values, step):
            scores.update(values)

    run_program({"name": "epoch", "metrics": ["accuracy", {"type": "top_k_accuracy", "args": {"k": 3}, "name": "top3"}],
                 "data_loader": {"batch_size": BATCH_SIZE, "validation_split": 0.1}, **config,
                 "writers": ["TensorBoard", "Scores"],
                 "trainer": {"type": "TimedEpochs", "args": {"epochs": num_epochs}}}, "--device", "cpu", project=project)
    return {**clocks[0].numbers(steps_per_epoch(data)), "accuracy": scores["val/accuracy"],
            "train_accuracy": scores["train/accuracy"]}


def run_program(config: dict, *options: str, project: Path = PROJECT) -> None:
    """`python train.py -c CONFIG OPTIONS` in this process, at a terminal, so that its progress bar is drawn."""
    with tempfile.TemporaryDirectory() as folder, at_a_terminal():
        file, before = Path(folder) / "config.json", sys.argv
        file.write_text(json.dumps(config))
        sys.argv = ["train.py", "-c", str(file), "--out", folder, *options]
        try:
            runpy.run_path(str(project / "train.py"), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
        finally:
            sys.argv = before


@contextmanager
def at_a_terminal():
    """Within it stderr is a hidden terminal; after an error its text is copied to the real one."""
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    before = os.dup(2)
    os.dup2(slave, 2)
    os.close(slave)
    with tempfile.TemporaryFile() as seen:
        watcher = subprocess.Popen(["cat"], stdin=master, stdout=seen, stderr=subprocess.DEVNULL)
        os.close(master)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            watcher.wait(10)
            if failed:
                seen.seek(0)
                sys.stderr.write(seen.read()[-4000:].decode(errors="replace"))


def trivial_data(num_samples: int):
    """Inputs `[N, 8]` and classes `[N]` for the trivial model, a linear layer from 8 numbers to 2."""
    import torch

    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_samples, 8, generator=generator), torch.randint(2, (num_samples,), generator=generator)


def template_steps(num_steps: int, after_step: Callable[[int], None], *options: str, **sections) -> None:
    """An epoch of `num_steps` steps of the program itself on the trivial job; `after_step` gets each step's number."""
    from torch import nn
    from torch.utils.data import TensorDataset

    from base import DATASETS, METRICS, MODELS, TRAINERS
    from trainer.trainer import Trainer

    @DATASETS.register
    class TrivialData(TensorDataset):
        def __init__(self, split: str):
            super().__init__(*trivial_data(32 * num_steps))

    @MODELS.register
    class TrivialModel(nn.Linear):
        def __init__(self):
            super().__init__(8, 2)

    @METRICS.register
    def confidence(outputs, targets):
        return outputs.softmax(1).amax(1)  # [B]

    @TRAINERS.register
    class TimedSteps(Trainer):
        def on_step_end(self):
            after_step(self.position.step)

    trainer = {"epochs": 1, "monitor": None, **sections.pop("trainer", {})}
    run_program({"name": "steps", "dataset": "TrivialData", "data_loader": {"batch_size": 32, "validation_split": 0},
                 "model": "TrivialModel", "loss": "CrossEntropyLoss", "metrics": ["accuracy", "confidence"],
                 "optimizer": {"type": "Adam", "args": {"lr": 1e-3}}, **sections,
                 "trainer": {"type": "TimedSteps", "args": trainer}}, "--device", "cpu", *options)


def bare_steps(num_steps: int, after_step: Callable[[int], None]) -> None:
    """The trivial job by hand: one tensor, a permutation, a fused optimizer, nothing else."""
    import torch
    from torch.nn.functional import cross_entropy

    inputs, targets = trivial_data(32 * num_steps)
    model = torch.nn.Linear(8, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for step, chosen in enumerate(torch.randperm(len(inputs)).split(32), 1):
        loss = cross_entropy(model(inputs[chosen]), targets[chosen])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        after_step(step)
