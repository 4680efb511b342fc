"""The formats of an exported model: how each is written with its metadata, and loaded again to compare."""
import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

Run = Callable[[torch.Tensor], list[torch.Tensor]]
_ONE_FILE_BYTES = 2**30  # an ONNX file holds up to 2 GB; the weights of larger models get a file beside it


class Model(NamedTuple):
    """What is exported: a module of one input, an example batch of it, and what describes both."""

    module: nn.Module
    example: torch.Tensor
    metadata: Mapping[str, Any]


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
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        weights = load_file(file)
    else:
        weights = torch.load(file, weights_only=True)
    module = copy.deepcopy(model.module)
    for value in module.state_dict().values():
        value.zero_()
    module.load_state_dict(weights)
    return lambda inputs: flatten_outputs(module(inputs))


def _write_program(model: Model, file: Path) -> None:
    program = torch.export.export(model.module, (model.example,), dynamic_shapes=_batch_dimension())
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(model.metadata)})


def _read_program(file: Path, model: Model) -> Run:
    module = torch.export.load(file).module()
    return lambda inputs: flatten_outputs(module(inputs))


def _write_onnx(model: Model, file: Path) -> None:
    size = sum(value.nbytes for value in model.module.state_dict().values())
    names = output_names(model.module(model.example))
    program = torch.onnx.export(model.module, (model.example,), dynamo=True, input_names=["input"],
                                output_names=names, dynamic_shapes=_batch_dimension(), verbose=False)
    program.model.metadata_props.update({name: json.dumps(value) for name, value in model.metadata.items()})
    program.save(file, external_data=size > _ONE_FILE_BYTES)


def _read_onnx(file: Path, model: Model) -> Run:
    from onnxruntime import InferenceSession

    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: [*map(torch.from_numpy, session.run(None, {"input": inputs.numpy()}))]


def _batch_dimension() -> tuple[dict]:
    return ({0: torch.export.Dim.DYNAMIC},)


FORMATS = {
    "weights": Format("model_weights.pt", _write_weights, _read_weights, has_code=False),
    "safetensors": Format("model.safetensors", _write_safetensors, _read_weights, ("safetensors",),
                          has_code=False),
    "pt2": Format("model.pt2", _write_program, _read_program),
    "onnx": Format("model.onnx", _write_onnx, _read_onnx, ("onnx", "onnxscript", "onnxruntime")),
}
