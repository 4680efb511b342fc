"""Pictures as they lie in folders: turned, of 16 bit, animated, broken; either decoder; the first crop."""
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT
from PIL import Image, ImageOps
from torchvision import datasets
from torchvision import transforms as v1
from torchvision.transforms import v2

from base.base_data_loader import DataSplits
from base.config.complete_config import complete_config
from data_loader import image_reader
from data_loader.image_folder import ImageFolder
from data_loader.image_reader import ImageReader
from utils.checkpoint import format_1
from utils.random import seed_cpu


def pixels(root, **options) -> np.ndarray:
    return np.array(ImageFolder("train", str(root), **options)[0][0])


def file(root, name: str):
    (root / "train" / "cat").mkdir(parents=True, exist_ok=True)
    return root / "train" / "cat" / name


def picture(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """Slopes and noise, as a photograph has."""
    slope = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)[..., None] * [0.5, 0.9, 0.3]
    noise = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    return Image.fromarray((slope + noise).clip(0, 255).astype(np.uint8))


def images_at(root, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(root / name)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    opened = io.BytesIO()
    image.save(opened, kind, **options)
    return opened.getvalue()


def rotation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_images_of_16_bit_keep_their_shades(tmp_path):
    Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16)).save(file(tmp_path, "1.png"))
    assert pixels(tmp_path)[0, :, 0].tolist() == [0, 1, 255]
    assert pixels(tmp_path, decoder="torchvision")[0, :, 0].tolist() == [0, 255, 255]  # as 1.0.0


def test_a_file_beside_the_folders_of_the_classes_is_no_class(tmp_path):
    picture().save(file(tmp_path, "1.png"))
    (tmp_path / "train" / "notes.txt").write_text("")
    assert ImageFolder("train", str(tmp_path)).classes == ["cat"]


def test_what_begins_with_a_dot_is_neither_a_class_nor_an_image(tmp_path):
    images_at(tmp_path, "train/a/1.png", "train/.ipynb_checkpoints/1.png", "train/a/.ipynb_checkpoints/1.png",
              "train/a/._1.png")
    data = ImageFolder("train", str(tmp_path))
    assert data.classes == ["a"] and [Path(path).name for path, _ in data.samples] == ["1.png"]
    assert len(ImageFolder("train", str(tmp_path), decoder="torchvision")) == 4  # as in version 1.0.0


