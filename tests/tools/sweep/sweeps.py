"""What the tests of sweeps share: a small sweep of the stand-in, which a process of its own can run, too.

    python tests/tools/sweep/sweeps.py -c CONFIG --out DIR [KILL_AT]
"""
import argparse
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

import sweep  # noqa: E402
from tools.sweep.commands import begin, run_sweep  # noqa: E402
from tools.sweep.ledger import Ledger, read_events  # noqa: E402
from tools.sweep.plan import begin_of, read_plan  # noqa: E402

STAND_IN = (str(HERE / "stand_in.py"),)
CONFIG = """
name: small
dataset: Digits
model: {type: MLP, args: {sizes: [64, 10]}}
optimizer: {type: SGD, args: {lr: 0.1}}
trainer: {args: {epochs: 9}}
"""
SEARCH = """
sweep:
  parameters:
    optimizer.args.lr: {from: 1e-4, to: 1.0, scale: log}
  sampler: random
  trials: 9
  prune: {type: asha, min_epochs: 1, factor: 3}
  threads_per_trial: 1
"""


def write(folder: Path, text: str = SEARCH) -> Path:
    """A config with that section."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.yaml").write_text(CONFIG + text)
    return folder / "small.yaml"


def parsed(config: Path, out: Path, *more) -> argparse.Namespace:
    """The arguments of sweep.py."""
    return sweep.arguments(["-c", str(config), "--out", str(out), *map(str, more)])


def search(args: argparse.Namespace, **config) -> int:
    """A sweep of the stand-in; values that a check by torch would find are given. Returns the exit code."""
    plan, _ = read_plan(args)
    known = {"epochs": 9, "monitor": "min val/loss", "eval_every": 1, **config}
    if not begin_of(plan.folder):
        plan.folder.mkdir(parents=True, exist_ok=True)
        with Ledger(plan.folder) as ledger:
            begin(replace(plan, config=known), ledger)
    return run_sweep(args, STAND_IN)


def events(out: Path, kind: str) -> list[dict]:
    """The events of a kind in the ledger of the small sweep, without what differs between any two sweeps."""
    return [{key: value for key, value in event.items() if key not in ("time", "node", "lost", "text")}
            for event in read_events(out / "small") if event["event"] == kind]


def trained(out: Path) -> list[int]:
    """The epochs that all runs trained, each as often as it was trained."""
    return [int(line) for file in sorted(out.glob("small/trial_*/trained.txt"))
            for line in file.read_text().splitlines()]


def results(out: Path) -> dict[str, list]:
    """The values of all runs, by their names."""
    return {file.parent.name: [json.loads(line)["val/loss"] for line in file.read_text().splitlines()]
            for file in sorted(out.glob("small/trial_*/metrics.jsonl"))}


class DyingLedger(Ledger):
    """A ledger whose process is killed before or after it has written a certain event."""

    left, before = 0, False

    def append(self, event: str, **values):
        type(self).left -= 1
        if self.left == 0 and self.before:
            os.kill(os.getpid(), signal.SIGKILL)
        record = super().append(event, **values)
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return record


if __name__ == "__main__":
    if sys.argv[-1].startswith("kill="):
        import tools.sweep.commands as commands

        DyingLedger.left, DyingLedger.before = int(sys.argv[-1][5:].rstrip("b")), sys.argv[-1].endswith("b")
        commands.Ledger = DyingLedger
        sys.argv.pop()
    sys.exit(search(sweep.arguments()))
