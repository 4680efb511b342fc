"""Augmentations of batches of images give what torchvision gives for the numbers that they draw."""
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as v1
from torchvision.transforms.autoaugment import TrivialAugmentWide, _apply_op
from torchvision.transforms.v2 import functional as v2

from base.data.augmentation import Draws
from data_loader.batch_colors import BatchColorJitter
from data_loader.batch_resized_crop import BatchRandomResizedCrop, _weights
from data_loader.batch_trivial_augment import _BINS, _KINDS, BatchTrivialAugment, change

NAMES = {"shear x": "ShearX", "shear y": "ShearY", "translate x": "TranslateX", "translate y": "TranslateY",
         "autocontrast": "AutoContrast", "saturation": "Color"}


def images(batch: int = 12, channels: int = 3, height: int = 34, width: int = 45) -> torch.Tensor:
    """uint8, with edges and noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, channels, 6, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    noise = 0.05 * torch.randn(batch, channels, height, width, generator=generator)
    return ((smooth + noise) * 200 + 20).clamp(0, 255).to(torch.uint8)


def floats(**size) -> torch.Tensor:
    return images(**size).float() / 255


def draws(batch: int, first: int = 0) -> Draws:
    return Draws(7, torch.arange(first, first + batch))


def test_crops_are_those_of_torchvision_for_floats_within_2e_4_by_either_way():
    batch, crop = floats(batch=40), BatchRandomResizedCrop((20, 24))
    boxes = crop._boxes(batch.shape[2:], draws(40))
    ours = crop.augment(batch, draws(40))
    rows, columns = _weights(boxes[0], boxes[2], 20, 34), _weights(boxes[1], boxes[3], 24, 45)
    products = rows[:, None] @ batch @ columns[:, None].mT  # what an accelerator computes
    for place, (top, left, tall, wide) in enumerate(zip(*(part.tolist() for part in boxes))):
        assert 0 <= top <= 34 - tall and 0 <= left <= 45 - wide and tall > 0 and wide > 0
        theirs = v2.resized_crop(batch[place], top, left, tall, wide, [20, 24], antialias=True)
        assert (ours[place] - theirs).abs().max() < 2e-4 and (products[place] - theirs).abs().max() < 2e-4
    areas, shapes = boxes[2] * boxes[3] / (34 * 45), boxes[3] / boxes[2]
    assert areas.min() < 0.3 < 0.7 < areas.max() and 0.6 < shapes.min() < 0.9 and 1.1 < shapes.max() < 1.6


def test_a_crop_moves_masks_along_and_takes_the_middle_if_no_box_fits():
    batch, masks = floats(), torch.arange(12 * 34 * 45).reshape(12, 34, 45)
    crop = BatchRandomResizedCrop(9)
    top, left, tall, wide = (part.tolist() for part in crop._boxes((34, 45), draws(12)))
    moved = crop((batch, masks), draws(12))
    for place in range(12):
        box = top[place], left[place], tall[place], wide[place]
        theirs = v2.resized_crop(masks[place][None].float(), *box, [9, 9],
                                 interpolation=InterpolationMode.NEAREST)
        assert torch.equal(moved[1][place].float(), theirs[0]) and moved[0].shape == (12, 3, 9, 9)
    flat = BatchRandomResizedCrop(9, scale=(1, 1), ratio=(1, 1))
    assert [part.tolist() for part in flat._boxes((34, 45), draws(2))] == [[0, 0], [5, 5], [34, 34], [34, 34]]
    with pytest.raises(ValueError, match="size: \\(0, 3\\) will not do"):
        BatchRandomResizedCrop((0, 3))


def test_colors_are_those_of_torchvision_in_the_drawn_order_within_1e_5():
    batch, jitter = floats(), BatchColorJitter(0.4, (0.5, 2), 0.9, 0.3)
    numbers = draws(12)
    low, high = torch.tensor([0.6, 0.5, 0.1, -0.3]), torch.tensor([1.4, 2, 1.9, 0.3])
    factors = low + numbers.uniform(4) * (high - low)
    orders = numbers.uniform(4).argsort(dim=1, stable=True)
    functions = v1.adjust_brightness, v1.adjust_contrast, v1.adjust_saturation, v1.adjust_hue
    ours = jitter.augment(batch, draws(12))
    assert len({*map(tuple, orders.tolist())}) > 5
    for place, order in enumerate(orders.tolist()):
        theirs = batch[place]
        for number in order:
            theirs = functions[number](theirs, float(factors[place, number]))
        assert (ours[place] - theirs).abs().max() < 1e-5
    gray = floats(channels=1)
    assert jitter.augment(gray, draws(12)).shape == gray.shape and torch.equal(
        BatchColorJitter().augment(batch, draws(12)), batch)


@pytest.mark.parametrize("kind", _KINDS)
def test_trivial_augment_does_what_torchvision_does(kind):
    in_levels = kind in ("posterize", "solarize", "equalize")  # for which torchvision wants uint8
    given = images(batch=2 * _BINS) if in_levels else floats(batch=2 * _BINS)
    strength = torch.arange(_BINS).repeat(2) / (_BINS - 1)
    sign = torch.tensor([1, -1]).repeat_interleave(_BINS)
    ours = change(floats(batch=2 * _BINS), torch.full((2 * _BINS,), _KINDS.index(kind)), strength, sign)
    name = NAMES.get(kind, kind.capitalize())
    strengths, signed = TrivialAugmentWide()._augmentation_space(_BINS)[name]
    # a quarter of a circle, where pixels lie between two; and 16 pixels, which torchvision's sum makes 15.99
    left_out = {"rotate": 20, "translate x": 15, "translate y": 15}.get(kind)
    for place in range(2 * _BINS):
        magnitude = float(strengths[place % _BINS]) if strengths.ndim else 0.0
        theirs = _apply_op(given[place], name, magnitude * (int(sign[place]) if signed else 1),
                           InterpolationMode.NEAREST, None)
        difference = ours[place] - (theirs / 255 if in_levels else theirs)
        assert place % _BINS == left_out or difference.abs().max() < 1e-5, place


@pytest.mark.parametrize("make", [
    lambda: BatchRandomResizedCrop(12), lambda: BatchColorJitter(0.4, 0.4, 0.4, 0.2), BatchTrivialAugment],
    ids=["crop", "colors", "trivial"])
def test_an_image_gets_the_same_numbers_in_any_batch_and_others_in_another_epoch(make):
    whole, augmentation = floats(batch=16), make()
    before = whole.clone()
    changed = augmentation.augment(whole, draws(16))
    parts = [augmentation.augment(whole[first:first + 4], draws(4, first)) for first in range(0, 16, 4)]
    assert (torch.cat(parts) - changed).abs().max() < 1e-6 and torch.equal(whole, before)
    other = augmentation.augment(whole, Draws(8, torch.arange(16)))
    assert (other != changed).any(dim=(1, 2, 3)).sum() > 12 and changed.min() >= 0 and changed.max() <= 1


def test_trivial_augment_moves_masks_along():
    batch = (floats()[:, :1] > 0.5).float()
    moved = BatchTrivialAugment()((batch.expand(-1, 3, -1, -1), batch[:, 0].long()), draws(12))
    numbers = draws(12).integers(len(_KINDS))
    for place, kind in enumerate(numbers.tolist()):
        assert kind > 4 or torch.equal(moved[0][place, 0], moved[1][place].float())
        assert kind < 5 or torch.equal(moved[1][place].float(), batch[place, 0])
