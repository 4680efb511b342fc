"""The nested dicts and lists of tensors and plain values in a checkpoint: copying, checking, loading."""
import copy
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from utils.checkpoint.archive import MAX_DEPTH
from utils.distributed.sharding import is_sharded, local_tensor
from utils.errors import ConfigError


class StateCopier:
    """Copies a state to the CPU. Reuses its memory for the next copy: new memory would cost page faults."""

    def __init__(self):
        self._buffers: dict[tuple, torch.Tensor] = {}  # of the copy before, by path
        self._used, self._same, self._waits = {}, {}, False  # of the copy under way

    def copy(self, state: dict) -> dict:
        """Returns a copy of `state`; the previous copy becomes invalid. Shared tensor memory stays shared."""
        self._used, self._same, self._waits = {}, {}, False
        copied = map_leaves(state, self._copy_leaf)
        if self._waits:
            torch.cuda.synchronize()
        self._buffers, self._used, self._same = self._used, {}, {}
        return copied

    def _copy_leaf(self, value, path: tuple):
        if not isinstance(value, torch.Tensor):
            return copy.copy(value)
        tensor = value.detach()
        if is_sharded(tensor):
            local = tensor.to_local()
            where = local.data_ptr() if local.numel() else path, tensor.placements
        elif tensor.layout == torch.strided:
            tensor = tensor.as_subclass(torch.Tensor)
            where = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.stride(),
                     tensor.is_conj(), tensor.is_neg())
        else:
            return tensor.cpu().clone()
        key = where, tensor.dtype, tensor.shape
        if key not in self._same:
            self._same[key] = self._copy_tensor(tensor, path)
        return self._same[key]

    def _copy_tensor(self, tensor: torch.Tensor, path: tuple) -> torch.Tensor:
        local, buffer = local_tensor(tensor), self._buffers.get(path)
        if buffer is None or (buffer.shape, buffer.dtype, local_tensor(buffer).shape) != (
                tensor.shape, tensor.dtype, local.shape):
            buffer = _new_buffer(tensor)
        self._waits |= local.is_cuda
        self._used[path] = buffer
        local_tensor(buffer).copy_(local, non_blocking=local.is_cuda)
        return buffer


def _new_buffer(tensor: torch.Tensor) -> torch.Tensor:
    if is_sharded(tensor):
        return torch.empty_like(tensor, device="cpu", requires_grad=False)
    try:
        return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    except RuntimeError:  # no more memory can be pinned
        return torch.empty_like(tensor, device="cpu")


def map_leaves(value, change: Callable, path: tuple = ()):
    """A copy of a state, with `change(leaf, path)` for each leaf; the path is a tuple of keys."""
    if isinstance(value, dict):
        result = copy.copy(value)  # keeps the type: a module's state_dict carries its version
        for key, inner in value.items():
            result[key] = map_leaves(inner, change, (*path, key))
        return result
    if type(value) in (list, tuple):
        return type(value)(map_leaves(inner, change, (*path, number)) for number, inner in enumerate(value))
    return change(value, path)


def load_parts(parts: Mapping, state: Mapping, optional: set[str]) -> None:
    """Calls `load_part` for all parts; those in `optional` may be missing on one side. Raises ConfigError."""
    sides = {"the config builds": parts.keys() - state.keys(),
             "the checkpoint holds": state.keys() - parts.keys()}
    alone = [f"only {side} {', '.join(sorted(names - optional))}"
             for side, names in sides.items() if names - optional]
    if alone:
        raise ConfigError(f"the checkpoint does not fit the config: {', and '.join(alone)}")
    for name in sorted(parts.keys() & state.keys()):
        load_part(name, parts[name], state[name])


def load_part(name: str, part, state: dict, file: str = "the checkpoint") -> None:
    """Calls `part.load_state_dict(state)`. Raises ConfigError that names the part and shortens the error."""
    try:
        if isinstance(part, torch.nn.Module):
            fit_buffers(part, state)
        part.load_state_dict(state)
    except Exception as error:  # a part may raise anything for the state of another one
        text = " ".join(str(error).split())
        raise ConfigError(f"{file}: '{name}' does not fit what the config builds: {text[:600]}") from error


