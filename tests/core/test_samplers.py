"""Orders of the train split that the config names: which samples an epoch holds, and in which batches."""
import logging
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from conftest import assert_same_run, load, metrics, train
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from base import DATASETS, SAMPLERS, TRANSFORMS, ArrayDataset, BatchAugmentation
from base.base_data_loader import DataSplits
from base.config.complete_config import complete_config
from base.data.sampler import RankSlice
from base.config.validate import validate_config
from data_loader.samplers import Balanced, GroupedByLength, Weighted
from utils.errors import ConfigError, Interrupted

CONFIG = """
name: ordered
seed: 3
dataset: Rare
data_loader: {batch_size: 8, validation_split: 0.2, sampler: Balanced}
transforms: {train: [jittered]}
model: {type: MLP, args: {sizes: [4, 8, 3]}}
loss: CrossEntropyLoss
optimizer: {type: SGD, args: {lr: 0.1}}
trainer: {type: Trainer, args: {epochs: 3, log_every: 1}}
writers: []
"""
CLASSES = [0] * 40 + [1] * 20 + [2] * 4


class Rare(Dataset):
    """Samples (4 numbers, class); class 2 is rare, and class 1 long."""

    targets = CLASSES
    lengths = [10 + number % 7 + 20 * label for number, label in enumerate(CLASSES)]

    def __init__(self, split: str = "train"):
        self.read = []

    def importance(self):
        return [float(label == 2) for label in CLASSES]

    def __len__(self):
        return len(CLASSES)

    def __getitem__(self, index):
        self.read.append(index)
        return torch.full((4,), float(index)), CLASSES[index]


DATASETS.register(Rare)


@TRANSFORMS.register
def jittered(values):
    return values + torch.rand(1)


@TRANSFORMS.register
class Noise(BatchAugmentation):
    def augment(self, inputs, draws):
        return inputs + draws.uniform()[:, None]


@SAMPLERS.register
def every_other(split, epoch, generator, first: int = 0):
    return range(first, len(split), 2)


@SAMPLERS.register
def growing(split, epoch, generator):
    """One more batch of three in every epoch."""
    return torch.randperm(len(split), generator=generator)[:3 * (epoch + 1)].view(-1, 3)


def splits(sampler, dataset=None, **options) -> DataSplits:
    dataset = Rare() if dataset is None else dataset
    transforms = {key: options.pop(key) for key in ("train", "batch") if key in options}
    return DataSplits(lambda split: dataset if split == "train" else None, transforms, 5, sampler=sampler,
                      **{"batch_size": 8, **options})


