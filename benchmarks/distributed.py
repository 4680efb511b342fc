"""What the template costs on several processes: its samples per second against those of a hand-written DDP loop.

    python benchmarks/distributed.py --data DIR    (DIR holds MNIST as torchvision keeps it)
    python benchmarks/distributed.py               (the bundled digits, in a network ten times as wide)

Both train the same network on the same batches, with one thread a process, by turns; what counts is the time between log
points, 50 steps apart, from the second on. Evaluation, saving and start-up are left out.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
STEPS, EVERY = 400, 50


def config(data: str | None) -> dict:
    """The job, as a config."""
    mnist = {"dataset": {"type": "MNIST", "args": {"root": data}}, "data_loader": {"batch_size": 128, "validation_split": 0},
             "transforms": {"batch": [{"type": "Normalize", "args": {"mean": [0.1307], "std": [0.3081]}}]},
             "model": {"type": "LeNet", "args": {"num_classes": 10, "image_size_px": 28}}}
    digits = {"dataset": {"type": "Digits"}, "data_loader": {"batch_size": 128, "validation_split": 0},
              "transforms": {"batch": [{"type": "Normalize", "args": {"mean": [0.305], "std": [0.376]}}]},
              "model": {"type": "LeNet", "args": {"num_classes": 10, "image_size_px": 8, "width": 160}}}
    return {"name": "speed", "seed": 1, **(mnist if data else digits), "loss": "CrossEntropyLoss", "metrics": ["accuracy"],
            "optimizer": {"type": "AdamW", "args": {"lr": 1e-3}}, "writers": ["SpeedOnly"],
            "trainer": {"args": {"epochs": 1000, "monitor": None, "log_every": EVERY, "log_images_every": 0,
                                 "log_weights_every": 0}}}


def template(data: str | None) -> list[float]:
    """Samples per second of train.py between log points."""
    import torch

    from base.check import check_config
    from logger import WRITERS, Writer
    from logger.console import setup_logging
    from train import train
    from utils import dist
    from utils.cli import train_arguments
    from utils.errors import Interrupted

    speeds = []

    @WRITERS.register
    class SpeedOnly(Writer):
        def scalars(self, values, step):
            if "speed/samples_per_s" in values:
                speeds.append(values["speed/samples_per_s"])

    with tempfile.TemporaryDirectory() as folder:
        args = train_arguments(["-q", "-c", "none", "--steps", str(STEPS), "--out", folder])
        setup_logging(30)
        try:
            train(args, check_config(config(data), num_processes=dist.world_size()), None, torch.device("cpu"))
        except Interrupted:
            pass
    return speeds


def hand_written(data: str | None) -> list[float]:
    """The same in the plain way: DistributedSampler, DataLoader, DistributedDataParallel, a loop."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.data import DataLoader, Dataset
    from torch.utils.data.distributed import DistributedSampler
    from torchvision.datasets import MNIST
    from torchvision.transforms.functional import normalize, to_tensor

    from data_loader.digits import Digits
    from model.lenet import LeNet

    job = config(data)
    images = MNIST(data, train=True) if data else Digits(split="train")
    scale = job["transforms"]["batch"][0]["args"]

    class Normalised(Dataset):
        def __len__(self):
            return len(images)

        def __getitem__(self, index):
            image, label = images[index]
            return normalize(to_tensor(image) if data else image / 255, **scale), label

    torch.manual_seed(1)
    num_processes = int(os.environ["WORLD_SIZE"])
    sampler = DistributedSampler(Normalised(), seed=1)
    loader = DataLoader(sampler.dataset, batch_size=128 // num_processes, sampler=sampler)
    model = DistributedDataParallel(LeNet(**job["model"]["args"]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    speeds, losses, hits, seen, step, started = [], [], [], 0, 0, time.monotonic()
    for epoch in range(1000):
        sampler.set_epoch(epoch)
        for inputs, labels in loader:
            outputs = model(inputs)
            loss = cross_entropy(outputs, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            hits.append((outputs.argmax(1) == labels).sum())
            seen, step = seen + num_processes * len(labels), step + 1
            if step % EVERY == 0:
                sum(losses).item(), sum(hits).item()  # a log point
                now = time.monotonic()
                speeds.append(seen / (now - started))
                losses, hits, seen, started = [], [], 0, now
            if step == STEPS:
                return speeds


def one_process(args) -> None:
    import torch

    from utils import dist

    torch.set_num_threads(1)
    with dist.process_group(True, torch.device("cpu")):
        speeds = {"template": template, "hand-written": hand_written}[args.which](args.data)
        if dist.is_main():
            print(json.dumps(speeds[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="the root of torchvision's MNIST; by default the bundled digits")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument("--which", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.which:
        return one_process(args)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(args.nproc), __file__]
    command += ["--data", args.data] * bool(args.data)
    ratios = []
    for number in range(args.rounds):
        speeds = {}
        for which in ("hand-written", "template") if number % 2 else ("template", "hand-written"):
            done = subprocess.run([*command, "--which", which], capture_output=True, text=True, check=True,
                                  env={**os.environ, "OMP_NUM_THREADS": "1"})
            speeds[which] = statistics.median(json.loads(done.stdout.splitlines()[-1]))
        ratios.append(speeds["template"] / speeds["hand-written"])
        print("  ".join(f"{which} {speed:,.0f} samples/s" for which, speed in sorted(speeds.items())),
              f" ratio {ratios[-1]:.3f}", flush=True)
    print(f"template / hand-written: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), "
          f"{args.nproc} processes of one thread")


if __name__ == "__main__":
    main()
