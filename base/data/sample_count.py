"""How many samples a batch holds after a dataset's own collate function, which may leave some out."""
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from base.data.nested import TARGETS, as_mapping
from base.data.sampler import Batch


def count_samples(data: Any, nominal: int) -> int:
    """The samples in a collated batch: the length of a list of samples, else of what all targets agree on.

    Targets are all but the first of a tuple or list, or the values of a dict with usual names (without such
    names all of its values). `nominal`, how many were collated, if that does not tell.
    """
    if data is None:
        return 0
    if isinstance(data, list) and all(isinstance(item, (tuple, Mapping)) for item in data):
        return min(len(data), nominal)
    first = data[0] if isinstance(data, (tuple, list)) and data else None
    expected = len(first) if isinstance(first, torch.Tensor) and first.ndim else nominal
    lengths = {length for target in _targets_of(data) for length in _lengths(target, expected)}
    return min(lengths.pop(), nominal) if len(lengths) == 1 else nominal


def _targets_of(data: Any) -> list:
    if isinstance(data, PackedSequence):  # which is a tuple, too
        return [data]
    if (named := as_mapping(data)) is not None:
        return [named[name] for name in TARGETS if name in named] or list(named.values())
    return list(data[1:]) if isinstance(data, (tuple, list)) else []


def _lengths(part: Any, expected: int) -> list[int]:
    if isinstance(part, PackedSequence):
        return [int(part.batch_sizes[0])]
    if (named := as_mapping(part)) is not None:
        return [length for value in named.values() for length in _lengths(value, expected)]
    if isinstance(part, torch.Tensor):
        return [len(part)] if part.ndim else []
    if not isinstance(part, (tuple, list)):
        return []
    return [len(tensor) for tensor in part] if _of_whole_batch(part, expected) else [len(part)]


def _of_whole_batch(items: Sequence[Any], expected: int) -> bool:
    """Whether each item is of the whole batch, as in (labels `[B, L]`, lengths `[B]`), not of one sample.

    Those of samples are of one kind. Of one kind, too, are the targets of two heads: the length tells.
    """
    if not all(isinstance(item, torch.Tensor) and item.ndim for item in items):
        return False
    return len({(item.ndim, item.dtype) for item in items}) > 1 or (
        len(items) != expected and {len(item) for item in items} == {expected})


def count_batch(batch: Batch) -> Batch:
    """A batch of a dataset's own collate function with its true number of samples, of this process alone.

    Without any it has no data. A process that holds a sample only because others have more counts none.
    """
    number = count_samples(batch.data, batch.num_samples or 1)
    own = min(number, batch.num_samples)
    return replace(batch, data=batch.data if number else None, num_samples=own, num_total=own,
                   chosen=batch.chosen and batch.chosen.part(slice(max(own, 1))))
