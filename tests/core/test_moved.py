"""Modules and names of earlier versions still work, and warn once; commands that moved print the new one."""
import importlib
import json
import sys
import warnings

import pytest
from conftest import PROJECT, program

from base import BaseTrainer
from utils import moved

NAMES = json.loads((PROJECT / "tests" / "core" / "names_of_1.0.0.json").read_text())  # by module
GONE = {"base.find.find", "utils.cli.verify_arguments", "utils.origins.tell",
        "base.leaving.asked", "base.leaving.leave_if_asked", "base.profiling.profile_steps",
        "base.profiling.recording", "base.recovery.Splitting", "base.recovery.careful_evaluation",
        "base.recovery.careful_step", "base.recovery.explained", "base.samples.Count",
        "base.sharing.share_gradients"}
THERE = [name for name, targets in moved.MODULES.items()  # a fork may have deleted tools/
         if all((PROJECT / f"{target.replace('.', '/')}.py").exists() for target in targets)]


@pytest.mark.parametrize("name", THERE)
def test_a_former_module_gives_what_its_successors_hold_and_warns_once(name):
    sys.modules.pop(name, None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = importlib.import_module(name)
        importlib.import_module(name)
    assert [warning.category for warning in caught] == [FutureWarning]
    assert str(caught[0].message).startswith(f"{name} is now {moved.MODULES[name][0]}")
    successor = importlib.import_module(moved.MODULES[name][0])
    for name, value in vars(successor).items():
        if getattr(value, "__module__", "") == successor.__name__:
            assert getattr(module, name) is value


@pytest.mark.filterwarnings("ignore:.*The former name works")
@pytest.mark.parametrize("module", [name for name in NAMES if name in THERE or name not in moved.MODULES])
def test_every_public_name_of_1_0_0_can_be_imported_or_stands_in_the_changelog(module):
    changelog = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    for name in NAMES[module]:
        if f"{module}.{name}" in GONE:
            assert f"`{module}.{name}`" in changelog
        else:
            exec(f"from {module} import {name}", {})


def test_a_module_that_became_a_package_gives_its_former_names():
    from utils import config
    with pytest.warns(FutureWarning, match="load_config is now utils.config.loading.load_config"):
        assert config.load_config is importlib.import_module("utils.config.loading").load_config
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from utils.config import nothing")


@pytest.mark.parametrize("name", moved.COMMANDS)
def test_a_command_that_moved_prints_the_new_one(name):
    done = program("-m", name, "anything", code=2)
    assert done.stderr == f"python -m {name} is now: python -m {moved.COMMANDS[name]}\n" and not done.stdout


@pytest.mark.parametrize("former, present", [
    ("bare_model", "unwrapped_model"), ("rehearsing", "in_preflight"), ("laps", "timers")])
def test_a_trainer_answers_to_the_former_names_of_its_attributes(former, present):
    trainer = object.__new__(BaseTrainer)
    with pytest.warns(FutureWarning, match=f"{former} is now {present}"):
        setattr(trainer, former, "the value")
    with pytest.warns(FutureWarning, match=f"{former} is now {present}"):
        assert getattr(trainer, former) == vars(trainer)[present] == "the value"
