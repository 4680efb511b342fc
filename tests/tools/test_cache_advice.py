"""`--check` says when a cache of decoded pictures would pay."""
import os

import pytest
from test_image_folder import folder_of
from torchvision.transforms import v2

from base import DATASETS
from base.base_data_loader import DataSplits
from base.build import build_dataset
from data_loader.image_folder import ImageFolder
from tools.data_checks import cache_advice
from tools.data_checks.cache_advice import describe_cache


def advice(root, steps_s: float, workers: int = 0, **args):
    section = {"type": "ImageFolder", "args": {"root": str(root), **args}}
    data = DataSplits(lambda split: build_dataset(section, None, split), {"train": [v2.RandomResizedCrop(8)]},
                      validation_split=0, num_workers=workers)
    return describe_cache(data, section, steps_s)


def test_a_cache_is_advised_with_seconds_and_space_where_it_would_save_a_tenth(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_advice, "_seconds", lambda dataset, data, indices: [
        dataset[index] for index in indices] and (0.5 if dataset.read.store else 2.0))
    monkeypatch.delenv("SEEDBED_CACHE", raising=False)
    folder_of(tmp_path)
    line = advice(tmp_path, steps_s=30)
    assert line == ("cache    8.1e-05 GB on disk would save 18 s of each epoch after the first, of 30 s: "
                    "dataset.args.cache={}") and "SEEDBED_CACHE" not in os.environ
    assert advice(tmp_path, steps_s=200) is None and advice(tmp_path, steps_s=30, cache={}) is None
    assert "9 s" in advice(tmp_path, 12, workers=2) and advice(tmp_path, 24, workers=2) is None


def test_the_times_are_measured(tmp_path):
    data = DataSplits(lambda split: ImageFolder(split, str(folder_of(tmp_path))), validation_split=0)
    assert 0 < cache_advice._seconds(data.dataset("train"), data, [0, 5]) < 1
    assert all(describe_cache(data, section, 9) is None for section in ("Digits", {"val": "Digits"}))
    assert DATASETS.get("ImageFolder") is ImageFolder and advice(tmp_path, 1e9) is None
    with pytest.raises(IndexError):
        cache_advice._seconds(data.dataset("train"), data, [99])
