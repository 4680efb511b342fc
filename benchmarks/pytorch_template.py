"""victoresque/pytorch-template as a contestant, from a checkout of it.

Its own main path runs: ConfigParser, train.main, its Trainer with tracker, TensorBoard, log lines, histograms and a checkpoint
an epoch, on its MnistDataLoader. The same network, loss and optimizer as the others' are put into its modules, and its loader
workers are off, which is faster on few cores.

Its MetricTracker writes through `.values` and chained assignments, for which there is no room in pandas 3 (copy-on-write), so
requirements-bench.txt asks for pandas below 3; nothing of its code is changed or replaced. What it finds under the
names of its rooms has to be its own, so this project's modules are taken out of the process first.
"""
import importlib
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import jobs
from benchmarks.harness import PROJECT, Clock, installed, versions

ROOMS = ("base", "data_loader", "logger", "model", "tools", "trainer", "utils")  # names that both projects use


def epochs(checkout: Path, data: str | None, num_epochs: int) -> dict:
    """Times epochs of it in this process, which can do nothing else afterwards."""
    if not installed("pandas", "tensorboard"):
        return {"note": "not installed (pandas, tensorboard)"}
    if int(versions()["pandas"].split(".")[0]) > 2:
        return {"note": "needs pandas below 3"}
    from torch.nn.functional import cross_entropy

    model, dataset = jobs.build_lenet(data), None if data else jobs.samples(data)
    theirs = modules_of(checkout)
    theirs["model.model"].SameModel = lambda: model
    theirs["model.loss"].cross_entropy = cross_entropy
    if dataset:
        base_loader = theirs["base"].BaseDataLoader
        theirs["data_loader.data_loaders"].MnistDataLoader = lambda data_dir, **args: base_loader(dataset, **args)
    clocks, logs = [], []

    class TimedEpochs(theirs["trainer"].Trainer):
        def _train_epoch(self, epoch):
            clocks.append(clocks[0] if clocks else Clock())
            logs.append(super()._train_epoch(epoch))
            clocks[0].mark()
            return logs[-1]

    theirs["train"].Trainer = TimedEpochs
    with tempfile.TemporaryDirectory() as folder:
        theirs["train"].main(theirs["parse_config"].ConfigParser(config(data, num_epochs, folder)))
    return {**clocks[0].numbers(jobs.steps_per_epoch(data)), "accuracy": float(logs[-1]["val_accuracy"])}


def modules_of(checkout: Path) -> dict:
    """Its modules, in place of this project's of the same names."""
    enter(checkout)
    names = ("base", "model.model", "model.loss", "data_loader.data_loaders", "trainer", "parse_config", "train")
    return {name: importlib.import_module(name) for name in names}


def enter(checkout: Path) -> None:
    """Makes this process, which has imported nothing else of this project, import from the checkout."""
    for name in [name for name in sys.modules if name.split(".")[0] in ROOMS]:
        del sys.modules[name]
    sys.path[:] = [str(checkout.resolve()), *(entry for entry in sys.path if Path(entry).resolve() != PROJECT)]
    os.chdir(checkout)  # it reads logger/logger_config.json from there


def config(data: str | None, num_epochs: int, folder: str) -> dict:
    """Its own config.json for MNIST, with the job's model, loss and optimizer."""
    loader = {"data_dir": data, "batch_size": jobs.BATCH_SIZE, "shuffle": True, "validation_split": 0.1, "num_workers": 0}
    return {"name": "epoch", "n_gpu": 0, "arch": {"type": "SameModel", "args": {}},
            "data_loader": {"type": "MnistDataLoader", "args": loader},
            "optimizer": {"type": "AdamW", "args": {"lr": 0.001}}, "loss": "cross_entropy",
            "metrics": ["accuracy", "top_k_acc"],
            "lr_scheduler": {"type": "StepLR", "args": {"step_size": 50, "gamma": 0.1}},
            "trainer": {"epochs": num_epochs, "save_dir": folder, "save_period": 1, "verbosity": 2, "monitor": "min val_loss",
                        "early_stop": 10, "tensorboard": True}}
