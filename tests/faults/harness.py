"""What the fault tests share: the program as a user starts it, ways to kill it and to starve it, and comparisons.

Few of a kind run with every `pytest`; all of them, which takes minutes, with

    python -m pytest -m faults -rA

Seeds are fixed, so that a failure can be had again; figures are printed, which `-rA` or `-s` shows.
"""
import os
import random
import resource
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from conftest import PROJECT, load, start
from utils.checkpoint.loading import load_checkpoint
from utils.checkpoint.state import flatten_state

BUSY = """
name: busy
seed: 11
dataset: {type: Digits}
transforms:
  train: [{type: RandomAffine, args: {degrees: 10, translate: [0.1, 0.1]}}]
  batch: [{type: Normalize, args: {mean: [0.3], std: [0.4]}}]
data_loader: {batch_size: 30, eval_batch_size: 1, validation_split: 300, batches_per_epoch: 24}
model: {type: MLP, args: {sizes: [64, 4096, 1024, 10], dropout: 0.2}}
loss: CrossEntropyLoss
metrics: [accuracy]
optimizer: {type: Adam, args: {lr: 0.001}}
scheduler: {type: OneCycleLR, args: {max_lr: 0.003}, per: step}
trainer: {type: Trainer, args: {epochs: 6, log_every: 1, ema: 0.9, accumulate: 2, save_every: 1, keep_last: 2}}
writers: []
"""
GROUP = """
name: group
seed: 7
dataset: {type: Digits}
transforms:
  train: [{type: RandomAffine, args: {degrees: 10, translate: [0.1, 0.1]}}]
  batch: [{type: Normalize, args: {mean: [0.3], std: [0.4]}}]
data_loader: {batch_size: 30, validation_split: 40, batches_per_epoch: 40}
model: {type: MLP, args: {sizes: [64, 16, 10], dropout: 0.2}}
loss: CrossEntropyLoss
metrics: [accuracy]
optimizer: {type: Adam, args: {lr: 0.01}}
trainer: {type: Trainer, args: {epochs: 4, log_every: 1, checkpoint_every: {steps: 3}}}
writers: []
"""
LITTLE_GB = 12  # of memory, for what might explode
STEPS_PER_EPOCH = 12  # of BUSY: 24 batches, 2 to a step


def few_and_many(few, *many) -> list:
    """Values to parametrize a test with: `few` for every run of the tests, each of `many` for `pytest -m faults`."""
    rest = [value if isinstance(value, tuple) else (value,) for value in many]
    return [few, *(pytest.param(*values, marks=pytest.mark.faults) for values in rest)]


def write_config(folder: Path, text: str = BUSY) -> Path:
    """A config file of that text."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.yaml"
    file.write_text(text)
    return file


# -- starting and killing ----------------------------------------------------------------------------------------------


class Started:
    """`python ARGS` under way, in a session of its own, so that a signal to its group reaches nobody else.

    A context: what is left of it is killed in the end. `preexec` runs in the child, before the program. With
    `memory_gb` its address space is limited, so that what explodes ends there and not in a dead machine. On the CPU,
    everywhere: CUDA does not take such a limit.
    """

    def __init__(self, *args, cwd: Path = PROJECT, preexec=None, memory_gb: int | None = None):
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        self._stderr = tempfile.TemporaryFile()  # not a pipe: nobody has to read along
        with open(os.devnull, "w") as nothing:
            self.process = start(*args, cwd=cwd, stdout=nothing, stderr=self._stderr, env=environment, preexec=preexec)
        if memory_gb and hasattr(resource, "prlimit"):
            resource.prlimit(self.process.pid, resource.RLIMIT_AS, (memory_gb << 30, memory_gb << 30))
        self.started = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.kill(group=True)
        self._stderr.close()

    @property
    def said(self) -> str:
        """All that it has said on stderr so far."""
        return os.pread(self._stderr.fileno(), 1 << 20, 0).decode(errors="replace")

    def kill(self, group: bool = False) -> bool:
        """SIGKILL, to the process alone or to its whole group. Whether it was still running."""
        running = self.process.poll() is None
        try:
            (os.killpg if group else os.kill)(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(30)
        return running and self.process.returncode == -signal.SIGKILL

    def kill_after(self, moment_s: float, group: bool) -> bool:
        """SIGKILL when it has run for `moment_s`. Whether it was still running; where not, it must have ended well."""
        try:
            code = self.process.wait(max(0.0, self.started + moment_s - time.monotonic()))
            assert code == 0, self.said
            return False
        except subprocess.TimeoutExpired:
            return self.kill(group)

    def wait_for(self, happened, timeout_s: float = 60, pause_s: float = 0.002):
        """Waits for `happened()` to give something true, and returns it; an end of the process before it is a failure."""
        until = time.monotonic() + timeout_s
        while not (it := happened()):
            assert self.process.poll() is None, f"ended early, with {self.process.returncode}: {self.said}"
            assert time.monotonic() < until, f"nothing happened for {timeout_s} s: {self.said}"
            time.sleep(pause_s)
        return it

    def end(self, timeout_s: float = 120) -> int:
        """Its exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {timeout_s} s: {self.said}")

    def group_is_gone(self, within_s: float = 20) -> bool:
        """Whether the processes that it started, loader workers above all, end by themselves."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.05)
        return False


def workers(launcher: Started) -> list[int]:
    """The processes of the run, by rank."""
    number = launcher.process.pid
    return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def gone(numbers: list[int], within_s: float) -> bool:
    """Whether these processes, and the sessions they lead, have ended by then."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if not any(_is_there(number) for number in numbers):
            return True
        time.sleep(0.02)
    return False


