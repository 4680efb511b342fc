"""Named numbers of what a metric computes; larger results stay arrays."""
import math
from collections.abc import Mapping
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

_MOST_NUMBERS = 1000  # of one vector that is not over classes


def flatten(name: str, value: Any, classes: list[str] = (), curve: bool = False) -> dict[str, Any]:
    """`{"f1/cat": 0.5, "f1/dog": 0.7}`: the numbers in `value`, and its arrays, by their names.

    `value`: a number, a vector, or any tables, lists and tuples of these. A vector with a value for each of
    the `classes` has their names, another one counts from 0. Arrays stay: matrices, vectors of more than 1000
    values, and curves, which are lists of nothing but vectors. Raises ValueError for what is no number.
    """
    value = value._asdict() if hasattr(value, "_asdict") else value
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, (list, tuple)) and not all(map(_is_number, value)):
        parts = enumerate(value)
        curve = curve or not any(isinstance(item, (Mapping, str)) or _is_number(item) for item in value)
    else:
        array = _as_array(name, value)
        if not _has_named_elements(array, classes, curve):
            return {name: array if array.ndim else float(array)}
        parts = zip(classes if len(array) == len(classes) else count(), array.astype(float).tolist())
    return {inner: number for key, item in parts
            for inner, number in flatten(f"{name}/{key}", item, classes, curve).items()}


def _has_named_elements(array: np.ndarray, classes: list[str], curve: bool) -> bool:
    """Whether an array is a vector over the classes, or a short one that is not of a curve."""
    if array.ndim != 1:
        return False
    return len(array) == len(classes) or not curve and len(array) <= _MOST_NUMBERS


def logits_of(outputs: Any) -> Any:
    """The logits of an output that has them as a key or attribute `logits`, or `out`; else the output."""
    for name in ("logits", "out") if not isinstance(outputs, torch.Tensor) else ():
        found = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
        outputs = found if isinstance(found, torch.Tensor) else outputs
    return outputs


def class_names(dataset: Any) -> list[str]:
    """The dataset's `classes`, if they are a list of names that differ; else []."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    names = [str(name) for name in names] if isinstance(names, (list, tuple)) else []
    return names if len({*names}) == len(names) else []


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float)) or getattr(value, "ndim", None) == 0


def _as_array(name: str, value: Any) -> np.ndarray:
    array = np.array([*map(_plain, value)] if isinstance(value, (list, tuple)) else _plain(value))
    if array.dtype.kind not in "biuf":
        raise ValueError(f"'{name}' is no number: {value!r:.60} ({type(value).__name__})")
    return array


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (value.float() if value.dtype is torch.bfloat16 else value).detach().cpu().numpy()
    return math.nan if value is None else value
