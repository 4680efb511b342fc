"""Compares two versions of the project, run side by side: equal configs give equal numbers, to the last bit.

    python tests/release/compare_versions.py OLD NEW           # two folders, with a version in each
    python tests/release/compare_versions.py OLD NEW --config digits.yaml mnist.json
    python tests/release/compare_versions.py OLD NEW --cold    # each program as a user starts it: slow

Both versions train every shipped config for three short epochs, in one process and in two: straight, and
stopped in the middle of an epoch and resumed. NEW also resumes runs that OLD has begun, and both score the
same run. Nothing of the project is imported, and nothing is written into the two folders. The exit code is 0
where only the differences in EXPECTED were found, and 1 otherwise.
"""
import argparse
import json
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path

import torch

# Differences that are intended: for each case patterns of their names (see the report) with the reason:
#     {"digits.yaml": {"config: config.yaml trainer.args.monitor": "the default is now ..."}}
# The commit that changes a default adds its differences here. One that does not occur is a failure, too.
_REPORT = {"config: config.yaml writers.1": "the default of writers is now [TensorBoard, Report]"}
EXPECTED: dict[str, dict[str, str]] = dict.fromkeys([
    "cifar10_resnet.yaml", "digits.yaml", "digits.yaml, with many options", "digits_gan.yaml",
    "linear_regression.yaml", "mnist.json", "mnist.yaml"], _REPORT)

# What makes a run short, by its case: the name of a config, after which a comma begins the name of a variant.
# DATA is a folder with random images in the files of MNIST and CIFAR10.
SHORT = ("trainer.args.epochs=3", "trainer.args.log_every=1")
MNIST = ("dataset.args.root=DATA", "data_loader.batch_size=64", "scheduler.args.step_size=1")
OVERRIDES = {
    "cifar10_resnet.yaml": ("dataset.args.root=DATA", "data_loader={batch_size: 32, validation_split: 24}",
                            "scheduler.1.args.milestones=[1, 2]", "trainer.args.save_every=1"),
    "digits.yaml": ("scheduler.args.step_size=1",),
    "digits.yaml, with many options": (  # that no shipped config has
        "transforms.train=[{type: RandomAffine, args: {degrees: 10, translate: [0.1, 0.1]}}]",
        "transforms.batch=[{type: BatchMixUp, args: {num_classes: 10}}, "
        "{type: BatchRandomErasing, args: {value: random}}]",
        "data_loader={batch_size: 30, eval_batch_size: 50, validation_split: 300, batches_per_epoch: 16, "
        "num_workers: 1}",
        "optimizer.decay_bias_and_norm=false",
        "scheduler={type: OneCycleLR, args: {max_lr: 0.003}, per: step}",
        "trainer.args={accumulate: 2, clip_norm: 1.0, ema: 0.9, precision: bf16, eval_every: 2, "
        "monitor: max val/accuracy}"),
    "digits_gan.yaml": ("data_loader.batches_per_epoch=8",),
    "mnist.json": MNIST,
    "mnist.yaml": MNIST,
}
TIMEOUT_S = 300  # of one program
# Every Python that is started imports this. torchvision's CIFAR10 then accepts files with other checksums.
SITECUSTOMIZE = """
from contextlib import suppress

with suppress(ImportError):
    from torchvision.datasets import CIFAR10

    CIFAR10.train_list, CIFAR10.test_list = ([[name, None] for name, _ in files]
                                             for files in (CIFAR10.train_list, CIFAR10.test_list))
    CIFAR10.meta = {**CIFAR10.meta, "md5": None}
"""


@dataclass(frozen=True)
class Difference:
    """Something in which two runs differ.

    Args:
        case: which runs were compared ("straight, 1 process").
        file: which of their files differ ("last.pt").
        place: where in it ("state.model.fc1.weight").
        text: what is there, and by how much it differs.
    """

    case: str
    file: str
    place: str
    text: str

    @property
    def name(self) -> str:
        """What a pattern in EXPECTED is held against."""
        return f"{self.case}: {self.file} {self.place}".strip()


class ProgramError(RuntimeError):
    """A program of one of the versions failed."""


# -- starting programs -----------------------------------------------------------------------------

