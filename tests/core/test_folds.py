"""k-fold cross-validation: what the folds hold, and that a run keeps its own."""
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import assert_same_run, epochs, load, score, train
from torch.utils.data import Dataset

from base.base_data_loader import DataSplits
from utils.errors import ConfigError, Interrupted

CLASSES = np.array([0] * 50 + [1] * 23 + [2] * 4)
PATIENTS = [f"patient {number * 7 % 19}" for number in range(len(CLASSES))]


class Unread(Dataset):
    """Samples that must not be read."""

    targets = CLASSES
    num_samples = len(CLASSES)

    def patients(self):
        return PATIENTS

    def __len__(self):
        return self.num_samples

    def __getitem__(self, index):
        raise AssertionError("a sample was read")


def folds_of(num: int = 5, dataset=Unread, seed: int = 3, **options) -> list[list[int]]:
    """The samples that each fold validates on; the others train."""
    found = []
    for fold in range(num):
        data = DataSplits(lambda split: dataset() if split != "val" else None, seed=seed, folds=num,
                          fold=fold, **options)
        val, rest = data.indices("val").tolist(), data.indices("train").tolist()
        assert sorted(val + rest) == list(range(len(CLASSES))) and val == sorted(val)
        assert (data.num_samples("val"), data.num_samples("train")) == (len(val), len(rest))
        assert data.num_samples("test") == len(data.indices("test")) == len(CLASSES)
        found.append(val)
    return found


@pytest.mark.parametrize("stratify", [False, True])
def test_folds_are_disjoint_and_spread_every_class(stratify):
    folds = folds_of(stratify=stratify)
    assert sorted(sum(folds, [])) == list(range(len(CLASSES)))
    assert {len(fold) for fold in folds} == {15, 16}
    counts = [Counter(CLASSES[fold].tolist()) for fold in folds]
    uneven = [max(c[label] for c in counts) - min(c[label] for c in counts) for label in range(3)]
    assert uneven == [0, 1, 1] if stratify else max(uneven) > 1
    assert folds == folds_of(stratify=stratify) != folds_of(stratify=stratify, seed=4)
    assert folds[0][:4] == ([5, 7, 9, 18] if stratify else [11, 13, 16, 32])  # on every machine


@pytest.mark.parametrize("stratify", [False, True])
def test_a_group_is_in_one_fold(stratify):
    folds = folds_of(num=3, group_by="patients", stratify=stratify)
    of_patients = [{PATIENTS[index] for index in fold} for fold in folds]
    assert sorted(sum(folds, [])) == list(range(len(CLASSES)))
    assert sum(map(len, of_patients)) == len(set(PATIENTS)) and all(folds)
    assert max(map(len, folds)) - min(map(len, folds)) <= (8 if stratify else 4)
    if stratify:
        parts = [np.bincount(CLASSES[fold], minlength=3) / np.bincount(CLASSES) for fold in folds]
        assert np.ptp(parts, axis=0)[:2].max() < 0.2
    assert folds == folds_of(num=3, group_by="patients", stratify=stratify)


def test_too_few_samples_or_groups_are_an_error():
    class Few(Unread):
        num_samples = 3

    for options, message in (({}, "5 folds of 3 samples"),
                             ({"group_by": "rooms"}, "group_by: Few does not tell its rooms"),
                             ({"group_by": "patient"}, "does not tell its patient. Did you mean 'patients'?"),
                             ({"stratify": True}, "stratify: Few does not tell its targets")):
        with pytest.raises(ConfigError, match=message):
            DataSplits(lambda split: Few(), folds=5, **options).indices("train")
    Few.num_samples, Few.rooms = len(CLASSES), ["a", "b"] * 38 + ["b"]
    with pytest.raises(ConfigError, match="5 folds of 2 groups"):
        DataSplits(lambda split: Few(), folds=5, group_by="rooms").num_samples("val")


def test_a_stream_has_no_folds():
    class Tape(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([])

    with pytest.raises(ConfigError, match=r"data_loader\.folds: a stream cannot be split"):
        DataSplits(lambda split: Tape(), folds=5).dataset("val")


def test_a_run_keeps_its_fold_and_is_scored_on_it(small, tmp_path):
    options = ["-c", small, "data_loader.validation_split=null", "data_loader.folds=4",
               "data_loader.stratify=true"]
    one = train(*options, "data_loader.fold=1", out=tmp_path / "one")
    with pytest.raises(Interrupted):
        train(*options, "data_loader.fold=1", "--steps", 3, out=tmp_path / "stopped")
    run = next((tmp_path / "stopped").glob("*/*"))
    for change in ("fold=2", "folds=5", "stratify=false"):
        with pytest.raises(ConfigError, match="keeps its split"):
            train("-r", run, f"data_loader.{change}", out=tmp_path / "stopped")
    train("-r", run, out=tmp_path / "stopped")
    assert_same_run(one, run)
    assert load(run)["state"]["data_fingerprint"]["val"]["num_samples"] == 359
    assert score("-r", one / "checkpoints" / "last.pt", "--split", "val")["val/loss"] == pytest.approx(
        epochs(one)[-1]["val/loss"])
