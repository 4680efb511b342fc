"""Transforms of images with masks or boxes; --check reports those that move the image alone."""
import logging

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from base import DATASETS, LOSSES, TRANSFORMS, ArrayDataset, BatchAugmentation
from base.base_data_loader import DataSplits
from base.config.complete_config import complete_config
from base.data.augmentation import Draws
from conftest import load, needs, train
from utils.checkpoint import format_1
from utils.errors import ConfigError


@TRANSFORMS.register
class Turned(BatchAugmentation):
    is_geometric = True

    def augment(self, images, draws):
        return images.flip(3)


@TRANSFORMS.register
class TurnedWithTargets(Turned):
    def __call__(self, batch, draws):
        return tuple(part.flip(-1) for part in batch)


@TRANSFORMS.register
class Brighter(BatchAugmentation):
    def augment(self, images, draws):
        return images * 1.1


def Transforms(**transforms) -> DataSplits:
    """The splits of no dataset."""
    return DataSplits(lambda split: None, transforms)


def reported(caplog, given, **transforms) -> str:
    return reported_of(caplog, Transforms(**transforms), given)


def reported_of(caplog, data: DataSplits, first) -> str:
    needs("tools/data_checks/moved_images.py")
    from tools.data_checks.moved_images import warn_of_moved_images

    caplog.clear()
    with caplog.at_level(logging.WARNING):
        warn_of_moved_images(data, first)
    return caplog.text


IMAGES = torch.zeros(4, 3, 8, 8)
MASKS, CLASSES = torch.zeros(4, 8, 8), torch.zeros(4)


def test_which_targets_lie_on_an_image(caplog):
    turned = {"batch": [Turned()]}
    for targets in (MASKS, IMAGES, {"mask": MASKS}, {"boxes": torch.zeros(4, 2, 4)},
                    [{"boxes": torch.zeros(2, 4)}]):
        assert "Turned in transforms.batch moves the images [4, 3, 8, 8] alone" in reported(
            caplog, (IMAGES, targets), **turned)
    assert "boxes [2, 4]" in reported(caplog, (IMAGES, [{"boxes": torch.zeros(2, 4)}]), **turned)
    for targets in (CLASSES, torch.zeros(4, 10), torch.zeros(8, 8), torch.zeros(4, 7, 8), {"label": CLASSES}):
        assert not reported(caplog, (IMAGES, targets), **turned)
    assert not reported(caplog, {"image": IMAGES, "mask": MASKS}, **turned)
    assert not reported(caplog, (IMAGES, MASKS), batch=[TurnedWithTargets(), Brighter()])


def test_torchvision_transforms_that_move_pixels_are_found_also_inside_others(caplog):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    for transform in (v2.RandomAffine(9), v2.RandomCrop(8), v2.RandAugment(), v2.RandomHorizontalFlip()):
        for given in (transform, v2.RandomApply([transform])):
            said = reported(caplog, (IMAGES, MASKS), train=[given])
            assert f"{type(transform).__name__} in transforms.train" in said
    resize, color = v2.Resize(8), v2.ColorJitter()
    assert not reported(caplog, (IMAGES, MASKS), train=[resize, color])  # masks that already have the size
    assert "Resize" in reported(caplog, (IMAGES, {"boxes": torch.zeros(4, 1, 4)}), train=[resize, color])


@DATASETS.register
def Outlines(split: str):
    return ArrayDataset(torch.rand(90, 1, 8, 8), (torch.rand(90, 1, 8, 8) > 0.5).float())


@LOSSES.register
def overlap(outputs, targets):
    return nn.functional.mse_loss(outputs[:, :1, None, None].expand_as(targets), targets)


@pytest.mark.parametrize("augmentation", ["BatchRandomHorizontalFlip", "Brighter"])
def test_geometry_of_the_image_alone_is_reported_beside_targets_that_lie_on_it(
        small, capsys, augmentation):
    needs("data_loader/batch_augmentations.py", "tools/check.py")
    from train import main
    from utils.cli import train_arguments

    main(train_arguments(["--quiet", "--check", "-c", str(small), "dataset=Outlines", "loss=overlap",
                          "metrics=[]", "transforms.train=[]", f"transforms.batch=[{augmentation}]"]))
    assert ("and not their targets, masks [30, 1, 8, 8]" in capsys.readouterr().err) == (
        augmentation != "Brighter")


PIXELS = torch.arange(64).view(1, 1, 8, 8)


class Scenes(Dataset):
    """Images whose pixels are numbered, a mask of the same numbers, a box around pixel (2, 1), a label."""

    def __init__(self, split: str = "train", plain: bool = False):
        self.plain = plain

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if self.plain:
            return PIXELS[0].float(), PIXELS[0, 0]
        tv_tensors = pytest.importorskip("torchvision.tv_tensors")
        boxes = tv_tensors.BoundingBoxes([[2, 1, 3, 2]], format="XYXY", canvas_size=(8, 8))
        return PIXELS[0].float(), {"mask": tv_tensors.Mask(PIXELS[0, 0]), "boxes": boxes, "label": index}


def scenes(plain: bool = False, **transforms) -> DataSplits:
    return DataSplits(lambda split: Scenes(split, plain) if split == "train" else None, transforms, seed=3,
                      batch_size=12)