def indices(data: DataSplits, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [batch.data[0][:, 0].int().tolist() for batch in data.batches("train", epoch, start)]


def flat(batches: list) -> list:
    return [item for batch in batches for item in batch]


def test_balanced_draws_each_class_equally_often_and_all_its_samples_before_any_again():
    drawn = flat(indices(splits(Balanced())))
    assert sorted(Counter(CLASSES[index] for index in drawn).values()) == [21, 21, 22]
    assert max(Counter(drawn).values()) - min(Counter(i for i in drawn if CLASSES[i] == 2).values()) <= 1
    assert len({i for i in drawn if CLASSES[i] == 1}) == 20 and len(drawn) == 64
    assert drawn != flat(indices(splits(Balanced()), epoch=1)) and drawn == flat(indices(splits(Balanced())))
    assert len(flat(indices(splits(Balanced(num_samples=30))))) == 30


def test_weights_are_of_samples_or_of_classes():
    for weighted in (Weighted("importance"), Weighted([float(label == 2) for label in CLASSES]),
                     Weighted(class_weights=[0, 0, 3])):
        drawn = flat(indices(splits(weighted)))
        assert {CLASSES[index] for index in drawn} == {2} and len(drawn) == 64
    drawn = flat(indices(splits(Weighted(class_weights=[1, 2, 10], num_samples=9000))))
    counts = Counter(CLASSES[index] for index in drawn)
    assert all(abs(counts[label] - 3000) < 200 for label in range(3))
    for wrong, message in ((Weighted([1.0]), "1 weights for 64 samples"), (Weighted("rarity"), "rarity"),
                           (Weighted(class_weights=[1]), "1 weights for 3"),
                           (Weighted(class_weights=[0, 0, 0]), "not all 0")):
        with pytest.raises(ConfigError, match=f"data_loader.sampler: .*{message}"):
            indices(splits(wrong))
    with pytest.raises(ValueError, match="either"):
        Weighted()


def test_batches_hold_samples_of_similar_length():
    for size in (8, 5):
        data = splits(GroupedByLength(), batch_size=size)
        batches = indices(data)
        assert sorted(flat(batches)) == list(range(64)) and indices(data, 1) != batches
        assert {len(batch) for batch in batches[:-1]} == {size} and len(batches) == -(-64 // size)
        spread = [max(Rare.lengths[i] for i in b) - min(Rare.lengths[i] for i in b) for b in batches]
        assert sorted(spread)[len(spread) // 2] < 8
    assert len(indices(splits(GroupedByLength(), batch_size=5, drop_last=True))) == 12
    batches = indices(splits(GroupedByLength(max_tokens=120)))
    assert sorted(flat(batches)) == list(range(64)) and len({len(batch) for batch in batches}) > 2
    tokens = [len(batch) * max(Rare.lengths[i] for i in batch) for batch in batches]
    assert max(tokens) <= 120 and sorted(tokens)[len(tokens) // 2] > 80
    with pytest.raises(ConfigError, match="length 56, more than max_tokens: 50"):
        indices(splits(GroupedByLength(max_tokens=50)))


def test_a_sampler_of_ones_own_chooses_among_the_samples_that_train():
    data = splits(partial(every_other, first=1), validation_split=14)
    train_indices = data.indices("train").tolist()
    assert flat(indices(data)) == train_indices[1::2] and data.num_batches("train") == 4
    assert [len(batch.data[0]) for batch in data.batches("train", training=False)] == [8] * 6 + [2]
    assert len(indices(splits(every_other, batches_per_epoch=3))) == 3
    assert [len(b) for b in indices(splits(every_other, batch_size=10))] == [10, 10, 10, 2]
    assert len(indices(splits(every_other, batch_size=10, drop_last=True))) == 3
    assert [len(batch) for batch in indices(splits(growing), epoch=2)] == [3, 3, 3]


def test_what_a_sampler_knows_is_read_without_samples():
    seen = []

    def look(split, epoch, generator):
        seen.extend([split.targets.tolist(), split.classes.tolist(), split.lengths.tolist()])
        seen.append(split.batch_size)
        return [0]

    data = splits(look, validation_split=14)
    own = data.indices("train").tolist()
    assert data.num_batches("train") == 1 and data.dataset("train").read == []
    assert seen == [[CLASSES[i] for i in own]] * 2 + [[Rare.lengths[i] for i in own], 8]
    seen.clear()
    splits(look, ConcatDataset([Rare(), Subset(Rare(), [60, 2])])).num_batches("train")
    assert seen[0] == CLASSES + [2, 0]
    for numbers, labels, classes in ((torch.zeros(3, 1), torch.tensor([5, 7, 5]), [5, 7, 5]),
                                     (torch.zeros(3, 1), np.array(["b", "a", "b"]), None)):
        data = splits(lambda split, *_: seen.append(split.classes.tolist()) or [0],
                      ArrayDataset(numbers, labels))
        data.num_batches("train")
        assert seen[-1] == (classes or [1, 0, 1])
    with pytest.raises(ConfigError, match="does not tell its lengths"):
        splits(GroupedByLength(), ArrayDataset(torch.zeros(3, 1), torch.zeros(3))).num_batches("train")
    with pytest.raises(ConfigError, match="no classes: float32"):
        splits(Balanced(), ArrayDataset(torch.zeros(3, 1), torch.zeros(3))).num_batches("train")


@pytest.mark.parametrize("transforms", [{"train": [jittered]}, {"batch": [Noise()]}],
                         ids=["samples", "batches"])
def test_a_sample_that_comes_again_in_an_epoch_is_augmented_otherwise(transforms):
    def augmented(sampler, start=0, **options) -> list:
        data = splits(sampler, batch_size=2, **transforms, **options)
        batches = [data.prepare(batch.data, torch.device("cpu"), False, batch.chosen)
                   for batch in data.batches("train", 1, start)]
        return torch.cat([inputs[:, 0] for inputs, _ in batches]).tolist()

    drawn = augmented(lambda *_: [7, 3, 7, 7, 9, 7])
    of_7 = [drawn[place] for place in (0, 2, 3, 5)]
    assert len(set(of_7)) == 4 and all(7 <= value < 8 for value in of_7)
    assert augmented(lambda *_: [7, 3, 7, 7, 9, 7], start=2) == drawn[4:]  # after a resume
    assert augmented(lambda *_: [9, 7, 3]) == [drawn[4], drawn[0], drawn[1]]  # the first as ever
    plain = splits(None, batch_size=64, **transforms)
    (batch,) = plain.batches("train", 1)
    inputs, _ = plain.prepare(batch.data, torch.device("cpu"), False, batch.chosen)
    assert drawn[0] in inputs[:, 0].tolist()


def test_processes_share_the_batches_and_the_repeats_of_a_sampler():
    whole = splits(Balanced(), batch_size=7, train=[jittered])
    batches = [batch.data[0] for batch in whole.batches("train")]
    parts = []
    for rank in range(3):
        data = splits(Balanced(), batch_size=7, train=[jittered], num_workers=2 if rank == 1 else 0)
        data.rank_slice = RankSlice(rank, 3)
        parts.append([batch.data[0][:batch.num_samples] for batch in data.batches("train")])
        data.close()
    for number, batch in enumerate(batches):
        assert torch.equal(batch, torch.cat([part[number] for part in parts]))


def test_a_sampler_that_draws_from_global_generators_gives_the_same_and_moves_none():
    def careless(split, epoch, generator):
        return np.random.permutation(len(split))[:int(torch.randint(8, 12, ()))]

    torch.manual_seed(1)
    first = torch.rand(2)
    torch.manual_seed(1)
    assert torch.rand(1) == first[0]
    assert splits(careless).num_batches("train") and torch.rand(1) == first[1]
    assert indices(splits(careless)) == indices(splits(careless)) != indices(splits(careless), epoch=1)


@pytest.mark.parametrize(("given", "message"), [
    ([0, 64], "gives position 64; those of the train split are 0 to 63"), ([-1], "gives position -1"),
    ([], "gives neither positions nor batches"), ([0.5], "neither positions nor batches"),
    ([[1, 2], []], "none of them empty"), (torch.arange(0), "gives no batch"), (None, "failed in epoch 1"),
])
def test_what_cannot_be_an_order_is_an_error(given, message):
    with pytest.raises(ConfigError, match=f"data_loader.sampler: .*{message}"):
        indices(splits(lambda *_: given))


def test_a_stream_has_its_own_order():
    class Tape(IterableDataset):
        def __iter__(self):
            return iter([(torch.zeros(1), 0)])

    with pytest.raises(ConfigError, match=r"data_loader\.sampler: a stream has its own order"):
        splits(Balanced(), Tape()).num_batches("train")


def test_schedules_get_the_true_number_of_steps_of_epochs_that_differ(tmp_path, caplog):
    (tmp_path / "c.yaml").write_text(CONFIG)
    args = ["-c", tmp_path / "c.yaml", "data_loader.sampler=growing", "trainer.args.epochs=4",
            "trainer.args.accumulate=2", "scheduler={type: OneCycleLR, args: {max_lr: 0.1}}"]
    with caplog.at_level(logging.WARNING):
        straight = train(*args, out=tmp_path / "straight")
    assert load(straight)["state"]["progress"]["step"] == 1 + 1 + 2 + 2
    assert load(straight)["state"]["optimizer"]["schedule"]["steps_per_epoch"] == [1, 1, 2, 2]
    rates = [line["lr/optimizer"] for line in metrics(straight) if "lr/optimizer" in line]
    assert rates[-2] < 1e-5 < max(rates) and "scheduler" not in caplog.text  # before the last step
    with pytest.raises(Interrupted):
        train(*args, "--steps", 3, out=tmp_path / "stopped")
    run = next((tmp_path / "stopped").glob("*/*"))
    train("-r", run, out=tmp_path / "stopped")
    assert_same_run(straight, run)
    longer = train("-r", run, "trainer.args.epochs=5", out=tmp_path / "stopped")  # laid out anew
    assert load(longer)["state"]["progress"]["step"] == 9

    def ends(split, epoch, generator):
        return [[0]] * (3 - epoch)

    with pytest.raises(ConfigError, match="data_loader.batches_per_epoch sets it"):
        splits(ends).steps_per_epoch(1, num_epochs=4)
    assert splits(ends).steps_per_epoch(2, num_epochs=3) == [2, 1, 1]
    assert splits(ends, batches_per_epoch=1).steps_per_epoch(1, num_epochs=9) == 1
    assert splits(Balanced()).steps_per_epoch(3, num_epochs=9) == 3


@pytest.mark.parametrize("sampler", ["Balanced", "{type: GroupedByLength, args: {max_tokens: 150}}"])
def test_a_run_with_a_sampler_resumes_in_the_middle_of_an_epoch(tmp_path, sampler):
    (tmp_path / "c.yaml").write_text(CONFIG)
    args = ["-c", tmp_path / "c.yaml", f"data_loader.sampler={sampler}"]
    straight = train(*args, out=tmp_path / "straight")
    with pytest.raises(Interrupted):
        train(*args, "--steps", 9, out=tmp_path / "stopped")
    run = next((tmp_path / "stopped").glob("*/*"))
    for change in ("data_loader.sampler=Weighted", "data_loader.batch_size=4"):
        with pytest.raises(ConfigError, match="the epoch under way|args"):
            train("-r", run, change, "trainer.args.accumulate=2", out=tmp_path / "stopped")
    train("-r", run, "data_loader.num_workers=2", out=tmp_path / "stopped")
    assert (straight / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()


def test_the_defaults_of_a_sampler_are_kept_with_a_run():
    config = validate_config({**yaml.safe_load(CONFIG), "data_loader": {"sampler": "Balanced"}})
    complete = complete_config(config).complete
    assert complete["data_loader"]["sampler"] == {"type": "Balanced", "args": {"num_samples": None}}
    assert complete["default_values"]["data_loader.sampler.args.num_samples"] is None
