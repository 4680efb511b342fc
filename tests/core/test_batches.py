"""Whole batches of what is held in arrays: the same numbers as sample by sample, in a fraction of the time."""
import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset
from torchvision import transforms as v1
from torchvision.datasets import CIFAR10, MNIST, SVHN
from torchvision.transforms import v2

from base import DATASETS, TRANSFORMS, ArrayDataset, BatchAugmentation
from base.base_data_loader import DataSplits
from base.data.arrays import as_arrays, move_arrays
from base.data.batch_transforms import BatchPreparation
from base.data.views import BatchView
from conftest import assert_same_run, epochs, score, train
from utils.errors import ConfigError, Interrupted

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (20, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 10


class OneByOne(Dataset):
    """The samples of a dataset, which nobody can get at in any other way."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index]


def torchvision_dataset(kind: type, **held) -> Dataset:
    """One of torchvision's as it is when its files are read."""
    dataset = kind.__new__(kind)
    dataset.transform = dataset.target_transform = dataset.transforms = None
    for name, value in held.items():
        setattr(dataset, name, value)
    return dataset


def datasets() -> dict[str, Dataset]:
    colours = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).numpy()
    return {
        "ArrayDataset": ArrayDataset(IMAGES, LABELS),
        "numpy": ArrayDataset(IMAGES.numpy(), LABELS.numpy()),
        "TensorDataset": TensorDataset(IMAGES, LABELS),
        "MNIST": torchvision_dataset(MNIST, data=IMAGES[:, 0], targets=LABELS),
        "CIFAR10": torchvision_dataset(CIFAR10, data=colours.transpose(0, 2, 3, 1), targets=LABELS.tolist()),
        "SVHN": torchvision_dataset(SVHN, data=colours, labels=LABELS.numpy()),
    }


def splits(dataset, **options) -> DataSplits:
    options = {"seed": 3, "batch_size": 6, "validation_split": 5, **options}
    return DataSplits(lambda split: dataset, **options)


def read(data: DataSplits, split: str = "train", epoch: int = 0, start: int = 0) -> list:
    return list(data.batches(split, epoch, start))


def assert_same_batches(one: list, other: list) -> None:
    assert [(batch.num_samples, batch.num_total) for batch in one] == [(batch.num_samples, batch.num_total) for batch in other]
    for batch, other_batch in zip(one, other, strict=True):
        (inputs, targets), (other_inputs, other_targets) = batch.data, other_batch.data
        assert torch.equal(inputs, other_inputs) and inputs.dtype == other_inputs.dtype and inputs.is_contiguous()
        assert torch.equal(targets, other_targets) and targets.dtype == other_targets.dtype


@pytest.mark.parametrize("name", datasets())
@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_at_once_are_those_of_single_samples(name, num_workers):
    if num_workers and name != "CIFAR10":
        pytest.skip("workers get the same object")
    dataset = datasets()[name]
    at_once, one_by_one = splits(dataset, num_workers=num_workers), splits(OneByOne(dataset))
    for split, epoch, start in (("train", 0, 0), ("train", 3, 1), ("val", 0, 0)):
        assert_same_batches(read(at_once, split, epoch, start), read(one_by_one, split, epoch, start))
    assert_same_batches([at_once.first_batch("train")], [one_by_one.first_batch("train")])
    assert isinstance(at_once._loaders["train", True].dataset, BatchView)
    at_once.close()