@dataclass(frozen=True)
class Python:
    """How programs are started, and the folder with the data that they read."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    data: Path

    def run(self, name: str, folder: Path, *args) -> None:
        """`python ARGS` in `folder`, which holds the version `name`. Raises ProgramError where it fails."""
        arguments = [*map(str, args)]
        what = f"{name}: python {shlex.join(arguments)}"
        try:
            done = subprocess.run([*self.command, *arguments], cwd=folder, env=self.environment, text=True,
                                  stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise ProgramError(f"{what} has not ended after {TIMEOUT_S} s") from error
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip())[-3000:]
            raise ProgramError(f"{what} ended with exit code {done.returncode}:\n{said}")


@contextmanager
def python(cold: bool = False) -> Iterator[Python]:
    """Gives what starts programs, each with one thread and on the CPU, and temporary data.

    tests/warm_python.py forks the programs from a process that has imported torch: a tenth of the time. With
    `cold`, and on other systems than Linux, each program starts as a user starts it.
    """
    with tempfile.TemporaryDirectory(prefix="versions_") as name:
        folder = Path(name)
        tools, data = folder / "tools", folder / "data"
        write_mnist(data)
        write_cifar10(data)
        tools.mkdir()
        (tools / "sitecustomize.py").write_text(SITECUSTOMIZE)
        settings = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(tools)}
        environment = {**os.environ, **settings}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else every program compiles the whole project
        if cold or sys.platform != "linux":
            yield Python((sys.executable,), environment, data)
        else:
            environment["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"
            with warm_python(folder, environment) as command:
                yield Python((command,), environment, data)


@contextmanager
def warm_python(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Gives a command that does what `python` does, in a process that has imported the libraries already."""
    arguments = [str(Path(__file__).resolve().parents[1] / "warm_python.py"), str(folder / "socket")]
    command = folder / "tools" / "python"
    command.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-SE", *arguments])} "$@"\n')
    command.chmod(0o755)
    with subprocess.Popen([sys.executable, "-u", *arguments], env=environment, start_new_session=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout.readline() == "ready\n", "tests/warm_python.py has not started"
            yield str(command)
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # also programs that have not ended in time


# -- data that is not to be had without a network --------------------------------------------------

def write_mnist(root: Path, num_train: int = 600, num_test: int = 100) -> None:
    """Random images in MNIST's files: a magic number, the shape, the bytes."""
    raw, generator = root / "MNIST" / "raw", torch.Generator().manual_seed(1)
    raw.mkdir(parents=True)
    for split, number in (("train", num_train), ("t10k", num_test)):
        images = torch.randint(256, (number, 28, 28), generator=generator, dtype=torch.uint8)
        labels = torch.randint(10, (number,), generator=generator, dtype=torch.uint8)
        for file, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = b"".join(size.to_bytes(4, "big") for size in (0x0800 + array.ndim, *array.shape))
            (raw / f"{split}-{file}-ubyte").write_bytes(header + array.numpy().tobytes())


def write_cifar10(root: Path, num_per_file: int = 25) -> None:
    """Random images in CIFAR10's files, five of train and one of test."""
    folder, generator = root / "cifar-10-batches-py", torch.Generator().manual_seed(2)
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        images = torch.randint(256, (num_per_file, 3 * 32 * 32), generator=generator, dtype=torch.uint8)
        labels = torch.randint(10, (num_per_file,), generator=generator)
        (folder / name).write_bytes(pickle.dumps({"data": images.numpy(), "labels": labels.tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [*map(str, range(10))]}))


# -- the runs of one version -----------------------------------------------------------------------

@dataclass(frozen=True)
class Version:
    """A version of the project.

    Args:
        name: OLD or NEW.
        folder: a copy of its files; compiled Python is written there.
        out: the folder for its runs, which no other version has.
        python: starts its programs.
    """

    name: str
    folder: Path
    out: Path
    python: Python

    def start(self, case: str, run_name: str, num_processes: int, *options) -> Path:
        """A new run of a case; returns its folder."""
        config, out = config_of(case), self.out / case.replace(" ", "_")
        short = [text.replace("DATA", str(self.python.data)) for text in (*OVERRIDES.get(case, ()), *SHORT)]
        self.python.run(self.name, self.folder, "train.py", "-q", "-c", f"configs/{config}", "--out", out,
                        "--run-name", run_name, *_machine(num_processes), *options, *short)
        run, = out.glob(f"*/{run_name}")
        return run

    def resume(self, stopped: Path, copy: Path, num_processes: int) -> Path:
        """Resumes a copy of a stopped run, to its end; returns the folder of the copy."""
        shutil.copytree(stopped, copy)
        self.python.run(self.name, self.folder, "train.py", "-q", "-r", copy, *_machine(num_processes))
        return copy

    def score(self, run: Path, copy: Path) -> dict:
        """Scores a copy of a run on the test split; returns test.json without the report, which is new."""
        shutil.copytree(run, copy)
        self.python.run(self.name, self.folder, "test.py", "-q", "-r", copy, "--device", "cpu")
        scores = json.loads((copy / "test.json").read_text())
        scores.pop("report", None)
        return scores


def _machine(num_processes: int) -> list:
    distributed = ["--distributed", "--nproc", num_processes] if num_processes > 1 else []
    return ["--device", "cpu", *distributed]


@dataclass
class Runs:
    """The folders of a version's runs of one case, by the number of processes."""

    straight: dict[int, Path] = field(default_factory=dict)
    stopped: dict[int, Path] = field(default_factory=dict)
    resumed: dict[int, Path] = field(default_factory=dict)


def run_all(version: Version, case: str, group_sizes: tuple[int, ...]) -> Runs:
    """A version's runs for each number of processes: straight, stopped in the second epoch, resumed."""
    runs = Runs()
    for size in group_sizes:
        straight = version.start(case, f"straight_{size}", size)
        middle = num_steps(straight) // 2  # of three epochs
        stopped = version.start(case, f"stopped_{size}", size, "--steps", middle)
        if num_steps(stopped) != middle:
            raise ProgramError(f"{version.name}: --steps {middle} stopped at step {num_steps(stopped)}")
        resumed = version.resume(stopped, stopped.with_name(f"resumed_{size}"), size)
        runs.straight[size], runs.stopped[size], runs.resumed[size] = straight, stopped, resumed
    return runs


def num_steps(run: Path) -> int:
    """How many optimizer steps a run has made, by its log."""
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]


