"""Data that changed between a stop and a resume, or from one process to another, is reported."""
import os
import random

import numpy as np
import pytest
import torch

from base import DATASETS, ArrayDataset, same_data
from base.base_data_loader import DataSplits
from base.data.nested import bytes_of
from conftest import load, score, train
from utils.errors import ConfigError, Interrupted

DATA = {}


@DATASETS.register
class Changing(ArrayDataset):
    """Its content follows DATA: `size`, `classes`, `shift`."""

    def __init__(self, split: str = "train", root: str = "here"):
        size = DATA.get("size", 120) if split == "train" else 20
        inputs = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))[:size]
        super().__init__(inputs + DATA.get("shift", 0), torch.arange(size) % 10)
        self.classes = DATA.get("classes", list("abcdefghij"))


class Read(torch.utils.data.Dataset):
    """Gives what a function makes of an index."""

    def __init__(self, function, size=20):
        self.function, self.size = function, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return self.function(index)


@pytest.fixture
def stopped(small, tmp_path):
    DATA.clear()
    with pytest.raises(Interrupted):
        train("-c", small, "dataset=Changing", "--steps", 1, out=tmp_path)
    yield next(tmp_path.glob("*/*"))
    DATA.clear()


@pytest.mark.parametrize("change, words", [
    ({"size": 121}, "train split had 80 samples, now 81"), ({"size": 119}, "train split had 80 samples, now 79"),
    ({"classes": list("bacdefghij")}, "train split had 'a' as class 0, now 'b'"),
    ({"classes": list("abc")}, "train split had 10 classes, now 3")], ids=["more", "fewer", "order", "classes"])
def test_a_run_is_not_resumed_with_other_sizes_or_classes(stopped, tmp_path, change, words):
    DATA.update(change)
    with pytest.raises(ConfigError, match=f"dataset: the data changed under the run: its {words}.* --init-from"):
        train("-r", stopped, out=tmp_path)


def test_other_samples_are_a_warning_and_a_moved_root_is_none(stopped, tmp_path, capsys):
    with pytest.raises(Interrupted):
        train("-r", stopped, "dataset.args.root=there", "--steps", 1, out=tmp_path)
    assert "data changed" not in capsys.readouterr().err
    DATA["shift"] = 1
    train("-r", stopped, "trainer.args.epochs=1", out=tmp_path)
    assert "its train split has another content in 8 of 8 compared samples" in capsys.readouterr().err


def test_scoring_reports_other_data_and_scores(stopped, capsys):
    DATA.update(classes=list("bacdefghij"))
    assert score("-r", stopped, "--split", "test")
    assert "the test split had 'a' as class 0, now 'b'" in capsys.readouterr().err
    DATA.update(size=121, classes=list("abcdefghij"))
    assert score("-r", stopped, "--split", "train")
    assert "the train split had 80 samples, now 81" in capsys.readouterr().err


def test_a_checkpoint_without_a_fingerprint_is_compared_with_nothing(stopped):
    state = load(stopped)["state"]
    assert {*state["data_fingerprint"]} == {"train", "val"} and len(state["data_fingerprint"]["val"]["digests"]) == 8
    data = DataSplits(lambda split: Changing(split), validation_split=10)
    same_data.require_kept_data(data, {}, "last.pt")
    same_data.require_kept_data(data, {"data_fingerprint": {"train": 3, "val": {"num_samples": "many"}}}, "last.pt")


def test_a_fingerprint_moves_no_generator():
    own = Read(lambda index: torch.rand(3) + random.random() + np.random.rand() + own.np.random() + own.py.random()
               + torch.rand(1, generator=own.torch))
    own.np, own.py, own.torch = np.random.default_rng(1), random.Random(1), torch.Generator()
    before = [str(state()) for state in (random.getstate, np.random.get_state, torch.get_rng_state, own.py.getstate,
                                         own.torch.get_state, lambda: own.np.bit_generator.state)]
    DataSplits(lambda split: own, validation_split=5).fingerprint.state_dict()
    assert before == [str(state()) for state in (random.getstate, np.random.get_state, torch.get_rng_state,
                                                 own.py.getstate, own.torch.get_state,
                                                 lambda: own.np.bit_generator.state)]


def broken(index):
    raise OSError("no such file")


@pytest.mark.parametrize("function", [lambda index: os.urandom(8), broken], ids=["unsteady", "broken"])
def test_samples_that_differ_on_each_reading_or_cannot_be_read_have_no_digest(function):
    fingerprint = DataSplits(lambda split: Read(function)).fingerprint.of("train")
    assert (fingerprint.num_samples, fingerprint.digests) == (20, {})


def test_bytes_hold_no_addresses():
    class Thing:
        pass

    values = [[{"a": Thing()}, np.array(["b", None], dtype=object), np.array("text"), 3] for _ in range(2)]
    assert [*bytes_of(values[0])] == [*bytes_of(values[1])] and len(b"".join(bytes_of(values[0]))) > 10


def test_a_process_with_other_data_is_named(monkeypatch):
    data = [DataSplits(lambda split, size=size: ArrayDataset(torch.ones(size, 3)) if split == "train" else None)
            for size in (20, 21)]
    taken = [[each.fingerprint.of(split) for split in ("train", "val")] for each in data]
    monkeypatch.setattr(same_data.dist, "world_size", lambda: 2)
    monkeypatch.setattr(same_data.dist, "all_gather_object", lambda value: taken)
    with pytest.raises(ConfigError, match="process 1 has other data than process 0, whose train split has 20 samples, "
                                          "in process 1 21"):
        same_data.require_same_data_everywhere(data[0])
    taken[1] = taken[0]
    same_data.require_same_data_everywhere(data[0])
