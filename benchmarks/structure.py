"""How far a step lies from the loop, what start-up and a save enter, how long and branched functions are.

    python benchmarks/structure.py
    python benchmarks/structure.py trainer.args.ema=0.99 trainer.args.accumulate=2

Figures to look at, not limits. Files are counted by the functions that are called, with the digits config;
plug-ins (model/, data_loader/, trainer/) do not count among the engine's. Branches are ifs, loops, handlers,
ternaries, comprehensions and their ifs, and operands of `and` and `or` after the first.
"""
import ast
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
PLUG_INS = ("model", "data_loader", "trainer")
BRANCHES = (ast.If, ast.For, ast.While, ast.IfExp, ast.ExceptHandler, ast.comprehension, ast.Assert)
FIRST, LAST = 3, 18  # the steps that are watched


class Watch:
    """Collects which of the project's files are entered from one `optimizer.step` to the next."""

    def __init__(self):
        self.entered: set[str] = set()
        self.stretches: list[set[str]] = []  # the first one is start-up
        self.frames: list[str] = []

    def on_event(self, frame, event: str, argument) -> None:
        if event == "call" and (name := file_of(frame)):
            self.entered.add(name)

    def on_step(self, *_) -> None:
        """Called after each step of an optimizer."""
        self.stretches.append(self.entered)
        self.entered, frame, names = set(), sys._getframe(1), []
        while frame:
            names += [f"{name}:{frame.f_code.co_name}"] if (name := file_of(frame)) else []
            frame = frame.f_back
        self.frames = names[::-1]


def file_of(frame) -> str | None:
    """The project's file in which a frame runs; None for other code."""
    path = Path(frame.f_code.co_filename)
    if not path.is_absolute() or not path.is_relative_to(PROJECT) or "site-packages" in path.parts:
        return None
    name = str(path.relative_to(PROJECT))
    return None if name.startswith(("benchmarks/", "tests/")) else name


def watched_run(*overrides: str) -> tuple[Watch, set[str]]:
    """Trains some steps of the digits; returns what was seen, and the files that one save entered."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from train import main
    from utils.cli import train_arguments
    from utils.errors import Interrupted

    watch, saving = Watch(), Watch()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["-q", "-c", str(PROJECT / "configs/digits.yaml"), "--device", "cpu", "--out", folder,
                     "--steps", str(LAST + 2), *overrides]
        hook = register_optimizer_step_post_hook(watch.on_step)
        sys.setprofile(watch.on_event)
        try:
            main(train_arguments(arguments))
        except Interrupted:
            pass
        finally:
            sys.setprofile(None)
            hook.remove()
        saving.entered = files_of_a_save(folder)
    return watch, saving.entered


def files_of_a_save(folder: str) -> set[str]:
    """The files that `save` enters in this thread, of a trainer that was just resumed."""
    import torch

    from base.run.run_config import resolve_config
    from base.run.setup import checkpoint_to_resume, open_run, set_up_training

    checkpoint = checkpoint_to_resume(next(Path(folder).iterdir()), None, Path(folder), None)
    resolved = resolve_config(None, checkpoint, [])
    setup = set_up_training(resolved.config, checkpoint, torch.device("cpu"), Path(folder))
    run, watch = open_run(resolved, checkpoint, torch.device("cpu"), Path(folder), None, bars=False), Watch()
    with run:
        setup.trainer.use_run(run)
        sys.setprofile(watch.on_event)
        try:
            setup.trainer.save("last.pt")
        finally:
            sys.setprofile(None)
    return watch.entered


def functions() -> Iterator[tuple[str, int, int]]:
    """(name, lines, branches) of every function of the project."""
    rooms = ("base", "utils", "logger", "tools", *PLUG_INS)
    files = [file for room in rooms for file in sorted((PROJECT / room).rglob("*.py"))]
    for file in [*files, *sorted(PROJECT.glob("*.py"))]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                name = f"{file.relative_to(PROJECT)}:{node.name}"
                yield name, node.end_lineno - node.lineno + 1, branches_of(node)


def branches_of(function: ast.FunctionDef) -> int:
    """The branches of a function, without those of functions in it."""
    number, waiting = 0, list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef):
            continue
        number += isinstance(node, BRANCHES) + len(getattr(node, "ifs", ()))
        number += len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0
        waiting += ast.iter_child_nodes(node)
    return number


def structure(*overrides: str) -> dict:
    """The figures by name."""
    watch, saving = watched_run(*overrides)
    step = set().union(*watch.stretches[FIRST - 1 : LAST])
    frames = [name for name in watch.frames if not name.startswith("train.py")]
    loop = [name.startswith("base/base_trainer.py") for name in frames]
    measured = list(functions())
    return {
        "engine files from one step to the next": len([n for n in step if n.split("/")[0] not in PLUG_INS]),
        "frames above optimizer.step": len(frames),
        "the path leaves the loop's file and comes back":
            sum(inside and not before for before, inside in zip(loop, loop[1:], strict=False)),
        "files that start-up enters": len(watch.stretches[0]),
        "files that a save enters": len(saving),
        "functions over 40 lines": [name for name, lines, _ in measured if lines > 40],
        "functions over 12 branches": {name: number for name, _, number in measured if number > 12},
        "the files of a step": sorted(step), "the frames of a step": frames,
        "the files of a save": sorted(saving), "the files of start-up": sorted(watch.stretches[0])}


if __name__ == "__main__":
    print(json.dumps(structure(*sys.argv[1:]), indent=2))