# -- comparing -------------------------------------------------------------------------------------

def config_of(case: str) -> str:
    """The name of a case's config file."""
    return case.partition(",")[0]


def cases_of(*folders: Path) -> list[str]:
    """The shipped configs of these versions, and the variants of them."""
    files = [file for folder in folders for file in (folder / "configs").glob("*.*")
             if "\nsweep:" not in file.read_text()]
    configs = {file.name for file in files if file.suffix in (".yaml", ".yml", ".json")} - {"schema.json"}
    return sorted(configs | {case for case in OVERRIDES if config_of(case) in configs})


def compare(case: str, old: Version, new: Version, group_sizes: tuple[int, ...] = (1, 2)) -> list[Difference]:
    """All differences in one case. Raises ProgramError where a program fails."""
    config, first = config_of(case), group_sizes[0]
    for version, other in ((old, new), (new, old)):
        if not (version.folder / "configs" / config).exists():
            return [Difference("configs", config, "", f"only {other.name} has it")]
    with ThreadPoolExecutor(2) as two:  # programs at a time
        olds, news = two.map(lambda version: run_all(version, case, group_sizes), (old, new))
        folder = news.straight[first].parent
        crossed = {size: two.submit(new.resume, olds.stopped[size], folder / f"crossed_{size}", size)
                   for size in group_sizes}
        scored = [two.submit(version.score, olds.straight[first], folder / f"scored_by_{version.name}")
                  for version in (old, new)]

    found = config_differences(olds.straight[first], news.straight[first])
    for size in group_sizes:
        group = "1 process" if size == 1 else f"{size} processes"
        straight, by_new = olds.straight[size], news.straight[size]
        for what, one, other in (("straight", straight, by_new),
                                 ("resumed by OLD", straight, olds.resumed[size]),
                                 ("resumed by NEW", by_new, news.resumed[size]),
                                 ("begun by OLD, resumed by NEW", straight, crossed[size].result())):
            found += run_differences(f"{what}, {group}", one, other)
    scores = [leaves(job.result()) for job in scored]
    return found + [Difference("score", "test.json", *it) for it in value_differences(*scores)]


