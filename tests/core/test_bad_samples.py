"""Samples that cannot be read or collated are named; training leaves them out with on_bad_sample: skip."""
import logging
import threading

import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from base import DATASETS, MODELS, TRAINERS
from base.base_data_loader import DataSplits
from base.data.bad_samples import LoadError, SkippedSamples, BadSample
from conftest import assert_same_run, epochs, load, score, train
from trainer.trainer import Trainer
from utils.errors import ConfigError, Interrupted, TrainingError


class Broken(OSError):
    """Cannot be pickled: its constructor takes two arguments."""

    def __init__(self, what, why):
        super().__init__(f"{what}: {why}")


@DATASETS.register
class CutFiles(Dataset):
    """Points in files; those in `bad` are truncated, `none` are None, and `wide` have another shape."""

    def __init__(self, split: str, bad: list[int] = (), none: list[int] = (), wide: list[int] = (),
                 num_samples: int = 60, bad_split: str = "train"):
        self.samples = [(f"data/{split}/{index}.jpg", index % 2) for index in range(num_samples)]
        self.bad, self.none, self.wide = (lists if split == bad_split else () for lists in (bad, none, wide))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        if index in self.bad:
            raise Broken("image", "truncated")
        point = torch.arange(3 if index in self.wide else 2) + index / 100
        return None if index in self.none else (point, index % 2)


class Whole(CutFiles):
    """Gives whole batches."""

    def __getitems__(self, indices):
        return torch.utils.data.default_collate([CutFiles.__getitem__(self, index) for index in indices])


@DATASETS.register
class CutStream(IterableDataset):
    def __init__(self, split: str):
        self.split = split

    def __iter__(self):
        yield from (CutFiles(self.split)[index] for index in range(9))
        raise Broken("archive", "the end is missing")


@MODELS.register
class LineWithNorm(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 2))