def test_missing_folders_of_classes_are_told(tmp_path, caplog):
    images_at(tmp_path, "flat/train/1.png")
    with pytest.raises(ValueError, match="flat/train holds no folders. Images lie in a folder"):
        ImageFolder("train", str(tmp_path / "flat"))
    images_at(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png")
    ImageFolder("val", str(tmp_path))
    assert "val has no images of b" in caplog.text


def test_images_are_turned_as_their_exif_says(tmp_path):
    Image.new("RGB", (4, 2)).save(file(tmp_path, "1.jpg"), exif=rotation(6))
    assert pixels(tmp_path).shape == (4, 2, 3) and pixels(tmp_path, decoder="torchvision").shape == (2, 4, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_of_any_format_are_turned_as_pillow_turns_them(kind):
    for image in (picture(), picture().convert("L")):
        for number in range(10):
            data = encoded(image, kind, exif=rotation(number))
            expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
            assert np.array_equal(image_reader.read_image(io.BytesIO(data)), expected)


def test_of_an_animated_image_the_first_frame_is_read(tmp_path):
    frames = [Image.new("RGB", (2, 2), color) for color in ("red", "blue")]
    frames[0].save(file(tmp_path, "1.webp"), save_all=True, append_images=frames[1:], lossless=True)
    assert pixels(tmp_path)[0, 0].tolist() == [255, 0, 0]


def png_of_16_bit(color: int, channels: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    values = np.random.default_rng(0).integers(0, 65536, (5, 6 * channels)).astype(">u2")
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 6, 5, 16, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def odd_files() -> dict[str, bytes]:
    """Files as they occur; some are broken."""
    image, faint = picture(), picture().convert("RGBA")
    faint.putalpha(image.convert("L"))
    more = {"save_all": True, "append_images": [picture(seed=1)]}
    jpeg, png = encoded(image, "JPEG"), encoded(image, "PNG")
    found = {f"jpeg {number}": encoded(image, "JPEG", subsampling=number) for number in range(3)}
    found |= {f"{kind} turned {number}": encoded(image, kind, exif=rotation(number))
              for kind in ("JPEG", "PNG", "WEBP") for number in (2, 3, 5, 6, 8)}
    found |= {f"JPEG {mode}": encoded(image.convert(mode), "JPEG") for mode in ("L", "CMYK")}
    found |= {f"PNG {mode}": encoded(faint.convert(mode), "PNG") for mode in ("RGBA", "LA", "L", "1", "P")}
    found |= {f"16 bit {color}": png_of_16_bit(color, channels)
              for color, channels in ((0, 1), (2, 3), (4, 2), (6, 4))}
    found |= {kind: encoded(image, kind) for kind in ("PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")}
    found |= {f"animated {kind}": encoded(image, kind, **more) for kind in ("WEBP", "GIF", "PNG")}
    found |= {"progressive": encoded(image, "JPEG", progressive=True), "alpha": encoded(faint, "WEBP"),
              "thin": encoded(image.resize((9, 1)), "JPEG"),
              "clear": encoded(image.convert("L").quantize(), "PNG", transparency=3),
              "scrambled": jpeg[:900] + bytes(16) + jpeg[916:], "empty": b"", "a page": b"<html>"}
    return found | {f"cut off {kind} {part}": data[:len(data) * part // 8]
                    for kind, data in (("jpeg", jpeg), ("png", png)) for part in (1, 4, 7)}


def test_both_decoders_give_the_same_pixels_of_odd_files_or_the_same_error(tmp_path):
    pytest.importorskip("torchcodec.decoders")

    def read(decoder: str):
        try:
            return ImageReader(decoder).with_transforms([])[0](tmp_path / "file")
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    for name, data in odd_files().items():
        (tmp_path / "file").write_bytes(data)
        one, other = read("torchcodec"), read("pil")
        assert one == other if isinstance(one, str) else torch.equal(one, other), name
        assert isinstance(one, str) == name.startswith(("cut", "empty", "a page")), name
        assert not isinstance(one, str) or "0x" not in one  # an address


def test_torchcodec_is_used_only_where_it_gives_the_pixels_of_pillow(monkeypatch):
    class Other:
        decode_jpeg = staticmethod(lambda data: torch.zeros(3, 58, 74, dtype=torch.uint8))

    monkeypatch.setattr(image_reader, "_torchcodec", Other)
    image_reader.is_exact.cache_clear()
    assert not image_reader.is_exact()
    monkeypatch.setattr(image_reader, "_torchcodec", lambda: None)
    image_reader.is_exact.cache_clear()
    assert not image_reader.is_exact()
    image_reader.is_exact.cache_clear()
    with pytest.raises(ValueError, match="torchcodec cannot be imported: pip install torchcodec"):
        ImageReader("torchcodec")


@pytest.mark.parametrize("module", [v1, v2])
@pytest.mark.parametrize("make", [
    lambda kind: [kind.RandomResizedCrop(24)], lambda kind: [kind.Resize(24), kind.CenterCrop(20)],
    lambda kind: [kind.Resize((20, 50))], lambda kind: [kind.Resize(70, max_size=100)],
    lambda kind: [kind.CenterCrop((20, 80))], lambda kind: [kind.RandomCrop(30)],
    lambda kind: [kind.RandomResizedCrop((9, 30)), kind.RandomHorizontalFlip(), kind.RandomVerticalFlip()],
    lambda kind: [kind.RandomResizedCrop((110, 100)), kind.RandomHorizontalFlip(0.7)]],
    ids=["random resized", "resize, center", "size", "larger", "beyond the rim", "random", "flips", "large"])
def test_the_first_crop_is_that_of_torchvision_within_two_levels(tmp_path, module, make):
    picture(123, 77).save(file(tmp_path, "1.jpg"), quality=95)
    transforms = make(module)
    reader, rest = ImageReader("pil").with_transforms(transforms)
    assert rest == [] and reader.steps
    for seed in range(20):
        seed_cpu(seed)
        ours = reader(file(tmp_path, "1.jpg"))
        after = torch.rand(1)
        seed_cpu(seed)
        image = image_reader.read_image(file(tmp_path, "1.jpg"))
        theirs = v2.functional.pil_to_tensor(v2.Compose(transforms)(image))
        assert torch.equal(after, torch.rand(1)) and ours.shape == theirs.shape and ours.dtype == torch.uint8
        difference = (ours.int() - theirs.int()).abs().float()
        assert difference.max() <= 2 and difference.mean() < 0.2


def test_boxes_are_those_that_torchvision_draws_from_the_same_numbers():
    shapes = ((160, 160), (375, 500), (1, 700), (700, 1), (40, 90))  # in two of them no box fits
    for seed in range(2000):
        crop = v1.RandomResizedCrop(9, [(0.08, 1), (1, 1)][seed % 2], [(3 / 4, 4 / 3), (2, 3)][seed % 3 % 2])
        log_ratio = torch.log(torch.tensor(crop.ratio)).tolist()
        height, width = shapes[seed % 5]
        seed_cpu(seed)
        ours = image_reader._random_box(height, width, crop.scale, crop.ratio, log_ratio), torch.rand(1)
        seed_cpu(seed)
        theirs = crop.get_params(torch.empty(3, height, width), crop.scale, crop.ratio), torch.rand(1)
        assert ours == theirs, seed


def sequence(transforms: list, path) -> tuple:
    """What the reader makes of a file, and then the transforms that are left."""
    seed_cpu(3)
    reader, rest = ImageReader().with_transforms(transforms)
    sample = reader(path)
    for transform in rest:
        sample = transform(sample)
    seed_cpu(3)
    expected = image_reader.read_image(path)
    for transform in transforms:
        expected = transform(expected)
    return sample, expected, rest


@pytest.mark.parametrize("kind", [v1, v2])
def test_what_follows_a_crop_gets_what_it_knows(tmp_path, kind):
    picture(123, 77).save(path := file(tmp_path, "1.jpg"))
    slow, end = kind.ColorJitter(0.4), kind.Normalize([0.5] * 3, [0.2] * 3)
    for transforms, num_left in (
            ([kind.CenterCrop(24), slow, kind.ToTensor(), end], 3), ([kind.CenterCrop(24), slow], 1),
            ([kind.CenterCrop(24), kind.ToTensor(), end], 1), ([kind.CenterCrop(24), kind.PILToTensor()], 0),
            ([kind.CenterCrop(24), kind.PILToTensor(), kind.RandomErasing(1)], 1),
            ([kind.CenterCrop(24), kind.Grayscale(), slow], 1), ([slow, kind.CenterCrop(24)], 2),
            ([kind.RandomCrop(24, padding=4)], 1), ([kind.RandomHorizontalFlip(), slow], 2),
            ([kind.Resize(24, interpolation=kind.InterpolationMode.NEAREST)], 1)):
        sample, expected, rest = sequence(transforms, path)
        assert type(sample) is type(expected) or isinstance(sample, torch.Tensor), transforms
        sample, expected = (np.array(value, dtype=np.float64) for value in (sample, expected))
        sample = sample.transpose(1, 2, 0) if sample.shape != expected.shape else sample
        assert len(rest) == num_left and sample.shape == expected.shape, transforms
        assert abs(sample - expected).max() <= 1, transforms
    assert ImageReader("torchvision").with_transforms([kind.CenterCrop(2)])[1]  # as 1.0.0


def test_a_crop_after_to_image_is_done_while_reading_too(tmp_path):
    picture(123, 77).save(path := file(tmp_path, "1.jpg"))
    floats = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.2] * 3)]
    for transforms, num_left in (([v2.RandomResizedCrop(24), v2.RandomHorizontalFlip(), *floats], 2),
                                 ([v2.RandomCrop(24), v2.ColorJitter(0.4)], 1), ([v2.Resize(24)], 0),
                                 ([v2.ColorJitter(0.4)], 2), ([], 1)):
        sample, expected, rest = sequence([v2.ToImage(), *transforms], path)
        assert len(rest) == num_left and (num_left == len(transforms) + 1 or type(sample) is type(expected))
        assert torch.equal(torch.as_tensor(sample), expected), transforms
    assert len(ImageReader("torchvision").with_transforms([v2.ToImage(), v2.CenterCrop(2)])[1]) == 2


def test_to_tensor_at_the_end_is_left_to_the_batch(tmp_path):
    picture().save(file(tmp_path, "1.png"))
    for end in ([v2.ToTensor()], []):
        data = DataSplits(lambda split: ImageFolder(split, str(tmp_path)),
                          {"train": [v2.CenterCrop(8), *end]}, validation_split=0)
        batch = next(data.batches("train")).data
        assert batch[0].dtype == torch.uint8 and batch[0].shape == (1, 3, 8, 8)
        floats = data.prepare(batch, torch.device("cpu"))[0]
        expected = v1.ToTensor()(v1.CenterCrop(8)(picture()))
        assert torch.equal(floats[0], expected)


def folder_of(root, count: int = 12):
    for number in range(count):
        picture(50 + number, 40, number).save(file(root, f"{number:02}.jpg"))
    return root


def loaded(root, workers: int = 0, start: int = 0, transforms=None, threads: int = 0,
           **options) -> list[torch.Tensor]:
    train = [v2.RandomResizedCrop(16), v2.RandomHorizontalFlip()] if transforms is None else transforms
    data = DataSplits(lambda split: ImageFolder(split, str(root), **options), {"train": train}, 5,
                      batch_size=4, validation_split=0, num_workers=workers, decode_threads=threads,
                      on_bad_sample="skip")
    batches = [batch.data[0] for batch in data.batches("train", epoch=1, start=start)]
    data.close()
    return batches


def test_an_epoch_of_crops_is_the_same_with_workers_from_its_middle_and_with_any_decoder(tmp_path):
    whole = torch.cat(loaded(folder_of(tmp_path)))
    assert torch.equal(torch.cat(loaded(tmp_path, workers=2)), whole)
    assert torch.equal(torch.cat(loaded(tmp_path, start=1)), whole[4:])
    assert torch.equal(torch.cat(loaded(tmp_path, decoder="pil")), whole)


@pytest.mark.parametrize("cached", [False, True])
def test_threads_change_nothing(tmp_path, monkeypatch, cached):
    monkeypatch.setenv("SEEDBED_CACHE", str(tmp_path / "cache"))
    options = {"cache": {}} if cached else {}
    folder_of(tmp_path, 21)
    file(tmp_path, "07.jpg").write_bytes(b"")
    whole = torch.cat(loaded(tmp_path))
    assert len(whole) == 20
    for threads in (1, 2, 4):
        assert torch.equal(torch.cat(loaded(tmp_path, threads=threads, **options)), whole)
    assert torch.equal(torch.cat(loaded(tmp_path, threads=2, workers=2, **options)), whole)
    later = torch.cat(loaded(tmp_path, threads=2, start=2, **options))
    assert torch.equal(later, torch.cat(loaded(tmp_path, start=2)))


def test_threads_that_can_read_nothing_are_named(tmp_path, caplog):
    folder_of(tmp_path, 4)
    batches = loaded(tmp_path, threads=2, transforms=[v2.RandomCrop(16)])
    assert "data_loader.decode_threads: no effect on train" in caplog.text
    assert torch.equal(batches[0], loaded(tmp_path, transforms=[v2.RandomCrop(16)])[0])


def test_size_makes_larger_images_smaller_and_leaves_others(tmp_path):
    for name, (width, height) in {"1": (90, 60), "2": (30, 20), "3": (20, 90)}.items():
        picture(width, height).save(file(tmp_path, f"{name}.png"))
    dataset = ImageFolder("train", str(tmp_path), size=30)
    assert [image.size for image, _ in dataset] == [(45, 30), (30, 20), (20, 90)]
    expected = np.array(v1.Resize(30)(picture(90, 60)))
    assert abs(np.array(dataset[0][0], dtype=int) - expected).max() <= 2
    pixels = dataset.with_transforms([])[0][0][0]
    assert torch.equal(torch.from_numpy(np.array(dataset[0][0])), pixels.permute(1, 2, 0))
    with pytest.raises(ValueError, match=r"train/dog holds no images \(\.jpg, "):
        (tmp_path / "train" / "dog").mkdir()
        ImageFolder("train", str(tmp_path))


def test_a_dataset_that_changes_samples_itself_still_gets_pil_images(tmp_path):
    class Mirrored(ImageFolder):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), target

    picture().save(file(tmp_path, "1.png"))
    data = DataSplits(lambda split: Mirrored(split, str(tmp_path)), {"train": [v2.CenterCrop(40)]},
                      validation_split=0)
    assert torch.equal(next(data.batches("train")).data[0][0],
                       v2.functional.pil_to_tensor(picture()).flip(-1)[:, :, 10:50])


