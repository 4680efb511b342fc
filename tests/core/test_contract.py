"""What the text of 1.0.0 shows to users works: imports, helpers, options, config keys, files of a run, exit codes.

`contract.json` beside this file lists all of it, each item with the page and line of 1.0.0 that showed it. The pages are
not read here, so a fork may do without them. An item that a version breaks on purpose stands in CHANGED. An item with
`needs` belongs to a file that a fork may delete: without that file it is left out, and the test says so as skipped.
"""
import gc
import inspect
import json
import operator
import os
import pkgutil
import re
import runpy
import shlex
import signal
import sys
from functools import partial

import pytest
import torch
from conftest import PROJECT, load, metrics, needs, program, score, train
from torch.utils.data import Dataset, IterableDataset

from base import (
    DATASETS,
    METRICS,
    TRAINERS,
    TRANSFORMS,
    WRITERS,
    ArrayDataset,
    BatchAugmentation,
)
from logger import Writer
from trainer.trainer import Trainer

CONTRACT = json.loads((PROJECT / "tests" / "core" / "contract.json").read_text())
# What is broken on purpose: the item, and the sentence of CHANGELOG.md that tells users what to do.
_CRASH = "`--crash-at-step` is gone"
_OOM = "`trainer.args.on_oom` is gone"
CHANGED: dict[str, str] = {
    "train.py --crash-at-step": _CRASH,
    "train.py -c configs/linear_regression.yaml -r auto --run-name night --crash-at-step 1": _CRASH,
    "trainer.args.on_oom": _OOM,
    "trainer.args.on_oom = split": _OOM,
}
CONFIG = """
name: contract
dataset: Digits
data_loader: {batch_size: 30, validation_split: 40, batches_per_epoch: 5}
model: {type: MLP, args: {sizes: [64, 16, 10]}}
loss: CrossEntropyLoss
metrics: [accuracy]
optimizer: {type: Adam, args: {lr: 0.01}}
trainer: {type: Trainer, args: {epochs: 2, log_every: 2}}
writers: []
"""


