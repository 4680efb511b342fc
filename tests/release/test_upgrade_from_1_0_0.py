"""A project of version 1.0.0, with changes of its own, is upgraded to this version as its owner would do it.

    python -m pytest -m release tests/release/test_upgrade_from_1_0_0.py  # 15 minutes: it runs tests/core
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PROJECT, needs
from test_moved import GONE

pytestmark = pytest.mark.release
OLD_COMMIT = "6e655fa"  # version 1.0.0
NAMES = json.loads((PROJECT / "tests" / "core" / "names_of_1.0.0.json").read_text())
# What the README of 1.0.0 documents, by the folder whose plug-ins may import it.
DOCUMENTED = {"logger": "from logger import WRITERS, Writer", "trainer": """
from base import (DATASETS, LOSSES, METRICS, MODELS, SCHEDULERS, TRAINERS, TRANSFORMS, ArrayDataset,
                  BatchAugmentation)
from base.augmentation import per_sample
from trainer.trainer import Trainer"""}
ENVIRONMENT = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull,
               "GIT_AUTHOR_NAME": "me", "GIT_AUTHOR_EMAIL": "me@x",
               "GIT_COMMITTER_NAME": "me", "GIT_COMMITTER_EMAIL": "me@x"}


def run(folder: Path, *command, code: int = 0, **environment) -> str:
    done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True,
                          env={**ENVIRONMENT, **environment}, start_new_session=True)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout[-9000:]}\n{done.stderr}"
    return done.stdout.strip()


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-q", "--allow-empty", "-m", message)


def replace(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert text.count(before) == 1, file
    file.write_text(text.replace(before, after))


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A clone of this project whose newest commit is the present work tree."""
    needs("new.py", "scaffolds/upgrade/upgrade.py", ".git")
    if subprocess.run(["git", "cat-file", "-e", f"{OLD_COMMIT}^{{commit}}"], cwd=PROJECT).returncode:
        pytest.skip(f"commit {OLD_COMMIT} (1.0.0) is not in this history: a fork, or a shallow clone")
    folder = tmp_path_factory.mktemp("template") / "seedbed"
    run(PROJECT, "git", "clone", "-q", PROJECT, folder)
    run(folder, "git", "rm", "-rq", ".")
    listed = run(PROJECT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(lambda name: (PROJECT / name).is_file(), listed):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)
    commit(folder, "The present version")
    return folder


@pytest.fixture(scope="module")
def project_of_1_0_0(template, tmp_path_factory) -> Path:
    """What `new.py project` of 1.0.0 makes, in git, with changes of its owner."""
    folder = tmp_path_factory.mktemp("old")
    run(template, "git", "worktree", "add", "-q", "--detach", folder / "seedbed", OLD_COMMIT)
    run(folder / "seedbed", sys.executable, "new.py", "project", folder / "mine")
    mine = folder / "mine"
    run(mine, "git", "init", "-q")
    commit(mine, "Begin")
    reset = "self.totals.reset()\n        {}self.metrics.reset()\n        self.run.epoch("  # in finish_epoch
    of_mine = reset.format("self.epochs_of_mine = epoch\n        ")
    replace(mine / "base" / "base_trainer.py", reset.format(""), of_mine)
    replace(mine / "utils" / "monitor.py", "improved = gain > self.min_delta",
            "improved = gain > self.min_delta  # mine")  # now utils/training/monitor.py
    run(mine, "git", "rm", "-rq", "launch", "tests/test_slurm.py")
    for room, documented in DOCUMENTED.items():
        (mine / room / "of_mine.py").write_text(f'"""Mine."""\n{documented.strip()}\n{PLUG_INS[room]}')
    (mine / "configs" / "mine.yaml").write_text(CONFIG)
    commit(mine, "Mine")
    return mine


PLUG_INS = {"logger": '''

@WRITERS.register
class WriterOfMine(Writer):
    """Mine."""

    def scalars(self, step, values):
        """Nothing."""
''', "trainer": '''

@TRAINERS.register
class TrainerOfMine(Trainer):
    """Mine."""

    documented = (DATASETS, LOSSES, METRICS, MODELS, SCHEDULERS, TRANSFORMS, ArrayDataset, BatchAugmentation,
                  per_sample)

    def on_train_end(self):
        print("epochs of mine:", self.epochs_of_mine)
'''}
CONFIG = """# Trains an MLP on the digits.
# Expected: about 0.95 val/accuracy in 5 s.
#   python train.py -c configs/mine.yaml
name: mine
dataset: Digits
data_loader: {batch_size: 64, validation_split: 0.1}
model: {type: MLP, args: {sizes: [64, 10]}}
loss: CrossEntropyLoss
optimizer: SGD
writers: [WriterOfMine]
trainer: {type: TrainerOfMine, args: {epochs: 2}}
"""


