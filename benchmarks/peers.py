"""The same jobs in other frameworks: an epoch of LeNet on MNIST, and the steps of a trivial model.

    pip install -r requirements-bench.txt
    python benchmarks/peers.py --data DIR               (DIR holds MNIST as torchvision keeps it; else the bundled digits)
    python benchmarks/peers.py --job steps
    python benchmarks/peers.py --data DIR --pytorch-template DIR

All have the same network, batches and fused optimizer, and do what they do when nothing is said: Lightning its logger, bar and
checkpoints, Ignite a bar, MMEngine its log and checkpoints, Accelerate none of these. For an epoch all read the DataLoader of
mnist_epoch.py's `bare_loader_fused`, but for `template`, which is the program as it comes. In `--job steps` the peers get whole
batches from memory. A library that is not installed is left out.
"""
import contextlib
import io
import os
import sys
import tempfile
from operator import itemgetter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import jobs, mnist_epoch, step_overhead  # noqa: E402
from benchmarks.harness import Clock, Comparison, installed  # noqa: E402


class EpochJob:
    """LeNet: epochs with their evaluation. A peer says when training starts and what each epoch's accuracy is."""

    def __init__(self, args):
        import torch

        torch.manual_seed(1)
        self.num_epochs, self.clock, self.accuracy = args.epochs, None, 0.0
        self.train, self.val = jobs.loaders(args.data)
        self.model = jobs.build_lenet(args.data)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def start(self) -> None:
        self.clock = Clock()

    def after_step(self, step: int) -> None:
        """Counts epochs."""

    def after_epoch(self, accuracy: float) -> None:
        self.accuracy = float(accuracy)
        self.clock.mark()

    def numbers(self) -> dict:
        return {**self.clock.numbers(len(self.train)), "accuracy": self.accuracy}


class StepJob:
    """The trivial model: one epoch without evaluation. A peer says when a step is done, counted from 1."""

    def __init__(self, args):
        import torch
        from torch.utils.data import DataLoader

        inputs, targets = jobs.trivial_data(32 * args.steps)
        batches = list(zip(inputs.split(32), targets.split(32), strict=True))
        self.num_epochs, self.val = 1, None
        self.train = DataLoader(batches, shuffle=True, collate_fn=itemgetter(0))
        self.model = torch.nn.Linear(8, 2)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)
        self.clock = step_overhead.StepClock(args.steps)

    def start(self) -> None:
        """Counts steps."""

    def after_step(self, step: int) -> None:
        self.clock(step)

    def after_epoch(self, accuracy: float) -> None:
        """Counts steps."""

    def numbers(self) -> dict:
        return self.clock.numbers()


def peer(*packages: str):
    """Makes a contestant of a function of a job: in a folder of its own, before a terminal, if its packages are there."""
    def decorate(run):
        def contestant(args) -> dict:
            if not installed(*packages):
                return {"note": "not installed"}
            job = EpochJob(args) if args.job == "epoch" else StepJob(args)
            with tempfile.TemporaryDirectory() as folder, in_folder(folder), jobs.at_a_terminal():
                with contextlib.redirect_stdout(io.StringIO()):
                    run(job)
            return job.numbers()
        return contestant
    return decorate


