"""Ten common recipes over a folder of JPEGs: this version of the project against another one.

    python benchmarks/picture_recipes.py --against DIR                (DIR: a checkout, such as of 1.0.0)
    python benchmarks/picture_recipes.py --against DIR --rounds 2 --images 600    (five minutes)
    python benchmarks/picture_recipes.py --contestants crop,crop_exif,crop_turned

    crop         RandomResizedCrop, flip; evaluation resizes and crops the center, here and below
    random_crop  Resize, RandomCrop, flip
    padding      Resize, RandomCrop with padding, flip
    jitter       RandomResizedCrop, flip, ColorJitter
    randaugment  RandomResizedCrop, flip, RandAugment
    rotation     Resize to a square, flip, RandomRotation
    sample       RandomResizedCrop, flip, then ToTensor and Normalize for each sample
    erasing      the same, and RandomErasing
    v2           ToImage, RandomResizedCrop, flip, ToDtype, Normalize: the order of torchvision's pages
    resize       Resize to a square, also in evaluation

    NAME_before  the same config, run by the checkout
    crop_exif    crop on the same pictures with a camera's EXIF block, upright
    crop_turned  the same with an orientation: the picture is turned when it is read

The network is that of pictures.py, which also makes the pictures. The time of an epoch goes from the end of
one evaluation to the end of the next. While other programs run, compare the processor's time, with
`--threads 1`.
"""
import argparse
import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import pictures  # noqa: E402
from benchmarks.harness import PROJECT  # noqa: E402
from benchmarks.pytorch_template import enter  # noqa: E402

ROTATED_90 = 6  # an orientation of EXIF; 1 is upright
NORMALIZE = {"type": "Normalize", "args": {"mean": pictures.MEAN, "std": pictures.STD}}


def recipes(size: int) -> dict[str, tuple[list, list, list]]:
    """The transforms of train, eval and batch by the recipe's name, for crops of `size` pixels."""
    cropped = [pictures.sized("RandomResizedCrop", size), "RandomHorizontalFlip"]
    center = [pictures.sized("Resize", size * 8 // 7), pictures.sized("CenterCrop", size)]
    square, to_tensor = [pictures.sized("Resize", [size, size])], ["ToTensor", NORMALIZE]
    floats = [{"type": "ToDtype", "args": {"dtype": "float32", "scale": True}}, NORMALIZE]
    padded = {"type": "RandomCrop", "args": {"size": size, "padding": size // 8}}
    jitter = {"type": "ColorJitter", "args": dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)}
    rotation = {"type": "RandomRotation", "args": {"degrees": 15}}
    moved = [center[0], pictures.sized("RandomCrop", size), "RandomHorizontalFlip"]
    return {"crop": (cropped, center, [NORMALIZE]),
            "random_crop": (moved, center, [NORMALIZE]),
            "padding": ([*square, padded, "RandomHorizontalFlip"], center, [NORMALIZE]),
            "jitter": ([*cropped, jitter], center, [NORMALIZE]),
            "randaugment": ([*cropped, "RandAugment"], center, [NORMALIZE]),
            "rotation": ([*square, "RandomHorizontalFlip", rotation], square, [NORMALIZE]),
            "sample": (cropped + to_tensor, center + to_tensor, []),
            "erasing": ([*cropped, *to_tensor, "RandomErasing"], center + to_tensor, []),
            "v2": (["ToImage", *cropped, *floats], ["ToImage", *center, *floats], []),
            "resize": (square, square, [NORMALIZE])}


def program(args, name: str, before: bool = False, orientation: int | None = None) -> dict:
    """Epochs of a recipe in this process, by this version or by that of `--against`."""
    if before and not args.against:
        return {"note": "not given (--against DIR)"}
    folder = with_exif(pictures.root(args), orientation) if orientation else pictures.root(args)
    project = args.against if before else PROJECT
    if before:
        enter(project)
    train, evaluation, batch = recipes(pictures.CROPS[args.width])[name]
    return pictures.epochs(args, {"train": train, "eval": evaluation, "batch": batch}, folder, project)


def with_exif(folder: Path, orientation: int) -> Path:
    """A copy of the folder, made once: each file also has an EXIF block of 4 kB, as from a camera."""
    from PIL import Image

    exif = Image.Exif()
    exif.update({0x010F: "Maker", 0x0110: "Model 1", 0x0112: orientation, 0x0132: "2026:11:01 12:00:00"})
    exif.get_ifd(0x8769).update({0x829A: 0.004, 0x9003: "2026:11:01 12:00:00", 0x927C: os.urandom(4000)})
    block = exif.tobytes()
    segment = b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block
    copy = folder.with_name(f"{folder.name}-exif-{orientation}")
    for file in folder.rglob("*.jpg"):
        if not (path := copy / file.relative_to(folder)).exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            data = file.read_bytes()
            path.with_suffix(".part").write_bytes(data[:2] + segment + data[2:])
            path.with_suffix(".part").replace(path)
    return copy


def options(parser: argparse.ArgumentParser) -> None:
    pictures.options(parser)
    parser.set_defaults(images=1200, epochs=6)  # the second epoch has costs of its own, the median has not
    parser.add_argument("--against", type=lambda text: Path(text).resolve(), metavar="DIR",
                        help="a checkout of the other version")


NAMES = recipes(0)
CONTESTANTS = {name + suffix: partial(program, name=name, before=bool(suffix))
               for name in NAMES for suffix in ("", "_before")}
EXIF = {f"crop_{name}": partial(program, name="crop", orientation=orientation)
        for name, orientation in (("exif", 1), ("turned", ROTATED_90))}
COMPARISON = pictures.Pictures(
    "picture_recipes", __doc__, CONTESTANTS | EXIF,
    {"epoch_s": "later epochs [s]", "processor_s": "their processor's time [s]"}, rounds=5, options=options,
    ratios=[(field, *pair) for field in ("epoch_s", "processor_s")
            for pair in (*((name, f"{name}_before") for name in NAMES),
                         *((name, "crop") for name in EXIF))])

if __name__ == "__main__":
    COMPARISON.main()
