"""What of a batch a model and a loss are given: the signature of the model's `forward` decides."""
import inspect
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

from base.data.nested import TARGETS, as_mapping

_WHOLE = ("batch", "batched_inputs", "data", "sample", "samples")  # arguments that take a mapping as it is


class Choice(NamedTuple):
    """Paths in a batch to the model's arguments, and to the targets; `()` is the whole batch."""

    args: list[tuple]
    kwargs: dict[str, tuple]
    targets: tuple

    def take(self, batch: Any) -> tuple[list, dict[str, Any], Any]:
        """The values at these paths."""
        return ([_at(batch, path) for path in self.args],
                {name: _at(batch, path) for name, path in self.kwargs.items()}, _at(batch, self.targets))

    def __str__(self):
        given = [*map(_shown, self.args), *(f"{name}={_shown(path)}" for name, path in self.kwargs.items())]
        return f"model({', '.join(given)}), loss(outputs, {_shown(self.targets)})"


PAIR = Choice([(0,)], {}, (1,))  # of batches `(inputs, targets)`


def choose_inputs(forward: Callable, batch: Any, has_loss: bool = True,
                  most_targets: int = 0) -> Choice:
    """How all batches of the kind of this one (`kind_of`) are given to a model.

    A mapping or dataclass goes to the arguments of `forward` by name, without what `forward` does not take. A
    tuple goes by position if `forward` needs several arguments. Else the model gets the inputs as they are.
    Targets are the second of two, what is left of more, or an item of such a name. The model gets them, too,
    if it takes that name, or if it takes any targets and the config has no loss. `most_targets`: how many
    the loss takes, 0 for any number; of more in a tuple, such as an index after the label, it gets the first.
    """
    found = inspect.signature(forward).parameters.values()
    names = [each.name for each in found if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    needed = [each.name for each in found if each.default is each.empty and each.name in names]
    takes_any = any(each.kind == each.VAR_KEYWORD for each in found)
    inputs, at, target, targets, named = _parts(batch)
    passed = [name for name in ([target] if has_loss else [target, *TARGETS]) if name in names] or (
        [target] if target and takes_any and not has_loss else [])
    beside = {name: targets for name in passed[:1]}
    left = [name for name in named if name != target]
    by_name = {name: (*at, name) for name in left if takes_any or name in names}
    if by_name and (not at or len(by_name) == len(left)) and {*by_name, *beside} >= {*needed}:
        return Choice([], by_name | beside, targets)
    if at:
        if len(needed) > 1 and _is_row(inputs):
            return Choice([(0, place) for place in range(len(inputs))], beside, targets)
        return Choice([(0,), (1,)] if len(needed) == 2 and not beside else [(0,)], beside, targets)
    if _is_row(batch):
        first = min(max(len(needed), 1), len(batch))
        several = first < len(batch) - 1 and (not most_targets or len(batch) - first <= most_targets)
        targets = (slice(first, None),) if several else (min(first, len(batch) - 1),)
        return Choice([(place,) for place in range(first)], {name: targets for name in beside}, targets)
    only = target and len(left) == len(needed) == 1 and needed[0] not in _WHOLE
    return Choice([tuple(left) if only else ()], {}, targets)


def kind_of(batch: Any) -> Hashable:
    """The type of a batch, and its keys, or its length and first type; a list of samples has any length."""
    if not isinstance(batch, (tuple, list)):
        return type(batch), *(batch if isinstance(batch, Mapping) else ())
    samples = isinstance(batch, list) and all(isinstance(item, (tuple, Mapping)) for item in batch)
    return type(batch), 0 if samples else len(batch), *map(type, batch[:1])


def _parts(batch: Any) -> tuple[Any, tuple, str | None, tuple, list[str]]:
    """The inputs, the path to them if they stand apart, the targets' name and path, names in the inputs."""
    is_row = _is_row(batch)
    if is_row and len(batch) == 2:
        return batch[0], (0,), None, (1,), [*(as_mapping(batch[0]) or ())]
    names = [*(as_mapping(batch) or (getattr(batch, "_fields", ()) if is_row else ()))]
    target = next((name for name in TARGETS if name in names or not is_row and hasattr(batch, name)), None)
    return batch, (), target, (target,) if target else (), [] if is_row and not target else names


def _is_row(value: Any) -> bool:
    """Whether a value is a tuple of inputs and targets, or of inputs, and no object or list of samples."""
    if not isinstance(value, (tuple, list)) or hasattr(value, "to") or len(value) != 2:
        return isinstance(value, (tuple, list)) and not hasattr(value, "to") and kind_of(value)[1] > 0
    # two samples in a list look like inputs and targets in mappings, but for the names that they share
    return type(value) is tuple or not all(isinstance(item, Mapping) and item.keys() == value[0].keys()
                                           and not item.keys().isdisjoint(TARGETS) for item in value)


def _at(batch: Any, path: tuple) -> Any:
    for part in path:
        by_item = not isinstance(part, str) or isinstance(batch, Mapping)
        batch = batch[part] if by_item else getattr(batch, part)
    return batch


def _shown(path: tuple) -> str:
    parts = [f"{part.start}:" if isinstance(part, slice) else repr(part) for part in path]
    return "batch" + "".join(f"[{part}]" for part in parts)
