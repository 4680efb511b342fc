"""The constructor is the schema: what a class or function takes, and what is wrong with given arguments."""
import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from inspect import Parameter
from numbers import Number
from pathlib import Path
from typing import Annotated

from utils.mends import meant

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null",
          list: "a list", dict: "a table of keys"}


def at_least(least: int | float, above: bool = False):
    """A constraint for an annotation: `Annotated[int, at_least(1)]`; with `above`, the bound itself is excluded.

    Its `range` is the bound as JSON Schema has it, for those who describe signatures.
    """

    def check(value):
        if not value >= least or (above and value == least):  # a NaN is not, either
            raise ValueError(f"{value} is too small; it must be {'above' if above else 'at least'} {least}")

    check.range = {"exclusiveMinimum" if above else "minimum": least}
    return check


def below(bound: int | float):
    """A constraint for an annotation: smaller than `bound`."""

    def check(value):
        if not value < bound:
            raise ValueError(f"{value} is too large; it must be below {bound}")

    check.range = {"exclusiveMaximum": bound}
    return check


def _countable(value):
    if value >= 2**63:  # no more than a machine counts to; nobody needs to be told of it
        raise ValueError(f"{value} is too large")


PositiveInt = Annotated[int, at_least(1), _countable]
CountInt = Annotated[int, at_least(0), _countable]
PositiveFloat = Annotated[float, at_least(0, above=True)]
_LISTS = (list, tuple, Sequence, Iterable, set)


class Unknown(str):
    """What is said of a key that nobody takes; whoever knows where it belongs may say so."""


class Signature:
    """The named parameters of `target`, inherited ones included where a constructor passes `**kwargs` on.

    `provided` are the parameters the program fills in itself: a name, or a number of leading positional ones.
    `open` says that any further name may be accepted. `name` is what messages call it.
    """

    def __init__(self, target, provided: Iterable[str] | int = (), name: str | None = None):
        self.name = name or getattr(target, "__name__", str(target))
        self.parameters, self.open = _parameters(target)
        self._own = set(_inspect(target).parameters) if _inspect(target) else set()
        if isinstance(provided, int):
            provided = list(self.parameters)[:provided]
        self.provided = {name for name in provided if name in self.parameters}

    def __str__(self):
        shown = [p.replace(annotation=Parameter.empty, kind=Parameter.KEYWORD_ONLY) for p in self.free().values()]
        return f"{self.name}({', '.join(map(str, shown))}{', ...' if self.open else ''})"

    def free(self) -> dict[str, Parameter]:
        """The parameters that a config may set."""
        return {name: p for name, p in self.parameters.items() if name not in self.provided}

    def faults(self, args: Mapping, beside: Iterable[str] = ()) -> list[tuple[str, str]]:
        """What is wrong with `args`, as (argument, message); a missing argument has the name ''.

        Those that were written `beside` them are told of already, and not missing.
        """
        free, found = self.free(), []
        for name, value in args.items():
            if name in self.provided:
                found.append((name, f"'{name}' is filled in by the program. Leave it out."))
            elif name not in free and not self.open:
                found.append((name, Unknown(f"{self.name} has no argument '{name}'.{nearest(name, free)} {self}")))
            elif name in free and (wrong := mismatch(value, annotation_of(free[name]))):
                found.append((name, wrong))
        if missing := [name for name in self.required() if name not in (*args, *beside)]:
            found.append(("", f"{self.name} needs {', '.join(map(repr, missing))}. {self}"))
        return found

    def required(self) -> list[str]:
        """Those that it must set. One that is reached through **kwargs may be filled in on the way there."""
        return [name for name in self.free() if self.is_required(name) and name in self._own]

    def is_required(self, name: str) -> bool:
        """Whether there is a parameter `name` without a default."""
        return name in self.parameters and self.parameters[name].default is Parameter.empty

    def convert(self, args: Mapping) -> dict:
        """`args` as what the annotations ask for and YAML has no word for: dtypes, tensors, paths, tuples, sets."""
        return {name: _convert(value, self.parameters.get(name)) for name, value in args.items()}