@pytest.mark.slow
def test_reading_a_folder_does_not_import_torchvision(tmp_path):
    picture().save(file(tmp_path, "1.png"))
    code = ("import sys; from data_loader.image_folder import ImageFolder\n"
            f"ImageFolder('train', {str(tmp_path)!r}).with_transforms([])[0][0]\n"
            "print('torchvision' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_runs_of_1_0_0_read_the_files_and_pixels_that_torchvision_reads(tmp_path):
    for number, name in enumerate(("2.JPG", "b/10.jpeg", "b/2.png", "a.txt", "a/1.webp", ".hidden.bmp")):
        path = file(tmp_path, name)
        path.parent.mkdir(exist_ok=True)
        picture(seed=number).save(path, format="PNG" if name == "a.txt" else None)
    (tmp_path / "train" / "dog").symlink_to(tmp_path / "train" / "cat")
    (tmp_path / "train" / "cat" / "linked").symlink_to(tmp_path / "train" / "cat" / "b")
    ours = ImageFolder("train", str(tmp_path), decoder="torchvision")
    theirs = datasets.ImageFolder(tmp_path / "train")
    assert [(str(path), label) for path, label in theirs.samples] == ours.samples == ours.imgs
    assert theirs.classes == ours.classes and theirs.class_to_idx == ours.class_to_idx
    assert all(one.tobytes() == other.tobytes() for (one, _), (other, _) in zip(ours, theirs, strict=True))
    former = complete_config({"dataset": {"type": "ImageFolder", "args": {"root": "x"}}},
                             {"dataset": "ImageFolder"}, format_1.DEFAULTS)
    assert former.config["dataset"]["args"] == {"root": "x", "decoder": "torchvision"}
