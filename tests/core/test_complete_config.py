"""A default never changes under a run; checkpoints of other formats; other batches of equal steps."""
import configparser
import copy
import dataclasses
import inspect
import json

import pytest
import torch
import yaml
from torch import nn

from base import DATASETS, LOSSES, METRICS, MODELS, OPTIMIZERS, SCHEDULERS, TRAINERS, ArrayDataset
from base.base_data_loader import PROVIDED, DataSplits
from base.config.complete_config import complete_config, flat_config
from base.trainer_options import TrainerOptions
from base.config.validate import validate_config
from conftest import PROJECT, assert_same_state, load, score, train
from trainer.trainer import Trainer
from utils.checkpoint import format_1
from utils.checkpoint.archive import read_archive, write_archive
from utils.checkpoint.loading import VERSION, load_checkpoint
from utils.config.loading import load_config
from utils.config.values import value_at, written_config
from utils.errors import ConfigError, Interrupted


def define_model(width: int, bias: int = None) -> type:
    """The plug-in Grown with a default `width`. The default of `bias` is not of its type, as in much code."""

    @MODELS.register
    class Grown(nn.Sequential):
        def __init__(self, width: int = width, bias: int = bias, scale: tuple = (1.0, 2.0), kinds=("a", "b")):
            assert scale == (1.0, 2.0) and kinds == ("a", "b")
            super().__init__(nn.Flatten(), nn.Linear(64, width, bias=bias is None), nn.Linear(width, 10))

    return Grown


def stopped(*args, out, steps: int):
    """The folder of a run that ends after a number of steps."""
    with pytest.raises(Interrupted):
        train(*args, "--steps", steps, out=out)
    return next(out.glob("*/*"))


def test_a_run_keeps_the_keys_of_an_argument_that_are_numbers(small, tmp_path):
    seen = []

    @MODELS.register
    class Labelled(nn.Sequential):
        def __init__(self, labels: dict | None = None, names: dict = {0: "a", 1: "b"}):  # noqa: B006
            seen.append((labels, names))
            super().__init__(nn.Flatten(), nn.Linear(64, 10))

    args = ("model={type: Labelled, args: {labels: {0: cat, 1: dog}}}", "trainer.args.epochs=1")
    run = train("-c", small, *args, out=tmp_path)
    train("-r", run, "trainer.args.epochs=2", out=tmp_path)
    train("-c", run / "config.yaml", out=tmp_path / "again")
    assert load(run)["config"]["model"]["args"]["names"] == {0: "a", 1: "b"}
    assert len(seen) == 3 and all(given == ({0: "cat", 1: "dog"}, {0: "a", 1: "b"}) for given in seen)


def test_the_flat_config_of_a_run_is_the_same_after_a_resume(small, tmp_path):
    @METRICS.register
    def share_of_class(outputs, targets, index: int = 1):
        return (outputs.argmax(1) == index).float()

    given = ("metrics=[accuracy, share_of_class]", "trainer=Trainer", "trainer.args.epochs=3")
    run = stopped("-c", small, *given, "writers=[]", out=tmp_path, steps=2)
    begun = json.loads((run / "summary.json").read_text())["config"]
    with pytest.raises(Interrupted):
        train("-r", run, "--steps", "3", out=tmp_path)
    assert json.loads((run / "summary.json").read_text())["config"] == begun
    assert begun["metrics"] == ["accuracy", "share_of_class"] and begun["trainer.type"] == "Trainer"
    hidden = flat_config({"writers": ["secret", {"type": "TensorBoard"}]}, {"writers.0"})
    assert hidden["writers"] == ["***", "TensorBoard"]


