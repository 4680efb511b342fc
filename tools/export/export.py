"""Writes the model of a run as a file, and compares the file with the run before it is kept."""
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from base.api import Predictor, load
from base.data.augmentation import BatchAugmentation
from base.data.nested import describe_shapes
from base.model_inputs import choose_inputs
from tools.export.formats import FORMATS, Inputs, Model, Run, flatten_outputs
from utils.config.loading import located
from utils.config.values import flatten, masked
from utils.errors import ConfigError, TrainingError, unwritable
from utils.run_folder import run_of
from utils.run_record import keys_from_environment, starts_of

TOLERANCE = 1e-4  # of the largest output
SIZES = (1, 2, 7)  # of the batches that are compared


class WithTransforms(nn.Module):
    """A model behind the transforms of whole batches: uint8 images become floats in [0, 1] first."""

    def __init__(self, model: nn.Module, transforms: Sequence):
        super().__init__()
        self.model, self.transforms = model, transforms

    def forward(self, images):
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        for transform in self.transforms:
            images = transform(images)
        return self.model(images)


def export(path: Path, name: str, with_transforms: bool = False, folder: Path | None = None,
           overrides: Sequence[str] = ()) -> tuple[Path, float]:
    """Writes the model of a checkpoint, run or experiment in the format `name` of FORMATS.

    Returns the file, and the largest difference of its outputs from the run's, relative to the largest of
    them. Raises ConfigError for what cannot be exported, TrainingError for a file that differs, which is not
    kept.
    """
    form = FORMATS[name]
    _require_possible(name, with_transforms)
    predictor, inputs, scaled = load(path, overrides, "cpu"), None, False
    with located(predictor.places):
        module = predictor.model
        if with_transforms:
            module = WithTransforms(module, [
                transform for transform in predictor.trainer.data.transforms["batch"]
                if not _augments(transform)]).eval()
        try:
            inputs, scaled = _inputs_of_samples(predictor, with_transforms)
        except ConfigError:  # weights need no samples
            if form.has_code:
                raise
    checkpoint = predictor.checkpoint.file
    folder = folder or (run_of(checkpoint) or checkpoint.parent) / "export"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished_") as unfinished:
            model = Model(module, inputs and inputs.rows(2),
                          _metadata(predictor, inputs and inputs.named(module), with_transforms, scaled))
            difference = _write(form, model, inputs, Path(unfinished) / form.name)
            for file in Path(unfinished).iterdir():
                shutil.move(file, folder / file.name)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder / form.name, difference


def _require_possible(name: str, with_transforms: bool) -> None:
    """Raises ConfigError for a format whose packages are missing, or that cannot hold the transforms."""
    form = FORMATS[name]
    if missing := [package for package in form.packages if importlib.util.find_spec(package) is None]:
        raise ConfigError(f"--format {name} needs {', '.join(missing)}: pip install {' '.join(missing)}")
    if with_transforms and not form.has_code:
        raise ConfigError(f"--format {name} holds weights alone; --with-transforms goes with pt2 and onnx")


def _inputs_of_samples(predictor: Predictor, with_transforms: bool):
    """What the model gets of the first samples, and whether that is bytes made to floats in [0, 1]."""
    raw = _samples(predictor)
    batch = raw.data if with_transforms else predictor.trainer.device_batch(raw, training=False)
    inputs = _inputs(predictor, batch, with_transforms)
    before, after = ([*each.args, *each.kwargs.values()][0] for each in (
        _inputs(predictor, raw.data, with_transforms), inputs))
    return inputs, before.dtype == torch.uint8 and after.is_floating_point()


def _augments(transform: Any) -> bool:
    return isinstance(transform, BatchAugmentation)


def _samples(predictor: Predictor):
    """The first samples of val, or of another split if there is none."""
    data = predictor.trainer.data
    for split in ("val", "test", "train"):
        if sets := data.sets(split):
            return data.first_batch(sets[0], max(SIZES))
    raise ConfigError("the dataset has no samples on which the file could be compared with the run")