def test_what_fetches_transforms_or_collates_in_a_way_of_its_own_is_left_alone():
    class Inverted(TensorDataset):
        def __getitem__(self, index):
            return 255 - self.tensors[0][index], self.tensors[1][index]

    class Collated(TensorDataset):
        def collate_fn(self, samples):
            return torch.stack([image for image, _ in samples]), "labels"

    class Shifted(ArrayDataset):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image, label + 100

    class Noisy(ArrayDataset):
        def __getitems__(self, indices):
            images, labels = super().__getitems__(indices)
            return images + torch.rand(len(labels), 1, 1, 1), labels

    assert read(splits(Shifted(IMAGES, LABELS)))[0].data[1].min() >= 100
    noisy = splits(Noisy(IMAGES, LABELS))
    assert torch.equal(read(noisy, start=1)[0].data[0], read(noisy)[1].data[0])
    assert as_arrays(Inverted(IMAGES, LABELS)) is None and as_arrays(Collated(IMAGES, LABELS)) is None
    mnist = torchvision_dataset(MNIST, data=IMAGES[:, 0], targets=LABELS)
    mnist.transform = lambda image: image
    assert as_arrays(mnist) is None
    assert read(splits(Collated(IMAGES, LABELS)))[0].data[1] == "labels"
    with_transforms = splits(TensorDataset(IMAGES, LABELS), transforms={"train": [lambda image: image + 1]})
    assert torch.equal(read(with_transforms)[0].data[0], read(splits(TensorDataset(IMAGES, LABELS)))[0].data[0] + 1)


def test_a_datasets_own_batches_are_taken_as_they_are_and_its_lists_are_samples():
    class Own(Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, index):
            return {"number": index}

        def __getitems__(self, indices):
            return {"numbers": torch.tensor(indices), "noise": torch.rand(len(indices))}

    class Samples(Own):
        def __getitems__(self, indices):
            return [{"number": -1} for _ in indices]

    batches = read(splits(Own()))
    assert sorted(torch.cat([batch.data["numbers"] for batch in batches]).tolist()) == splits(Own()).indices("train").tolist()
    again = read(splits(Own()), start=1)  # what it draws is a function of position
    assert [batch.data["noise"].tolist() for batch in again] == [batch.data["noise"].tolist() for batch in batches[1:]]
    assert read(splits(Samples()))[0].data["number"].min() >= 0


class DrawsLate(Dataset):
    """Most samples draw nothing, and some whatever `draw` gives."""

    def __init__(self, draw, late: int = 11):
        self.draw, self.late = draw, late

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return torch.tensor(self.draw() if index % self.late == 0 else 0.0), index


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(1).item(), lambda: random.gauss(0, 1)])
def test_a_sample_draws_the_same_whoever_shares_its_batch(draw):
    def drawn(**options) -> dict[int, float]:
        batches = read(splits(DrawsLate(draw), validation_split=0, **options), epoch=2)
        return {number: value for batch in batches for value, number in zip(*map(torch.Tensor.tolist, batch.data), strict=True)}

    expected = drawn(batch_size=1)
    assert len({value for value in expected.values()}) == 3  # 0, and two that are not
    assert drawn(batch_size=7) == drawn(batch_size=20) == drawn(batch_size=7, num_workers=2) == expected


@pytest.mark.parametrize("draw", ["fork_rng", "initial_seed"])
def test_a_sample_that_covers_its_tracks_draws_numbers_of_its_own_too(draw):
    class Covert(DrawsLate):
        def __getitem__(self, index):
            if draw == "initial_seed":
                return torch.tensor(np.random.default_rng(torch.initial_seed()).random()), index
            with torch.random.fork_rng(devices=[]):
                return torch.rand(()), index

    values = [read(splits(Covert(None), validation_split=0, batch_size=size))[0].data[0] for size in (4, 8)]
    assert len(set(values[1].tolist())) == 8 and torch.equal(values[0], values[1][:4])


def test_samples_are_seeded_one_by_one_only_for_the_generators_that_they_draw_from():
    for dataset, draws in ((OneByOne(TensorDataset(IMAGES, LABELS)), 0), (DrawsLate(lambda: torch.rand(1).item(), late=1), 1),
                           (DrawsLate(random.random, late=1), 2)):
        data = splits(dataset, validation_split=0)
        read(data)
        assert data._loaders["train", True].dataset.draws == draws


