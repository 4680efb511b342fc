"""Splits, order, augmentation and batches are functions of the seed, the epoch and the sample, and of nothing else."""
import gc
import multiprocessing
import random
import weakref
from collections import namedtuple
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from base.data.sample_count import count_samples
from base.base_data_loader import DataSplits
from base.build import build_dataset
from faults.harness import Started
from utils.errors import ConfigError

CPU = torch.device("cpu")


class Numbers(Dataset):
    """The samples 0, 1, ..., as (float32 `[1]`, int)."""

    def __init__(self, num_samples: int):
        self.num_samples = num_samples

    def __len__(self):
        return self.num_samples

    def __getitem__(self, index):
        if not 0 <= index < self.num_samples:
            raise IndexError(index)
        return torch.tensor([float(index)]), index


class NoisyNumbers(Numbers):
    """A dataset that draws numbers of its own."""

    def __getitem__(self, index):
        return torch.tensor([float(index)]) + torch.rand(1), index


class Endless(IterableDataset):
    """0, 1, ... for ever, with noise if wanted."""

    def __init__(self, noise: float = 0.0):
        self.noise = noise

    def __iter__(self):
        index = 0
        while True:
            yield torch.tensor([float(index)]) + self.noise * torch.rand(1), index
            index += 1


class Stream(IterableDataset):
    """Ten samples, and no length."""

    def __iter__(self):
        yield from (Numbers(10)[index] for index in range(10))


class StreamWithLength(Stream):
    def __len__(self):
        return 10


