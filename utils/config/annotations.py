"""The values that an annotation allows, as text and as a check; constraints such as `PositiveInt`."""
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter
from numbers import Number
from pathlib import Path
from typing import Annotated

from utils.config.suggestions import suggest_name, suggest_value
from utils.config.syntax import DataReference

_DESCRIPTIONS = {int: "a whole number", float: "a number", bool: "true or false", str: "text",
                 type(None): "null", list: "a list", dict: "a table of keys"}


def at_least(least: int | float, above: bool = False):
    """A constraint: `Annotated[int, at_least(1)]`; with `above`, the bound itself is excluded."""
    if above:
        fault, bounds = f"too small; it must be above {least}", {"exclusiveMinimum": least}
        return limit(lambda value: value > least, fault, bounds)
    return limit(lambda value: value >= least, f"too small; it must be at least {least}", {"minimum": least})


def below(bound: int | float):
    """A constraint for an annotation: the value must be smaller than `bound`."""
    return limit(lambda value: value < bound, f"too large; it must be below {bound}",
                 {"exclusiveMaximum": bound})


def limit(accepts: Callable[[float], bool], fault: str, bounds: Mapping[str, float]):
    """A constraint. Its attribute `range` holds the bounds as in JSON Schema, for tools that show them."""

    def check(value):
        if not accepts(value):
            raise ValueError(f"{value} is {fault}")

    check.range = bounds
    return check


_countable = limit(lambda value: value < 2**63, "too large", {})  # int64; not worth a mention to users
PositiveInt = Annotated[int, at_least(1), _countable]
CountInt = Annotated[int, at_least(0), _countable]
FiniteFloat = Annotated[float, limit(math.isfinite, "no finite number", {})]
PositiveFloat = Annotated[float, at_least(0, above=True)]
_LISTS = (list, tuple, Sequence, Iterable, set)
# The type that a config gives for an annotation.
_GIVEN = {**{kind: kind for kind in _DESCRIPTIONS}, None: type(None), Number: float, Path: str, Mapping: dict,
          **dict.fromkeys(_LISTS, list)}


def mismatch(value, annotation) -> str | None:
    """Why `value` does not fit `annotation`, as text; None if it fits or the annotation is not simple.

    Annotations may carry constraints: `Annotated[int, check]`; `check(value)` raises ValueError to reject it.
    """
    simple = simple_types(annotation)
    if simple is None or isinstance(value, DataReference):  # its value is checked once it is known
        return None
    if any(_fits(value, kind) for kind in simple):
        try:
            for check in _constraints(value, annotation):
                check(value)
        except ValueError as error:
            return str(error)
        return _items_mismatch(value, annotation) if isinstance(value, list) else None
    choice = suggest_name(value, [name for kind in simple if isinstance(kind, tuple) for name in kind])
    return (f"{describe_value(value)}; {describe_annotation(annotation)} is needed."
            f"{choice or suggest_value(value, simple)}")


def describe_annotation(annotation) -> str | None:
    """`a whole number or null`: the values that an annotation allows; None if a config cannot hold them."""
    simple = simple_types(annotation)
    return simple and " or ".join(map(_describe_kind, simple))


def _describe_kind(kind: type | tuple) -> str:
    if isinstance(kind, type):
        return _DESCRIPTIONS[kind]
    return ("one of " if len(kind) > 1 else "") + ", ".join(map(repr, kind))


def _items_mismatch(value: list, annotation) -> str | None:
    """What is wrong with the items of a list, or with their number."""
    faults = [_list_mismatch(value, part) for part in _lists_among(annotation)]
    return faults[0] if faults and all(faults) else None


def _list_mismatch(value: list, annotation) -> str | None:
    """`_items_mismatch` for one member of a union."""
    if is_tensor(annotation):
        return next((f"{item!r} is no number" for item in _leaves(value) if not _fits(item, float)), None)
    kinds = typing.get_args(annotation)
    if kinds and not _is_counted(annotation):
        kinds = [kinds[0]] * len(value)
    elif kinds and len(value) != len(kinds):
        return f"it has {len(value)} items; {len(kinds)} are needed"
    wrong = ((number, mismatch(item, kind)) for number, (item, kind) in enumerate(zip(value, kinds)))
    return next((f"item {number}: {message}" for number, message in wrong if message), None)


def item_annotations(annotation) -> tuple[list, bool] | None:
    """The annotations of a list's items, and whether their number is fixed; None if unclear or unknown."""
    lists = _lists_among(annotation)
    kinds = typing.get_args(lists[0]) if len(lists) == 1 else ()
    if not kinds:
        return None
    return (list(kinds), True) if _is_counted(lists[0]) else ([kinds[0]], False)


