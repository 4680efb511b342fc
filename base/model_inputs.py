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
    arguments, parts = _arguments(forward), _parts(batch)
    beside = _targets_for_model(arguments, parts, has_loss)
    if named := _inputs_by_name(arguments, parts, beside):
        return Choice([], named | beside, parts.targets)
    if parts.at:
        return Choice(_args_of_pair(arguments, parts, beside), beside, parts.targets)
    num_needed = len(arguments.needed)
    if _is_row(batch):
        num_inputs = min(max(num_needed, 1), len(batch))
        targets = _targets_of_row(num_inputs, len(batch), most_targets)
        return Choice([(place,) for place in range(num_inputs)], dict.fromkeys(beside, targets), targets)
    others = parts.other_names()
    is_one_input = parts.target and len(others) == num_needed == 1 and arguments.needed[0] not in _WHOLE
    return Choice([tuple(others) if is_one_input else ()], {}, parts.targets)


class _Arguments(NamedTuple):
    """The arguments of `forward`: their names, those without a default, and whether it takes any other."""

    names: list[str]
    needed: list[str]
    takes_any: bool


class _Parts(NamedTuple):
    """The inputs of a batch and the path to them, if they stand apart; the target's name, the targets' path.

    `names`: of the inputs, or of all the batch.
    """

    inputs: Any
    at: tuple
    target: str | None
    targets: tuple
    names: list[str]

    def other_names(self) -> list[str]:
        return [name for name in self.names if name != self.target]


def _arguments(forward: Callable) -> _Arguments:
    found = inspect.signature(forward).parameters.values()
    named = [each for each in found if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    return _Arguments([each.name for each in named],
                      [each.name for each in named if each.default is each.empty],
                      any(each.kind == each.VAR_KEYWORD for each in found))


def _targets_for_model(arguments: _Arguments, parts: _Parts, has_loss: bool) -> dict[str, tuple]:
    """The path to the targets by the argument of the model that takes them; {} if none does."""
    candidates = [parts.target] if has_loss else [parts.target, *TARGETS]
    for name in candidates:
        if name in arguments.names:
            return {name: parts.targets}
    takes_them = parts.target and arguments.takes_any and not has_loss
    return {parts.target: parts.targets} if takes_them else {}


def _inputs_by_name(arguments: _Arguments, parts: _Parts, beside: Mapping[str, tuple]) -> dict[str, tuple]:
    """The paths to the inputs by the arguments of these names; {} if these are not all that is needed."""
    others = parts.other_names()
    named = {name: (*parts.at, name) for name in others if arguments.takes_any or name in arguments.names}
    takes_all = not parts.at or len(named) == len(others)  # a dict of inputs in a pair is given whole, or not
    return named if takes_all and {*named, *beside} >= {*arguments.needed} else {}


def _args_of_pair(arguments: _Arguments, parts: _Parts, beside: Mapping[str, tuple]) -> list[tuple]:
    """The paths to the positional arguments in a batch `(inputs, targets)`."""
    if len(arguments.needed) > 1 and _is_row(parts.inputs):
        return [(0, place) for place in range(len(parts.inputs))]
    return [(0,), (1,)] if len(arguments.needed) == 2 and not beside else [(0,)]


def _targets_of_row(num_inputs: int, length: int, most_targets: int) -> tuple:
    """The path to the targets behind the inputs in a tuple: one, or all if the loss takes several."""
    num_left = length - num_inputs
    if num_left > 1 and (not most_targets or num_left <= most_targets):
        return (slice(num_inputs, None),)
    return (min(num_inputs, length - 1),)


def kind_of(batch: Any) -> Hashable:
    """The type of a batch, and its keys, or its length and first type; a list of samples has any length."""
    if not isinstance(batch, (tuple, list)):
        return type(batch), *(batch if isinstance(batch, Mapping) else ())
    samples = isinstance(batch, list) and all(isinstance(item, (tuple, Mapping)) for item in batch)
    return type(batch), 0 if samples else len(batch), *map(type, batch[:1])


def _parts(batch: Any) -> _Parts:
    is_row = _is_row(batch)
    if is_row and len(batch) == 2:
        return _Parts(batch[0], (0,), None, (1,), [*(as_mapping(batch[0]) or ())])
    names = [*(as_mapping(batch) or (getattr(batch, "_fields", ()) if is_row else ()))]
    target = next((name for name in TARGETS if name in names or not is_row and hasattr(batch, name)), None)
    return _Parts(batch, (), target, (target,) if target else (), [] if is_row and not target else names)


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
