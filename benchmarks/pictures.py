"""An epoch over a folder of JPEGs: the program against the usual loop over torchvision's ImageFolder.

    python benchmarks/pictures.py                (3,600 pictures of 160x160, crops of 96; it makes them)
    python benchmarks/pictures.py --width 500    (1,000 of 500x375, crops of 224)

    usual_0, usual_1, usual_2  PIL images, RandomResizedCrop, flip, ToTensor and Normalize for each sample,
                               in a DataLoader with that number of workers; AdamW's fused kernel
    files                      the program as it comes, which reads the same files
    cached                     the same with `cache: {}`: later epochs read decoded pictures
    files_threads, cached_threads   the same with `data_loader.decode_threads`, as many as --threads
    compute                    the same steps on one batch that is there already

All evaluate a tenth as many pictures, and keep the heap. The time of an epoch goes from the end of one
evaluation to the end of the next. Each round has a seed of its own: the spread of the differences between
accuracies, those of the last epoch, is that over seeds.
"""
import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import jobs  # noqa: E402
from benchmarks.harness import PROJECT, Clock, Comparison  # noqa: E402

BATCH_SIZE, NUM_CLASSES, MEAN, STD, LEARNING_RATE = 64, 10, [0.5] * 3, [0.25] * 3, 3e-3
CROPS = {160: 96, 500: 224}
QUALITIES = {160: 80, 500: 96}  # files of 6 and 58 kB, as photographs of these sizes have


def root(args) -> Path:
    """The folder of the pictures, made once: stripes of a direction for each class, under noise.

    A flip makes most classes look like another one. So an accuracy of about 0.6 is the most there is.
    """
    import numpy as np
    from PIL import Image

    folder = Path(tempfile.gettempdir()) / f"seedbed-stripes-{args.width}-{args.images}"
    height = args.width * 3 // 4 if args.width == 500 else args.width
    for split, count in (("train", args.images), ("val", args.images // 10)):
        for number in range(count):
            file = folder / split / str(number % NUM_CLASSES) / f"{number}.jpg"
            if file.exists():
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            random = np.random.default_rng([number, split == "val"])
            y, x = np.mgrid[:height, :args.width] * 0.15
            angle = np.pi * (number % NUM_CLASSES) / NUM_CLASSES
            pixels = 40 * np.sin(x * np.cos(angle) + y * np.sin(angle) + random.random())[..., None]
            for size in (4, 12, 40, 120):
                noise = Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8))
                noise = noise.resize((args.width, height), Image.Resampling.BICUBIC)
                pixels = pixels + np.asarray(noise, float) * 1.6 / size**0.5
            pixels = (pixels - pixels.min()) / np.ptp(pixels) * 255
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(file.with_suffix(".part"), "JPEG", quality=QUALITIES[args.width])
            file.with_suffix(".part").replace(file)
    return folder


def register() -> None:
    """Makes the network known to configs, under the name Pictures."""
    from torch import nn

    from base import MODELS

    @MODELS.register
    class Pictures(nn.Sequential):
        def __init__(self, widths: tuple[int, ...] = (16, 32, 64)):
            layers = []
            for before, width in zip((3, *widths), widths, strict=False):
                stride = 2 if layers else 3  # small, so that reading the pictures counts
                layers += [nn.Conv2d(before, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], NUM_CLASSES)]
            super().__init__(*layers)