def _is_there(session: int) -> bool:
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


def finish(*args, cwd: Path = PROJECT) -> float:
    """`python ARGS`, which must end well; returns how many seconds it took."""
    with Started(*args, cwd=cwd) as program:
        assert program.end() == 0, program.said
        return time.monotonic() - program.started


def look_at(run: Path) -> tuple[int, set[Path]]:
    """How many lines metrics.jsonl has, and what is half-written: to be compared with what a start makes of it."""
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0, half_written(run)


def phase(run: Path, before: tuple[int, set[Path]] = (0, set())) -> str:
    """What a run is at, as its folder tells; `before` is what `look_at` saw when it was started."""
    lines, half = look_at(run)
    if half - before[1]:
        return "saving"
    if not (run / "checkpoints" / "last.pt").exists() or lines == before[0]:
        return "start-up"  # or its first step: nothing on the disk tells which
    return "validation" if lines % STEPS_PER_EPOCH == STEPS_PER_EPOCH - 1 else "steps"  # after it comes the epoch's line


def half_written(run: Path) -> set[Path]:
    """The files under temporary names in a run's checkpoints folder."""
    return set((run / "checkpoints").glob(".*.tmp"))


# -- comparing ---------------------------------------------------------------------------------------------------------


def same_leaf(one, other) -> bool:
    """Whether two leaves of a state are of the same type and equal to the last bit, NaNs included."""
    if type(one) is not type(other):
        return False
    if not isinstance(one, torch.Tensor):
        return one == other or one != one and other != other
    bits = [tensor.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8) for tensor in (one, other)]
    return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(*bits)


def different_leaves(one: dict, other: dict) -> list[str]:
    """The paths of the leaves in which two states differ, or which only one of them has."""
    one, other = flatten_state(one), flatten_state(other)
    return [name for name in {**one, **other}
            if name not in one or name not in other or not same_leaf(one[name], other[name])]


def assert_bit_identical(straight: Path, run: Path, lines: bool = True) -> None:
    """Every leaf of last.pt and best.pt equal, metrics.jsonl the same bytes, nothing half-written left behind."""
    for name in ("last.pt", "best.pt"):
        differ = different_leaves(load(straight, name)["state"], load(run, name)["state"])
        assert not differ, f"{run / 'checkpoints' / name}: {differ}"
    assert not lines or (straight / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    assert not half_written(run)


def sound_step(run: Path) -> int:
    """The step of last.pt, which must be there, whole and finite."""
    state = load_checkpoint(run / "checkpoints" / "last.pt")["state"]
    for name, leaf in flatten_state(state).items():
        assert not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point() or torch.isfinite(leaf).all(), name
    return state["progress"]["step"]


# -- starving ----------------------------------------------------------------------------------------------------------


def moments(seed: int, duration_s: float):
    """Endless random moments of a run, uniform over its duration."""
    generator = random.Random(seed)
    while True:
        yield generator.uniform(0, duration_s)


@contextmanager
def mounted_tmpfs(folder: Path, size: str):
    """A small file system of its own at `folder`; skips the test where it cannot be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
                              capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no tmpfs can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# -- files that nobody should trust ------------------------------------------------------------------------------------


def assert_refused(command: list, file: Path, within_s: float = 60) -> str:
    """`python COMMAND` ends with exit code 2 and one line that names `file`, soon and in little memory; returns the line."""
    with Started(*command, memory_gb=LITTLE_GB) as program:
        code = program.end(within_s)
        said = program.said.strip()
    assert code == 2, f"exit code {code}: {said[-2000:]}"
    assert len(said.splitlines()) == 1 and file.name in said, said[-2000:]
    return said
