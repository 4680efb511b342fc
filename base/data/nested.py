"""Applies a function to the tensors of a batch, inside tuples, lists and dicts."""
from collections.abc import Callable, Mapping
from typing import Any

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