def test_a_run_and_its_checkpoints_hold_every_default_of_the_project(small, tmp_path):
    define_model(width=12)
    run = train("-c", small, "model=Grown", "writers=[TensorBoard]", "trainer.args.epochs=1", out=tmp_path)
    config = full = yaml.safe_load((run / "config.yaml").read_text())
    assert config == load(run)["config"] and config.keys() > {"default_values", "transforms"}
    assert config["model"] == {"type": "Grown", "args": {"width": 12, "bias": None, "scale": [1.0, 2.0]}}
    assert config["trainer"]["args"] == {
        **dataclasses.asdict(TrainerOptions()), "epochs": 1, "log_every": 2, "unpack": True}
    signature = inspect.signature(DataSplits).parameters.items()
    options = {name: parameter.default for name, parameter in signature if name not in PROVIDED}
    written = {"batch_size": 30, "validation_split": 40, "batches_per_epoch": 5}
    assert config["data_loader"] == {**options, **written}
    adam = {"type": "Adam", "args": {"lr": 0.01}, "decay_bias_and_norm": True, "keep_frozen": True}  # torch
    assert config["optimizer"] == adam
    assert config["writers"] == ["TensorBoard"] and config["loss"] == "CrossEntropyLoss"
    defaults = full.pop("default_values")
    assert {"model.args.width", "trainer.args.ema", "data_loader.shuffle"} <= {*defaults}
    assert not {"trainer.args.epochs", "optimizer.args.lr", "data_loader.batch_size"} & {*defaults}
    again = train("-c", run / "config.yaml", out=tmp_path / "again")  # and it is a config like others
    assert_same_state(load(run)["state"], load(again)["state"])


@pytest.mark.parametrize("with_config", [False, True])
def test_a_default_of_a_plug_in_that_changes_leaves_a_run_as_it_is(small, tmp_path, with_config):
    define_model(width=12)
    options = ["-c", small, "model=Grown"]
    straight = train(*options, out=tmp_path / "straight")
    run = stopped(*options, out=tmp_path / "stopped", steps=3)
    define_model(width=20)
    train("-r", run, *(options if with_config else []), out=tmp_path / "stopped")
    assert_same_state(load(straight)["state"], load(run)["state"])
    assert score("-r", run) and load(run)["config"]["model"]["args"]["width"] == 12
    assert len(load(train(*options, out=tmp_path / "new"))["state"]["model"]["1.weight"]) == 20


def test_a_default_of_the_engine_that_changes_leaves_a_run_as_it_is(small, tmp_path, monkeypatch):
    run = stopped("-c", small, out=tmp_path, steps=3)
    changed = inspect.signature(TrainerOptions)
    parameters = [parameter.replace(default=0.5) if name == "clip_norm" else parameter
                  for name, parameter in changed.parameters.items()]
    changed = changed.replace(parameters=parameters)
    monkeypatch.setattr(TrainerOptions, "__signature__", changed, raising=False)
    train("-r", run, out=tmp_path)
    assert load(run)["config"]["trainer"]["args"]["clip_norm"] is None
    new = train("-c", small, out=tmp_path / "new")
    assert load(new)["config"]["trainer"]["args"]["clip_norm"] == 0.5


def test_a_key_that_is_taken_out_of_the_config_of_a_run_gets_the_default_of_today(small, tmp_path):
    text = small.read_text()
    small.write_text(text.replace("log_every: 2", "log_every: 2, clip_norm: 3.0"))
    run = stopped("-c", small, out=tmp_path, steps=3)
    small.write_text(text)
    train("-r", run, "-c", small, out=tmp_path)
    assert load(run)["config"]["trainer"]["args"]["clip_norm"] is None


@TRAINERS.register
class Longer(Trainer):
    """Has another default for an option of every trainer."""

    def __init__(self, *, log_every: int = 3, **kwargs):
        super().__init__(log_every=log_every, **kwargs)


def as_format_1(file, **changes) -> None:
    """Turns a checkpoint into one that 1.0.0 could have written: without defaults, names and samples."""
    content = read_archive(file)
    config = copy.deepcopy(content["config"])
    for name in config.pop("default_values"):
        *above, key = name.split(".")
        del value_at(config, ".".join(above))[key]
    state = {**content["state"], **changes}
    state["step_seeds"] = {"drawn": state["progress"].pop("draws")}
    del state["progress"]["samples"], state["optimizer"]["names"]
    write_archive({"format": 1, "config": config, "state": state}, file)