def test_a_sample_that_draws_from_torch_and_late_from_numpy_draws_the_same_in_any_batch():
    class Both(DrawsLate):
        def __getitem__(self, index):
            return torch.rand(1) + (np.random.random() if index > 16 else 0), index

    def drawn(**options) -> dict[int, float]:
        batches = read(splits(Both(None), validation_split=0, **options), epoch=1)
        return {number: value for batch in batches for value, number in zip(*map(torch.Tensor.tolist, batch.data), strict=True)}

    expected = drawn(batch_size=1)
    assert drawn(batch_size=4) == drawn(batch_size=20) == drawn(batch_size=4, num_workers=2) == expected


@pytest.mark.parametrize("module", [v1, v2])
def test_normalize_changes_only_floats_that_the_program_made(module):
    normalize = module.Normalize([0.4] * 3, [0.3] * 3)
    prepare = BatchPreparation([normalize], seed=0)
    images = torch.arange(4 * 3 * 5 * 5).reshape(4, 3, 5, 5)
    for given in (images.to(torch.uint8), images / 300):
        before = given.clone()
        floats = before / 255 if given.dtype == torch.uint8 else before
        assert torch.equal(prepare((given, 0), CPU)[0], normalize(floats))
        assert torch.equal(given, before)


def test_mapped_arrays_travel_to_other_processes_as_names(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(100_000).reshape(1000, 100))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    sent = pickle.dumps(ArrayDataset(mapped, mapped[::-1]))
    there = pickle.loads(sent)  # the second is no whole file, and travels with what it holds
    assert 8e5 < len(sent) < 9e5 and isinstance(there.arrays[0], np.memmap)
    assert all(np.array_equal(one, other) for one, other in zip(there.arrays, (mapped, mapped[::-1]), strict=True))


def test_a_sample_of_an_array_can_be_changed_in_place():
    images = IMAGES.numpy().copy()
    for dataset in (ArrayDataset(images), ArrayDataset(torch.from_numpy(images))):
        dataset[3][0].zero_()
        assert (images == IMAGES.numpy()).all()


def test_what_is_kept_on_a_device_takes_no_transforms_of_samples(small, tmp_path):
    with pytest.raises(ConfigError, match="not transformed sample by sample"):
        train("-c", small, "dataset.args.device=cuda", out=tmp_path)


def test_arrays_may_stay_in_their_files(tmp_path, small):
    for split, part in (("train", slice(0, 15)), ("test", slice(15, 20))):
        np.save(tmp_path / f"{split}_inputs.npy", IMAGES[part].numpy())
        np.save(tmp_path / f"{split}_targets.npy", LABELS[part].numpy())
    dataset = DATASETS.build({"type": "ArrayFiles", "args": {"root": str(tmp_path)}}, "dataset", split="train")
    assert isinstance(dataset.arrays[0], np.memmap)
    assert_same_batches(read(splits(dataset)), read(splits(ArrayDataset(IMAGES[:15], LABELS[:15]))))
    options = ["transforms.train=[]", "data_loader={batch_size: 4, validation_split: 3}", "model.args.sizes=[36, 8, 10]"]
    run = train("-c", small, f"dataset={{type: ArrayFiles, args: {{root: {tmp_path}}}}}", *options, out=tmp_path / "out")
    assert len(epochs(run)) == 2 and "test/loss" in score("-r", run)
    with pytest.raises(ConfigError, match="nowhere/train_inputs.npy"):
        train("-c", small, "dataset={type: ArrayFiles, args: {root: nowhere}}", out=tmp_path / "out")


def test_arrays_differ_in_length_only_by_mistake():
    with pytest.raises(ValueError, match="20, 3"):
        ArrayDataset(IMAGES, LABELS[:3])


# -- on a device -----------------------------------------------------------------------------------------------------------

