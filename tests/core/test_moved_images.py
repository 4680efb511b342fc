"""Transforms that move an image and not the masks or boxes on it are reported before the run."""
import logging

import pytest
import torch
from torch import nn

from base import DATASETS, LOSSES, TRANSFORMS, ArrayDataset, BatchAugmentation
from base.preflight_geometry import warn_of_moved_images
from conftest import needs, train


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


class Transforms:
    """Stands for the splits of a dataset."""

    def __init__(self, **transforms):
        self.transforms = {"train": [], "batch": [], **transforms}


def reported(caplog, given, **transforms) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        warn_of_moved_images(Transforms(**transforms), given)
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
        small, tmp_path, capsys, augmentation):
    needs("data_loader/batch_augmentations.py")
    train("-c", small, "dataset=Outlines", "loss=overlap", "metrics=[]", "trainer.args.epochs=1",
          "transforms.train=[]", f"transforms.batch=[{augmentation}]", out=tmp_path)
    assert ("and not their targets, masks [30, 1, 8, 8]" in capsys.readouterr().err) == (
        augmentation != "Brighter")