def test_the_table_of_1_0_0_has_every_option_of_the_engine():
    """An option that is added gets an entry: what 1.0.0 did where there was no such option."""
    assert format_1.TRAINER.keys() == {field.name for field in dataclasses.fields(TrainerOptions)}
    assert format_1.DATA_LOADER.keys() == inspect.signature(DataSplits).parameters.keys() - {*PROVIDED}


def test_a_checkpoint_of_format_1_is_completed_from_the_defaults_of_1_0_0(small, tmp_path, monkeypatch):
    options = ["-c", small, "trainer=Longer", "data_loader.batches_per_epoch=6"]
    straight = train(*options, out=tmp_path / "straight")
    run = stopped(*options, out=tmp_path / "old", steps=4)
    as_format_1(run / "checkpoints" / "last.pt")
    monkeypatch.setitem(format_1.TRAINER, "clip_norm", 1e9)  # a clip that never clips changes no number
    monkeypatch.setitem(format_1.TRAINER, "log_every", 1)  # Longer has a default of its own
    assert load_checkpoint(run / "checkpoints" / "last.pt")["state"]["progress"]["samples"] == 120
    train("-r", run, out=tmp_path / "old")
    assert load(run)["format"] == 2 and load(run)["version"] == VERSION
    args = load(run)["config"]["trainer"]["args"]
    assert args["clip_norm"] == 1e9 and args["log_every"] == 3
    assert_same_state(load(straight)["state"], load(run)["state"])


def test_a_run_of_1_0_0_with_frozen_parameters_goes_on(small, tmp_path):
    rules = "optimizer.groups=[{match: layers.1.*, frozen: true}]"
    options = ["-c", small, rules, "optimizer.keep_frozen=false", "trainer.args.frozen_norm=train"]
    straight = train(*options, out=tmp_path / "straight")
    run = stopped(*options, out=tmp_path / "old", steps=4)
    content = read_archive(run / "checkpoints" / "last.pt")
    del content["config"]["optimizer"]["keep_frozen"]
    write_archive(content, run / "checkpoints" / "last.pt")
    as_format_1(run / "checkpoints" / "last.pt")
    train("-r", run, out=tmp_path / "old")
    assert_same_state(load(straight)["state"], load(run)["state"])


def test_a_run_that_is_older_than_an_option_keeps_what_was_done_without_it(small, tmp_path, monkeypatch):
    run = stopped("-c", small, out=tmp_path, steps=4)
    content = read_archive(run / "checkpoints" / "last.pt")
    del content["config"]["default_values"]["trainer.args.clip_norm"]
    del content["config"]["trainer"]["args"]["clip_norm"]
    write_archive(content, run / "checkpoints" / "last.pt")
    monkeypatch.setitem(format_1.TRAINER, "clip_norm", 1e9)
    train("-r", run, out=tmp_path)
    assert load(run)["config"]["trainer"]["args"]["clip_norm"] == 1e9


def test_a_run_of_1_0_0_that_split_its_batches_goes_on_with_whole_ones(small, tmp_path):
    run = stopped("-c", small, out=tmp_path, steps=3)
    as_format_1(run / "checkpoints" / "last.pt", splitting={"num_parts": 4})
    content = read_archive(run / "checkpoints" / "last.pt")
    content["config"]["trainer"]["args"]["on_oom"] = "split"
    write_archive(content, run / "checkpoints" / "last.pt")
    train("-r", run, out=tmp_path)
    assert load(run)["state"]["progress"]["finished"]
    assert "on_oom" not in load(run)["config"]["trainer"]["args"]


def test_on_oom_of_earlier_versions_is_answered_with_a_sentence(small, tmp_path, capsys):
    run = train("-c", small, "trainer.args.on_oom=stop", "trainer.args.epochs=1", out=tmp_path)
    assert "trainer.args.on_oom is gone" in capsys.readouterr().err
    assert "on_oom" not in load(run)["config"]["trainer"]["args"]
    with pytest.raises(ConfigError, match="on_oom: .*halve data_loader.batch_size and double trainer"):
        train("-c", small, "trainer.args.on_oom=split", out=tmp_path)


