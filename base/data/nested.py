"""What is inside the tuples, lists and dicts of samples and batches: tensors to change, bytes to compare."""
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from operator import setitem
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

TARGETS = ("labels", "label", "target", "targets", "y")  # what targets are called in a batch with names


def as_mapping(value: Any) -> Mapping | None:
    """A mapping as it is, a dataclass as its fields by name; None for anything else."""
    if isinstance(value, (Mapping, type)) or not is_dataclass(value):
        return value if isinstance(value, Mapping) else None
    return {field.name: getattr(value, field.name) for field in fields(value)}


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
    """`batch` with `function` applied to every tensor, and to all else that has a method `to`.

    Inside any tuples, lists, mappings and dataclasses, which keep their types.
    """
    if hasattr(type(batch), "to"):  # also of a mapping or a tuple, such as a PackedSequence
        return function(batch)
    if isinstance(batch, (tuple, list)):
        items = [on_tensors(value, function) for value in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    if (named := as_mapping(batch)) is None:
        return batch
    named = {key: on_tensors(value, function) for key, value in named.items()}
    if type(batch) is dict or type(batch) is MappingProxyType:
        return type(batch)(named)
    batch = copy.copy(batch)  # with its other attributes, such as what a defaultdict makes
    put = setitem if isinstance(batch, Mapping) else object.__setattr__  # it may be frozen
    for key, value in named.items():
        put(batch, key, value)
    return batch


def to_device(batch: Any, device: torch.device) -> Any:
    """Tensors on `device`; the host does not wait for a copy to an accelerator, later work there does."""
    def moved(value: Any) -> Any:
        is_known = isinstance(value, (torch.Tensor, PackedSequence))
        result = value.to(device, **({"non_blocking": device.type != "cpu"} if is_known else {}))
        return value if result is None else result  # some objects move in place
    return on_tensors(batch, moved)


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
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {describe_shapes(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(describe_shapes, value)) + ")"
    return type(value).__name__
