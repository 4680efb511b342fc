"""The shape of the loop: who sees how much of a trainer, who sets what, how far a step lies from the loop."""
import ast
import functools
import importlib
import sys
from collections.abc import Iterator
from typing import Protocol

import pytest
import torch
import yaml
from torch.optim.optimizer import register_optimizer_step_post_hook

from base.build import build_trainer
from base.config.validate import validate_config
from conftest import PROJECT, train
from test_house import FILES, parsed
from trainer.trainer import Trainer
from utils.config.loading import load_config

MOST_MEMBERS = 15
# Attributes that are set on objects of torch, of Python, or of the file itself.
SET_ELSEWHERE = {
    "base/base_metric.py": {"part.distributed_available_fn"},  # of a copy; torchmetrics has no setter
    "base/data/arrays.py": {"arrays.arrays"},
    "logger/tensorboard.py": {"threading.excepthook"},
    "utils/checkpoint/archive.py": {"archive.comment", "archive.start_dir", "record.CRC", "record.extra",
                                    "record.compress_size", "record.file_size", "record.header_offset"},
    "utils/cli.py": {"args.inputs", "args.out", "args.overrides", "args.tool"},
    "utils/config/annotations.py": {"check.range"},
    "utils/config/syntax.py": {"_Loader.yaml_implicit_resolvers"},
    "utils/distributed/collectives.py": {"Shared.num_waits", "Shared.patient"},
    "utils/distributed/group.py": {"Shared.store"},
    "utils/distributed/sharding.py": {"Shared.background"},
    "utils/distributed/strategy.py": {"flag.grad", "parameter.grad", "unit.forward"},
    "utils/distributed/sync_batchnorm.py": {"module.__class__"},
    "utils/moved.py": {"module.__all__", "module.__getattr__"},
    "utils/training/updater.py": {"parameter.grad", "self.optimizer.found_inf", "self.optimizer.grad_scale"},
    "tools/migrate.py": {"old.notes"},
}
LOOP = "base/base_trainer.py"


def takes_a_trainer() -> Iterator[tuple]:
    """(file, function, its argument `trainer`) of every function outside the loop's file that has one."""
    for file in FILES:
        name = str(file.relative_to(PROJECT))
        for node in ast.walk(parsed(file)) if name not in (LOOP, "utils/moved.py") else ():
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if argument := next((argument for argument in arguments if argument.arg == "trainer"), None):
                    yield file, node, argument


def members(protocol: type) -> set[str]:
    """The attributes and methods that a protocol asks for."""
    asked = [cls for cls in protocol.__mro__ if getattr(cls, "_is_protocol", False) and cls is not Protocol]
    return {name for cls in asked for name in (*vars(cls).get("__annotations__", ()), *vars(cls))
            if not name.startswith("_")}


@functools.cache
def protocol_of(file, annotation: str) -> type:
    module = importlib.import_module(".".join(file.relative_to(PROJECT).with_suffix("").parts))
    return getattr(module, annotation)


CASES = {f"{file.relative_to(PROJECT)}:{function.name}": (file, function, argument)
         for file, function, argument in takes_a_trainer()}


@pytest.mark.parametrize("case", CASES)
def test_what_takes_a_trainer_says_which_part_of_it(case):
    file, function, argument = CASES[case]
    assert argument.annotation is not None, "no annotation"
    protocol = protocol_of(file, ast.unparse(argument.annotation))
    assert getattr(protocol, "_is_protocol", False), f"{protocol} is no protocol"
    assert len(members(protocol)) <= MOST_MEMBERS, sorted(members(protocol))
    used = {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name) and node.value.id == "trainer"}
    assert used <= members(protocol), f"not in {protocol.__name__}: {sorted(used - members(protocol))}"


