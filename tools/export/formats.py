"""The formats of an exported model: how each is written with its metadata, and loaded again to compare."""
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

Run = Callable[..., list[torch.Tensor]]
_ONE_FILE_BYTES = 2**30  # an ONNX file holds up to 2 GB; the weights of larger models get a file beside it


class Model(NamedTuple):
    """What is exported: a module, an example batch (None if weights need none), what describes both."""

    module: nn.Module
    example: "Inputs | None"
    metadata: Mapping[str, Any]


class Inputs(NamedTuple):
    """Tensors `[B, ...]` that a module is called with."""

    args: tuple[torch.Tensor, ...]
    kwargs: dict[str, torch.Tensor]

    def rows(self, size: int) -> "Inputs":
        """The first `size` of a batch, some twice if there are fewer."""
        def part(value: torch.Tensor) -> torch.Tensor:
            return value.repeat(-(-size // len(value)), *[1] * (value.ndim - 1))[:size].clone()
        return Inputs(tuple(map(part, self.args)), {name: part(value) for name, value in self.kwargs.items()})

    def named(self, module: nn.Module) -> dict[str, torch.Tensor]:
        """The tensors by the names of the module's arguments, in their order; one alone is `input`."""
        bound = inspect.signature(module.forward).bind(*self.args, **self.kwargs).arguments
        found = {}
        for name, value in bound.items():
            several = enumerate(value) if isinstance(value, tuple) else dict(value).items() if isinstance(
                value, dict) else None
            found |= {name: value} if several is None else {
                key if isinstance(key, str) else f"{name}_{key}": item for key, item in several}
        return {"input": value for value in found.values()} if len(found) == 1 else found

    def free_batch(self, module: nn.Module) -> Any:
        """What torch.export takes as `dynamic_shapes`: the first dimension of each tensor is free."""
        bound = inspect.signature(module.forward).bind(*self.args, **self.kwargs).arguments
        return torch.utils._pytree.tree_map(lambda value: {0: torch.export.Dim.DYNAMIC}, dict(bound))


class Format(NamedTuple):
    """A format: the file's name, how to write it into a folder, how to run the written file.

    `packages`: those it needs besides torch. `has_code`: whether the file holds more than the weights.
    """

    name: str
    write: Callable[[Model, Path], None]
    read: Callable[[Path, Model], Run]
    packages: tuple[str, ...] = ()
    has_code: bool = True


def flatten_outputs(outputs: Any) -> list[torch.Tensor]:
    """The tensors in a model's outputs, in order."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def output_names(outputs: Any) -> list[str]:
    """What an ONNX file calls the outputs: their keys in a dict of tensors, `output`, or `output_0`, ..."""
    if isinstance(outputs, Mapping) and all(isinstance(value, torch.Tensor) for value in outputs.values()):
        return [*map(str, outputs)]
    number = len(flatten_outputs(outputs))
    return ["output"] if number == 1 else [f"output_{place}" for place in range(number)]


def _write_weights(model: Model, file: Path) -> None:
    torch.save(model.module.state_dict(), file)


def _write_safetensors(model: Model, file: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: value.contiguous().clone() for name, value in model.module.state_dict().items()}
    save_file(tensors, file, {name: json.dumps(value) for name, value in model.metadata.items()})


def _read_weights(file: Path, model: Model) -> Run:
    """The tensors of the file, which need no inputs."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        weights = load_file(file)
    else:
        weights = torch.load(file, weights_only=True)
    return lambda: [weights[name] for name in model.module.state_dict()]


def _write_program(model: Model, file: Path) -> None:
    program = torch.export.export(model.module, *model.example,
                                  dynamic_shapes=model.example.free_batch(model.module))
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(model.metadata)})


def _read_program(file: Path, model: Model) -> Run:
    module = torch.export.load(file).module()
    return lambda inputs: flatten_outputs(module(*inputs.args, **inputs.kwargs))


def _write_onnx(model: Model, file: Path) -> None:
    size = sum(value.nbytes for value in model.module.state_dict().values())
    args, kwargs = model.example
    program = torch.onnx.export(
        model.module, args, kwargs=kwargs, dynamo=True, input_names=[*model.example.named(model.module)],
        output_names=output_names(model.module(*args, **kwargs)), verbose=False,
        dynamic_shapes=model.example.free_batch(model.module))
    program.model.metadata_props.update({name: json.dumps(value) for name, value in model.metadata.items()})
    program.save(file, external_data=size > _ONE_FILE_BYTES)


def _read_onnx(file: Path, model: Model) -> Run:
    from onnxruntime import InferenceSession

    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: [*map(torch.from_numpy, session.run(None, {
        name: value.numpy() for name, value in inputs.named(model.module).items()}))]


FORMATS = {
    "weights": Format("model_weights.pt", _write_weights, _read_weights, has_code=False),
    "safetensors": Format("model.safetensors", _write_safetensors, _read_weights, ("safetensors",),
                          has_code=False),
    "pt2": Format("model.pt2", _write_program, _read_program),
    "onnx": Format("model.onnx", _write_onnx, _read_onnx, ("onnx", "onnxscript", "onnxruntime")),
}