def _inputs(predictor: Predictor, batch: Any, alone: bool) -> Inputs:
    """What the model is given of a batch, without targets. `alone`: it has to be one tensor."""
    trainer = predictor.trainer
    choice = choose_inputs(predictor.model.forward, batch, trainer.loss is not None)
    args, kwargs, _ = choice.take(batch)
    inputs = Inputs(tuple(args), {name: value for name, value in kwargs.items()
                                  if choice.kwargs[name] != choice.targets})
    values = [*args, *inputs.kwargs.values()]
    if not values or not all(isinstance(value, torch.Tensor) for value in values) or (
            alone and (len(args) != 1 or len(values) != 1)):
        way_out = ("--with-transforms goes with models that take one tensor" if alone else
                   "pt2 and onnx take models whose arguments are tensors. Write --format weights, or call "
                   "torch.export.export with load(run).model")
        raise ConfigError(f"{way_out}; this one is given {describe_shapes(tuple(values))}")
    return inputs


@torch.no_grad()
def _write(form, model: Model, inputs: Inputs | None, file: Path) -> float:
    """Writes a file with its metadata beside it; returns how much its outputs, or tensors, differ."""
    try:
        if form.has_code:
            given = [(inputs.rows(size),) for size in SIZES]
            expected = [flatten_outputs(model.module(*part.args, **part.kwargs)) for part, in given]
        else:
            given, expected = [()], [[*model.module.state_dict().values()]]
        form.write(model, file)
        difference = _difference(form.read(file, model), given, expected)
    except OSError:
        raise
    except Exception as error:  # of tracers and runtimes, for models of any kind
        raise ConfigError(f"this model cannot be exported as {file.name}: {type(error).__name__}: "
                          f"{str(error).strip()[:600]}") from error
    if not difference <= TOLERANCE:
        raise TrainingError(f"{file.name} is not kept: its outputs differ from the run's by "
                            f"{difference:.1e} of the largest one, more than {TOLERANCE:.0e}. Does the model "
                            "behave otherwise when it is traced?")
    file.with_suffix(".json").write_text(json.dumps(model.metadata, indent=2, ensure_ascii=False) + "\n")
    return difference


def _difference(run: Run, inputs: list[tuple], expected: list[list[torch.Tensor]]) -> float:
    """The largest difference of outputs, relative to the largest output; infinite if shapes differ."""
    largest = 0.0
    for arguments, outputs in zip(inputs, expected, strict=True):
        given = run(*arguments)
        if [output.shape for output in given] != [output.shape for output in outputs]:
            return float("inf")
        for one, other in zip(outputs, given, strict=True):
            if torch.equal(one, other):  # also one without elements
                continue
            gap = (one.double() - other.double()).abs().max() / one.double().abs().max().clamp_min(1e-12)
            largest = max(largest, gap.item()) if gap == gap else float("nan")
    return largest


def _metadata(predictor: Predictor, inputs: Mapping[str, torch.Tensor] | None, with_transforms: bool,
              scaled: bool) -> dict[str, Any]:
    """What another program has to know of the model, as plain values. `inputs`: by name, if they are known.

    `scaled`: whether the uint8 images of the dataset are divided by 255 before they are given to the file.
    """
    config, run = predictor.config, run_of(predictor.checkpoint.file)
    built, written = predictor.trainer.data.transforms, config["transforms"]
    starts, secret = (starts_of(run), keys_from_environment(run)) if run else ([], ())
    blocks = {key: [block for block, transform in zip(written.get(key) or [], built[key], strict=True)
                    if not _augments(transform)] for key in ("eval", "batch")}
    described = {name: {"dtype": str(value.dtype).removeprefix("torch."),
                        "shape": ["batch", *value.shape[1:]]}
                 for name, value in (inputs or {}).items()}
    return {
        "input": described.get("input", described) if inputs else None,
        # what an image goes through before it is given to the file, in this order
        "transforms": {"eval": blocks["eval"], "batch": [] if with_transforms else blocks["batch"],
                       "uint8_to_float": scaled},
        "classes": predictor.classes, "config": masked(flatten(config), secret),
        "scores": _test_scores(run),
        "checkpoint": predictor.checkpoint.file.name,
        "commit": starts[-1].get("git_commit") if starts else None}


def _test_scores(run: Path | None) -> dict[str, Any]:
    file = run and run / "test.json"
    return json.loads(file.read_text()) if file and file.exists() else {}