def test_a_newer_format_is_refused_with_what_wrote_it(small, tmp_path):
    run = stopped("-c", small, out=tmp_path, steps=3)
    content = read_archive(run / "checkpoints" / "last.pt")
    write_archive({**content, "format": 3, "version": "7.0.0", "more": 1}, tmp_path / "new.pt")
    message = r"newer version \(7.0.0\), in checkpoint format 3. This is version 1.*1 to 2"
    with pytest.raises(ConfigError, match=message):
        train("-r", tmp_path / "new.pt", out=tmp_path)


def test_the_version_in_checkpoints_is_that_of_the_project():
    setup = configparser.ConfigParser()
    setup.read(PROJECT / "setup.cfg")
    assert setup["template"]["version"] == VERSION


def test_a_config_is_complete_after_one_pass_and_keeps_what_it_cannot_build(small):
    define_model(width=12)
    config = validate_config(load_config(small, ["model=Grown"])[0])
    once = complete_config(config)
    assert once.config == config
    assert complete_config(written_config(once.complete), earlier=once.complete).complete == once.complete
    odd = {"model": {"type": "NoSuch", "args": {}}, "trainer": 5, "transforms": [], "data_loader": 3,
           "metrics": None}
    assert {key: complete_config(odd).complete[key] for key in odd} == odd


def test_an_optimizers_state_is_loaded_by_the_names_of_its_parameters():
    from utils.training.schedule import Schedule
    from utils.training.updater import Updater

    def updater(*names: str) -> tuple:
        model = nn.ParameterDict({name: nn.Parameter(torch.full((2,), float(len(name)))) for name in names})
        optimizer = torch.optim.Adam([{"params": [model[name]], "lr": 0.1} for name in names])
        return model, Updater(optimizer, Schedule(optimizer), torch.amp.GradScaler("cpu", enabled=False),
                              names=dict(model.named_parameters()))

    model, one = updater("a", "bb", "ccc")
    sum(float(len(name)) * weight.sum() for name, weight in model.items()).backward()
    one.optimizer.step()
    other_model, other = updater("ccc", "a", "bb")
    other.load_state_dict(one.state_dict())
    for name, weight in other_model.items():
        mean, before = other.optimizer.state[weight]["exp_avg"], one.optimizer.state[model[name]]["exp_avg"]
        assert torch.equal(mean, before)
    with pytest.raises(ValueError, match="other parameters: bb, dddd"):
        updater("a", "dddd", "ccc")[1].load_state_dict(one.state_dict())


# -- parts see what they always saw ------------------------------------------------------------------------

@TRAINERS.register
class Fixed(Trainer):
    """Decides about options itself, in both ways that forks have."""

    def __init__(self, *, early_stop: int = 5, size: tuple[int, int] = (1, 2, 3), **kwargs):
        kwargs.setdefault("clip_norm", 1.0)
        super().__init__(monitor=None, early_stop=early_stop, **kwargs)
        assert self.clip_norm == 1.0 and self.monitor is None and size == (1, 2, 3)


@MODELS.register
class Grows(nn.Sequential):
    """Changes a list that is its default."""

    def __init__(self, sizes: list = [64], num_classes: int = 10):  # noqa: B006
        sizes.append(num_classes)
        super().__init__(nn.Flatten(), nn.Linear(sizes[0], sizes[1]))


@LOSSES.register
def masked_loss(outputs, targets, mask=None, gamma: float = 2.0):
    assert mask is not None
    return nn.functional.cross_entropy(outputs, targets) * gamma


@TRAINERS.register
class Masks(Trainer):
    """Calls its loss with an argument that has a default, and asks it for its name."""

    def forward(self, batch):
        inputs, targets = batch
        outputs = self.model(inputs)
        return outputs, targets, {"loss": self.loss(outputs, targets, torch.ones(3))}

    def on_train_start(self):
        assert self.loss.__name__ == "masked_loss"


