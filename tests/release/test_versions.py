"""This version against 1.0.0, side by side (compare_versions.py), and proof that a comparison can fail.

    python -m pytest -m release
"""
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compare_versions import (
    EXPECTED,
    Difference,
    Version,
    cases_of,
    compare,
    metrics_differences,
    python,
    report,
    run_differences,
    value_difference,
)
from conftest import PROJECT, needs

pytestmark = pytest.mark.release
OLD_COMMIT = "6e655fa"  # version 1.0.0


def git(*command: str) -> str | None:
    """The output of `git COMMAND` in this project; None without git or a repository, or where git refuses."""
    if not (PROJECT / ".git").exists() or not shutil.which("git"):
        return None
    done = subprocess.run(["git", *command], cwd=PROJECT, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


@pytest.fixture(scope="module")
def interpreter():
    with python() as interpreter:
        yield interpreter


@pytest.fixture(scope="module")
def old(interpreter, tmp_path_factory) -> Version:
    """Version 1.0.0."""
    if git("cat-file", "-e", f"{OLD_COMMIT}^{{commit}}") is None:
        pytest.skip(f"commit {OLD_COMMIT} (1.0.0) is not in this history: a fork, a shallow clone, or no git")
    folder = tmp_path_factory.mktemp("old")
    assert git("archive", "--format=zip", f"--output={folder / 'old.zip'}", OLD_COMMIT) is not None
    shutil.unpack_archive(folder / "old.zip", folder / "files")
    return Version("OLD", folder / "files", folder / "runs", interpreter)


@pytest.fixture(scope="module")
def new(interpreter, tmp_path_factory) -> Version:
    """The files of the working tree that git has or would add."""
    files = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if files is None:
        pytest.skip("git does not list the files of the working tree: no git, or no repository")
    folder = tmp_path_factory.mktemp("new")
    for name in files.split("\0"):
        copy = folder / "files" / name
        if (PROJECT / name).is_file():  # git also lists files that are deleted, but not yet in a commit
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROJECT / name, copy)
    return Version("NEW", folder / "files", folder / "runs", interpreter)


# -- this version and 1.0.0 ------------------------------------------------------------------------

@pytest.mark.parametrize("case", cases_of(PROJECT))
def test_this_version_gives_the_numbers_of_version_1_0_0(case, old, new):
    wrong = report(compare(case, old, new), EXPECTED.get(case, {}))
    assert not wrong, f"{case}\n{wrong}"


def test_no_config_of_version_1_0_0_is_missing(old, new):
    for case in {*cases_of(old.folder)} - {*cases_of(new.folder)}:
        wrong = report(compare(case, old, new), EXPECTED.get(case, {}))
        assert not wrong, f"{case}\n{wrong}"


def test_differences_are_expected_only_of_configs_that_there_are(old, new):
    assert {*EXPECTED} <= {*cases_of(old.folder, new.folder)}


# -- a comparison can fail -------------------------------------------------------------------------