CONFIG = """
name: points
seed: 3
dataset: {type: CutFiles, args: {bad: [17]}}
data_loader: {batch_size: 4, shuffle: false}
model: LineWithNorm
loss: CrossEntropyLoss
optimizer: {type: SGD, args: {lr: 0.1}}
trainer: {type: Trainer, args: {epochs: 2, log_every: 1, monitor: null}}
writers: []
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "points.yaml").write_text(CONFIG)
    return tmp_path / "points.yaml"


def splits(dataset, val=None, **options):
    return DataSplits(lambda split: {"train": dataset, "val": val}.get(split), seed=3,
                      **{"batch_size": 4, "shuffle": False, **options})


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", [CutFiles, Whole])
def test_a_sample_that_cannot_be_read_is_named_after_the_batches_before_it(kind, num_workers):
    data = splits(kind("train", bad=[0, 9, 10]), num_workers=num_workers)
    with pytest.raises(LoadError, match=r"dataset: train sample 0 \(data/train/0.jpg\) cannot be read: "
                                        r"Broken: image: tr.*\n.*data_loader.on_bad_sample=skip") as caught:
        data.first_batch("train")
    assert isinstance(caught.value.__cause__, Broken)
    batches = data.batches("train", start=1)
    assert next(batches).num_samples == 4
    with pytest.raises(LoadError, match=r"sample 9 \(data/train/9.jpg\).*py:\d+\); nor can 10\n") as caught:
        next(batches)
    assert "Broken" in repr(caught.value.__cause__)  # --verbose prints it
    data.close()


def test_the_file_is_found_within_subsets_and_in_errors():
    whole = ConcatDataset([CutFiles("train"), Subset(CutFiles("test", bad=[7], bad_split="test"), [3, 5, 7])])
    with pytest.raises(LoadError, match=r"train sample 2 \(data/test/7.jpg\)"):
        list(splits(Subset(whole, [1, 4, 62])).batches("train"))

    class Nameless(CutFiles):
        def __getitem__(self, index):
            self.samples = [None] * 60
            try:
                open(f"/nowhere/{index}.png")
            except OSError as error:
                raise ValueError("no image") from error

    with pytest.raises(LoadError, match=r"sample 0 \(/nowhere/0.png\)"):
        splits(Nameless("train")).first_batch("train")


def test_a_transform_that_fails_names_its_sample():
    def fails(point):
        raise ValueError("too small")

    data = splits(CutFiles("train"), CutFiles("val"), transforms={"eval": [fails]})
    said = r"val sample 0 \(data/val/0.jpg\) cannot be transformed: ValueError: too small"
    with pytest.raises(LoadError, match=said) as caught:
        data.first_batch("val")
    assert "skip" not in str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_samples_that_make_no_batch_are_named_with_their_shapes(num_workers):
    data = splits(CutFiles("train", wide=[5]), num_workers=num_workers)
    said = (r"samples 4, 5, 6, 7 cannot be made a batch: RuntimeError.*\nMost are \(float32 \[2\], int\); "
            r"sample 5 is \(float32 \[3\], int\). What helps: a Resize")
    with pytest.raises(LoadError, match=said):
        list(data.batches("train"))
    data.close()
    with pytest.raises(LoadError, match="sample 5 .*it is None; a method collate_fn"):
        list(splits(CutFiles("train", none=[5])).batches("train"))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_within_a_stream_says_where(num_workers):
    data = splits(CutStream("train"), num_workers=num_workers)
    with pytest.raises(LoadError, match="train sample 9 of epoch 3 of the stream cannot .*: Broken: archive"):
        list(data.batches("train", epoch=2))
    data.close()
    with pytest.raises(ConfigError, match="data_loader.on_bad_sample: a stream cannot"):
        splits(CutStream("train"), on_bad_sample="skip").first_batch("train")


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("kind", [CutFiles, Whole])
def test_a_batch_holds_the_samples_that_can_be_read(kind, num_workers):
    train_set = kind("train", bad=[0, 4, 5, 6, 7, 10], num_samples=12)
    data = splits(train_set, kind("val", bad=[1], bad_split="val"), on_bad_sample="skip",
                  num_workers=num_workers)
    one, none, some = data.batches("train")
    assert [batch.num_samples for batch in (one, none, some)] == [3, 0, 3]
    assert some.data[0][:, 0].tolist() == pytest.approx([0.08, 0.09, 0.11])
    assert none.data[0][:, 0].tolist() == pytest.approx([0.01])  # the first that can be read stands in
    assert [data.num_in_step([batch]) for batch in (one, none, some)] == [3, 0, 3]
    assert (data.skipped_samples.num_seen, data.skipped_samples.num_skipped) == (12, 6)
    with pytest.raises(LoadError, match="val sample 1 "):
        list(data.batches("val"))
    data.close()


def test_nothing_is_trained_on_if_no_sample_can_be_read():
    with pytest.raises(LoadError, match="(?s)train sample 0 .*None of the batch .*transforms.batch"):
        splits(CutFiles("train", bad=range(60)), on_bad_sample="skip").first_batch("train")


def test_too_many_left_out_end_the_run_and_a_few_do_not(caplog):
    skipped, bad = SkippedSamples(), [BadSample(f"sample {index} is cut", index) for index in range(9)]
    skipped.add(20, bad)  # too early to judge
    skipped.add(1000, [])
    with pytest.raises(LoadError, match=r"18 of 1,038 .*more than 1%. The last: train sample 8 is cut"):
        skipped.add(0, bad)
    assert caplog.text.count("left out of training: sample") == 9
    few = SkippedSamples()
    for _ in range(50):
        few.add(10, bad[:3])


def test_a_run_without_bad_samples_goes_on_to_the_same_bits(config, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    options = ["-c", config, "data_loader.on_bad_sample=skip", "dataset.args.bad=[5, 8, 9, 10, 11]"]
    whole = train(*options, "--run-name", "whole", "data_loader.num_workers=1", out=tmp_path)
    said = (whole / "run.log").read_text()
    assert "skipped 10 of 120 training samples cannot be read (indices: 5, 8, 9, 10, 11)" in said
    assert said.count("left out of training: sample 9 (data/train/9.jpg) cannot") == 1
    with pytest.raises(Interrupted):
        train(*options, "--run-name", "cut", "--steps", 18, out=tmp_path)
    train("-r", tmp_path / "points" / "cut", out=tmp_path)
    assert_same_run(whole, tmp_path / "points" / "cut")
    state = load(whole)["state"]["skipped_samples"]
    assert (state["seen"], state["skipped"], state["indices"].tolist()) == (120, 10, [5, 8, 9, 10, 11])


def test_a_bad_sample_ends_training_and_the_run_goes_on_without_it(config, tmp_path):
    said = r"epoch 1, batch 4, .*train sample 17 (.|\n)*To resume from .*: python train.py -r"
    with pytest.raises(TrainingError, match=said):
        train("-c", config, out=tmp_path)
    run, = tmp_path.glob("points/*")
    with pytest.raises(TrainingError, match="sample 17 "):
        train("-r", run, out=tmp_path)
    train("-r", run, "data_loader.on_bad_sample=skip", out=tmp_path)
    assert len(epochs(run)) == 2
    with pytest.raises(ConfigError, match=r"test sample 3 \(data/test/3.jpg\) cannot be read"):
        score("-r", run, "--split", "test", "dataset.args={bad_split: test, bad: [3]}")


def test_a_bad_sample_of_the_first_batch_is_a_mistake_in_the_data(config, tmp_path):
    with pytest.raises(ConfigError, match="dataset: One batch of training was .* failed: train sample 1 "):
        train("-c", config, "dataset.args.bad=[1]", out=tmp_path)
    with pytest.raises(ConfigError, match="batch of evaluation.*val sample 2 "):
        train("-c", config, "dataset.args={bad: [2], bad_split: val}", "data_loader.on_bad_sample=skip",
              out=tmp_path)
    assert not list(tmp_path.glob("points/*"))


# -- batches larger than a split -----------------------------------------------------------------------------

def test_a_batch_may_be_larger_than_a_split(config, tmp_path):
    run = train("-c", config, "data_loader.batch_size=500", "dataset.args.bad=[]", out=tmp_path)
    assert (run / "run.log").read_text().count("500 is more than the 60 samples there are to train on") == 1
    assert load(run)["state"]["progress"]["step"] == 2


# -- threads -------------------------------------------------------------------------------------------------

@TRAINERS.register
class TrainsAnother(Trainer):
    """While it trains, another thread tries to."""

    attempt = None

    def on_step_end(self):
        if self.position.step == 2 and self.attempt:
            thread = threading.Thread(target=self.attempt)
            thread.start()
            thread.join()


def test_threads_train_one_after_the_other(config, tmp_path, monkeypatch):
    said = []

    def fit(name, *options):
        try:
            train("-c", config, "--run-name", name, "trainer.type=TrainsAnother", *options, out=tmp_path)
            said.append("trained")
        except (ConfigError, TrainingError) as error:
            said.append(str(error))

    for name, bad, attempt in (("a", "[]", lambda: fit("b")), ("c", "[17]", None), ("d", "[]", None)):
        monkeypatch.setattr(TrainsAnother, "attempt", attempt and staticmethod(attempt))
        thread = threading.Thread(target=fit, args=(name, f"dataset.args.bad={bad}"))
        thread.start()
        thread.join()
    refused, first, failed, last = said
    assert "another training runs in this process" in refused and "sample 17" in failed
    assert first == last == "trained"
    assert sorted(run.name for run in tmp_path.glob("points/*")) == ["a", "c", "d"]
