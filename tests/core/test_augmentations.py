"""Every sample is augmented by numbers of its own, as if it were alone, and to the same bits in any batch."""
import math
from collections import namedtuple

import pytest
import torch
from torch.nn import functional
from torchvision.transforms import v2

from base import METRICS, TRANSFORMS, BatchAugmentation
from base.data.augmentation import Draws, per_sample
from data_loader.batch_augmentations import affine
from data_loader.batch_mixing import beta_quantiles
from utils.random import derive

EVERY = [  # one of each, on images of 12x10
    ("BatchRandomCrop", {"size": (9, 7), "padding": 2}),
    ("BatchRandomHorizontalFlip", {}),
    ("BatchRandomVerticalFlip", {}),
    ("BatchRandomAffine", {"degrees": 30, "translate": (0.2, 0.1), "scale": (0.8, 1.2), "shear": (-9, 9, -5, 5)}),
    ("BatchRandomErasing", {"p": 0.7}),
    ("BatchMixUp", {"num_classes": 5, "alpha": 0.4}),
    ("BatchCutMix", {"num_classes": 5}),
]
MIXING = [each for each in EVERY if "Mix" in each[0]]
ALONE = [each for each in EVERY if each not in MIXING]


def build(name: str, **args) -> BatchAugmentation:
    return TRANSFORMS.build({"type": name, "args": args}, "transforms.batch.0")


def images_of(num_samples: int = 24, channels: int = 3, height: int = 12, width: int = 10) -> torch.Tensor:
    return torch.rand(num_samples, channels, height, width, generator=torch.Generator().manual_seed(1))


def draws(num_samples: int = 24, seed: int = 7) -> Draws:
    return Draws(seed, torch.arange(num_samples))


def numbers(seed: int, num_samples: int, count: int) -> torch.Tensor:
    return Draws(seed, torch.arange(num_samples)).uniform(count).double()


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1].item()


# -- draws ---------------------------------------------------------------------------------------------------------

def test_draws_do_not_depend_on_who_else_is_in_the_batch():
    def drawn(indices):
        mine = Draws(3, indices)
        return torch.cat([mine.uniform()[:, None], mine.uniform(5), mine.uniform(40), mine.normal(2), mine.integers(9)[:, None],
                          mine.uniform(16), mine.integers(4, 3)], 1)

    together = drawn(torch.arange(100))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn(order), together[order])
    assert torch.equal(drawn(torch.tensor([42])), together[42:43])


def test_numbers_are_the_same_one_by_one_and_many_at_a_time():
    one_by_one, some, many = draws(), draws(), draws()
    singles = torch.stack([one_by_one.uniform() for _ in range(50)], 1)
    assert torch.equal(singles, many.uniform(50))
    assert torch.equal(singles, torch.cat([some.uniform(count) for count in (1, 7, 12, 20, 3, 7)], 1))


def test_every_call_sample_and_seed_has_numbers_of_its_own():
    drawn = torch.cat([numbers(seed, 300, 40).flatten() for seed in (0, 1, -1, 2**80)])
    expected = len(drawn) ** 2 / 2 / 2**24  # that many of 24 bits meet by chance
    assert len(drawn) - len(drawn.unique()) < 2 * expected
    assert len(numbers(0, 300, 40).unique(dim=0)) == 300