def change(version: Version, folder: Path, before: str, after: str) -> Version:
    """A copy of a version in which `before` reads `after`, in whichever file of Python it stands."""
    shutil.copytree(version.folder, folder / "files", ignore=shutil.ignore_patterns("__pycache__", "tests"))
    files = [file for file in (folder / "files").rglob("*.py") if before in file.read_text(encoding="utf-8")]
    assert files, f"no file has {before!r} any more: choose another change for this test"
    for file in files:
        file.write_text(file.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
    return replace(version, folder=folder / "files", out=folder / "runs")


CHANGES = {  # what to look for in the code, what to put there, and what the report says
    "a seed": ('derive(seed, "model")', 'derive(seed, "models")',
               "straight, 1 process: metrics.jsonl: line 1: step/loss is "),
    "a line of the log": ('{"step": step, "epoch": epoch', '{"epoch": epoch, "step": step',
                          "straight, 1 process: metrics.jsonl: line 1: equal values, but "),
    "a resume": ("self.num_lines = len(kept)", "self.num_lines = len(kept) + 1",
                 "resumed by NEW, 1 process: last.pt state.metrics_file.num_lines: is 24 and 25"),
}


@pytest.mark.parametrize(("before", "after", "named"), CHANGES.values(), ids=CHANGES)
def test_a_small_change_of_the_code_is_found(before, after, named, new, tmp_path):
    needs("configs/linear_regression.yaml")
    unchanged = replace(new, name="OLD", out=tmp_path / "unchanged")
    changed = change(new, tmp_path, before, after)
    assert named in report(compare("linear_regression.yaml", unchanged, changed, group_sizes=(1,)), {})


def test_a_config_that_only_one_version_has_is_found(new, tmp_path):
    needs("configs/linear_regression.yaml")
    found = compare("linear_regression.yaml", replace(new, name="OLD", folder=tmp_path), new)
    assert report(found, {}) == "configs: linear_regression.yaml: only NEW has it"


NAN = float("nan")


@pytest.mark.parametrize(("one", "other", "text"), [
    (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0000002]), "differs in 1 of 2 values, by up to 2.38e-07"),
    (torch.tensor([0.0]), torch.tensor([-0.0]), "differs in 1 of 1 values, by up to 0"),
    (torch.ones(2), torch.ones(2, dtype=torch.float64), "is float32 [2] and float64 [2]"),
    (torch.ones(2), torch.ones(2, 1), "is float32 [2] and float32 [2, 1]"),
    (torch.ones(1), 1.0, "is float32 [1] and 1.0"),
    (0.1, 0.1 + 2**-56, "is 0.1 and 0.10000000000000002, which differs by 1.39e-17"),
    (1, 1.0, "is 1 and 1.0"),
    (True, 1, "is True and 1"),
    ("min", "max", "is 'min' and 'max'"),
])
def test_values_that_differ_in_a_bit_or_in_their_type_are_told_apart(one, other, text):
    assert text in value_difference(one, other)
    assert not value_difference(one, one)


@pytest.mark.parametrize("value", [
    NAN, torch.tensor([NAN, 1.0]), torch.tensor(3.0),
    torch.ones(3, 2).T, torch.ones(1, 9).T[:1], torch.empty(0), {}])
def test_equal_values_do_not_differ(value):
    assert not value_difference(value, value.clone() if isinstance(value, torch.Tensor) else value)


@pytest.mark.parametrize(("one", "other", "text"), [
    (b'{"b": 1, "a": 1.0}\n', b'{"b": 1, "a": 1.5}\n', "line 1: a is 1.0 and 1.5, which differs by 0.5"),
    (b'{"a": 1}\n', b'{"a": 1}\n{"a": 2}\n', "has 1 lines and 2"),
    (b'{"a": 1}\n', b'{"a":1}\n', "line 1: equal values, but"),
    (b'{"a": 1}\n', b'{"a": 1}', "the ends of lines differ"),
    (b'{"a": 1}\n', b'{"a": 1, "b": 2}\n', "line 1: b only the second has it: 2"),
])
def test_logs_that_differ_in_a_byte_are_told_apart(one, other, text):
    difference, = metrics_differences("", one, other)
    assert text in difference.text


def write_run(folder: Path, state: dict) -> Path:
    """A run folder with what is compared of two runs."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    torch.save({"format": 1, "config": {}, "state": state}, folder / "checkpoints" / "last.pt")
    return folder


def test_a_value_that_only_one_checkpoint_has_is_found(tmp_path):
    one = write_run(tmp_path / "one", {"model": {"weight": torch.ones(2)}, "step": 3})
    other = write_run(tmp_path / "other", {"model": {"weight": torch.ones(2)}, "ema": {}})
    assert run_differences("", one, one) == []
    places = [(it.file, it.place) for it in run_differences("", one, other)]
    assert places == [("last.pt", "state.step"), ("last.pt", "state.ema")]


def test_a_difference_that_is_expected_is_no_failure_and_one_that_does_not_occur_is():
    found = [Difference("straight, 1 process", "last.pt", f"state.model.{name}", "differs")
             for name in ("weight", "bias")]
    assert report(found, {}) == "straight, 1 process: last.pt state.model.weight: differs (and 1 more)"
    assert report(found, {"straight*: last.pt state.model.*": "another start"}) == ""
    assert "model.bias: differs" in report(found, {"*.weight": "another start"})
    assert report([], {"*.yaml name": "another"}) == "expected, but not found: *.yaml name (another)"