def config_differences(one: Path, other: Path) -> list[Difference]:
    """How the stored configs of two runs differ: key by key, and where no key does, in their text."""
    contents = [load(run / "checkpoints" / "last.pt") for run in (one, other)]
    configs = [leaves(as_of_1_0_0(content)["config"]) for content in contents]
    if found := [Difference("config", "config.yaml", *it) for it in value_differences(*configs)]:
        return found
    if contents[0]["format"] != contents[1]["format"]:
        return []
    texts = [(run / "config.yaml").read_text().splitlines(keepends=True) for run in (one, other)]
    for number, (left, right) in enumerate(zip_longest(*texts), 1):
        if left != right:
            text = f"equal values, but line {number} is {left!r} and {right!r}"
            return [Difference("config", "config.yaml", "", text)]
    return []


def as_of_1_0_0(content: dict) -> dict:
    """A checkpoint's content with what both formats hold: 2 adds defaults, names and samples, 1 has seeds."""
    state = {name: part for name, part in content["state"].items()
             if name not in ("step_seeds", "data_fingerprint")}
    for name, part in state.items():
        if name.startswith("optimizer"):
            state[name] = {key: value for key, value in part.items() if key != "names"}
    if "progress" in state:
        state["progress"] = {key: value for key, value in state["progress"].items()
                             if key not in ("samples", "draws")}
    config = json.loads(json.dumps(content["config"]))
    for key in config.pop("default_values", ()):
        *above, last = key.split(".")
        table = config
        for part in above:
            table = table[int(part) if isinstance(table, list) else part]
        del table[last]
    new_sections = {"init": None}  # as they are where nothing is written
    config = {key: value for key, value in config.items() if new_sections.get(key, ...) != value}
    return {"config": in_short(config), "state": state}


def in_short(value):
    """A config with NAME for `{type: NAME, args: {}}`."""
    if isinstance(value, list):
        return [in_short(item) for item in value]
    if not isinstance(value, dict):
        return value
    table = {key: in_short(item) for key, item in value.items() if key != "args" or item}
    return table["type"] if table.keys() == {"type"} else table


def run_differences(case: str, one: Path, other: Path) -> list[Difference]:
    """How two runs differ: the first number in metrics.jsonl, then all values of last.pt and best.pt."""
    found = metrics_differences(case, *((run / "metrics.jsonl").read_bytes() for run in (one, other)))
    for file in ("last.pt", "best.pt"):
        there = [path for path in (run / "checkpoints" / file for run in (one, other)) if path.exists()]
        if len(there) == 1:
            found.append(Difference(case, file, "", f"only one run has it: {there[0]}"))
        elif there:
            # for configs see config_differences
            states = [leaves({"state": as_of_1_0_0(load(path))["state"]}) for path in there]
            found += [Difference(case, file, *it) for it in value_differences(*states)]
    return found


def metrics_differences(case: str, one: bytes, other: bytes) -> list[Difference]:
    """The first difference of two metrics.jsonl; none where all bytes are equal."""
    if one == other:
        return []
    sides = (one.decode().splitlines(), other.decode().splitlines())
    for number, (left, right) in enumerate(zip_longest(*sides), 1):
        if left is None or right is None:
            return [Difference(case, "metrics.jsonl", "", f"has {len(sides[0])} lines and {len(sides[1])}")]
        if left != right:
            values = next(value_differences(leaves(json.loads(left)), leaves(json.loads(right))), None)
            text = " ".join(values) if values else f"equal values, but {left!r} and {right!r}"
            return [Difference(case, "metrics.jsonl", "", f"line {number}: {text}")]
    return [Difference(case, "metrics.jsonl", "", "the ends of lines differ")]


def load(checkpoint: Path) -> dict:
    """The content of a checkpoint."""
    return torch.load(checkpoint, map_location="cpu", weights_only=True)


def leaves(value, path: str = "") -> dict:
    """The tensors and plain values in nested dicts and lists, by their path. An empty one is a value."""
    if not isinstance(value, (dict, list, tuple)) or not value:
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    inside = [leaves(inner, f"{path}.{key}".lstrip(".")) for key, inner in items]
    return {name: leaf for part in inside for name, leaf in part.items()}


def value_differences(one: dict, other: dict) -> Iterator[tuple[str, str]]:
    """What differs between two tables of `leaves`: (path, text)."""
    for path in {**one, **other}:  # in this order
        if path not in one or path not in other:
            side, value = ("first", one[path]) if path in one else ("second", other[path])
            yield path, f"only the {side} has it: {_short(value)}"
        elif text := value_difference(one[path], other[path]):
            yield path, text