class StreamByEpoch(StreamWithLength):
    """A stream that shuffles itself."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        order = torch.randperm(10, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        yield from (Numbers(10)[index] for index in order)


def jitter(inputs):
    """Draws from all three generators that augmentations use."""
    return inputs + torch.rand(()) + random.random() + float(np.random.rand())


def forbidden(inputs):
    raise AssertionError("a transform of another split")


def add_100(inputs):
    return inputs + 100


def splits(train, seed: int = 0, transforms: dict | None = None, val=None, test=None, **options) -> DataSplits:
    return DataSplits({"train": train, "val": val, "test": test}.get, transforms or {}, seed, **options)


def labels(data: DataSplits, split: str = "train", epoch: int = 0, start: int = 0) -> list[list[int]]:
    """The labels in each batch."""
    return [batch.data[1].tolist() for batch in data.batches(split, epoch, start)]


def sizes(data: DataSplits, split: str = "train") -> list[int]:
    """How many samples each batch is said to have, by this process, which is alone."""
    batches = list(data.batches(split))
    assert all(batch.num_total == batch.num_samples for batch in batches)
    return [batch.num_samples for batch in batches]


def flat(batches: list[list]) -> list:
    return [item for batch in batches for item in batch]


def inputs_of(data: DataSplits, split: str = "train", epoch: int = 0, start: int = 0) -> list[torch.Tensor]:
    return [batch.data[0].clone() for batch in data.batches(split, epoch, start)]


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# -- splits --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("share, num_val", [(0.1, 10), (0.25, 25), (0.99, 99), (0.011, 1), (1, 1), (30, 30), (99, 99)])
def test_a_split_by_ratio_or_count_is_disjoint_and_covers_everything(share, num_val):
    data = splits(Numbers(100), validation_split=share, batch_size=7)
    train, val = flat(labels(data)), flat(labels(data, "val"))
    assert len(val) == num_val == data.num_samples("val") and len(train) == 100 - num_val == data.num_samples("train")
    assert sorted(train + val) == list(range(100))


def test_a_split_is_the_same_for_a_seed_and_another_for_another():
    def validated(seed, **options):
        return flat(labels(splits(Numbers(100), seed, validation_split=0.2, **options), "val"))

    assert validated(1) == validated(1, batch_size=3, shuffle=False)
    assert validated(1) != validated(2)
    assert validated(1) != list(range(20)) and validated(1) != list(range(80, 100))  # not just the first or the last


def test_a_larger_split_holds_the_smaller_one():
    small, large = (set(flat(labels(splits(Numbers(100), validation_split=count), "val"))) for count in (10, 20))
    assert small < large


@pytest.mark.parametrize("share", [0.999, 0.001, 100, 101, 1000])
def test_a_validation_split_that_leaves_nothing_is_a_config_error(share):
    with pytest.raises(ConfigError, match="validation_split"):
        splits(Numbers(100), validation_split=share).num_samples("train")


def test_a_dataset_with_a_val_split_of_its_own_keeps_its_train_split_whole():
    data = splits(Numbers(10), val=Numbers(4), test=Numbers(3))
    assert [data.num_samples(split) for split in ("train", "val", "test")] == [10, 4, 3]
    assert splits(Numbers(10)).dataset("val") is None


def test_the_test_split_is_never_divided():
    data = splits(Numbers(10), test=Numbers(8), validation_split=0.5)
    assert labels(data, "test") == [list(range(8))]


def test_an_empty_dataset_is_a_config_error():
    for fails in (DataSplits.num_batches, DataSplits.first_batch, labels):
        with pytest.raises(ConfigError, match="no samples"):
            fails(splits(Numbers(0)), "train")
    with pytest.raises(ConfigError, match="no samples"):
        splits(Stream(), val=type("Empty", (IterableDataset,), {"__iter__": lambda self: iter(())})()).first_batch("val")


def test_fewer_samples_than_a_batch_with_drop_last_is_a_config_error():
    with pytest.raises(ConfigError, match="drop_last"):
        splits(Numbers(3), batch_size=8, drop_last=True).first_batch("train")


def test_an_error_of_the_dataset_for_want_of_a_val_split_suggests_to_split():
    build = partial(build_dataset, "Digits", torch.device("cpu"))
    with pytest.raises(ConfigError, match="not 'val'.*\n.*validation_split"):
        DataSplits(build).dataset("val")
    assert DataSplits(build, validation_split=5).num_samples("val") == 5


# -- order ---------------------------------------------------------------------------------------------------------

def test_the_order_is_a_function_of_seed_and_epoch():
    data = splits(Numbers(40), 1, batch_size=8)
    epochs = [flat(labels(data, epoch=epoch)) for epoch in range(4)]
    assert all(sorted(order) == list(range(40)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 4
    assert flat(labels(data, epoch=2)) == epochs[2]  # whatever was iterated before
    assert flat(labels(splits(Numbers(40), 1, batch_size=5), epoch=2)) == epochs[2]  # whatever the batches
    assert flat(labels(splits(Numbers(40), 2, batch_size=8), epoch=2)) != epochs[2]


def test_neighbouring_seeds_do_not_share_their_epochs():
    one, other = ({tuple(flat(labels(splits(Numbers(40), seed), epoch=epoch))) for epoch in range(4)} for seed in (7, 8))
    assert not one & other


def test_the_order_does_not_depend_on_what_was_drawn_before():
    torch.manual_seed(1)
    first = labels(splits(Numbers(40)))
    torch.manual_seed(2)
    torch.rand(100)
    assert labels(splits(Numbers(40))) == first


def test_val_and_test_come_in_order_in_every_epoch():
    data = splits(Numbers(10), val=Numbers(6), test=Numbers(5), batch_size=4)
    for epoch in range(2):
        assert labels(data, "val", epoch) == [[0, 1, 2, 3], [4, 5]]
        assert labels(data, "test", epoch) == [[0, 1, 2, 3], [4]]
    assert labels(splits(Numbers(6), batch_size=4, shuffle=False), epoch=3) == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"validation_split": 0.3}, {"drop_last": True}, {"batches_per_epoch": 4}],
                         ids=["plain", "split", "drop-last", "cut"])
def test_an_epoch_entered_at_a_batch_is_exactly_its_tail(num_workers, options):
    data = splits(Numbers(23), transforms={"train": [jitter]}, batch_size=4, num_workers=num_workers, **options)
    whole, whole_labels = inputs_of(data, epoch=1), labels(data, epoch=1)
    assert len(whole) == data.num_batches("train")
    for start in (0, 1, len(whole) - 1, len(whole)):
        assert same(inputs_of(data, epoch=1, start=start), whole[start:])
        assert labels(data, epoch=1, start=start) == whole_labels[start:]


def test_the_numbers_of_samples_and_batches_are_those_that_come():
    for options, counts in [({}, [4, 4, 2]), ({"drop_last": True}, [4, 4]), ({"batches_per_epoch": 2}, [4, 4]),
                            ({"batches_per_epoch": 9}, [4, 4, 2])]:
        data = splits(Numbers(10), val=Numbers(6), batch_size=4, eval_batch_size=5, **options)
        assert sizes(data) == counts and data.num_batches("train") == len(counts)
        assert sizes(data, "val") == [5, 1] and data.num_batches("val") == 2  # never cut or dropped


def test_an_epoch_that_is_cut_goes_elsewhere_in_the_next():
    data = splits(Numbers(40), batch_size=4, batches_per_epoch=2, num_workers=2)
    seen = [labels(data, epoch=epoch) for epoch in range(3)]
    assert [len(batches) for batches in seen] == [2, 2, 2]
    assert seen[0] != seen[1] != seen[2]
    assert labels(data, epoch=0) == seen[0]


# -- augmentation and workers --------------------------------------------------------------------------------------

@pytest.mark.parametrize("dataset", [Numbers, NoisyNumbers])
def test_the_number_of_workers_changes_nothing(dataset):
    def epochs(num_workers):
        data = splits(dataset(20), 5, {"train": [jitter, jitter], "eval": [jitter]}, batch_size=3, validation_split=5,
                      num_workers=num_workers)
        return [*inputs_of(data, epoch=0), *inputs_of(data, epoch=1), *inputs_of(data, "val")]

    assert same(epochs(0), epochs(2))


def test_augmentation_follows_from_seed_epoch_and_sample_alone():
    def drawn(epoch=0, **options):
        """What was added to each sample."""
        data = splits(Numbers(12), **{"seed": 1, "batch_size": 4, "transforms": {"train": [jitter]}, **options})
        return {int(label): (value - label).item() for batch in data.batches("train", epoch)
                for value, label in zip(batch.data[0][:, 0], batch.data[1], strict=True)}

    once = drawn()
    assert len(set(once.values())) == 12  # every sample its own
    assert drawn(batch_size=5, shuffle=False, num_workers=1) == once
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    assert drawn() == once
    for other in (drawn(epoch=1), drawn(seed=2)):
        assert not set(other.values()) & set(once.values())


@pytest.mark.parametrize("val", [Numbers(8), StreamWithLength()])
def test_evaluation_draws_the_same_in_every_epoch(val):
    data = splits(Numbers(8), transforms={"eval": [jitter]}, val=val)
    first = inputs_of(data, "val")
    assert inputs_of(data) and same(inputs_of(data, "val"), first)
    assert same(inputs_of(data, "val", epoch=3), first)


def test_each_split_draws_numbers_of_its_own():
    data = splits(Numbers(8), transforms={"train": [jitter], "eval": [jitter]}, val=Numbers(8), test=Numbers(8), shuffle=False)
    (train,), (val,), (test,) = (inputs_of(data, split) for split in ("train", "val", "test"))
    assert not (train == val).any() and not (val == test).any() and not (train == test).any()


def test_data_that_is_no_longer_used_ends_its_workers_at_once():
    gc.disable()  # what waits for the garbage collector finds the queues of its workers gone
    try:
        data = splits(Numbers(12), num_workers=1, batch_size=4)
        assert len(list(data.batches("train", 0))) == 3
        assert data.fingerprint.state_dict() and multiprocessing.active_children()
        kept = weakref.ref(data)
        del data
        assert kept() is None and not multiprocessing.active_children()
    finally:
        gc.enable()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_validation_never_sees_training_transforms_even_where_it_is_split_from_train(num_workers):
    transforms = {"train": [forbidden], "eval": [add_100]}
    for data in (splits(Numbers(10), transforms=transforms, validation_split=4, num_workers=num_workers),
                 splits(Numbers(10), transforms=transforms, val=Numbers(4), num_workers=num_workers),
                 splits(Stream(), transforms=transforms, val=Stream(), num_workers=num_workers)):
        (inputs, numbers), = (batch.data for batch in data.batches("val"))
        assert torch.equal(inputs[:, 0], numbers + 100.0)
        with pytest.raises(ConfigError, match="another split"):
            list(data.batches("train"))
        data.close()  # the error holds on to the loader, and the loader to its workers


def test_training_never_sees_evaluation_transforms():
    data = splits(Numbers(4), transforms={"train": [lambda inputs: inputs * 2], "eval": [forbidden]}, validation_split=1)
    (inputs, numbers), = (batch.data for batch in data.batches("train"))
    assert torch.equal(inputs[:, 0], numbers * 2.0)


def test_transforms_apply_in_their_order():
    data = splits(Numbers(3), transforms={"train": [lambda x: x + 1, lambda x: x * 10]}, shuffle=False)
    assert torch.equal(inputs_of(data)[0][:, 0], torch.tensor([10.0, 20.0, 30.0]))


# -- streams -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_endless_stream_is_cut_into_epochs(num_workers):
    data = splits(Endless(), batch_size=4, batches_per_epoch=3, num_workers=num_workers)
    assert data.num_batches("train") == 3 and data.num_samples("train") is None
    for epoch in range(2):
        assert labels(data, epoch=epoch) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert labels(data, start=1) == [[4, 5, 6, 7], [8, 9, 10, 11]] and labels(data, start=3) == []


def test_a_random_stream_is_the_same_for_any_number_of_workers_and_another_in_every_epoch():
    def epochs(num_workers):
        data = splits(Endless(noise=1.0), 3, {"train": [jitter]}, batch_size=4, batches_per_epoch=3, num_workers=num_workers)
        return [inputs_of(data, epoch=epoch) for epoch in range(2)], inputs_of(data, epoch=1, start=2)

    (first, second), tail = epochs(0)
    (first_of_two, second_of_two), tail_of_two = epochs(2)
    assert same(first, first_of_two) and same(second, second_of_two)
    assert not same(first, second)
    assert same(tail, second[2:]) and same(tail_of_two, tail)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("drop_last, counts", [(False, [4, 4, 2]), (True, [4, 4])])
def test_a_finite_stream_gives_every_sample_once_whatever_the_workers(num_workers, drop_last, counts):
    data = splits(StreamWithLength(), val=Stream(), batch_size=4, drop_last=drop_last, num_workers=num_workers)
    assert sizes(data) == counts and data.num_batches("train") == len(counts)
    assert flat(labels(data)) == list(range(sum(counts)))
    assert flat(labels(data, "val")) == list(range(10)) and data.num_batches("val") is None


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_that_shuffles_itself_is_told_the_epoch(num_workers):
    data = splits(StreamByEpoch(), batch_size=4, num_workers=num_workers)
    epochs = [labels(data, epoch=epoch) for epoch in range(3)]
    assert all(sorted(flat(epoch)) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert labels(data, epoch=1, start=1) == epochs[1][1:]


def test_a_stream_cannot_be_split_for_validation():
    with pytest.raises(ConfigError, match="validation_split"):  # it would be validated on its own training samples
        splits(StreamWithLength(), validation_split=0.2).num_batches("val")


# -- what a batch looks like ---------------------------------------------------------------------------------------

class Ragged(Numbers):
    """Sequences of different length, with a way of its own to make a batch of them."""

    def __getitem__(self, index):
        return torch.ones(index + 1), index

    @staticmethod
    def collate_fn(samples):
        inputs, numbers = zip(*samples, strict=True)
        return torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True), torch.tensor(numbers)


class RaggedStream(IterableDataset):
    collate_fn = staticmethod(Ragged.collate_fn)

    def __iter__(self):
        yield from (Ragged(4)[index] for index in range(4))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("dataset", [Ragged(4), RaggedStream()], ids=["dataset", "stream"])
def test_the_dataset_collates_its_own_samples_where_it_knows_how(dataset, num_workers):
    data = splits(dataset, batch_size=4, shuffle=False, num_workers=num_workers)
    batch, = data.batches("train")
    inputs, numbers = batch.data
    assert batch.num_samples == 4 and inputs.shape == (4, 4) and numbers.tolist() == [0, 1, 2, 3]
    assert inputs.sum(1).tolist() == [1, 2, 3, 4]
    assert torch.equal(data.first_batch("train").data[0], inputs)


class Dropping(Numbers):
    """Its collate function leaves out the samples 4 to 7, and every second of the others."""

    def __getitem__(self, index):
        return torch.tensor([float(index)]), index

    @staticmethod
    def collate_fn(samples):
        kept = [(point, index) for point, index in samples if index % 2 and index not in range(4, 8)]
        return torch.stack([point for point, _ in kept]) if kept else None, torch.tensor([i for _, i in kept])


def test_a_batch_counts_the_samples_that_its_collate_function_has_left():
    data = splits(Dropping(12), batch_size=4, shuffle=False)
    batches = list(data.batches("train"))
    assert [batch.num_samples for batch in batches] == [2, 0, 2]
    assert [data.num_in_step([batch]) for batch in batches] == [2, 0, 2]
    assert batches[1].data[0].tolist() == [[1.0], [3.0]]  # the first one stands in for it
    assert data.num_dropped() == 8


PADDED = (torch.ones(5, 9, 2), torch.ones(5).long())


@pytest.mark.parametrize("data, number", [
    (None, 0), ([], 0), ([(1, 2)] * 3, 3), ((torch.ones(9, 2), torch.ones(3)), 3), ([torch.ones(9), [1, 2]], 2),
    ({"x": torch.ones(2, 5), "labels": torch.ones(3)}, 3), ({"x": torch.ones(2, 5), "y": torch.ones(2)}, 2),
    ((torch.ones(3), {"boxes": [1, 2], "masks": torch.ones(2, 4)}), 2),
    ((torch.ones(3), torch.ones(2), torch.ones(3)), 8), (torch.ones(3), 8),  # does not tell
    ((torch.ones(40), torch.ones(40)), 8),  # nodes of graphs, say
    ((PADDED, (torch.ones(5, 3).long(), torch.ones(5).long())), 5),  # padded labels and their lengths
    ((torch.ones(5, 9), (torch.ones(5), torch.ones(5))), 5), ((PADDED, [torch.ones(8), torch.ones(8)]), 8),  # heads
    ((torch.ones(3, 9), [torch.ones(4, 2)] * 3), 3), ((torch.ones(3, 9), [torch.ones(8)] * 3), 3),  # of each sample
    ((PADDED, [torch.ones(1, 4), torch.ones(1, 4)]), 2), ((PADDED, (torch.ones(()), torch.ones(()))), 2),
])
def test_what_a_collated_batch_tells_of_its_number_of_samples(data, number):
    assert count_samples(data, 8) == number


class Table(Numbers):
    """Samples that are dicts."""

    def __getitem__(self, index):
        return {"x": torch.tensor([float(index)]), "inner": {"y": torch.tensor(index)}, "name": f"number {index}"}


def test_samples_may_be_dicts_which_transforms_and_the_device_get_whole():
    transforms = {"train": [lambda sample: {**sample, "x": sample["x"] + 1}],
                  "batch": [lambda batch: {**batch, "x": batch["x"] * 10}]}
    data = splits(Table(3), transforms=transforms, shuffle=False)
    loaded, = data.batches("train")
    assert loaded.num_samples == 3 and loaded.data["x"][:, 0].tolist() == [1, 2, 3]
    batch = data.prepare(loaded.data, CPU)
    assert batch["x"][:, 0].tolist() == [10, 20, 30] and batch["inner"]["y"].tolist() == [0, 1, 2]
    assert batch["name"] == ["number 0", "number 1", "number 2"]


Pair = namedtuple("Pair", "image label")


class Named(Numbers):
    def __getitem__(self, index):
        return Pair(torch.full((1, 2, 2), index, dtype=torch.uint8), index)


def test_samples_may_be_named_tuples():
    data = splits(Named(3), transforms={"train": [lambda image: image + 1]}, shuffle=False)
    loaded, = data.batches("train")
    batch = data.prepare(loaded.data, CPU)
    assert batch.label.tolist() == [0, 1, 2] and batch.image[:, 0, 0, 0].mul(255).round().tolist() == [1, 2, 3]


def test_uint8_images_become_floats_from_zero_to_one_before_the_batch_transforms():
    seen = []
    data = splits(Numbers(1), transforms={"batch": [lambda images: seen.append(images) or images - 1]})
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    prepared, targets = data.prepare([images, torch.tensor([7], dtype=torch.uint8)], CPU)
    assert seen[0].dtype == torch.float32 and torch.equal(seen[0].flatten(), torch.arange(256) / 255)
    assert torch.equal(prepared, seen[0] - 1)
    assert targets.dtype == torch.uint8  # the input alone
    assert torch.equal(images.flatten(), torch.arange(256, dtype=torch.uint8))  # the batch given stays as it was


def test_what_is_no_uint8_image_stays_as_it_is():
    data = splits(Numbers(1))
    for inputs in (torch.rand(2, 1, 4, 4), torch.arange(6).reshape(2, 3), torch.arange(6, dtype=torch.uint8).reshape(2, 3)):
        prepared, _ = data.prepare((inputs, torch.zeros(2)), CPU)
        assert prepared.dtype == inputs.dtype and torch.equal(prepared, inputs)


def test_images_of_pil_become_uint8_tensors_with_channels_first():
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    pictures = {"grey": image.fromarray(pixels[..., 0]), "colour": image.fromarray(pixels)}
    for name, shape in {"grey": (1, 1, 2, 4), "colour": (1, 3, 2, 4)}.items():
        dataset = type("Pictures", (Numbers,), {"__getitem__": lambda self, index, name=name: (pictures[name], index)})(1)
        (images, _), = (batch.data for batch in splits(dataset).batches("train"))
        assert images.dtype == torch.uint8 and images.shape == shape
        assert images[0, 0].tolist() == pixels[..., 0].tolist()


def test_the_first_batch_is_the_first_that_comes():
    for dataset in (Numbers(10), StreamWithLength()):
        data = splits(dataset, transforms={"train": [jitter]}, batch_size=4)
        first, batch = data.first_batch("train"), next(data.batches("train"))
        assert (first.num_samples, first.num_total) == (batch.num_samples, batch.num_total) == (4, 4)
        assert all(torch.equal(one, other) for one, other in zip(first.data, batch.data, strict=True))
        assert first.data[1].tolist() == labels(data)[0] == first.chosen.indices.tolist()


@pytest.mark.parametrize("options", [{"num_workers": 1, "multiprocessing_context": "threads"}])
def test_an_option_that_torch_refuses_is_a_config_error(options):
    with pytest.raises(ConfigError, match="multiprocessing_context"):
        list(splits(Numbers(4), **options).batches("train"))


def test_a_mistake_while_workers_are_busy_ends_the_process():
    code = """
import torch
from torch.utils.data import TensorDataset
from base.base_data_loader import DataSplits

data = DataSplits(lambda split: TensorDataset(torch.zeros(99, 1)), batch_size=4, num_workers=2)
next(data.batches("train"))
raise KeyError("a mistake of the user")
"""
    with Started("-c", code) as program:
        assert program.end() == 1 and "a mistake of the user" in program.said


def test_folders_of_images_take_their_classes_from_train(tmp_path):
    from PIL import Image

    for name in ("train/cat", "train/dog", "train/fox", "test/dog", "test/fox"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name / "1.png")
    from data_loader.image_folder import ImageFolder as folder
    assert [label for _, label in folder("train", str(tmp_path))] == [0, 1, 2]
    test = folder("test", str(tmp_path))
    assert [label for _, label in test] == test.targets == [1, 2] and test.classes == ["cat", "dog", "fox"]
    (tmp_path / "test/fox").rename(tmp_path / "test/fix")
    with pytest.raises(ValueError, match="has the class fix; train has cat, dog, fox"):
        folder("test", str(tmp_path))