@pytest.fixture
def mine(project_of_1_0_0, tmp_path) -> Path:
    shutil.copytree(project_of_1_0_0, tmp_path / "mine")
    return tmp_path / "mine"


def upgrade(mine: Path, template: Path, code: int = 0, **environment) -> str:
    """In a project of 1.0.0, which has no such command, by the program of a clone of the template."""
    return run(mine, sys.executable, template / "new.py", "upgrade", "--yes", code=code, **environment)


def test_a_changed_project_is_merged_trains_and_passes_the_tests_of_the_core(mine, template):
    printed = upgrade(mine, template)
    assert "trainer/of_mine.py:4: base.augmentation is now base.data.augmentation" in printed
    assert "passed" in printed and "failed" not in printed
    trainer = (mine / "base" / "base_trainer.py").read_text()
    assert "self.epochs_of_mine = epoch" in trainer.split("def finish_epoch")[1].split("\n    def ")[0]
    assert "self.min_delta  # mine" in (mine / "utils" / "training" / "monitor.py").read_text()
    assert not (mine / "launch").exists() and not (mine / "tests" / "launch").exists()
    assert not (mine / "utils" / "monitor.py").exists() and not (mine / "CONTRIBUTING.md").exists()
    assert run(mine, "git", "status", "--porcelain") == ""
    assert "epochs of mine: 2" in run(mine, sys.executable, "train.py", "-c", "configs/mine.yaml")
    commit(mine, "Runs")
    every = "\n".join(f"from {module} import {name}" for module, names in NAMES.items() for name in names
                      if f"{module}.{name}" not in GONE)
    run(mine, sys.executable, "-W", "ignore", "-c", every)
    head = run(mine, "git", "rev-parse", "HEAD")
    again = run(mine, sys.executable, "new.py", "upgrade", "--from", template, "--yes")
    assert "nothing to do" in again and run(mine, "git", "rev-parse", "HEAD") == head


def test_a_conflicting_change_ends_with_markers_and_a_list(mine, template):
    replace(mine / "base" / "base_trainer.py", "values |= self.learning_rates()", "values |= {'mine': 1.0}")
    commit(mine, "More")
    before = run(mine, "git", "rev-parse", "HEAD")
    assert "have conflicts:\n  base/base_trainer.py\nEdit" in upgrade(mine, template, code=1)
    text = (mine / "base" / "base_trainer.py").read_text()
    assert text.count("<<<<<<< ") == 1 and "values |= {'mine': 1.0}" in text
    assert run(mine, "git", "rev-parse", "HEAD") == before
    run(mine, "git", "merge", "--abort")
    assert run(mine, "git", "status", "--porcelain") == ""


FAKE = """#!/bin/bash
# git that kills its session KILL_AFTER seconds after it has begun to write the work tree
case " $* " in *" read-tree -m -u "*)
  {} "$@" & sleep "$KILL_AFTER"; kill -9 -- -$(ps -o pgid= $$ | tr -d ' ');;
esac
exec {} "$@"
"""


def tree_of(folder: Path) -> str:
    return run(folder, "git", "rev-parse", "HEAD^{tree}")


def test_killed_at_several_moments_nothing_is_half_done(mine, template, tmp_path):
    run(mine, "git", "rm", "-rq", "tests")  # they would be run each time
    commit(mine, "Without tests")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text(FAKE.replace("{}", shutil.which("git")))
    (tmp_path / "bin" / "git").chmod(0o755)
    shutil.copytree(mine, tmp_path / "whole")
    began = time.monotonic()
    upgrade(tmp_path / "whole", template)
    took, newest = time.monotonic() - began, tree_of(tmp_path / "whole")
    command = [sys.executable, template / "new.py", "upgrade", "--yes"]
    while_writing = [{"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "KILL_AFTER": after}
                     for after in ("0", "0.002", "0.005", "0.01", "0.02", "0.04")]
    for moment in (*while_writing, *(took * part / 10 for part in range(1, 10))):
        one = tmp_path / "one"
        shutil.copytree(mine, one)
        environment = ENVIRONMENT | (moment if isinstance(moment, dict) else {})
        process = subprocess.Popen([*map(str, command)], cwd=one, env=environment, start_new_session=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=120 if isinstance(moment, dict) else moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert tree_of(one) in (tree_of(mine), newest)
        upgrade(one, template)
        assert tree_of(one) == newest
        assert run(one, "git", "status", "--porcelain") == ""
        assert len(run(one, "git", "worktree", "list").splitlines()) == 1
        shutil.rmtree(one)