def nearest(name: object, options: Iterable[str]) -> str:
    """` Did you mean 'LeNet'?`, or nothing where nothing is near. `learning_rate` is near `lr`, `acc` near `accuracy`."""
    by_lower = {str(option).lower(): str(option) for option in reversed([*options])}  # of two the first
    word = str(name).lower()
    close = difflib.get_close_matches(word, by_lower, n=1, cutoff=0.6)
    close += ["".join(part[:1] for part in word.split("_"))]
    close += sorted((option for option in by_lower if len(word) > 2 and word in option), key=len)  # `cosine`, `acc`
    found = next((by_lower[option] for option in close if option in by_lower), None)
    return f" Did you mean '{found}'?" if found else ""


def mismatch(value, annotation) -> str | None:
    """Why `value` cannot be an `annotation`, in words; None where it can, or where the annotation is not simple.

    Annotations may carry constraints: `Annotated[int, check]`, where `check(value)` raises ValueError for what it refuses.
    """
    simple = simple_types(annotation)
    if simple is None:
        return None
    if any(_fits(value, kind) for kind in simple):
        try:
            for check in _constraints(value, annotation):
                check(value)
        except ValueError as error:
            return str(error)
        return _items_mismatch(value, annotation) if isinstance(value, list) else None
    choice = nearest(value, [name for kind in simple if isinstance(kind, tuple) for name in kind])
    return f"{say(value)}; {in_words(annotation)} is needed.{choice or meant(value, simple)}"


def in_words(annotation) -> str | None:
    """`a whole number or null`: the values that an annotation admits; None where a config has no word for them."""
    simple = simple_types(annotation)
    return simple and " or ".join(_WORDS[kind] if isinstance(kind, type) else _one_of(kind) for kind in simple)


def _one_of(choices: tuple) -> str:
    return "one of " * (len(choices) > 1) + ", ".join(map(repr, choices))


def _items_mismatch(value: list, annotation) -> str | None:
    """What is wrong with the items of a list, or with how many there are."""
    faults = []
    for part in _parts(annotation):
        kinds = typing.get_args(part)
        if _is_tensor(part):
            wrong = next((f"{item!r} is no number" for item in _leaves(value) if not _fits(item, float)), None)
        elif (typing.get_origin(part) or part) not in _LISTS:
            continue
        elif typing.get_origin(part) is tuple and Ellipsis not in kinds and len(kinds) > 1:
            wrong = f"it has {len(value)} items; {len(kinds)} are needed" if len(value) != len(kinds) else _first(value, kinds)
        else:
            wrong = _first(value, [kinds[0]] * len(value)) if kinds else None
        faults.append(wrong)
    return faults[0] if faults and all(faults) else None


def items_of(annotation) -> tuple[list, bool] | None:
    """The annotations of a list's items, and whether there are just so many; None where these differ or nothing tells."""
    lists = [part for part in _parts(annotation) if (typing.get_origin(part) or part) in _LISTS]
    kinds = typing.get_args(lists[0]) if len(lists) == 1 else ()
    if not kinds or any(_is_tensor(part) for part in _parts(annotation)):
        return None
    counted = typing.get_origin(lists[0]) is tuple and Ellipsis not in kinds and len(kinds) > 1
    return (list(kinds), True) if counted else ([kinds[0]], False)


def _first(items: list, annotations: Iterable) -> str | None:
    """What is wrong with the first of the items that does not fit."""
    wrong = ((number, mismatch(item, kind)) for number, (item, kind) in enumerate(zip(items, annotations, strict=True)))
    return next((f"item {number}: {message}" for number, message in wrong if message), None)


def _leaves(value) -> list:
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list) else [value]


def _parts(annotation) -> list:
    """The members of a union, those of annotated ones included; anything else by itself."""
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [inner for part in typing.get_args(annotation) for inner in _parts(part)]
    return [annotation]


def say(value) -> str:
    """`'ten' is text`, `the value is false`: a config value and its kind in a user's words."""
    if value is None or isinstance(value, bool):
        return f"the value is {str(value).lower().replace('none', 'null')}"
    return f"{value!r} is {_WORDS.get(type(value), type(value).__name__)}"


def _fits(value, kind) -> bool:
    if isinstance(kind, tuple):
        return value in kind
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is kind


