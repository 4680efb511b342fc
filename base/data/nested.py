"""What is inside the tuples, lists and dicts of samples and batches: tensors to change, bytes to compare."""
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch


def on_input(sample: Any, function: Callable[[Any], Any]) -> Any:
    """`sample` with `function` applied to its input: the first of a tuple or list, else (dict) the whole."""
    if isinstance(sample, (tuple, list)) and sample:
        first = function(sample[0])
        if first is sample[0]:
            return sample
        return (type(sample)(first, *sample[1:]) if hasattr(sample, "_fields")
                else type(sample)([first, *sample[1:]]))
    return function(sample)


def on_tensors(batch: Any, function: Callable[[Any], Any]) -> Any:
    """`batch` with `function` applied to every tensor, inside any tuples, lists and dicts."""
    if isinstance(batch, Mapping):
        return type(batch)({key: on_tensors(value, function) for key, value in batch.items()})
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(on_tensors(value, function) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)([on_tensors(value, function) for value in batch])
    return function(batch) if hasattr(batch, "to") else batch


def to_device(batch: Any, device: torch.device) -> Any:
    """Tensors on `device`; the host does not wait for a copy to an accelerator, later work there does."""
    return on_tensors(batch, lambda tensor: tensor.to(device, non_blocking=device.type != "cpu"))


def bytes_of(value: Any) -> Iterator[bytes]:
    """The content of a sample, for a hash; of objects that are not known only the type, never an address."""
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from bytes_of(item)
    elif isinstance(value, torch.Tensor):
        yield raw_rows(value.reshape(1, -1)).tobytes()
    elif hasattr(value, "tobytes"):  # NumPy arrays and PIL images; numbers and text have none
        yield value.tobytes()
    else:
        plain = value is None or isinstance(value, (str, bytes, int, float, complex))
        yield (repr(value) if plain else type(value).__qualname__).encode()


def raw_rows(rows: torch.Tensor) -> np.ndarray:
    """The bytes of a tensor `[N, M]`, row by row."""
    return rows.detach().cpu().contiguous().view(torch.uint8).numpy()


def describe_shapes(value: Any) -> str:
    """`(uint8 [64, 1, 8, 8], int64 [64])`: the dtypes and shapes of a batch, or of a part of one."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {describe_shapes(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(describe_shapes, value)) + ")"
    return type(value).__name__