def test_a_device_that_the_run_does_not_compute_on_keeps_nothing(small, tmp_path):
    plain = train("-c", small, "transforms.train=[]", out=tmp_path / "plain")
    asked = train("-c", small, "transforms.train=[]", "dataset.args.device=cuda", "--device", "cpu", out=tmp_path / "asked")
    assert "not kept on cuda" in (asked / "run.log").read_text()
    assert_same_run(plain, asked)


def test_only_arrays_are_kept_on_a_device(small, tmp_path):
    for wrong, said in (("gpu", "there is no device 'gpu'"), ("3", "there is no device 3")):
        with pytest.raises(ConfigError, match=f"dataset.args.device: .*{said}"):
            train("-c", small, f"dataset.args.device={wrong}", out=tmp_path)
    with pytest.raises(ConfigError, match="OneByOne gives its samples one by one"):
        move_arrays(OneByOne(TensorDataset(IMAGES)), "cpu", CPU)
    assert isinstance(move_arrays(TensorDataset(IMAGES, LABELS), "cpu", CPU), ArrayDataset)


# -- augmentation in a run -------------------------------------------------------------------------------------------------

AUGMENTED = ["transforms={batch: [{type: BatchRandomAffine, args: {degrees: 10}}, {type: BatchRandomErasing, args: {p: 0.5}}, "
             "{type: BatchMixUp, args: {num_classes: 10}}, {type: Normalize, args: {mean: [0.3], std: [0.4]}}]}"]


def test_an_augmented_run_goes_on_with_the_same_bits_and_any_number_of_workers(small, tmp_path):
    whole = train("-c", small, *AUGMENTED, out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        train("-c", small, *AUGMENTED, "data_loader.num_workers=2", "--steps", 7, out=tmp_path / "parts")
    assert_same_run(whole, train("-r", tmp_path / "parts/small", out=tmp_path / "parts"))
    other = train("-c", small, *AUGMENTED, "seed=8", out=tmp_path / "other")
    assert epochs(other)[0]["train/loss"] != epochs(whole)[0]["train/loss"]


@TRANSFORMS.register
class BatchOnes(BatchAugmentation):
    """Whatever the input, ones."""

    def augment(self, inputs, draws):
        return torch.ones_like(inputs)


def test_evaluation_never_sees_an_augmentation():
    data = splits(ArrayDataset(IMAGES, LABELS), transforms={"batch": [BatchOnes()]})
    batch, *_ = data.batches("train")
    assert (data.prepare(batch.data, CPU, False, batch.chosen)[0] == 1).all()
    assert torch.equal(data.prepare(batch.data, CPU)[0], batch.data[0].float().div_(255))


def test_a_part_of_a_batch_draws_what_the_whole_does():
    augmentation = TRANSFORMS.build({"type": "BatchRandomErasing", "args": {"p": 1.0}}, "transforms")
    data = splits(ArrayDataset(IMAGES, LABELS), transforms={"batch": [augmentation]})
    batch, *_ = data.batches("train")
    whole, _ = data.prepare(batch.data, CPU, False, batch.chosen)
    for part in (slice(0, 2), slice(2, 6)):
        chosen = batch.chosen._replace(indices=batch.chosen.indices[part])
        prepared, _ = data.prepare([values[part] for values in batch.data], CPU, False, chosen)
        assert torch.equal(prepared, whole[part])


@pytest.mark.parametrize("transforms, said", [
    ("{train: [BatchRandomHorizontalFlip]}", "Move it to transforms.batch"),
    ("{batch: [RandomHorizontalFlip]}", "BatchRandomHorizontalFlip draws for each sample"),
    ("{batch: [{type: MixUp, args: {num_classes: 10}}]}", "BatchMixUp"),
    ("{batch: [{type: BatchRandomErasing, args: {p: 2}}]}", "p: 2 is no probability"),
])
def test_a_misplaced_augmentation_is_told_where_it_belongs(small, tmp_path, transforms, said):
    with pytest.raises(ConfigError, match=said):
        train("-c", small, f"transforms={transforms}", out=tmp_path)