def ranges(annotation) -> dict[str, float]:
    """The bounds of its numbers, as JSON Schema has them: `{"minimum": 0, "exclusiveMaximum": 1}`."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return {key: bound for part in typing.get_args(annotation) for key, bound in ranges(part).items()}
    checks = getattr(annotation, "__metadata__", ())
    return {key: bound for check in checks for key, bound in getattr(check, "range", {}).items()}


def admitted(parameter: Parameter) -> str:
    """`a whole number or null, at least 1`: what an argument may be, as far as its annotation tells."""
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    annotation = annotation_of(parameter)
    return ", ".join([in_words(annotation) or "", *(f"{words[key]} {bound}" for key, bound in ranges(annotation).items())])


def _constraints(value, annotation) -> list:
    """The checks of those parts of an annotation that admit `value`."""
    if typing.get_origin(annotation) is Annotated:
        base, *checks = typing.get_args(annotation)
        return checks if any(_fits(value, kind) for kind in simple_types(base) or []) else []
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [check for part in typing.get_args(annotation) for check in _constraints(value, part)]
    return []


def simple_types(annotation) -> list | None:
    """The plain types an annotation admits; None where it admits something a config has no word for."""
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if annotation in _WORDS or annotation is None:
        return [type(None) if annotation is None else annotation]
    if annotation in (Number, Path):
        return [float if annotation is Number else str]
    if _is_tensor(annotation):
        return [list]
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return [typing.get_args(annotation)]
    if origin in (typing.Union, types.UnionType):
        parts = typing.get_args(annotation)
        if float in parts:  # `lr: float | Tensor`: from a config it is the number
            parts = [part for part in parts if not _is_tensor(part)]
        kinds = [simple_types(part) for part in parts]
        return None if None in kinds else list(dict.fromkeys(kind for part in kinds for kind in part))
    if (origin or annotation) in _LISTS:
        return [list]
    if (origin or annotation) in (dict, Mapping):
        return [dict]
    return None


def annotation_of(parameter: Parameter):
    """The annotation; without one, that of the default where it is a number, text or a switch."""
    if parameter.annotation is not Parameter.empty and not isinstance(parameter.annotation, str):
        return parameter.annotation
    return bool if isinstance(parameter.default, bool) else typing.Any


def _is_tensor(annotation) -> bool:
    return getattr(annotation, "__name__", "") == "Tensor"


def _convert(value, parameter: Parameter | None):
    annotation = parameter.annotation if parameter else None
    wanted = [typing.get_origin(part) or part for part in (annotation, *typing.get_args(annotation))]
    if isinstance(value, str) and any(getattr(part, "__name__", "") == "dtype" for part in wanted):
        return getattr(importlib.import_module("torch"), value, value)
    if isinstance(value, str) and Path in wanted and str not in wanted:
        return Path(value)
    if isinstance(value, list) and any(map(_is_tensor, wanted)):
        torch = importlib.import_module("torch")
        return torch.tensor(value, dtype=torch.float32 if parameter.name.endswith("weight") else None)  # also of [1, 5]
    if isinstance(value, list) and list not in wanted:
        return next((part(value) for part in wanted if part in (tuple, set)), value)
    return value


def _parameters(target) -> tuple[dict[str, Parameter], bool]:
    """(named parameters, whether others are accepted), following `**kwargs` to the next constructor in line."""
    signature = _inspect(target)
    if signature is None:
        return {}, True
    owners = [cls for cls in getattr(target, "__mro__", ()) if "__init__" in vars(cls) or "__new__" in vars(cls)]
    if owners and (owners[0] is object or owners[0].__module__ == "torch.nn.modules.module"):
        return {}, False  # object and nn.Module take nothing, whatever their signatures say
    parameters = {n: p for n, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    if all(p.kind is not p.VAR_KEYWORD for p in signature.parameters.values()):
        return parameters, False
    next_in_line = owners[1] if owners else signature.return_annotation
    if not isinstance(next_in_line, type) or next_in_line is Parameter.empty:
        return parameters, True
    inherited, is_open = _parameters(next_in_line)
    return {**inherited, **parameters}, is_open or not inherited


def _inspect(target) -> inspect.Signature | None:
    try:
        return inspect.signature(target, eval_str=True)
    except Exception:  # an annotation that only a type checker can resolve, whatever it raises
        pass
    try:
        signature = inspect.signature(target)
    except (ValueError, TypeError):  # builtins without a signature
        return None
    names = getattr(target.__init__ if isinstance(target, type) else target, "__globals__", {})
    parameters = [p.replace(annotation=_resolve(p.annotation, names)) for p in signature.parameters.values()]
    return signature.replace(parameters=parameters)


def _resolve(annotation, names: dict):
    """A text annotation as what it names; none where it names nothing that is there at run time."""
    try:
        return eval(annotation, names) if isinstance(annotation, str) else annotation  # code of the plug-in itself
    except Exception:
        return Parameter.empty
