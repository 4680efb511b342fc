"""A room can be deleted with its door and its tests: the rest still imports, trains and passes."""
import pytest
from conftest import PROJECT, copy_project, program

# What goes with each folder that a fork may delete.
ROOMS = {
    "tools": ("tools", "runs.py", "sweep.py", "tests/tools"),
    "sweep": ("tools/sweep", "sweep.py", "tests/tools/sweep", "configs/digits_sweep.yaml"),
    "benchmarks": ("benchmarks", "tests/benchmarks", "requirements-bench.txt"),
    "docs": ("docs", "tests/docs"),
    "scaffolds": ("scaffolds", "new.py", "tests/scaffolds"),
    "launch": ("launch", "tests/launch"),
    "notebooks": ("notebooks", "tests/notebooks"),
    "trackers": ("logger/trackers", "tests/trackers"),
}
ALL = tuple(name for names in ROOMS.values() for name in names)
CONFIG = """
name: small
dataset: Digits
data_loader: {batch_size: 64, validation_split: 0.1}
model: {type: MLP, args: {sizes: [64, 10]}}
loss: CrossEntropyLoss
optimizer: SGD
trainer: {args: {epochs: 1}}
"""
IMPORT_ALL = """
import importlib, pathlib
for file in sorted(pathlib.Path().rglob("*.py")):
    rooms = ("base", "data_loader", "logger", "model", "tools", "trainer", "utils")
    if file.parts[0] in rooms or len(file.parts) == 1:
        importlib.import_module(".".join(file.with_suffix("").parts).removesuffix(".__init__"))
"""


def without(folder, *names):
    """A copy of the project that lacks `names`, with a config that trains in a second."""
    copy_project(folder, *names)
    (folder / "small.yaml").write_text(CONFIG)
    return folder


def imports_and_trains(project) -> None:
    program("-c", IMPORT_ALL, cwd=project)
    program("train.py", "-q", "-c", "small.yaml", "--run-name", "run", cwd=project)
    program("test.py", "-q", "-r", "saved/small/run", cwd=project)


def test_without_all_of_them_everything_imports_and_trains_and_a_flag_names_the_missing_file(tmp_path):
    project = without(tmp_path / "project", *ALL)
    imports_and_trains(project)
    done = program("train.py", "-c", "small.yaml", "--check", cwd=project, code=2)
    assert done.stderr.splitlines()[-1] == "train.py: error: --check: this project has no tools/check.py"
    for args in (["predict.py", "x.png"], ["test.py", "--predictions", "x.csv"]):
        done = program(*args, "-r", "saved/small/run", cwd=project, code=2)
        assert "this project has no tools/prediction" in done.stderr
    assert "--check" not in program("train.py", "--help", cwd=project, cold=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("room", ROOMS)
def test_without_one_of_them_everything_imports_and_trains_and_the_core_is_collected(room, tmp_path):
    project = without(tmp_path / "project", *ROOMS[room])
    imports_and_trains(project)
    program("-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "tests/core", cwd=project)


@pytest.mark.slow
def test_without_all_of_them_the_tests_of_the_core_pass(tmp_path):
    if not all((PROJECT / room).exists() for room in ROOMS):
        pytest.skip("they are gone already, and tests/core runs without them anyway")
    project = without(tmp_path / "project", *ALL)
    program("-m", "pytest", "-x", "-n", 2, "-p", "no:cacheprovider", "tests/core", cwd=project, timeout=900)
