"""How long until something happens: from the start of a process to the end of its first optimizer step.

    python benchmarks/startup.py

    python         an interpreter that does nothing
    help           python train.py --help
    import_torch   python -c "import torch"
    bare           a script that imports torch and torchvision and makes one step of a LeNet with Adam
    template       python train.py -c configs/digits.yaml, which is killed at the end of its first step
    template_run   python train.py -c configs/digits.yaml --steps 1: the step, two checkpoints on the disk, the end

Wall and CPU seconds of the whole process. `bare` and `template` kill themselves after the step: neither's end is counted.
"""
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.harness import PROJECT, Comparison  # noqa: E402

BARE = """
import os, signal
import torch
import torchvision
from torch import nn
lenet = nn.Sequential(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(),
                      nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10))
optimizer = torch.optim.AdamW(lenet.parameters(), lr=3e-3, fused=True)
nn.functional.cross_entropy(lenet(torch.rand(64, 1, 8, 8)), torch.randint(10, (64,))).backward()
optimizer.step()
os.kill(os.getpid(), signal.SIGKILL)
"""


def timed(*command: str, code: int = 0, **environment: str) -> dict[str, float]:
    """Wall and CPU seconds of `python COMMAND`, which must end with `code`; what it starts itself counts, too."""
    started, before = time.perf_counter(), os.times()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=PROJECT,
                          env={**os.environ, **environment})
    wall_s, after = time.perf_counter() - started, os.times()
    if done.returncode != code:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}, not {code}\n{done.stderr[-4000:]}")
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall_s": wall_s, "cpu_s": cpu_s}


def digits(*options: str, code: int = 0, **environment: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return timed("train.py", "-c", "configs/digits.yaml", "--device", "cpu", "--out", folder, *options, code=code,
                     **environment)


COMPARISON = Comparison(
    "startup", __doc__,
    {"python": lambda args: timed("-c", "pass"), "help": lambda args: timed("train.py", "--help"),
     "import_torch": lambda args: timed("-c", "import torch"), "bare": lambda args: timed("-c", BARE, code=-9),
     "template": lambda args: digits(code=-9, CRASH_AT_STEP="1"), "template_run": lambda args: digits("--steps", "1")},
    {"wall_s": "wall [s]", "cpu_s": "CPU [s]"},
    ratios=[("wall_s", "template", "bare"), ("cpu_s", "template", "bare")],
    differences=[("wall_s", "template", "bare"), ("wall_s", "template", "import_torch")])

if __name__ == "__main__":
    COMPARISON.main()