def test_draws_are_even_and_independent_of_neighbours():
    drawn = numbers(5, 1000, 400)  # 400,000: a standard error of 0.0005 for the mean, 0.0016 for correlations
    assert 0 <= drawn.min() < 1e-4 and 1 - 1e-4 < drawn.max() < 1
    assert abs(drawn.mean() - 1 / 2) < 0.002 and abs(drawn.var() - 1 / 12) < 0.0005
    pairs = [(drawn[:-1], drawn[1:]), (drawn[:, :-1], drawn[:, 1:]), (drawn[:-1, 1:], drawn[1:, :-1]),
             (drawn, numbers(6, 1000, 400)), (drawn[:-1], numbers(6, 1000, 400)[1:]), (drawn[:-64], drawn[64:])]
    assert max(abs(correlation(*pair)) for pair in pairs) < 0.008
    cells = torch.histc(drawn[:-1] * 20 + (drawn[1:] * 20).floor() * 20, 400, 0, 400)  # pairs of neighbours, on a grid
    assert ((cells - 999) ** 2).sum() / 999 < 400 + 5 * math.sqrt(2 * 400)  # chi-squared
    normal = draws(1000).normal(100)
    assert abs(normal.mean()) < 0.015 and abs(normal.std() - 1) < 0.015 and normal.isfinite().all()