def test_torchvision_transforms_move_image_mask_and_boxes_alike_where_targets_are_tv_tensors(caplog):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    data = scenes(train=[v2.RandomHorizontalFlip(0.5), Scaled()])
    (batch,) = data.batches("train", 1)
    images, targets = batch.data
    flipped = images[:, 0, 0, 0] == 14
    assert 0 < flipped.sum() < 12 and (images[:, 0] == 2 * targets["mask"]).all()
    assert (targets["boxes"][flipped] == torch.tensor([5, 1, 6, 2])).all() and targets["label"].sum() == 66
    assert not reported_of(caplog, data, data.first_batch("train").data)
    for joint, plain in ((False, False), (None, True)):
        data = scenes(plain, train=[v2.RandomHorizontalFlip(1.0)], joint=joint)
        first = data.first_batch("train").data
        assert first[0][0, 0, 0, 0] == 7
        assert (first[1] if plain else first[1]["mask"])[0, 0, 0] == 0
        assert "RandomHorizontalFlip in transforms.train moves" in reported_of(caplog, data, first)


@TRANSFORMS.register
def turned_both(sample):
    image, mask = sample
    turns = int(torch.randint(4, ()))
    return image.rot90(turns, (-2, -1)), mask.rot90(turns, (-2, -1))


class Scaled:
    """A transform of the image alone."""

    def __call__(self, image):
        return image * 2


def test_a_transform_that_takes_both_gets_both():
    for joint in (True, None):
        data = scenes(True, train=[turned_both if joint else Scaled()], joint=joint)
        images, masks = next(data.batches("train", 1)).data
        assert (images[:, 0] == (1 if joint else 2) * masks).all()
        assert len({int(mask[0, 0]) for mask in masks}) == (4 if joint else 1)


def test_a_run_with_joint_transforms_is_told_so_by_its_config(small, tmp_path):
    def run(joint: str, folder: str):
        return train("-c", small, "dataset=Outlines", "loss=overlap", "metrics=[]", "trainer.args.epochs=1",
                     f"transforms={{train: [turned_both], joint: {joint}}}", out=tmp_path / folder)

    config = load(run("true", "joint"))["config"]
    assert config["transforms"]["joint"] is True
    with pytest.raises(ConfigError, match="transforms"):
        run("null", "alone")


def test_draws_do_not_depend_on_whether_targets_move_along():
    v2 = pytest.importorskip("torchvision.transforms.v2")
    images = [next(scenes(train=[v2.RandomAffine(40, (0.2, 0.2))], joint=joint).batches("train", 1)).data[0]
              for joint in (None, False)]
    assert torch.equal(*images)


@pytest.mark.parametrize("name, args", [
    ("BatchRandomHorizontalFlip", {}), ("BatchRandomVerticalFlip", {}),
    ("BatchRandomCrop", {"size": 6, "padding": 1}),
    ("BatchRandomAffine", {"degrees": 60, "translate": (0.3, 0.3), "scale": (0.5, 1.5), "shear": 20}),
])
def test_batch_augmentations_move_masks_with_their_images(name, args, caplog):
    needs("data_loader/batch_augmentations.py")
    augmentation = TRANSFORMS.build({"type": name, "args": args}, "here")
    images, masks = PIXELS.float().repeat(16, 2, 1, 1) + 1, PIXELS[:, 0].repeat(16, 1, 1) + 1
    batch = (images, {"mask": masks, "heat": masks.float(), "inside": masks > 30}, torch.arange(16))
    moved, targets, labels = augmentation(batch, Draws(3, torch.arange(16)))
    assert torch.equal(moved, augmentation.augment(images, Draws(3, torch.arange(16))))
    assert torch.equal(moved[:, 0].long(), targets["mask"]) and targets["mask"].dtype == torch.int64
    assert torch.equal(moved[:, 0], targets["heat"]) and torch.equal(moved[:, 0] > 30, targets["inside"])
    assert torch.equal(labels, torch.arange(16)) and not torch.equal(targets["mask"], masks)
    assert not reported(caplog, (IMAGES, MASKS), batch=[augmentation])
    assert "boxes" in reported(caplog, (IMAGES, MASKS, {"boxes": torch.zeros(4, 2, 4)}), batch=[augmentation])
    assert name in reported(caplog, (IMAGES, MASKS), batch=[augmentation], joint=False)
    data = scenes(True, batch=[augmentation], joint=False)
    first = data.first_batch("train")
    moved, masks = data.prepare(first.data, torch.device("cpu"), False, first.chosen)
    assert torch.equal(masks, first.data[1])


def test_masks_of_smooth_images_keep_their_classes():
    needs("data_loader/batch_augmentations.py")
    args = {"degrees": 60, "interpolation": "bilinear"}
    affine = TRANSFORMS.build({"type": "BatchRandomAffine", "args": args}, "here")
    images, masks = affine((IMAGES, torch.randint(2, (4, 8, 8)) * 7.0), Draws(3, torch.arange(4)))
    assert set(masks.unique().tolist()) == {0, 7}


def test_a_run_of_1_0_0_moves_its_images_alone():
    old = complete_config({"transforms": {}}, former=format_1.DEFAULTS)
    assert old.config["transforms"] == {"joint": False}
    now = complete_config({})
    assert "transforms" not in now.config and now.complete["transforms"] == {"joint": None}
