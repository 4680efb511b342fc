"""What a checkpoint costs the loop: in the background, in the foreground, by torch.save and by torch.distributed.checkpoint.

    python benchmarks/saving.py
    python benchmarks/saving.py --threads 1 --millions 100 --rounds 7

    torch.save        what people write
    background        the program's own, written while the loop continues
    foreground        the same, waited for
    dcp.async_save    torch.distributed.checkpoint.async_save with its defaults

The loop is a small network's training step on the CPU, with as many threads as it is given; the state beside it has
`millions` of float32 parameters. "held" is how long the loop stands still, "lost" what a save costs it in all: the time until
the save is on the disk, less what the steps made meanwhile take without one. Each process saves once unmeasured.
"""
import logging
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.harness import Comparison, peak_rss_mib  # noqa: E402


def make_step() -> Callable[[], None]:
    """A training step of some 30 ms on one core: `[256, 1024]` through six layers, forward, backward, SGD."""
    import torch

    inputs = torch.randn(256, 1024)
    network = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(6)])
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-9)

    def step() -> None:
        network(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return step


def make_state(millions: int) -> dict:
    import torch

    torch.manual_seed(0)
    return {"model": {f"weight{i}": torch.randn(1_000_000) for i in range(millions)},
            "progress": {"epoch": 0, "batch": 0, "step": 0}}


def seconds_of(action: Callable) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def seconds_a_step(step: Callable, count: int) -> float:
    return seconds_of(lambda: [step() for _ in range(count)]) / count


def waited_for(save: Callable) -> tuple[float, float]:
    """(seconds held, seconds lost) of a save for which the loop waits: the same."""
    held_s = seconds_of(save)
    return held_s, held_s


def beside_the_loop(save: Callable, done: Callable[[], bool], step: Callable, count: int) -> tuple[float, float]:
    """(seconds held, seconds lost) of a save that is written while the loop continues, until `done()`.

    What a step takes without one is measured by `count` steps before and as many after it.
    """
    before_s = seconds_a_step(step, count)
    started, num_steps = time.perf_counter(), 0
    held_s = seconds_of(save)
    while not done():
        step()
        num_steps += 1
    elapsed_s = time.perf_counter() - started
    return held_s, elapsed_s - num_steps * (before_s + seconds_a_step(step, count)) / 2


def repeated(args, save_once: Callable[[], tuple[float, float]]) -> dict:
    """Medians of `--saves` saves after one that is not measured."""
    results = [save_once() for _ in range(args.saves + 1)]
    held_s, lost_s = (statistics.median(values) for values in zip(*results[1:], strict=True))
    return {"held_s": held_s, "lost_s": lost_s, "peak_rss_mib": peak_rss_mib()}


def torch_save(args) -> dict:
    import torch

    state = make_state(args.millions)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        new = Path(folder) / "new.pt"  # the last good checkpoint is never overwritten

        def save_once() -> tuple[float, float]:
            times = waited_for(lambda: torch.save(state, new))
            new.replace(Path(folder) / "last.pt")
            os.sync()  # torch.save leaves its bytes to the system; no other save should wait for them
            return times

        return repeated(args, save_once)


def foreground(args) -> dict:
    from utils.checkpoint.store import CheckpointStore, SavePolicy

    state, policy = make_state(args.millions), SavePolicy(background=False)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = CheckpointStore(Path(folder), {})
        return repeated(args, lambda: waited_for(lambda: store.save(state, ["last.pt"], state["model"], policy)))


def background(args) -> dict:
    from utils.checkpoint.store import CheckpointStore, SavePolicy

    state, step = make_state(args.millions), make_step()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = CheckpointStore(Path(folder), {})

        def save() -> None:
            store.save(state, ["last.pt"], state["model"], SavePolicy())

        def save_once() -> tuple[float, float]:
            times = beside_the_loop(save, written, step, args.steps)
            store.finish()
            return times

        def written() -> bool:
            return not any(thread.name == "checkpoint writer" for thread in threading.enumerate())

        return repeated(args, save_once)


def dcp_async_save(args) -> dict:
    from torch.distributed import checkpoint

    logging.getLogger("torch.distributed").setLevel(logging.ERROR)  # it warns that it is alone
    state, step, futures = make_state(args.millions), make_step(), []
    with tempfile.TemporaryDirectory(dir=".") as folder:

        def save() -> None:
            future = checkpoint.async_save(state, checkpoint_id=Path(folder) / f"save_{len(futures) % 2}")
            futures.append(getattr(future, "upload_completion", future))

        def save_once() -> tuple[float, float]:
            times = beside_the_loop(save, lambda: futures[-1].done(), step, args.steps)
            futures[-1].result()
            return times

        return repeated(args, save_once)


def options(parser) -> None:
    parser.add_argument("--millions", type=int, default=100, help="parameters of the state (100)")
    parser.add_argument("--saves", type=int, default=3, help="measured by each process (3)")
    parser.add_argument("--steps", type=int, default=30, help="before and after a save, to know what one takes (30)")


CONTESTANTS = {"torch.save": torch_save, "background": background, "foreground": foreground, "dcp.async_save": dcp_async_save}
COMPARISON = Comparison(
    "saving", __doc__, CONTESTANTS, {"held_s": "held [s]", "lost_s": "lost [s]", "peak_rss_mib": "peak memory [MiB]"},
    ratios=[(field, name, "torch.save") for field in ("held_s", "lost_s") for name in CONTESTANTS if name != "torch.save"],
    options=options)

if __name__ == "__main__":
    COMPARISON.main()
