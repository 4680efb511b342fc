"""What the template costs on several processes: its samples per second against those of a hand-written DDP loop.

    python benchmarks/distributed.py --data DIR    (DIR holds MNIST as torchvision keeps it)
    python benchmarks/distributed.py               (the bundled digits, in a network ten times as wide)

Both train the same network on the same batches, with one thread a process, by turns; what counts is the time between log
points, 50 steps apart, from the second on. Evaluation, saving and start-up are left out.
"""
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import jobs  # noqa: E402
from benchmarks.harness import Comparison  # noqa: E402

EVERY = 50


def config(data: str | None) -> dict:
    """The job, as a config."""
    return {**jobs.image_job(data), "name": "speed", "data_loader": {"batch_size": jobs.BATCH_SIZE, "validation_split": 0},
            "metrics": ["accuracy"], "writers": ["SpeedOnly"],
            "trainer": {"args": {"epochs": 1000, "monitor": None, "log_every": EVERY, "log_images_every": 0,
                                 "log_weights_every": 0}}}


def template(args) -> list[float]:
    """Samples per second of train.py between log points."""
    import torch

    from base.config.validate import validate_config
    from logger import WRITERS, Writer
    from logger.console import setup_logging
    from train import train
    from utils.cli import train_arguments
    from utils.distributed import collectives as dist
    from utils.errors import Interrupted

    speeds = []

    @WRITERS.register
    class SpeedOnly(Writer):
        def scalars(self, values, step):
            if "speed/samples_per_s" in values:
                speeds.append(values["speed/samples_per_s"])

    with tempfile.TemporaryDirectory() as folder:
        options = train_arguments(["-q", "-c", "none", "--steps", str(args.steps), "--out", folder])
        setup_logging(30)
        try:
            train(options, validate_config(config(args.data), num_processes=dist.world_size()), None, torch.device("cpu"))
        except Interrupted:
            pass
    return speeds


def hand_written(args) -> list[float]:
    """The same in the plain way: DistributedSampler, DataLoader, DistributedDataParallel, a loop."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.data import DataLoader
    from torch.utils.data.distributed import DistributedSampler

    torch.manual_seed(1)
    num_processes = int(os.environ["WORLD_SIZE"])
    sampler = DistributedSampler(jobs.samples(args.data), seed=1)
    loader = DataLoader(sampler.dataset, batch_size=jobs.BATCH_SIZE // num_processes, sampler=sampler)
    model = DistributedDataParallel(jobs.build_lenet(args.data))
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
            if step == args.steps:
                return speeds


def in_group(job):
    """A contestant in one of the processes that torchrun starts; the first tells the figure."""
    def contestant(args) -> dict | None:
        import torch

        from utils.distributed import collectives as dist
        from utils.distributed.group import process_group

        torch.set_num_threads(args.threads)
        with process_group(True, torch.device("cpu")):
            speeds = job(args)
            return {"samples_per_s": statistics.median(speeds[1:])} if dist.is_main() else None
    return contestant


def options(parser) -> None:
    jobs.data_option(parser)
    parser.add_argument("--nproc", type=int, default=2, help="processes (2)")
    parser.add_argument("--steps", type=int, default=400, help="of each process (400)")


COMPARISON = Comparison(
    "distributed", __doc__, {"template": in_group(template), "hand_written": in_group(hand_written)},
    {"samples_per_s": "samples/s"}, ratios=[("samples_per_s", "template", "hand_written")], threads=1, options=options,
    launcher=lambda args: ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(args.nproc)])

if __name__ == "__main__":
    COMPARISON.main()