def nested_blocks(value, parameter: Parameter) -> list[tuple[tuple, object]]:
    """(path, block) of the blocks in an argument's value, if it takes modules or other callables."""
    annotation = annotation_of(parameter)
    if isinstance(value, list):
        return [((number,), item) for number, item in enumerate(value)] if _takes_lists(annotation) else []
    # a class among the defaults is called by its owner: what it makes is a part, not the class
    default = callable(parameter.default) and not isinstance(parameter.default, type)
    members = _union_members(annotation)
    kinds = [typing.get_origin(part) or part for part in members]
    takes = any(map(_is_part, members)) or (annotation is typing.Any and default)
    is_block = isinstance(value, dict) and isinstance(value.get("type"), str) and dict not in kinds
    return [((), value)] if takes and is_block else []


def _takes_lists(annotation) -> bool:
    """Whether it takes lists of modules or other callables."""
    return any(_is_part(kind) for part in _lists_among(annotation) for item in typing.get_args(part)
               for kind in _union_members(item))


def _is_part(annotation) -> bool:
    """Whether it is a module, or a callable that makes none."""
    if (typing.get_origin(annotation) or annotation) is Callable:
        return not any(map(_is_part, typing.get_args(annotation)[1:]))
    bases = annotation.__mro__ if isinstance(annotation, type) else ()
    return any(base.__module__ == "torch.nn.modules.module" for base in bases)


def _lists_among(annotation) -> list:
    """The members of a union for which a config gives a list."""
    return [part for part in _union_members(annotation) if _simple_type(part) is list]


def _is_counted(annotation) -> bool:
    """Whether the annotation of a list fixes the number of items: `tuple[int, int]`."""
    kinds = typing.get_args(annotation)
    return typing.get_origin(annotation) is tuple and Ellipsis not in kinds and len(kinds) > 1


def _leaves(value) -> list:
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list) else [value]


def _union_members(annotation) -> list:
    """The members of a union, also of annotated ones; anything else as a list of one."""
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [inner for part in typing.get_args(annotation) for inner in _union_members(part)]
    return [annotation]


def describe_value(value) -> str:
    """`'ten' is text`, `the value is false`: a config value and its kind in plain words."""
    if value is None or isinstance(value, bool):
        return f"the value is {str(value).lower().replace('none', 'null')}"
    return f"{value!r} is {_DESCRIPTIONS.get(type(value), type(value).__name__)}"


def _fits(value, kind) -> bool:
    if isinstance(kind, tuple):
        return value in kind
    if kind is float:
        return isinstance(value, (int, float, DataReference)) and not isinstance(value, bool)
    return type(value) is kind


def ranges(annotation) -> dict[str, float]:
    """The bounds of numbers in the format of JSON Schema: `{"minimum": 0, "exclusiveMaximum": 1}`."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return {key: bound for part in typing.get_args(annotation) for key, bound in ranges(part).items()}
    checks = getattr(annotation, "__metadata__", ())
    return {key: bound for check in checks for key, bound in getattr(check, "range", {}).items()}


def describe_argument(parameter: Parameter) -> str:
    """`a whole number or null, at least 1`: the values that the annotation of an argument allows."""
    words = {"minimum": "at least", "exclusiveMinimum": "above",
             "maximum": "at most", "exclusiveMaximum": "below"}
    annotation = annotation_of(parameter)
    return ", ".join([describe_annotation(annotation) or "",
                      *(f"{words[key]} {bound}" for key, bound in ranges(annotation).items())])


def _constraints(value, annotation) -> list:
    """The checks in the parts of an annotation that allow `value`."""
    if typing.get_origin(annotation) is Annotated:
        base, *checks = typing.get_args(annotation)
        return checks if any(_fits(value, kind) for kind in simple_types(base) or []) else []
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [check for part in typing.get_args(annotation) for check in _constraints(value, part)]
    return []


def simple_types(annotation) -> list | None:
    """The plain types that an annotation allows; None if it allows something that a config cannot express."""
    parts = _union_members(annotation)
    if float in parts:  # `lr: float | Tensor`: a config gives the number
        parts = [part for part in parts if not is_tensor(part)]
    kinds = [_simple_type(part) for part in parts]
    return None if None in kinds else list(dict.fromkeys(kinds))


def _simple_type(annotation) -> type | tuple | None:
    """`simple_types` for one member of a union; the choices of a Literal as a tuple."""
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    return list if is_tensor(annotation) else _GIVEN.get(typing.get_origin(annotation) or annotation)


def annotation_of(parameter: Parameter):
    """The annotation. Without one, bool if the default is a bool, else Any."""
    if parameter.annotation is not Parameter.empty and not isinstance(parameter.annotation, str):
        return parameter.annotation
    return bool if isinstance(parameter.default, bool) else typing.Any


def is_tensor(annotation) -> bool:
    """Whether an annotation is torch's Tensor."""
    return getattr(annotation, "__name__", "") == "Tensor"
