"""A block of the config for each split, and several named sets to evaluate on."""
import json

import pytest
import torch
from torch.utils.data import Dataset

from base import DATASETS, TRAINERS
from base.build import build_data
from base.config.validate import validate_config
from conftest import assert_same_run, load, metrics, score, train
from trainer.trainer import Trainer
from utils.config.loading import load_config
from utils.errors import ConfigError, Interrupted

CONFIG = """
name: sets
seed: 3
dataset:
  train: {type: Ramp, args: {num_samples: 24}}
  val:
    clean: {type: Ramp, args: {num_samples: 9}}
    steep: {type: Ramp, args: {num_samples: 14, slope: 3.0}}
  test: {type: FixedRamp}
data_loader: {batch_size: 4, eval_batch_size: 4}
model: {type: Linear, args: {in_features: 1, out_features: 1}}
loss: MSELoss
metrics: [{type: MeanAbsoluteError, name: error}]
optimizer: {type: SGD, args: {lr: 0.1}}
trainer: {type: StoppedInSecondSet, args: {epochs: 2, monitor: min val/steep/loss, ended: false}}
writers: []
"""


@DATASETS.register
class Ramp(Dataset):
    """`y = slope * x` for whole x from 0 on; with `noisy`, plus random numbers at each reading."""

    def __init__(self, split: str, num_samples: int = 8, slope: float = 2.0, noisy: bool = False):
        self.split, self.noisy = split, noisy
        self.x = torch.arange(float(num_samples))[:, None] / num_samples
        self.y = slope * self.x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index] + (torch.rand(1) if self.noisy else 0)


@DATASETS.register
class FixedRamp(Ramp):
    """One that knows of no splits."""

    def __init__(self, num_samples: int = 5):
        super().__init__("none", num_samples)


@TRAINERS.register
class StoppedInSecondSet(Trainer):
    """Asks itself to stop in the second set of an evaluation, as a SIGTERM would."""

    def __init__(self, *, ended: bool, **rest):
        super().__init__(**rest)
        self.ended, self.evaluated = ended, None

    def evaluate(self, split):
        self.evaluated = split
        return super().evaluate(split)

    def eval_step(self, batch):
        if self.ended and self.evaluated == "val/steep":
            self.stop_request.signal_number = 15
        return super().eval_step(batch)


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "sets.yaml"
    file.write_text(CONFIG)
    return file


def datasets_of(file, *overrides):
    data = build_data(validate_config(*load_config(file, overrides)), torch.device("cpu"))
    return {split: data.dataset(split) for part in ("train", "val", "test") for split in data.sets(part)}


def test_each_split_has_its_own_class_and_arguments_and_gets_what_it_leaves_open(config):
    found = datasets_of(config)
    assert {split: (type(part).__name__, part.split, len(part)) for split, part in found.items()} == {
        "train": ("Ramp", "train", 24), "val/clean": ("Ramp", "val", 9), "val/steep": ("Ramp", "val", 14),
        "test": ("FixedRamp", "none", 5)}
    assert datasets_of(config, "dataset.val={type: Ramp, args: {split: other}}")["val"].split == "other"
    assert [*datasets_of(config, "~dataset.val", "dataset.test=null")] == ["train"]
    assert len(datasets_of(config, "~dataset.val", "data_loader.validation_split=6")["val"]) == 24


def test_one_form_replaces_the_other_and_blocks_of_one_form_are_merged(config, tmp_path):
    def dataset(text, *overrides):
        (tmp_path / "child.yaml").write_text(f"extends: sets.yaml\ndataset: {text}\n")
        return load_config(tmp_path / "child.yaml", overrides)[0]["dataset"]

    assert dataset("{type: Ramp, args: {slope: 5}}") == {"type": "Ramp", "args": {"slope": 5}}
    assert dataset("FixedRamp") == "FixedRamp"
    assert dataset("Ramp", "dataset={train: FixedRamp}") == {"train": "FixedRamp"}
    one = dataset("{train: {args: {slope: 5}}, val: {clean: FixedRamp}}", "dataset.val.steep.args.slope=1")
    assert one == {
        "train": {"type": "Ramp", "args": {"num_samples": 24, "slope": 5}},
        "val": {"clean": {"type": "FixedRamp"},
                "steep": {"type": "Ramp", "args": {"num_samples": 14, "slope": 1}}},
        "test": {"type": "FixedRamp"}}
    assert dataset("{val: {type: Ramp}}")["val"] == {"type": "Ramp"}
    config.write_text("dataset: {type: Ramp, args: {slope: 5}}\n")
    assert dataset("{train: Ramp, val: {type: FixedRamp, args: {num_samples: 3}}}") == {
        "train": "Ramp", "val": {"type": "FixedRamp", "args": {"num_samples": 3}}}


def test_arguments_are_shared_by_reference(config):
    shared = "dataset.val.clean.args.num_samples=${dataset.train.args.num_samples}"
    found = datasets_of(config, shared, "dataset.train.args.num_samples=7")
    assert len(found["train"]) == len(found["val/clean"]) == 7