def exit_code(*args) -> int:
    """That of `python ARGS`, run in this process, in which all is imported already."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            patch.setattr(sys, "argv", [str(arg) for arg in args if arg != "-m"])
            if args[0] == "-m":
                runpy.run_module(args[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(str(PROJECT / args[0]), run_name="__main__")
        except SystemExit as end:
            return end.code or 0
        finally:
            gc.enable()  # the programs turn it off for their start
    return 0


def go_through(section: str, check) -> None:
    """Calls `check(item, entry)` for all items of a section, and reports all for which it raises."""
    broken, left_out = {}, set()
    for item, entry in CONTRACT[section].items():
        try:
            check(item, entry)
        except (Exception, SystemExit) as error:
            if "needs" in entry and not (PROJECT / entry["needs"]).exists():
                left_out.add(entry["needs"])
            else:
                broken[item] = f"{type(error).__name__}: {error}"
    lines = [f"{item} ({', '.join(CONTRACT[section][item]['shown'])})\n    {why}"
             for item, why in broken.items() if item not in CHANGED]
    assert not lines, "\n".join(lines)
    assert [item for item in CHANGED if item in CONTRACT[section] and item not in broken] == [], "work, but stand in CHANGED"
    if left_out:
        pytest.skip(f"there is no {', '.join(sorted(left_out))}; all else holds")


def test_what_is_broken_on_purpose_stands_in_the_changelog():
    assert CHANGED.keys() <= {item for items in CONTRACT.values() for item in items}
    if CHANGED:
        needs("CHANGELOG.md")
        text = " ".join((PROJECT / "CHANGELOG.md").read_text().split())
        assert [item for item, sentence in CHANGED.items() if sentence not in text] == []


# -- names -----------------------------------------------------------------------------------------------------------

def test_imports_work():
    go_through("imports", lambda item, entry: exec(item, {}))


def holds(item: str, find) -> None:
    """`send(_, to=_)`: what `find("send")` gives takes these arguments. Without brackets: there is such a thing."""
    name, brackets, arguments = item.partition("(")
    thing = find(name)
    if brackets:
        given = [argument.removesuffix("=_") for argument in arguments.rstrip(")").split(", ") if argument]
        inspect.signature(thing).bind(*[None for name in given if name == "_"], **{name: None for name in given if name != "_"})


def test_modules_have_what_is_shown_of_them():
    go_through("attributes of modules", lambda item, entry: holds(item, pkgutil.resolve_name))


# -- plug-ins ----------------------------------------------------------------------------------------------------------
# They do what the pages show, and note what is called of them and what they are given.

CALLED: set[str] = set()
OBJECTS: dict[str, object] = {"dataset": ArrayDataset(torch.zeros(2, 1), torch.zeros(2))}


def noted(kind: str, *names: str):
    """A decorator of a class: notes calls of these methods as `kind.name`, and the object as that kind."""
    def noting(name, method):
        def call(self, *args, **kwargs):
            CALLED.add(f"{kind}.{name}")
            OBJECTS.setdefault(kind, self)
            return method(self, *args, **kwargs)
        return call

    def decorate(cls: type) -> type:
        for name in filter(partial(hasattr, cls), names):  # what is not there is not called
            setattr(cls, name, noting(name, getattr(cls, name)))
        return cls
    return decorate


@noted("state", "state_dict", "load_state_dict")
class ContractState:
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@TRAINERS.register
@noted("trainer", "train_step", "eval_step", "forward", "prepare_model", "build_updaters", "on_train_start", "on_step_end",
       "on_epoch_end", "on_train_end")
class ContractTrainer(Trainer):
    def __init__(self, *, penalty: float = 0.1, kill: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.penalty, self.kill = penalty, kill
        self.state["name"] = ContractState()

    def train_step(self, batch):
        outputs, targets, terms = self.forward(batch)
        size = sum(p.square().sum() for p in self.model.parameters())
        self.update(terms["loss"] + self.penalty * size)
        return terms | {"size": size} | self.metrics(outputs, targets)

    def on_step_end(self):
        if self.kill:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_epoch_end(self):
        self.run.scalars({"own/number": 1.0}, 1, self.position.step)
        self.run.images("own", torch.zeros(2, 1, 4, 4), self.position.step)


@METRICS.register
@noted("metric", "reset", "update", "compute", "state_dict", "load_state_dict")
class ContractMetric:
    def __init__(self):
        self.reset()

    def reset(self):
        self.count = 0

    def update(self, outputs, targets):
        self.count += len(targets)

    def compute(self):
        return float(self.count)

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


@DATASETS.register
@noted("samples", "__len__", "__getitem__", "collate_fn")
class ContractSamples(Dataset):
    def __init__(self, split: str):
        CALLED.add(f"split = {split}")
        self.inputs = torch.rand(80, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index], index % 10

    def collate_fn(self, samples):
        return torch.stack([x for x, _ in samples]), torch.tensor([y for _, y in samples])


@DATASETS.register
@noted("batches", "__getitems__")
class ContractBatches(Dataset):
    def __init__(self, split: str):
        self.inputs = torch.rand(80, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.inputs)

    def __getitems__(self, indices):
        return self.inputs[list(indices)], torch.as_tensor(list(indices)) % 10


@DATASETS.register
@noted("stream", "__iter__", "state_dict", "load_state_dict")
class ContractStream(IterableDataset):
    def __init__(self, split: str):
        self.number = 0

    def __iter__(self):
        while self.number < 100:
            self.number += 1
            yield torch.full((1, 8, 8), 0.1), self.number % 10
        self.number = 0

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


@TRANSFORMS.register
@noted("augmentation", "augment")
class BatchContract(BatchAugmentation):
    def augment(self, images, draws):
        OBJECTS["draws"] = draws
        return images * draws.uniform()[:, None, None, None]


@WRITERS.register
@noted("writer", "scalars", "images", "histograms", "hparams", "close")
class ContractWriter(Writer):
    pass


PLUG_INS = ("transforms={batch: [BatchContract]}", "metrics=[ContractMetric]", "writers=[ContractWriter]",
            "trainer={type: ContractTrainer, args: {penalty: 0.01, epochs: 2, log_every: 2}}", "data_loader.batch_size=8")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("contract") / "contract.yaml"
    file.write_text(CONFIG)
    return file


@pytest.fixture(scope="module")
def plugged_in(config):
    """Runs with plug-ins of every kind, each stopped within an epoch and resumed: what was called, and the objects."""
    for dataset, *options in (["ContractSamples", "data_loader.validation_split=null"], ["ContractBatches"],
                              ["ContractStream", "data_loader.validation_split=0"]):
        out = config.parent / dataset
        monitor = ["trainer.args.monitor=null"] if dataset == "ContractStream" else []
        with pytest.raises(Exception, match="step 3 is done: saved"):
            train("-c", config, *PLUG_INS, f"dataset={dataset}", *options, *monitor, "--steps", 3, out=out)
        train("-r", next(out.glob("*/*")), out=out)
    score("-r", next((config.parent / "ContractSamples").glob("*/*")))
    return CALLED, OBJECTS


def test_trainers_and_other_plug_ins_have_what_is_shown_of_them(plugged_in):
    """On objects as a run makes them, since much of it is set by constructors."""
    _, objects = plugged_in
    go_through("attributes of objects", lambda item, entry: holds(item, lambda path: find_in(objects, path)))


def find_in(objects: dict, path: str):
    name, _, attributes = path.partition(".")
    return operator.attrgetter(attributes)(objects[name])


def test_plug_ins_are_called_by_the_names_that_are_shown(plugged_in):
    called, _ = plugged_in

    def check(item, entry):
        assert item in called, f"was not called; these were: {', '.join(sorted(called))}"

    go_through("called", check)


# -- commands --------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def help_of():
    """What `python PROGRAM --help` prints, by program."""
    texts = {}

    def ask(command: str) -> str:
        if command not in texts:
            texts[command] = program(*command.split(), "--help", cold=True).stdout  # needs no torch
        return texts[command]
    return ask


def test_options_are_in_the_help(help_of):
    def check(item, entry):
        command, _, option = item.rpartition(" ")
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", help_of(command)), f"{option} is not in the help of {command}"

    go_through("options", check)


def test_command_lines_are_understood(capsys):
    from utils.cli import test_arguments, train_arguments

    def check(item, entry):
        file, *arguments = shlex.split(item)
        try:
            {"train.py": train_arguments, "test.py": test_arguments}[file](arguments)
        except SystemExit as end:
            assert end.code == 0, capsys.readouterr().err

    go_through("command lines", check)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # other tests have imported some
def test_modules_run_or_name_the_command_that_took_their_place(capsys, monkeypatch):
    def check(item, entry):
        monkeypatch.delitem(sys.modules, item, raising=False)  # as in a new process
        code = exit_code("-m", item, "--help")
        said = "".join(capsys.readouterr())
        assert code == 0 and said or code == 2 and re.search(r"python -m tools\.\w+", said), f"exit code {code}, {said}"

    go_through("modules run by -m", check)


def test_markers_of_the_tests_are_known(pytestconfig):
    def check(item, entry):
        assert any(line.startswith(f"{item}:") for line in pytestconfig.getini("markers"))

    go_through("markers of pytest", check)


# -- configs ---------------------------------------------------------------------------------------------------------

def checked(file, overrides=()) -> dict:
    """The config of a file with overrides, as a run takes it. Raises ConfigError for what is wrong with it."""
    from base.config.validate import validate_config
    from utils.config.loading import load_config

    return validate_config(*load_config(file, list(overrides)))


def test_keys_of_configs_are_taken(config):
    """Each is tried in a small config, by overrides; nothing is built."""
    go_through("config", lambda item, entry: checked(config, entry["try"]))


def test_configs_are_put_together_as_shown(tmp_path):
    from utils.config.values import flatten

    def check(item, entry):
        folder = tmp_path / str(list(CONTRACT["config syntax"]).index(item))
        for name, text in {"contract.yaml": CONFIG, **entry["files"]}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        [file] = folder.glob("config.*") if any(folder.glob("config.*")) else [folder / "contract.yaml"]
        flat = flatten(checked(file, entry["command line"]))
        assert {key: flat.get(key) for key in entry["gives"]} == entry["gives"]

    go_through("config syntax", check)


# -- runs ------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def finished(config):
    """A run to its end, scored."""
    run = train("-c", config, "trainer.args.save_every=1", "trainer.args.ema=0.9", "writers=[TensorBoard]",
                out=config.parent / "finished")
    score("-r", run)
    return run


@pytest.fixture(scope="module")
def broken(config):
    """A run whose loss was not finite, and its exit code."""
    out = config.parent / "broken"
    code = exit_code("train.py", "-q", "-c", config, "--lr", "1e20", "optimizer.type=SGD", "--out", out)
    return next(out.glob("*/*")), code


def test_a_run_leaves_these_files(finished, broken):
    def check(item, entry):
        assert [file for run in (finished, broken[0]) for file in run.glob(item)]

    go_through("run: files", check)


def test_numbers_go_by_these_names(finished):
    written = {name for line in metrics(finished) for name in line}
    scores = json.loads((finished / "test.json").read_text())

    def check(item, entry):
        assert item in written | scores.keys()

    go_through("run: metrics.jsonl", check)
    go_through("run: test.json", check)


def test_a_checkpoint_holds_these_keys(finished):
    checkpoint = load(finished, "best.pt")

    def check(item, entry):
        value = checkpoint
        for key in item.split("."):
            value = value[key]

    go_through("run: checkpoint", check)


def test_weights_of_another_program_are_taken_in_this_form(config, tmp_path):
    def check(item, entry):
        content = json.loads(item)
        weights = load(train("-c", config, "trainer.args.epochs=1", out=tmp_path / "one"))["state"]["model"]
        content["state"]["model"] = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        torch.save(content, tmp_path / "weights.pt")
        run = train("-c", config, "--init-from", tmp_path / "weights.pt", "--lr", "1e-9", out=tmp_path / "other")
        assert all(weight.abs().max() < 1e-3 for weight in load(run)["state"]["model"].values())

    go_through("run: a checkpoint made by hand", check)


def test_exit_codes_are_these(config, finished, broken, tmp_path):
    made = {
        "0": lambda: exit_code("test.py", "-q", "-r", finished),
        "1": lambda: broken[1],
        "2": lambda: exit_code("train.py", "-q", "-c", config, "model.args.size=[64]"),
        "128 + signal": lambda: exit_code("train.py", "-q", "-c", config, *PLUG_INS, "trainer.args.kill=true",
                                          "--out", tmp_path),
    }

    def check(item, entry):
        assert made[item]() == (128 + signal.SIGTERM if item == "128 + signal" else int(item))
        assert item != "128 + signal" or list(tmp_path.glob("*/*/checkpoints/last.pt"))

    go_through("exit codes", check)
