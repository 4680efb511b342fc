"""Data that changed between a stop and a resume, or between processes, is reported; what is drawn once."""
import os
import random

import numpy as np
import pytest
import torch

from base import DATASETS, ArrayDataset, base_data_loader
from base.base_data_loader import DataSplits
from base.data import sampler
from base.data.nested import bytes_of
from base.run import same_data
from conftest import load, score, train
from utils.errors import ConfigError, Interrupted
from utils.random import derive, permutation

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
    ({"size": 121}, "train split had 80 samples, now 81"),
    ({"size": 119}, "train split had 80 samples, now 79"),
    ({"classes": list("bacdefghij")}, "train split had 'a' as class 0, now 'b'"),
    ({"classes": list("abc")}, "train split had 10 classes, now 3"),
], ids=["more", "fewer", "order", "classes"])
def test_a_run_is_not_resumed_with_other_sizes_or_classes(stopped, tmp_path, change, words):
    DATA.update(change)
    with pytest.raises(ConfigError, match=f"dataset: the data changed .* its {words}.* --init-from"):
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
    assert {*state["data_fingerprint"]} == {"train", "val"}
    assert len(state["data_fingerprint"]["val"]["digests"]) == 8
    data = DataSplits(lambda split: Changing(split), validation_split=10)
    same_data.require_kept_data(data, {}, "last.pt")
    odd = {"train": 3, "val": {"num_samples": "many"}}
    same_data.require_kept_data(data, {"data_fingerprint": odd}, "last.pt")


def test_a_fingerprint_moves_no_generator():
    own = Read(lambda index: torch.rand(3) + random.random() + np.random.rand() + own.np.random()
               + own.py.random() + torch.rand(1, generator=own.torch))
    own.np, own.py, own.torch = np.random.default_rng(1), random.Random(1), torch.Generator()

    def states():
        return [str(state) for state in (
            random.getstate(), np.random.get_state(), torch.get_rng_state().tolist(), own.py.getstate(),
            own.torch.get_state().tolist(), own.np.bit_generator.state)]

    before, data = states(), DataSplits(lambda split: own, validation_split=5)
    assert len(data.fingerprint.state_dict()) == 2
    assert before == states()


def broken(index):
    raise OSError("no such file")


@pytest.mark.parametrize("function", [lambda index: os.urandom(8), broken], ids=["unsteady", "broken"])
def test_samples_that_differ_on_each_reading_or_cannot_be_read_have_no_digest(function):
    data = DataSplits(lambda split: Read(function))
    fingerprint = data.fingerprint.of("train")
    assert (fingerprint.num_samples, fingerprint.digests) == (20, {})


def test_bytes_hold_no_addresses():
    class Thing:
        pass

    values = [[{"a": Thing()}, np.array(["b", None], dtype=object), np.array("text"), 3] for _ in range(2)]
    assert [*bytes_of(values[0])] == [*bytes_of(values[1])] and len(b"".join(bytes_of(values[0]))) > 10


def test_a_process_with_other_data_is_named(monkeypatch):
    data = [DataSplits({"train": ArrayDataset(torch.ones(size, 3))}.get) for size in (20, 21)]
    taken = [[each.fingerprint.of(split) for split in ("train", "val")] for each in data]
    monkeypatch.setattr(same_data.dist, "world_size", lambda: 2)
    monkeypatch.setattr(same_data.dist, "all_gather_object", lambda value: taken)
    with pytest.raises(ConfigError, match="process 1 has other data.* has 20 samples, in process 1 21"):
        same_data.require_same_data_everywhere(data[0])
    taken[1] = taken[0]
    same_data.require_same_data_everywhere(data[0])


# -- what is drawn once ------------------------------------------------------------------------------------


@pytest.fixture
def draws(monkeypatch):
    """The lengths of all permutations that are drawn."""
    lengths = []

    def counted(seed, length):
        lengths.append(length)
        return permutation(seed, length)

    for module in (sampler, base_data_loader):
        monkeypatch.setattr(module, "permutation", counted)
    return lengths


def numbered(**options):
    dataset = ArrayDataset(torch.arange(100))
    return DataSplits(lambda split: dataset, seed=5, batch_size=10, **options)


@pytest.mark.parametrize("split, expected", [(20, [100, 80]), (0, [100])])
def test_the_split_and_the_order_of_an_epoch_are_drawn_once(draws, split, expected):
    data = numbered(validation_split=split)
    assert data.num_batches("train") * 10 == data.num_samples("train") == 100 - split and draws == []
    data.fingerprint.state_dict()
    first = data.first_batch("train").data[0]
    batches = [batch.data[0] for batch in data.batches("train")]
    data.smallest_local_batch()
    assert draws == expected and torch.equal(batches[0], first)
    assert torch.cat(batches).sort().values.tolist() == data.indices("train").tolist()


def test_the_split_and_the_order_are_those_of_1_0_0():
    order, data = permutation(derive(5, "split"), 100), numbered(validation_split=20)
    train_indices = order[20:].sort().values
    assert data.indices("val").tolist() == order[:20].sort().values.tolist()
    assert data.indices("train").tolist() == train_indices.tolist()
    read = torch.cat([batch.data[0] for batch in data.batches("train", epoch=3)])
    assert read.tolist() == train_indices[permutation(derive(derive(5, "order"), "epoch", 3), 80)].tolist()
    validated = torch.cat([batch.data[0] for batch in data.batches("val")])
    assert validated.tolist() == data.indices("val").tolist()


def test_workers_for_arrays_in_memory_are_named_in_the_log(caplog):
    caplog.set_level("INFO")
    for workers in (0, 1):
        assert "workers only copy" not in caplog.text
        data = numbered(num_workers=workers)
        next(data.batches("train"))
        data.close()
    assert caplog.text.count("ArrayDataset is in memory: data_loader.num_workers=0 is faster") == 1
