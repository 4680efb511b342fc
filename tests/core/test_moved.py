"""Modules and names of earlier versions still work, and warn once; commands that moved print the new one."""
import importlib
import sys
import warnings

import pytest
from conftest import PROJECT, program

from base import BaseTrainer
from utils import moved

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


@pytest.mark.parametrize("module", [name for name in moved.NAMES if name in (*THERE, *moved.PACKAGES)])
def test_former_names_lead_to_the_present_ones(module):
    for former, present in moved.NAMES[module].items():
        found = moved.find(module, former)
        assert former.isupper() or found.__name__ == present


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


def test_a_trainer_answers_to_the_former_name_of_its_model():
    trainer = object.__new__(BaseTrainer)
    trainer.unwrapped_model = "the model"
    with pytest.warns(FutureWarning, match="bare_model is now BaseTrainer.unwrapped_model"):
        assert trainer.bare_model == "the model"