def fit_buffers(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Gives buffers the shape and dtype that they have in `state`, for its `load_state_dict`.

    Training may change them: a memory bank grows, a running sum becomes double precision.
    """
    for path, module in model.named_modules():
        for name, buffer in module._buffers.items():
            saved = state.get(f"{path}.{name}".lstrip("."))
            if saved is not None and (buffer is None or (buffer.shape, buffer.dtype) != (
                    saved.shape, saved.dtype)):
                like = next(model.parameters(), saved) if buffer is None else buffer
                module._buffers[name] = torch.empty_like(saved, device=like.device)


def find_non_finite(weights: Mapping[str, torch.Tensor]) -> str | None:
    """Returns the name of the first tensor that holds a NaN or an infinity. Waits for the device once.

    It checks sums first, at a tenth of the cost: if a sum is finite, all its elements are. Of a sharded
    tensor it checks the shard of this process.
    """
    floats = {name: tensor for name, tensor in weights.items()
              if tensor.is_floating_point() or tensor.is_complex()}
    if not floats:
        return None
    floats = {name: _summable(local_tensor(tensor.detach())) for name, tensor in floats.items()}
    sums = torch.stack([torch.isfinite(tensor.sum()) for tensor in floats.values()]).tolist()
    doubtful = [name for name, good in zip(floats, sums, strict=True) if not good]
    return next((name for name in doubtful if not torch.isfinite(floats[name]).all()), None)


def _summable(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.layout != torch.strided:
        return tensor.coalesce().values() if tensor.layout == torch.sparse_coo else tensor.values()
    return tensor.float() if tensor.element_size() == 1 else tensor  # eight-bit floats are storage only


def num_bytes(tensor: torch.Tensor) -> int:
    """The approximate size on disk of a tensor, or of its local shard; if sparse, of values and indices."""
    tensor = local_tensor(tensor)
    return tensor.nbytes if tensor.layout == torch.strided else 2 * tensor._nnz() * 8 * max(tensor.ndim, 1)


def flatten_state(value, path: str = "") -> dict:
    """The tensors and plain values in `value`, by path: `{"model.weight": ..., "progress.step": 3}`."""
    if not isinstance(value, (dict, list, tuple)):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {name: leaf for key, inner in items
            for name, leaf in flatten_state(inner, f"{path}.{key}".lstrip(".")).items()}


def bit_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal to the last bit, NaN included."""
    # a tensor of one element counts as contiguous with any strides, but not for a view as bytes
    copies = [tensor.clone(memory_format=torch.contiguous_format) for tensor in (one, other)]
    bits = [copy.view(-1).view(torch.uint8) for copy in copies]
    return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(*bits)


def iter_tensors(value) -> Iterator[torch.Tensor]:
    """Yields the tensors in `value`; a tensor that occurs twice comes twice."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from iter_tensors(inner)


def find_unstorable(value, where: str, depth: int = 0) -> str | None:
    """Describes the first value inside `value` that is neither a tensor nor plain; None if there is none."""
    if isinstance(value, torch.Tensor):
        return f"{where} is a quantized tensor" if value.is_quantized else None
    if type(value) in (type(None), bool, int, float, str, torch.dtype):
        return None
    if depth > MAX_DEPTH:
        return f"{where.split('[')[0]} is nested more than {MAX_DEPTH} levels deep"
    items = _named_items(value, where)
    if items is None:
        return f"{where} is a {type(value).__module__}.{type(value).__qualname__}"
    return next(filter(None, (find_unstorable(item, name, depth + 1) for name, item in items)), None)


def _named_items(value, where: str) -> list[tuple[str, Any]] | None:
    """What a container of one of the types that can be stored holds, keys included; None for any other."""
    if type(value) in (dict, OrderedDict, Counter):
        names = [f"{where}[{key!r}]" for key in value]
        return [*zip(names, value), *zip(names, value.values())]
    if type(value) in (list, tuple, torch.Size):
        return [(f"{where}[{number}]", item) for number, item in enumerate(value)]
    if type(value) is set and not any(isinstance(item, torch.Tensor) for item in value):
        return [(f"an item of {where}", item) for item in value]
    return None