@contextlib.contextmanager
def in_folder(folder: str):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@peer("pytorch-lightning")
def lightning(job) -> None:
    import pytorch_lightning
    from torch.nn.functional import cross_entropy

    class Module(pytorch_lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = job.model

        def training_step(self, batch, index):
            images, labels = batch
            loss = cross_entropy(self.network(images), labels)
            self.log("train_loss", loss, prog_bar=True)
            return loss

        def validation_step(self, batch, index):
            images, labels = batch
            outputs = self.network(images)
            self.log_dict({"val_loss": cross_entropy(outputs, labels),
                           "val_accuracy": (outputs.argmax(1) == labels).float().mean()})

        def configure_optimizers(self):
            return job.optimizer

        def on_train_start(self):
            job.start()

        def on_train_batch_end(self, outputs, batch, index):
            job.after_step(index + 1)

        def on_train_epoch_end(self):
            job.after_epoch(self.trainer.callback_metrics.get("val_accuracy", 0.0))

    trainer = pytorch_lightning.Trainer(max_epochs=job.num_epochs, accelerator="cpu", devices=1)
    trainer.fit(Module(), job.train, job.val)


@peer("accelerate")
def accelerate(job) -> None:
    import torch
    from accelerate import Accelerator
    from torch.nn.functional import cross_entropy

    accelerator = Accelerator(cpu=True)
    model, optimizer, train = accelerator.prepare(job.model, job.optimizer, job.train)
    val = accelerator.prepare(job.val) if job.val else ()
    job.start()
    for _ in range(job.num_epochs):
        model.train()
        for step, (images, labels) in enumerate(train, 1):
            loss = cross_entropy(model(images), labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            job.after_step(step)
        model.eval()
        hits = []
        for images, labels in val:
            with torch.no_grad():
                hits.append(accelerator.gather_for_metrics(model(images).argmax(1) == labels))
        job.after_epoch(torch.cat(hits).float().mean() if hits else 0.0)


@peer("pytorch-ignite")
def ignite(job) -> None:
    from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.handlers import ProgressBar
    from ignite.metrics import Accuracy, Loss
    from torch.nn.functional import cross_entropy

    trainer = create_supervised_trainer(job.model, job.optimizer, cross_entropy, device="cpu")
    evaluator = create_supervised_evaluator(job.model, {"accuracy": Accuracy(), "loss": Loss(cross_entropy)}, device="cpu")
    ProgressBar().attach(trainer, output_transform=lambda loss: {"loss": loss})
    trainer.add_event_handler(Events.STARTED, job.start)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: job.after_step(trainer.state.iteration))
    if job.val:
        @trainer.on(Events.EPOCH_COMPLETED)
        def evaluate():
            evaluator.run(job.val)
            job.after_epoch(evaluator.state.metrics["accuracy"])
    trainer.run(job.train, max_epochs=job.num_epochs)


@peer("mmengine")
def mmengine(job) -> None:
    from mmengine.evaluator import BaseMetric
    from mmengine.hooks import Hook
    from mmengine.model import BaseModel
    from mmengine.runner import Runner
    from torch.nn.functional import cross_entropy

    class Wrapped(BaseModel):
        def __init__(self):
            super().__init__()
            self.network = job.model

        def forward(self, images, labels, mode):
            outputs = self.network(images)
            return {"loss": cross_entropy(outputs, labels)} if mode == "loss" else (outputs, labels)

    class Accuracy(BaseMetric):
        def process(self, data_batch, data_samples):
            outputs, labels = data_samples
            self.results.append((len(labels), (outputs.argmax(1) == labels).sum().item()))

        def compute_metrics(self, results):
            return {"accuracy": sum(hits for _, hits in results) / sum(count for count, _ in results)}

    class Times(Hook):
        def before_train(self, runner):
            job.start()

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            job.after_step(batch_idx + 1)

        def after_val_epoch(self, runner, metrics=None):
            job.after_epoch(metrics["accuracy"])

    validation = {"val_dataloader": job.val, "val_cfg": {}, "val_evaluator": [Accuracy()]} if job.val else {}
    Runner(Wrapped(), work_dir="work", train_dataloader=job.train, optim_wrapper={"optimizer": job.optimizer},
           train_cfg={"by_epoch": True, "max_epochs": job.num_epochs}, custom_hooks=[Times()], **validation).train()


def either(epoch, steps):
    """A contestant that has a function for each job, or none for one of them."""
    return lambda args: (epoch if args.job == "epoch" else steps or (lambda args: {"note": "epochs only"}))(args)


def options(parser) -> None:
    parser.add_argument("--job", choices=("epoch", "steps"), default="epoch", help="(epoch)")
    mnist_epoch.options(parser)
    step_overhead.options(parser)


PEERS = {"lightning": lightning, "accelerate": accelerate, "ignite": ignite, "mmengine": mmengine}
COMPARISON = Comparison(
    "peers", __doc__,
    {"bare": either(mnist_epoch.bare_loader_fused, step_overhead.bare),
     "template": either(mnist_epoch.template, step_overhead.template),
     "template_loader": either(mnist_epoch.template_loader, None), **PEERS,
     "pytorch_template": either(mnist_epoch.pytorch_template_epochs, None)},
    {"us_per_step": "a step [us]", **jobs.EPOCH_FIELDS},
    ratios=[("epoch_s", name, "bare") for name in ("template", "template_loader", *PEERS, "pytorch_template")],
    differences=[("us_per_step", name, "bare") for name in ("template", *PEERS)],
    options=options)

if __name__ == "__main__":
    COMPARISON.main()
