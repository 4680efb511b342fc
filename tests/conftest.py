"""Helpers: the program as a user runs it, in this process where that is enough, and comparisons to the last bit."""
import functools
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from utils.checkpoint.state import flatten_state
from warm import WarmProcess, can_be_warm, run_warm

os.environ["OMP_NUM_THREADS"] = "1"  # tiny models: more threads only get in each other's way
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # many programs are started here: they need not all compile the project anew
torch.set_num_threads(1)
PROJECT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser) -> None:
    parser.addoption("--one-of-each", action="store_true", help="run each test with its first parameters only")


def pytest_collection_modifyitems(config, items: list) -> None:
    if config.getoption("--one-of-each"):
        first = {item.nodeid.partition("[")[0]: item for item in reversed(items)}
        config.hook.pytest_deselected(items=[item for item in items if item not in first.values()])
        items[:] = [item for item in items if item in first.values()]


def pytest_collection_finish() -> None:
    """The collector needs not go through all that was imported, time and again."""
    gc.collect()
    gc.freeze()


def pytest_configure(config) -> None:
    """With `-n` (pytest-xdist) the tests of a file stay in one process, which makes what they share once."""
    if getattr(config.option, "dist", None) == "load":
        config.option.dist, config.option.loadscopereorder = "loadscope", False


def train(*args, out: Path) -> Path:
    """`python train.py ARGS --out OUT`, in this process; returns the run folder."""
    from train import main
    from utils.cli import train_arguments

    main(train_arguments(["--quiet", *map(str, args), "--out", str(out)]))
    return max(out.glob("*/*"), key=lambda run: (run / "run.log").stat().st_mtime_ns)


def score(*args) -> dict:
    """`python test.py ARGS`, in this process; returns test.json."""
    from test import main

    from utils.cli import test_arguments

    arguments = test_arguments(["--quiet", *map(str, args)])
    main(arguments)
    path = arguments.resume
    run = path.parent.parent if path.is_file() else path
    return json.loads((run / "test.json").read_text())


def start(*args, cwd: Path, stdout, stderr, env: dict, preexec=None):
    """`python ARGS`, begun in a process and a session of its own, warm where it can be; `preexec` is what it calls first."""
    if can_be_warm(args) and not preexec:
        return WarmProcess(args, cwd, env, stdout, stderr)
    return subprocess.Popen([sys.executable, *map(str, args)], cwd=cwd, env=env, stdout=stdout, stderr=stderr,
                            start_new_session=True, preexec_fn=preexec)


def program(*args, cwd: Path = PROJECT, code: int | None = 0, timeout: float = 300,
            cold: bool = False) -> subprocess.CompletedProcess:
    """`python ARGS` as a process of its own, which must end with `code`, and without a traceback unless it is 1.

    Warm where it can be (tests/warm.py); `cold` starts it as a user does.
    """
    if can_be_warm(args) and not cold:
        done = run_warm(args, cwd, timeout)
    else:
        done = subprocess.run([sys.executable, *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=timeout)
    assert code is None or done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done


def in_processes(number: int, *args, timeout: float = 600) -> str:
    """`python ARGS` in a group of `number` processes, which all must end with 0; returns what they print.

    They find the variables that torchrun sets, and this process has their store; so they are warm, other than torchrun's.
    """
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
              "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    until = time.monotonic() + timeout
    with tempfile.TemporaryFile("w+") as output:
        group = [start(*args, cwd=PROJECT, stdout=output, stderr=output,
                       env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(number)]
        while None in (codes := [process.poll() for process in group]) and not any(codes) and time.monotonic() < until:
            time.sleep(0.01)
        if any(codes):
            time.sleep(2)  # the others may have something to say about it
        for process in group:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        said = output.read()
    assert codes == [0] * number, f"exit codes {codes}\n{said}"
    assert "Traceback" not in said, said
    return said


def in_group(num_processes: int, jobs: list[list], folder: Path) -> None:
    """Runs jobs, which are arguments of train.py, in one group of processes (tests/distributed/group.py)."""
    file = folder / f"jobs{num_processes}.json"
    file.write_text(json.dumps([[*map(str, job)] for job in jobs]))
    in_processes(num_processes, "tests/distributed/group.py", file)


def metrics(run: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def epochs(run: Path) -> list[dict]:
    """Those of them that close an epoch."""
    return [line for line in metrics(run) if any(name.startswith("train/") for name in line)]


def load(run: Path, name: str = "last.pt") -> dict:
    """A checkpoint of a run, as anybody may load it."""
    return torch.load(run / "checkpoints" / name, weights_only=True)


def assert_same_state(one: dict, other: dict) -> None:
    """Every tensor and every number equal, to the last bit."""
    one, other = flatten_state(one), flatten_state(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert same, f"{name} differs: {value} and {other[name]}"


def assert_same_run(one: Path, other: Path, name: str = "last.pt") -> None:
    """Equal last states, equal configs apart from machine matters, equal metrics, byte for byte."""
    assert_same_state(load(one, name)["state"], load(other, name)["state"])
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()


def needs(*files: str) -> None:
    """Skips a test, or what asks for a fixture, that takes files which a fork may have thrown out: examples, new.py."""
    for file in files:
        if not (PROJECT / file).exists():
            pytest.skip(f"there is no {file}")


def copy_project(target: Path, *without: str) -> None:
    """A copy of the project's own files in `target`, but for the files and folders named in `without`."""
    caches = shutil.ignore_patterns(".git", "__pycache__", "*.pyc", ".*_cache", ".hypothesis", ".venv", "venv")

    def ignored(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(PROJECT)
        left = set(names) if str(inside) == "saved" else caches(folder, names)
        return left | {name for name in names if (inside / name).as_posix() in ("data", *without)}

    shutil.copytree(PROJECT, target, ignore=ignored)


@pytest.fixture(scope="session", autouse=True)
def git_is_asked_once():
    """What is not committed is written down at every start, and costs three processes; here it stays the same."""
    from utils import run_record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_record, "uncommitted_changes", functools.cache(run_record.uncommitted_changes))
        yield


@pytest.fixture
def small(tmp_path) -> Path:
    """A config file for quick runs: an MLP on the digits with dropout and random augmentation, 5 batches an epoch."""
    file = tmp_path / "small.yaml"
    file.write_text("""
name: small
seed: 7
dataset: {type: Digits}
transforms:
  train: [{type: RandomAffine, args: {degrees: 10, translate: [0.1, 0.1]}}]
  batch: [{type: Normalize, args: {mean: [0.3], std: [0.4]}}]
data_loader: {batch_size: 30, validation_split: 40, batches_per_epoch: 5}
model: {type: MLP, args: {sizes: [64, 16, 10], dropout: 0.2}}
loss: CrossEntropyLoss
metrics: [accuracy]
optimizer: {type: Adam, args: {lr: 0.01}}
trainer: {type: Trainer, args: {epochs: 2, log_every: 2}}
writers: []
""")
    return file


@pytest.fixture(scope="module")
def _undisturbed() -> dict:
    return {}


@pytest.fixture
def undisturbed(small, tmp_path_factory, _undisturbed):
    """Gives the run of `small` with some options, to be compared with others: trained once a module, so left as it is."""
    def run(*options) -> Path:
        if options not in _undisturbed:
            _undisturbed[options] = train("-c", small, *options, out=tmp_path_factory.mktemp("undisturbed"))
        return _undisturbed[options]
    return run