@SCHEDULERS.register
class OwnCycle(torch.optim.lr_scheduler.OneCycleLR):
    def __init__(self, optimizer, max_lr: float = 0.1, total_steps: int = None, epochs: int = None,
                 steps_per_epoch: int = None):
        super().__init__(optimizer, max_lr, total_steps, epochs, steps_per_epoch)


@pytest.mark.parametrize("options", [
    ["trainer={type: Fixed, args: {epochs: 2}}"], ["model=Grows"],
    ["loss=masked_loss", "trainer={type: Masks, args: {epochs: 2}}"],
    ["scheduler={type: OwnCycle, per: step}"],
    ["scheduler={type: SequentialLR, args: {milestones: [1], schedulers: [ConstantLR, ConstantLR]}}"],
    ["trainer.args={epochs: 2, checkpoint_every: {steps: 3}, strategy: {type: ddp}}"],
], ids=lambda options: options[0].split(",")[0])
def test_what_a_part_decides_itself_it_decides_also_after_a_resume(small, tmp_path, options):
    straight = train("-c", small, *options, out=tmp_path / "straight")
    run = stopped("-c", small, *options, out=tmp_path / "run", steps=3)
    train("-r", run, out=tmp_path / "run")
    assert_same_state(load(straight)["state"], load(run)["state"])
    again = train("-c", run / "config.yaml", out=tmp_path / "again")
    assert_same_state(load(straight)["state"], load(again)["state"])


def test_an_argument_that_a_plug_in_gains_or_loses_is_no_change_of_a_run(small, tmp_path):
    def define(**defaults):
        @OPTIMIZERS.register
        class OwnSGD(torch.optim.SGD):
            def __init__(self, params, lr: float = 0.1, **others):
                super().__init__(params, lr)
        parameters = inspect.signature(OwnSGD).parameters
        kinds = {name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
                 for name, value in defaults.items()}
        signature = inspect.Signature([*list(parameters.values())[:2], *kinds.values()])
        OwnSGD.__signature__ = signature

    define(old=1)
    run = stopped("-c", small, "optimizer=OwnSGD", out=tmp_path, steps=3)
    define(new=2)
    train("-r", run, out=tmp_path)
    args = load(run)["config"]["optimizer"]["args"]
    assert args == {"lr": 0.1, "new": 2}


def test_a_recorded_default_that_would_be_a_mistake_today_is_none(small, tmp_path):
    define_model(width=12, bias=None)
    run = stopped("-c", small, "model=Grown", out=tmp_path, steps=3)
    define_model(width=20, bias=0)
    train("-r", run, out=tmp_path)  # with bias: null, although an int is asked for, and width: 12
    assert load(run)["config"]["model"]["args"]["bias"] is None
    assert load(run)["state"]["model"]["1.bias"].shape == (12,)


def test_every_own_argument_is_kept_whatever_it_is_called(small):
    @MODELS.register
    class Modes(nn.Module):
        def __init__(self, mode: str = "small", train: bool = True, fused: bool = False):
            super().__init__()

    config = validate_config(load_config(small, ["model=Modes"])[0])
    args = complete_config(config).complete["model"]["args"]
    assert args == {"mode": "small", "train": True, "fused": False}


def test_what_is_edited_or_overridden_in_the_config_of_a_run_was_written(small, tmp_path):
    """Also where it equals a default of then; a block of another type has no default of the one before it."""
    define_model(width=12)
    run = train("-c", small, "model=Grown", "trainer.args.epochs=1", out=tmp_path)
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("width: 12\n", "width: 14\n", 1))
    define_model(width=20)

    def width(*options) -> int:
        new = train("-c", file, "--out", tmp_path / "new", *options, out=tmp_path / "new")
        return len(load(new)["state"]["model"]["1.weight"])

    assert width() == 14 and width("model.args.width=12") == 12 and width("~model.args.width") == 20
    child = tmp_path / "child.yaml"
    child.write_text(f"extends: {file}\nmodel: {{args: {{width: 12}}}}\n")
    assert load_config(child)[0]["model"]["args"] == {"width": 12}
    other = ["model={type: MLP, args: {sizes: [64, 10], dropout: 0.5}}"]
    text = load_config(file, other)[0]["model"]
    assert text == {"type": "MLP", "args": {"sizes": [64, 10], "dropout": 0.5}}


