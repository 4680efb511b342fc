"""What a checkpoint holds of a run: nested dicts and lists of tensors and plain values. Copying, checking, loading them."""
import copy
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping

import torch

from utils.errors import ConfigError


class Copies:
    """Copies of a state on the CPU, in memory that is kept from one to the next: fresh memory costs page faults."""

    def __init__(self):
        self._kept: dict[tuple, torch.Tensor] = {}

    def of(self, state: dict) -> dict:
        """A copy of `state`, after which the one before is void. Tensors that share memory whole share it in the copy."""
        copier = _Copier(self._kept)
        copied = copier.copy(state, ())
        if copier.waits:
            torch.cuda.synchronize()
        self._kept = copier.used
        return copied


class _Copier:
    """One walk through a state: `kept` are buffers by path, `used` those of this walk."""

    def __init__(self, kept: Mapping[tuple, torch.Tensor]):
        self.kept, self.used, self.waits = kept, {}, False
        self._same: dict[tuple, torch.Tensor] = {}

    def copy(self, value, path: tuple):
        if isinstance(value, torch.Tensor):
            tensor = value.detach().as_subclass(torch.Tensor)
            where = tensor.data_ptr() if tensor.layout == torch.strided else id(value)
            key = where, tensor.dtype, tensor.shape, tensor.layout == torch.strided and tensor.stride()
            if key not in self._same:
                self._same[key] = self._copy_tensor(tensor, path)
            return self._same[key]
        if isinstance(value, dict):
            copied = copy.copy(value)  # of the same kind: a module's state_dict carries its version along
            for key, inner in value.items():
                copied[key] = self.copy(inner, (*path, key))
            return copied
        if type(value) in (list, tuple):
            return type(value)(self.copy(inner, (*path, number)) for number, inner in enumerate(value))
        return copy.copy(value)

    def _copy_tensor(self, tensor: torch.Tensor, path: tuple) -> torch.Tensor:
        if tensor.layout != torch.strided:
            return tensor.cpu().clone()
        buffer = self.kept.get(path)
        if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
            buffer = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        self.waits |= tensor.is_cuda
        self.used[path] = buffer
        return buffer.copy_(tensor, non_blocking=tensor.is_cuda)


def load_parts(parts: Mapping, state: Mapping, optional: set[str]) -> None:
    """`load_part` for all parts; those in `optional` may stand on either side alone. Raises ConfigError."""
    sides = {"the config builds": parts.keys() - state.keys(), "the checkpoint holds": state.keys() - parts.keys()}
    alone = [f"only {side} {', '.join(sorted(names - optional))}" for side, names in sides.items() if names - optional]
    if alone:
        raise ConfigError(f"the checkpoint does not fit the config: {', and '.join(alone)}")
    for name in sorted(parts.keys() & state.keys()):
        load_part(name, parts[name], state[name])


def load_part(name: str, part, state: dict, file: str = "the checkpoint") -> None:
    """`part.load_state_dict(state)`, with its error shortened to a ConfigError that names the part."""
    try:
        part.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"{file}: '{name}' does not fit what the config builds: {text[:600]}") from error


def non_finite(weights: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity. Waits for the device once.

    Looks at sums first, at a tenth of the cost: where one is finite, so is all that went into it.
    """
    floats = {name: tensor for name, tensor in weights.items() if tensor.is_floating_point() or tensor.is_complex()}
    if not floats:
        return None
    sums = torch.stack([torch.isfinite(tensor.detach().sum()) for tensor in floats.values()]).tolist()
    doubtful = [name for name, good in zip(floats, sums, strict=True) if not good]
    return next((name for name in doubtful if not torch.isfinite(floats[name]).all()), None)


def leaves(value, path: str = "") -> dict:
    """The tensors and plain values in `value`, by their path: `{"model.weight": ..., "progress.step": 3}`."""
    if not isinstance(value, (dict, list, tuple)):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {name: leaf for key, inner in items for name, leaf in leaves(inner, f"{path}.{key}".lstrip(".")).items()}


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal to the last bit, where both may hold NaN."""
    return one.dtype == other.dtype and torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)) and torch.equal(
        torch.isnan(one), torch.isnan(other))


def tensors_in(value) -> Iterator[torch.Tensor]:
    """The tensors in `value`; one that stands there twice comes twice."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(inner)


def find_unstorable(value, where: str) -> str | None:
    """Which value inside `value` is neither a tensor nor plain, in words; None where all are."""
    if isinstance(value, (torch.Tensor, torch.dtype)) or type(value) in (type(None), bool, int, float, str):
        return None
    if type(value) in (dict, OrderedDict, Counter):
        inner = [(key, f"{where}[{key!r}]") for key in value] + [(v, f"{where}[{k!r}]") for k, v in value.items()]
    elif type(value) in (list, tuple, set, torch.Size):
        inner = [(item, f"{where}[{i}]") for i, item in enumerate(value)]
    else:
        return f"{where} is a {type(value).__module__}.{type(value).__qualname__}"
    return next(filter(None, (find_unstorable(item, name) for item, name in inner)), None)