def test_both_forms_train_to_the_same_bytes(config, tmp_path):
    common = ["-c", config, "trainer.args.monitor=min val/loss"]
    block = "{type: Ramp, args: {num_samples: 8, noisy: true}}"
    one = train(*common, f"dataset={block}", out=tmp_path / "one")
    other = train(*common, f"dataset={{train: {block}, val: {block}}}", out=tmp_path / "other")
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


def test_every_set_is_measured_by_itself_and_scored_in_one_file(config, tmp_path):
    run = train("-c", config, out=tmp_path)
    said = (run / "run.log").read_text()
    assert "train 24 | val/clean 9 | val/steep 14 samples" in said and "| val/steep loss " in said
    last, weights = metrics(run)[-1], load(run)["state"]["model"]
    for split, dataset in datasets_of(config).items():
        off = dataset.x @ weights["weight"].T + weights["bias"] - dataset.y
        if split.startswith("val/"):
            assert last[f"{split}/loss"] == pytest.approx(off.square().mean().item(), rel=1e-5)
            assert last[f"{split}/error"] == pytest.approx(off.abs().mean().item(), rel=1e-5)
    assert load(run)["state"]["monitor"]["name"] == "val/steep/loss"
    expected = {name: value for name, value in last.items() if name.startswith("val/")}
    scored = score("-r", run, "--split", "all", "--quiet")
    assert expected.items() <= scored.items() and {"test/loss", "test/error"} <= scored.keys()
    (run / "test.json").unlink()
    scored = score("-r", run, "--split", "steep")
    assert {name for name in scored if "/" in name} == {"val/steep/loss", "val/steep/error"}


def test_a_set_is_chosen_by_its_name(config, tmp_path):
    test_sets = "dataset.test={clean: FixedRamp, hard: FixedRamp}"
    run = train("-c", config, "trainer.args.epochs=1", test_sets, out=tmp_path)
    for split, found in {"val": {"val/clean/loss", "val/steep/loss"}, "hard": {"test/hard/loss"},
                         "test/clean": {"test/clean/loss"}}.items():
        (run / "test.json").unlink(missing_ok=True)
        assert {name for name in score("-r", run, "--split", split) if name.endswith("loss")} == found
    with pytest.raises(ConfigError, match="--split clean: there are several: val/clean, test/clean"):
        score("-r", run, "--split", "clean")
    with pytest.raises(ConfigError, match="--split step: .* no such split. Did you mean 'steep'.*val/clean"):
        score("-r", run, "--split", "step")


def test_a_run_without_test_data_says_how_to_score_it(config, tmp_path):
    run = train("-c", config, "trainer.args.epochs=1", "dataset.test=null", out=tmp_path)
    assert f"python test.py -r {run} --split val\n" in (run / "run.log").read_text()
    with pytest.raises(ConfigError, match="^--split test: .* no such split. There may be: train, val/clean, "
                                          "val/steep, all.$"):
        score("-r", run)
    assert "val/steep/loss" in score("-r", run, "--split", "all")


def test_a_monitor_has_to_name_one_of_the_sets(config, tmp_path):
    named = "nothing produces 'val/loss'.* produces: train/loss, .*val/clean/loss, .*val/steep/loss"
    with pytest.raises(ConfigError, match=named):
        train("-c", config, "trainer.args.monitor=min val/loss", out=tmp_path)
    assert not [*tmp_path.glob("*/*/")]


def test_a_run_stopped_in_the_evaluation_of_the_second_set_resumes_to_the_same_bits(config, tmp_path):
    noisy = ["dataset.val.clean.args.noisy=true", "dataset.val.steep.args.noisy=true"]
    straight = train("-c", config, *noisy, out=tmp_path / "straight")
    with pytest.raises(Interrupted):
        train("-c", config, *noisy, "trainer.args.ended=true", out=tmp_path / "ended")
    run = next((tmp_path / "ended").glob("*/*"))
    assert not (run / "metrics.jsonl").exists() and load(run)["state"]["progress"]["batch"] == 6
    train("-r", run, "trainer.args.ended=false", "data_loader.num_workers=1", out=tmp_path / "ended")
    assert_same_run(straight, run)


def test_the_data_of_every_set_is_known_again(config, tmp_path):
    run = train("-c", config, "trainer.args.epochs=1", out=tmp_path)
    assert [*load(run)["state"]["data_fingerprint"]] == ["train", "val/clean", "val/steep"]
    with pytest.raises(ConfigError, match="its val/steep split had 14 samples, now 13"):
        train("-r", run, "trainer.args.epochs=2", "dataset.val.steep.args.num_samples=13", out=tmp_path)
    train("-r", run, "trainer.args.epochs=2", "dataset.val.late=FixedRamp", out=tmp_path)
    assert "val/late/loss" in json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


def test_the_first_batch_of_every_set_is_tried_before_the_run(config, tmp_path):
    with pytest.raises(ConfigError, match="val/late split holds no samples"):
        train("-c", config, "dataset.val.late={type: FixedRamp, args: {num_samples: 0}}", out=tmp_path)