def test_kept_values_count_where_options_are_checked_against_each_other(small, tmp_path):
    """And for a trainer of another type, and for an argument that has no default any more."""
    define_model(width=12)
    run = stopped("-c", small, "model=Grown", "~trainer.args.epochs", out=tmp_path, steps=3)
    file = run / "checkpoints" / "last.pt"
    content = read_archive(file)  # of a version with another default
    content["config"]["default_values"]["trainer.args.epochs"] = 20
    content["config"]["trainer"]["args"]["epochs"] = 20
    write_archive(content, file)

    class Grown(nn.Sequential):
        def __init__(self, width: int, bias=None):
            super().__init__(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 10))

    Grown.__qualname__ = "define_model.<locals>.Grown"
    MODELS.register(Grown)
    with pytest.raises(Interrupted):
        train("-r", run, "trainer.type=Longer", "trainer.args.eval_every=15", "--steps", 4, out=tmp_path)
    config = load(run)["config"]
    assert config["trainer"]["args"]["epochs"] == 20 and config["model"]["args"]["width"] == 12
    assert {"trainer.args.epochs": 20, "model.args.width": 12}.items() <= config["default_values"].items()


@pytest.mark.parametrize("config", [
    {"data_loader": {"batch_size": None}}, {"data_loader": {"batch_size": {}}}, {"data_loader": 5},
    {"trainer": {"type": "Trainer", "args": None}}, {"trainer": {"type": "Trainer", "args": [1]}},
    {"trainer": "Trainer"}, {"model": {"type": "MLP", "args": "abc"}}, {"optimizer": []}, {"transforms": 5},
    {"data_loader": []}, {"model": {"type": "MLP", "args": []}}, {"trainer": {"type": "Trainer", "args": []}},
    {"default_values": {"model.args.nothing": 5, "a.b": 1, "name": "small", "": 2, ".": 3}},
    {"default_values": "abc"}, {"default_values": {"trainer.args.accumulate": "x", "trainer.args.ema": 5}},
    {"default_values": {"data_loader.batch_size": None, "scheduler.per": "x"}},
    {"name": "x", "args": {"x": 1}, "default_values": {"args.x": 1}}])
@pytest.mark.parametrize("format_number", [1, 2])
def test_a_checkpoint_with_a_config_of_odd_types_is_one_message(small, tmp_path, config, format_number):
    run = stopped("-c", small, out=tmp_path, steps=3)
    file = run / "checkpoints" / "last.pt"
    if format_number == 1:
        as_format_1(file, splitting=["x"])
    content = read_archive(file)
    content["state"]["step_seeds"] = [1]
    write_archive({**content, "config": {**content["config"], **config}}, file)
    try:
        train("-r", file, out=tmp_path)
    except ConfigError as error:
        assert "Traceback" not in str(error)


# -- other batches of equal steps --------------------------------------------------------------------------

@DATASETS.register
class Numbered(ArrayDataset):
    """Samples that are their own numbers, 45 of them: 12 steps of 4 in an epoch, the last of one sample."""

    def __init__(self, split: str):
        numbers = torch.arange(45 if split == "train" else 8)
        super().__init__(numbers[:, None].float(), numbers.float()[:, None])


@TRAINERS.register
class Seen(Trainer):
    """Remembers which samples each step had."""

    steps: list = []

    def train_step(self, batch):
        if not self.in_preflight:
            Seen.now += batch[1].flatten().long().tolist()
        return super().train_step(batch)

    def on_step_end(self):
        Seen.steps.append((self.position.step, sorted(Seen.now)))
        Seen.now = []

    now: list = []


