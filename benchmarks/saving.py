"""What a checkpoint costs the loop: in the background, in the foreground, and by torch.save; all in one process, in turn.

    python benchmarks/saving.py
    python benchmarks/saving.py --threads 1 --millions 100 --rounds 7

The loop is a small network's training step on the CPU, with as many threads as it is given; the state beside it has
`millions` of float32 parameters. "held" is how long the loop stands still, "lost" what a save costs it in all: the time until
the save is on the disk, less what the steps made meanwhile take without one. Medians over the rounds.
"""
import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.checkpoint import CheckpointStore, SavePolicy  # noqa: E402


def make_step():
    """A training step of some 30 ms on one core: `[256, 1024]` through six layers, forward, backward, SGD."""
    inputs = torch.randn(256, 1024)
    network = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(6)])
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-9)

    def step() -> None:
        network(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return step


def seconds_of(action) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def seconds_a_step(step, count: int = 30) -> float:
    return seconds_of(lambda: [step() for _ in range(count)]) / count


def background_save(store: CheckpointStore, state: dict, step) -> tuple[float, float]:
    """(seconds held, seconds lost) of a save that is written while the loop goes on."""
    before_s = seconds_a_step(step)
    started, num_steps = time.perf_counter(), 0
    held_s = seconds_of(lambda: store.save(state, ["last.pt"], state["model"], SavePolicy()))
    while any(thread.name == "checkpoint writer" for thread in threading.enumerate()):
        step()
        num_steps += 1
    elapsed_s = time.perf_counter() - started
    store.finish()
    return held_s, elapsed_s - num_steps * (before_s + seconds_a_step(step)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, default=100, help="parameters of the state")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the loop")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    state = {"model": {f"weight{i}": torch.randn(1_000_000) for i in range(args.millions)},
             "progress": {"epoch": 0, "batch": 0, "step": 0}}
    step, held, lost, foreground, reference = make_step(), [], [], [], []
    seconds_a_step(step)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = CheckpointStore(Path(folder), {})
        store.save(state, ["last.pt"], state["model"], SavePolicy(background=False))  # makes the copies it keeps
        for _ in range(args.rounds):
            new = Path(folder) / "new.pt"  # nobody writes over the last good checkpoint
            reference.append(seconds_of(lambda new=new: torch.save(state, new)))
            new.replace(Path(folder) / "reference.pt")
            os.sync()  # torch.save leaves its bytes to the system; nobody else should wait for them
            for results, value in zip((held, lost), background_save(store, state, step), strict=True):
                results.append(value)
            now = SavePolicy(background=False)
            foreground.append(seconds_of(lambda: store.save(state, ["last.pt"], state["model"], now)))
    whole_s = statistics.median(reference)
    print(f"{args.millions} million float32, {args.threads} threads, medians of {args.rounds}")
    for name, results in {"torch.save": reference, "held": held, "lost": lost, "in the foreground": foreground}.items():
        ratio = statistics.median(one / other for one, other in zip(results, reference, strict=True))
        print(f"  {name:<18} {statistics.median(results):6.3f} s   {ratio:4.2f} of torch.save ({whole_s:.3f} s)")


if __name__ == "__main__":
    main()