def test_a_trainer_has_what_the_protocols_ask_for(small):
    config, _ = load_config(small)
    trainer = build_trainer(validate_config(config), torch.device("cpu"))
    trainer.prepare_training()
    asked = {protocol_of(file, ast.unparse(argument.annotation)) for file, _, argument in CASES.values()}
    assert len(asked) > 3  # fewer where tools/ was deleted
    for protocol in asked:
        assert [name for name in members(protocol) if not hasattr(trainer, name)] == [], protocol


def assigned(node: ast.AST) -> list[ast.expr]:
    targets = (node.targets if isinstance(node, ast.Assign)
               else [node.target] if isinstance(node, (ast.AugAssign, ast.AnnAssign)) else [])
    tuples = [target.elts if isinstance(target, ast.Tuple) else [target] for target in targets]
    return [part for parts in tuples for part in parts]


@pytest.mark.parametrize("file", [file for file in FILES if not file.is_relative_to(PROJECT / "data_loader")],
                         ids=lambda file: str(file.relative_to(PROJECT)))
def test_nothing_is_set_from_outside(file):
    allowed = SET_ELSEWHERE.get(str(file.relative_to(PROJECT)), set())
    for node in ast.walk(parsed(file)):
        for target in assigned(node):
            own = isinstance(getattr(target, "value", None), ast.Name) and target.value.id in ("self", "cls")
            if isinstance(target, ast.Attribute) and not own:
                assert ast.unparse(target) in allowed, f"line {node.lineno}: {ast.unparse(target)}"


def frames_above_the_optimizer(*options, small, out) -> list[str]:
    """The project's functions from the loop down to the first `optimizer.step`, as `file:function`."""
    found: list[list[str]] = []

    def look(*_) -> None:
        frame, names = sys._getframe(1), []
        while frame:
            if frame.f_code.co_filename.startswith(str(PROJECT)):
                names.append(f"{frame.f_code.co_filename.removeprefix(f'{PROJECT}/')}:{frame.f_code.co_name}")
            frame = frame.f_back
        found.append(names[::-1])

    hook = register_optimizer_step_post_hook(look)
    try:
        train("-c", small, *options, "--steps", 3, out=out)
    except Exception as end:  # Interrupted
        assert "step 3 is done" in str(end)
    finally:
        hook.remove()
    return found[-1][next(i for i, name in enumerate(found[-1]) if name.startswith(LOOP)):]


@pytest.mark.parametrize("options", [[], ["trainer.args={accumulate: 2, clip_norm: 1.0, ema: 0.9}"]])
def test_a_step_leaves_the_loop_once_for_the_plug_in_and_then_for_the_updater(small, tmp_path, options):
    frames = frames_above_the_optimizer(*options, small=small, out=tmp_path)
    assert frames == [f"{LOOP}:train", f"{LOOP}:train_epoch", f"{LOOP}:optimizer_step",
                      "trainer/trainer.py:train_step", f"{LOOP}:update", "utils/training/updater.py:update",
                      "utils/training/updater.py:step"]


def test_the_options_of_a_trainer_are_the_fields_of_a_dataclass_and_its_own(small, tmp_path):
    from base import TRAINERS

    @TRAINERS.register
    class Penalised(Trainer):
        def __init__(self, *, penalty: float = 0.1, epochs: int = 1, **kwargs):
            super().__init__(epochs=epochs, **kwargs)
            self.penalty = penalty
            Penalised.made = self

    run = train("-c", small, "trainer={type: Penalised, args: {accumulate: 3}}", out=tmp_path)
    made = Penalised.made
    assert (made.epochs, made.accumulate, made.penalty, made.trainer_options.accumulate) == (1, 3, 0.1, 3)
    args = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["args"]
    assert (args["penalty"], args["epochs"], args["accumulate"], args["ema"]) == (0.1, 1, 3, None)
    with pytest.raises(Exception, match="has no argument 'penalti'"):
        train("-c", small, "trainer={type: Penalised, args: {penalti: 3}}", out=tmp_path)