def program(args, threads: int = 0, **options) -> dict:
    size = CROPS[args.width]
    transforms = {"train": [sized("RandomResizedCrop", size), "RandomHorizontalFlip"],
                  "eval": [sized("Resize", size * 8 // 7), sized("CenterCrop", size)],
                  "batch": [{"type": "Normalize", "args": {"mean": MEAN, "std": STD}}]}
    return epochs(args, transforms, root(args), threads=threads, **options)


def epochs(args, transforms: dict, folder: Path, project: Path = PROJECT, threads: int = 0,
           **options) -> dict:
    """Epochs of the program in a checkout, over the pictures in a folder; `options` of its ImageFolder."""
    register()
    decoding = {"decode_threads": threads} if threads else {}
    config = {"dataset": {"type": "ImageFolder", "args": {"root": str(folder), **options}},
              "seed": args.seed + args.round, "transforms": transforms,
              "data_loader": {"batch_size": BATCH_SIZE, **decoding}, "model": "Pictures",
              "loss": "CrossEntropyLoss", "optimizer": {"type": "AdamW", "args": {"lr": LEARNING_RATE}}}
    return jobs.template_epochs(config, None, args.epochs, project)


def sized(name: str, size: int) -> dict:
    return {"type": name, "args": {"size": size}}


def files(args) -> dict:
    return program(args)


def files_threads(args) -> dict:
    return program(args, args.threads)


def cached(args, threads: int = 0) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEEDBED_CACHE"] = folder
        return program(args, threads, cache={})


def cached_threads(args) -> dict:
    return cached(args, args.threads)


def usual(args, num_workers: int) -> dict:
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    from base import MODELS
    from utils.heap import keep_heap

    keep_heap()
    torch.manual_seed(args.seed + args.round)
    size, end = CROPS[args.width], [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    augmented = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    plain = [transforms.Resize(size * 8 // 7), transforms.CenterCrop(size)]
    train, val = (DataLoader(datasets.ImageFolder(root(args) / split, transforms.Compose(steps + end)),
                             BATCH_SIZE, shuffle=split == "train", num_workers=num_workers,
                             persistent_workers=num_workers > 0)
                  for split, steps in (("train", augmented), ("val", plain)))
    register()
    model = MODELS.get("Pictures")()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    clock = Clock()
    for _ in range(args.epochs):
        model.train()
        train_hits = 0
        for images, labels in train:
            optimizer.zero_grad()
            outputs = model(images)
            cross_entropy(outputs, labels).backward()
            optimizer.step()
            train_hits += (outputs.argmax(1) == labels).sum().item()
        model.eval()
        with torch.no_grad():
            hits = sum((model(images).argmax(1) == labels).sum().item() for images, labels in val)
        clock.mark()
    return {**clock.numbers(len(train)), "accuracy": hits / len(val.dataset),
            "train_accuracy": train_hits / len(train.dataset)}


def compute(args) -> dict:
    import torch
    from torch.nn.functional import cross_entropy

    from base import MODELS
    from utils.heap import keep_heap

    keep_heap()
    register()
    model = MODELS.get("Pictures")()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    images, labels = torch.randn(BATCH_SIZE, 3, *2 * [CROPS[args.width]]), torch.arange(BATCH_SIZE) % 10
    clock, num_steps = Clock(), -(-args.images // BATCH_SIZE)
    for _ in range(args.epochs):
        for _ in range(num_steps):
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
        with torch.no_grad():
            for _ in range(-(-args.images // 10 // BATCH_SIZE)):
                model(images)
        clock.mark()
    return clock.numbers(num_steps)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=int, choices=CROPS, default=160, help="of the pictures (160)")
    parser.add_argument("--images", type=int, default=None, help="to train on")
    parser.add_argument("--epochs", type=int, default=4, help="of each process; all but the first count")
    parser.add_argument("--seed", type=int, default=1, help="of the first round (1)")


class Pictures(Comparison):
    """With as many pictures as take about equally long."""

    def parse(self, argv: list[str]) -> argparse.Namespace:
        args = super().parse(argv)
        args.images = args.images or {160: 3600, 500: 1000}[args.width]
        return args


COMPARISON = Pictures(
    "pictures", __doc__,
    {"files": files, "files_threads": files_threads, "cached": cached, "cached_threads": cached_threads,
     "compute": compute,
     **{f"usual_{number}": partial(usual, num_workers=number) for number in range(3)}},
    jobs.EPOCH_FIELDS, rounds=7, options=options,
    ratios=[("epoch_s", one, f"usual_{number}") for number in range(3)
            for one in ("files", "files_threads", "cached", "cached_threads", "compute")],
    differences=[*((field, one, "usual_0") for field in ("accuracy", "train_accuracy")
                   for one in ("files", "cached")), ("accuracy", "cached", "files")])

if __name__ == "__main__":
    COMPARISON.main()
