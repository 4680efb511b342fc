"""Plug-ins that come or change while a process runs, as in a notebook; names that are of another kind."""
import shutil

from conftest import PROJECT, program

NET = """
from torch import nn
from base import MODELS

@MODELS.register
class {}(nn.Module):
    size = {}
"""
NOTEBOOK = r"""
import importlib, os, sys, time
from pathlib import Path
from torch import nn
from base import LOSSES, METRICS, MODELS
from utils.errors import ConfigError

def told(registry, name):
    try:
        return registry.get(name).size
    except ConfigError as error:
        return str(error).partition(" Did you")[0].partition(" There are")[0]

NET = sys.argv[1]
print(told(MODELS, "Late"))
Path("model/late.py").write_text(NET.format("Late", 1))
print(told(MODELS, "Late"))
Path("model/late.py").write_text(NET.format("Late", 23) + NET.format("Later", 4))
print(told(MODELS, "Later"))
importlib.reload(sys.modules["model.late"])
print(told(MODELS, "Late"), told(MODELS, "Later"))
Path("model/broken.py").write_text("import model.helper_of\n" + NET.format("Broken", 5))
print(told(MODELS, "Broken"))
Path("model/helper_of.py").write_text("")
print(told(MODELS, "Broken"))
print(told(LOSSES, "Late"))
for size in (6, 7):
    exec(f"@MODELS.register\nclass InCell(nn.Module):\n    size = {size}")
print(told(MODELS, "InCell"), told(METRICS, "InCell"))
"""


def test_files_and_classes_that_come_later_are_found_and_other_kinds_are_named(tmp_path):
    for folder in ("base", "model", "data_loader", "trainer", "logger", "utils"):
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    done = program("-c", NOTEBOOK, NET, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "no model 'Late'.", "1",
        "no model 'Later'. model/late.py has it since it was imported: reload it.", "23 4",
        "no model 'Broken'. model/broken.py has it, but could not be imported.", "5",
        "no loss 'Late'. model/late.py has it as a model. A loss stands under @LOSSES.register.",
        "7 no metric 'InCell'. __main__ has it as a model. A metric stands under @METRICS.register.",
    ], done.stdout + done.stderr