def test_the_numbers_are_those_of_splitmix64_in_unlimited_integers():
    def scrambled(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        return (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64

    step, indices = 0x9E3779B97F4A7C15, [0, 1, 50_000, 2**40]
    for index, drawn in zip(indices, Draws(7, torch.tensor(indices)).uniform(3).tolist(), strict=True):
        key = scrambled((derive(7, "draws") + index * step) % 2**64)
        assert drawn == [(scrambled((key + count * step) % 2**64) >> 40) / 2**24 for count in (1, 2, 3)]


def test_integers_stay_below_their_bound():
    for high in (1, 2, 3, 7, 1000, 2**24):
        drawn = draws(500).integers(high, 20)
        assert drawn.dtype == torch.int64 and 0 <= drawn.min() and drawn.max() < high
    assert draws(100).integers(3, 20).unique().tolist() == [0, 1, 2]
    largest = torch.tensor((2**24 - 1) / 2**24)  # the largest number there is
    assert all((largest * high).long() == high - 1 for high in range(1, 3000))


# -- one sample at a time, by hand ---------------------------------------------------------------------------------

def crop_by_hand(augmentation, image, draw):
    padded = functional.pad(image, [augmentation.padding] * 4)
    top = draw.integers(padded.shape[1] - augmentation.height + 1).item()
    left = draw.integers(padded.shape[2] - augmentation.width + 1).item()
    return padded[:, top : top + augmentation.height, left : left + augmentation.width]


def flip_by_hand(dim):
    return lambda augmentation, image, draw: image.flip(dim) if draw.uniform().item() < augmentation.p else image


def affine_by_hand(augmentation, image, draw):
    low, high = [-30, -0.2, -0.1, 0.8, -9, -5], [30, 0.2, 0.1, 1.2, 9, 5]
    share = draw.uniform(6)[0].tolist()  # angle, scale, shifts, shears
    low, high = [[row[i] for i in (0, 3, 1, 2, 4, 5)] for row in (low, high)]
    angle, scale, across, down, *shear = (a + u * (b - a) for a, b, u in zip(low, high, share, strict=True))
    return v2.functional.affine(image, angle, [round(across * image.shape[2]), round(down * image.shape[1])], scale, shear,
                                interpolation=v2.InterpolationMode.NEAREST)


def erase_by_hand(augmentation, image, draw):
    height, width = image.shape[1:]
    chosen = draw.uniform().item() < augmentation.p
    areas, ratios = draw.uniform(10)[0].double(), draw.uniform(10)[0].double()
    place = draw.uniform().item(), draw.uniform().item()
    for u_area, u_ratio in zip(areas, ratios, strict=True):
        area = (0.02 + u_area * (0.33 - 0.02)) * height * width
        ratio = torch.exp(math.log(0.3) + u_ratio * (math.log(3.3) - math.log(0.3)))
        h, w = round((area * ratio).sqrt().item()), round((area / ratio).sqrt().item())
        if chosen and h < height and w < width:
            return v2.functional.erase(image, int(place[0] * (height - h + 1)), int(place[1] * (width - w + 1)), h, w,
                                       torch.zeros(3, 1, 1))
    return image


BY_HAND = {"BatchRandomCrop": crop_by_hand, "BatchRandomHorizontalFlip": flip_by_hand(2),
           "BatchRandomVerticalFlip": flip_by_hand(1), "BatchRandomAffine": affine_by_hand, "BatchRandomErasing": erase_by_hand}


@pytest.mark.parametrize("name, args", ALONE, ids=[name for name, _ in ALONE])
def test_a_batch_is_augmented_as_its_samples_would_be_one_by_one(name, args):
    augmentation, images = build(name, **args), images_of(100)
    augmented = augmentation(images, draws(100))
    expected = torch.stack([BY_HAND[name](augmentation, image, Draws(7, torch.tensor([i]))) for i, image in enumerate(images)])
    wrong = (augmented != expected).float().mean()
    assert wrong <= (0.005 if name == "BatchRandomAffine" else 0)  # a place half-way between two pixels may go to either
    assert not torch.equal(augmented, images)


@pytest.mark.parametrize("name, args", MIXING, ids=[name for name, _ in MIXING])
@pytest.mark.parametrize("soft", [False, True])
def test_a_batch_is_mixed_as_pairs_of_samples_would_be(name, args, soft):
    images, labels = images_of(), torch.arange(24) % 5
    one_hot = functional.one_hot(labels, 5).float()
    given = one_hot * 0.9 + 0.02 if soft else labels
    mixed, targets = build(name, **args)([images, given], draws())
    quantiles = beta_quantiles(args.get("alpha", 1.0))
    for i in range(24):
        draw, other = Draws(7, torch.tensor([i])), images[i - 1]
        kept = quantiles[draw.integers(len(quantiles))].item()
        if name == "BatchMixUp":
            expected = kept * images[i] + (1 - kept) * other
        else:
            expected, y, x = images[i].clone(), draw.integers(12).item(), draw.integers(10).item()
            tall, wide = (int(side * math.sqrt(1 - kept) / 2) for side in (12, 10))
            box = (slice(None), slice(max(y - tall, 0), min(y + tall, 12)), slice(max(x - wide, 0), min(x + wide, 10)))
            expected[box] = other[box]
            kept = 1 - expected[box][0].numel() / 120
        torch.testing.assert_close(mixed[i], expected, atol=1e-6, rtol=0)
        rows = one_hot * 0.9 + 0.02 if soft else one_hot
        torch.testing.assert_close(targets[i], kept * rows[i] + (1 - kept) * rows[i - 1], atol=1e-6, rtol=0)
    torch.testing.assert_close(targets.sum(1), torch.ones(24))
    assert targets.dtype == torch.float32


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("angle, across, down, scale, shear_x, shear_y", [
    (0, 0, 0, 1.0, 0, 0), (0, 3, -2, 1.0, 0, 0), (89, 0, 0, 1.0, 0, 0), (33, 0, 0, 1.0, 0, 0), (-12, 1, 4, 0.7, 0, 0),
    (5, 0, 0, 1.3, 20, 0), (0, 0, 0, 1.0, 0, -25), (-171, -2, 1, 1.1, 8, 13)])
def test_parameters_of_affine_mean_what_they_mean_to_torchvision(interpolation, angle, across, down, scale, shear_x, shear_y):
    images = images_of(2, height=12, width=17)
    parameters = [torch.full((2,), float(value)) for value in (angle, across, down, scale, shear_x, shear_y)]
    for number in (0, 4, 5):
        parameters[number] = parameters[number].deg2rad()
    ours = affine(images, *parameters, interpolation)
    theirs = v2.functional.affine(images, angle, [across, down], scale, [shear_x, shear_y],
                                  interpolation=v2.InterpolationMode(interpolation))
    wrong = (ours - theirs).abs() > 1e-4
    assert wrong.float().mean() <= (0.005 if interpolation == "nearest" else 0)


# -- what holds for all --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, args", EVERY, ids=[name for name, _ in EVERY])
def test_an_augmentation_leaves_the_given_batch_and_all_else_in_it_as_they_were(name, args):
    Batch = namedtuple("Batch", "images labels names")
    images, labels = images_of(6), torch.arange(6) % 5
    given = Batch(images.clone(), labels.clone(), list("abcdef"))
    augmented = build(name, **args)(given, draws(6))
    assert type(augmented) is Batch and augmented.names == list("abcdef")
    assert torch.equal(given.images, images) and torch.equal(given.labels, labels)
    assert "Mix" in name or augmented.labels is given.labels
    assert augmented.images.shape == ((6, 3, 9, 7) if name == "BatchRandomCrop" else images.shape)


@pytest.mark.parametrize("name, args", EVERY, ids=[name for name, _ in EVERY])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_augmentation_keeps_the_dtype_and_takes_any_memory_format(name, args, dtype):
    images, labels = images_of().to(dtype), torch.arange(24) % 5
    augmentation = build(name, **args)
    augmented = augmentation((images, labels), draws())[0]
    last = augmentation((images.contiguous(memory_format=torch.channels_last), labels), draws())[0]
    assert augmented.dtype == last.dtype == dtype and torch.equal(augmented, last)


@pytest.mark.parametrize("name, args", EVERY, ids=[name for name, _ in EVERY])
def test_an_augmentation_never_asks_the_device_for_a_number(name, args):
    images = torch.empty(8, 3, 12, 10, device="meta")  # a device that has no numbers to give, nor takes those of another
    labels = torch.empty(8, dtype=torch.int64, device="meta")
    augmented, _ = build(name, **args)((images, labels), Draws(1, torch.empty(8, dtype=torch.int64, device="meta")))
    assert augmented.device.type == "meta"


@pytest.mark.parametrize("name, args", ALONE, ids=[name for name, _ in ALONE])
def test_a_sample_comes_out_the_same_to_the_bit_in_any_batch(name, args):
    augmentation, images = build(name, **args), images_of()
    together = augmentation(images, draws())
    some = torch.tensor([5, 17, 3])
    assert torch.equal(augmentation(images[some], Draws(7, some)), together[some])
    assert not torch.equal(augmentation(images, draws(seed=8)), together)


@pytest.mark.parametrize("name, dims", [("BatchRandomHorizontalFlip", [3]), ("BatchRandomVerticalFlip", [2])])
def test_a_flip_of_probability_0_is_none_and_of_1_is_one_always(name, dims):
    images = images_of()
    assert torch.equal(build(name, p=0)(images, draws()), images)
    assert torch.equal(build(name, p=1)(images, draws()), images.flip(dims))
    flipped = (build(name)(images_of(400), draws(400)) != images_of(400)).flatten(1).any(1)
    assert 150 < flipped.sum() < 250


def test_erasing_of_probability_0_is_none_and_of_1_is_one_always():
    images = images_of(400, height=20, width=24) + 1
    assert torch.equal(build("BatchRandomErasing", p=0)(images, draws(400)), images)
    erased = (build("BatchRandomErasing", p=1)(images, draws(400)) == 0).all(1)
    assert erased.flatten(1).any(1).all()
    share = erased.flatten(1).float().mean(1)
    assert 0.01 < share.min() < 0.04 and 0.29 < share.max() < 0.36 and abs(share.mean() - 0.175) < 0.02
    assert 0.4 < build("BatchRandomErasing")(images, draws(400)).eq(0).flatten(1).any(1).float().mean() < 0.6


def test_erasing_writes_the_value_or_noise_and_leaves_an_image_where_nothing_fits():
    images = images_of(200) + 10
    by_channel = build("BatchRandomErasing", p=1, value=[1, 2, 3])(images, draws(200))
    for channel in range(3):
        erased = by_channel[:, channel] != images[:, channel]
        assert by_channel[:, channel][erased].unique().tolist() == [channel + 1.0]
    noisy = build("BatchRandomErasing", p=1, value="random")(images, draws(200))
    noise = noisy[noisy != images]
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert torch.equal(build("BatchRandomErasing", p=1, scale=(1, 1))(images, draws(200)), images)
    with pytest.raises(ValueError, match="2 values for images of 3 channels"):
        build("BatchRandomErasing", value=[1, 2])(images, draws(200))


def test_a_crop_of_the_whole_image_is_the_image_and_every_place_is_reached():
    images = images_of()
    assert torch.equal(build("BatchRandomCrop", size=[12, 10])(images, draws()), images)
    places = torch.arange(64.0).reshape(1, 1, 8, 8).expand(500, 1, 8, 8)
    corners = build("BatchRandomCrop", size=6)(places, draws(500))[:, 0, 0, 0]
    assert corners.unique().tolist() == [0, 1, 2, 8, 9, 10, 16, 17, 18]
    with pytest.raises(ValueError, match="no 13x13 fits into 12x10"):
        build("BatchRandomCrop", size=13)(images, draws())


def test_affine_without_ranges_is_the_image():
    for interpolation in ("nearest", "bilinear"):
        same = build("BatchRandomAffine", degrees=0, interpolation=interpolation)(images_of(), draws())
        torch.testing.assert_close(same, images_of(), atol=1e-5, rtol=0)


# From scipy 1.17: scipy.stats.beta.ppf([0.05, 0.1, 0.25, 0.4, 0.5, 0.9], alpha, alpha).
QUANTILES = {0.2: [7.743885786e-06, 2.477646919e-04, 0.02381471877, 0.2163418588, 0.5, 0.9997522353],
             1: [0.05, 0.1, 0.25, 0.4, 0.5, 0.9],
             2: [0.1353503622, 0.1958001057, 0.3263518223, 0.4329310771, 0.5, 0.8041998943]}


@pytest.mark.parametrize("alpha", QUANTILES)
def test_the_table_of_shares_holds_the_quantiles_of_the_beta_distribution(alpha):
    table = torch.from_numpy(beta_quantiles(alpha))
    found = torch.quantile(table, torch.tensor([0.05, 0.1, 0.25, 0.4, 0.5, 0.9], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(QUANTILES[alpha], dtype=torch.float64), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(table + table.flip(0), torch.ones_like(table))
    assert abs(table.var().item() - 1 / (4 * (2 * alpha + 1))) < 1e-4  # in closed form


@pytest.mark.parametrize("alpha", [1e-6, 999])
def test_extreme_shares_are_all_or_nothing_or_halves(alpha):
    table = torch.from_numpy(beta_quantiles(alpha))
    assert table.isfinite().all() and (table.diff() >= 0).all()
    assert (table * (1 - table)).mean() < 1e-5 if alpha < 1 else (table - 0.5).abs().max() < 0.06


def test_mixing_again_takes_the_soft_targets_of_the_first():
    batch = images_of(), torch.arange(24) % 5
    same = draws()
    for name, args in MIXING:
        batch = build(name, **args)(batch, same)
    torch.testing.assert_close(batch[1].sum(1), torch.ones(24))
    assert ((batch[1] > 0).sum(1) == 3).any()


@pytest.mark.parametrize("targets", [torch.zeros(24), torch.zeros(24, 4), torch.zeros(24, 5, dtype=torch.int64)])
def test_mixing_what_are_no_classes_is_an_error_that_says_so(targets):
    for name, args in MIXING:
        with pytest.raises(ValueError, match=r"class numbers \[B\] or soft targets \[B, 5\] are needed"):
            build(name, **args)((images_of(), targets), draws())


def test_mixing_needs_targets_and_images_need_four_dimensions():
    for name, args in MIXING:
        with pytest.raises(ValueError, match="this is a Tensor"):
            build(name, **args)(images_of(), draws())
    for name, args in [*ALONE, MIXING[1]]:
        for wrong in (images_of()[0], {"image": images_of()}):
            with pytest.raises(ValueError, match=r"\[B, C, H, W\]; the input is"):
                build(name, **args)((wrong, torch.arange(24) % 5), draws())


@pytest.mark.parametrize("name, args, says", [
    ("BatchRandomCrop", {"size": 0}, "size: 0"), ("BatchRandomCrop", {"size": [3, 4, 5]}, "size: .3, 4, 5"),
    ("BatchRandomCrop", {"size": 4, "padding": -1}, "padding: -1"), ("BatchRandomHorizontalFlip", {"p": 1.5}, "p: 1.5"),
    ("BatchRandomVerticalFlip", {"p": -0.5}, "p: -0.5"), ("BatchRandomErasing", {"p": math.nan}, "p: nan"),
    ("BatchRandomErasing", {"scale": (0.5, 0.1)}, "scale: .0.5, 0.1"),
    ("BatchRandomErasing", {"ratio": (0, 1)}, "ratio: .0, 1"),
    ("BatchRandomErasing", {"value": "noise"}, "value: 'noise'"), ("BatchRandomAffine", {"degrees": -3}, "degrees: -3"),
    ("BatchRandomAffine", {"degrees": 0, "translate": (2, 0)}, "translate: .2, 0"),
    ("BatchRandomAffine", {"degrees": 0, "translate": (0.5,)}, "translate: .0.5"),
    ("BatchRandomAffine", {"degrees": 0, "scale": (0, 1)}, "scale: .0, 1"),
    ("BatchRandomAffine", {"degrees": 0, "shear": (1, 2, 3)}, "shear: .1, 2, 3"),
    ("BatchRandomAffine", {"degrees": 0, "interpolation": "cubic"}, "interpolation: there is no 'cubic'"),
    ("BatchMixUp", {"num_classes": 5, "alpha": 0}, "alpha: 0"),
    ("BatchCutMix", {"num_classes": 5, "alpha": 5000}, "alpha: 5000")])
def test_arguments_that_make_no_sense_are_refused_by_name(name, args, says):
    with pytest.raises(ValueError, match=says):
        TRANSFORMS.get(name)(**args)


@pytest.mark.parametrize("name, args", EVERY, ids=[name for name, _ in EVERY])
def test_the_config_check_knows_the_arguments(name, args):
    from_yaml = {key: list(value) if isinstance(value, tuple) else value for key, value in args.items()}
    assert TRANSFORMS.faults({"type": name, "args": from_yaml}, ("transforms",)) == []
    for key in args:
        fault, = TRANSFORMS.faults({"type": name, "args": {**from_yaml, key: True}}, ("transforms",))
        assert fault.path[-1] == key and "the value is true" in fault.message


def test_an_augmentation_of_ones_own_is_a_class_with_augment():
    class Noise(BatchAugmentation):
        def augment(self, inputs, draws):
            return inputs + per_sample(draws.uniform(), inputs)

    inputs = torch.zeros(24, 2, 3)
    augmented, labels = Noise()([inputs, torch.arange(24)], draws())
    assert torch.equal(augmented, draws().uniform()[:, None, None].expand(24, 2, 3))
    assert torch.equal(Noise()(inputs, draws()), augmented) and torch.equal(labels, torch.arange(24))


# -- metrics -------------------------------------------------------------------------------------------------------

def test_accuracies_of_soft_targets_are_those_of_their_largest_class():
    outputs = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 6
    soft = functional.one_hot(labels, 6) * 0.6 + 0.4 / 6
    accuracy, top_k = METRICS.get("accuracy"), METRICS.get("top_k_accuracy")
    assert torch.equal(accuracy(outputs, soft), accuracy(outputs, labels)) and 0 < accuracy(outputs, soft).sum() < 50
    assert torch.equal(top_k(outputs, soft, k=3), top_k(outputs, labels, k=3)) and accuracy(outputs, soft).shape == (50,)