def value_difference(one, other) -> str:
    """How two leaves differ, in words; "" where their types and all bits are equal."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return tensor_difference(one, other)
    if type(one) is not type(other):
        return f"is {_short(one)} and {_short(other)}"
    if isinstance(one, float):
        gap = f", which differs by {abs(one - other):.3g}"
        return "" if one.hex() == other.hex() else f"is {one!r} and {other!r}{gap}"
    return "" if one == other else f"is {_short(one)} and {_short(other)}"


def tensor_difference(one: torch.Tensor, other: torch.Tensor) -> str:
    """How two tensors differ, in words; "" where dtype, shape and all bits are equal."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return f"is {_short(one)} and {_short(other)}"
    plain = [tensor.clone(memory_format=torch.contiguous_format).reshape(-1) for tensor in (one, other)]
    bits = [values.view(torch.uint8).reshape(one.numel(), one.element_size()) for values in plain]
    differs = (bits[0] != bits[1]).any(1)  # [N]
    if not (number := int(differs.sum())):
        return ""
    first, second = (values[differs].to(torch.float64) for values in plain)
    gap = (first - second).abs().max().item()
    return f"{_short(one)} differs in {number} of {one.numel()} values, by up to {gap:.3g}"


def _short(value) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {[*value.shape]}".removeprefix("torch.")
    return repr(value)[:200]


# -- the verdict -----------------------------------------------------------------------------------

def report(found: list[Difference], expected: Mapping[str, str]) -> str:
    """What is wrong, a line for each kind of runs and file with its first difference; "" where nothing is.

    `expected` are the differences that are intended: patterns of their names, and the reasons.
    """
    surprises: dict[tuple[str, str], list[Difference]] = {}
    for difference in found:
        if not any(fnmatchcase(difference.name, pattern) for pattern in expected):
            surprises.setdefault((difference.case, difference.file), []).append(difference)
    lines = [f"{these[0].name}: {these[0].text}" + (f" (and {len(these) - 1} more)" if these[1:] else "")
             for these in surprises.values()]
    lines += [f"expected, but not found: {pattern} ({why})" for pattern, why in expected.items()
              if not any(fnmatchcase(difference.name, pattern) for difference in found)]
    return "\n".join(lines)


def prepare(name: str, folder: Path, target: Path, interpreter: Python) -> Version:
    """A version in a copy of its folder, without what git, virtual environments, data and runs left there."""

    def ignored(directory: str, names: list[str]) -> set[str]:
        left_behind = {file for file in names if file[0] == "." or file in ("venv", "data", "saved")}
        return {"__pycache__"} | (left_behind if Path(directory) == folder else set())

    shutil.copytree(folder, target / name, ignore=ignored)
    return Version(name, target / name, target / f"runs_of_{name}", interpreter)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares two versions of the project, run side by side.")
    parser.add_argument("old", type=Path, metavar="OLD", help="the folder of the version to compare with")
    parser.add_argument("new", type=Path, metavar="NEW", help="the folder of the version to test")
    parser.add_argument("--config", nargs="+", metavar="NAME", help="what to compare: digits.yaml (all)")
    parser.add_argument("--cold", action="store_true", help="start each program as a user does: slow")
    args = parser.parse_args()
    cases = cases_of(args.old, args.new)
    if unknown := {*(args.config or ()), *EXPECTED} - {*cases}:
        parser.error(f"no case {', '.join(sorted(unknown))}. There are: {', '.join(cases)}")
    num_failed = 0
    with tempfile.TemporaryDirectory(prefix="versions_") as name, python(args.cold) as interpreter:
        old = prepare("OLD", args.old, Path(name), interpreter)
        new = prepare("NEW", args.new, Path(name), interpreter)
        for case in args.config or cases:
            started = time.monotonic()
            try:
                wrong = report(compare(case, old, new), EXPECTED.get(case, {}))
            except ProgramError as error:
                wrong = str(error)
            num_failed += bool(wrong)
            verdict = f"FAILED\n{wrong}" if wrong else "as expected"
            print(f"{case} ({time.monotonic() - started:.0f} s): {verdict}", flush=True)
    sys.exit(1 if num_failed else 0)


if __name__ == "__main__":
    main()