NUMBERED = """
name: numbered
dataset: Numbered
data_loader: {batch_size: 4}
model: {type: Linear, args: {in_features: 1, out_features: 1}}
loss: MSELoss
optimizer: {type: SGD, args: {lr: 0.0}}
trainer: {type: Seen, args: {epochs: 2}}
writers: []
"""


def samples_of_steps(*args, out, ends: bool = True) -> dict[int, list[int]]:
    Seen.steps, Seen.now = [], []
    if ends:
        train(*args, out=out)
    else:
        with pytest.raises(Interrupted):
            train(*args, out=out)
    return dict(Seen.steps)


@pytest.mark.parametrize("steps", [5, 12, 17])
@pytest.mark.parametrize("size, accumulate", [(2, 2), (1, 4)])
def test_a_run_goes_on_with_other_batches_of_equal_steps(tmp_path, steps, size, accumulate):
    file = tmp_path / "numbered.yaml"
    file.write_text(NUMBERED)
    straight = samples_of_steps("-c", file, out=tmp_path / "straight")
    assert len(straight) == 24 and sorted(sum([straight[step] for step in range(1, 13)], [])) == [*range(45)]
    first = samples_of_steps("-c", file, "--steps", steps, out=tmp_path / "run", ends=False)
    run = next((tmp_path / "run").glob("*/*"))
    other = [f"data_loader.batch_size={size}", f"trainer.args.accumulate={accumulate}"]
    rest = samples_of_steps("-r", run, *other, "--steps", 20, out=tmp_path / "run", ends=False)
    back = ["data_loader.batch_size=4", "trainer.args.accumulate=1"]
    last = samples_of_steps("-r", run, *back, out=tmp_path / "run")
    assert first | rest | last == straight
    end = {"epoch": 2, "batch": 0, "samples": 0, "step": 24, "finished": True, "draws": False}
    assert load(run)["state"]["progress"] == end


@pytest.mark.parametrize("options, message", [
    (["data_loader.batch_size=2"], "of the same product, 4"),
    (["data_loader.batch_size=2", "trainer.args.accumulate=3"], "of the same product, 4"),
    (["data_loader.batch_size=2", "trainer.args.accumulate=2", "data_loader.shuffle=false"], "begun with"),
])
def test_steps_of_other_samples_are_refused_within_an_epoch(tmp_path, options, message):
    file = tmp_path / "numbered.yaml"
    file.write_text(NUMBERED)
    run = stopped("-c", file, out=tmp_path, steps=3)
    with pytest.raises(ConfigError, match=message):
        train("-r", run, *options, out=tmp_path)


@pytest.mark.parametrize("option", ["data_loader.drop_last=true", "data_loader.batches_per_epoch=5"])
def test_batches_that_would_leave_other_samples_out_are_refused_within_an_epoch(tmp_path, option):
    file = tmp_path / "numbered.yaml"
    file.write_text(NUMBERED)
    run = stopped("-c", file, option, out=tmp_path, steps=3)
    with pytest.raises(ConfigError, match="batches_per_epoch or a sampler other batches would hold"):
        train("-r", run, "data_loader.batch_size=2", "trainer.args.accumulate=2", out=tmp_path)


@pytest.mark.parametrize("key, expected", [
    ("model", "MLP"), ("model.type", "MLP"), (("metrics", "1", "type"), "top_k"), ("metrics.1.args.k", 3),
    ("loss", None), ("model.args", "none"), ("metrics.2", "none"), ("seed.type", "none"),
    ((), "all")])
def test_a_value_is_found_by_its_key_where_a_bare_name_is_a_block(key, expected):
    config = {"model": "MLP", "metrics": ["accuracy", {"type": "top_k", "args": {"k": 3}}], "loss": None,
              "seed": 1}
    assert value_at(config, key, "none") == (config if expected == "all" else expected)
