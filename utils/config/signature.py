"""The constructor is the schema: the arguments of a class or function, and faults in given arguments."""
import inspect
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from typing import Any

from utils.config.annotations import annotation_of, is_tensor, mismatch
from utils.config.library_arguments import library_mismatch
from utils.config.suggestions import suggest_name
from utils.config.syntax import read_number
from utils.errors import Fault, WrongValue


class FieldsOf:
    """`**options: Annotated[Any, FieldsOf(Options)]`: the keyword arguments are the fields of a dataclass."""

    def __init__(self, options: type):
        self.options = options


@dataclass(frozen=True)
class UnknownKey(Fault):
    """A key that is not known at its place. `what`: the first sentence of the message.

    `suggested`: whether the message names a key that is spelt nearly the same.
    """

    what: str = ""
    suggested: bool = False

    @classmethod
    def of(cls, path: tuple, what: str, known: Iterable[str], listing: str) -> "UnknownKey":
        """The fault with the nearest of the `known` keys, and with a `listing` of them."""
        nearest = suggest_name(path[-1], known)
        return cls(path, f"{what}{nearest} {listing}", what=what, suggested=bool(nearest))


class Signature:
    """The named parameters of `target`, with inherited ones if a constructor forwards `**kwargs`.

    `provided`: the parameters that the program fills in: names, or a number of leading positional ones.
    `open`: further names may be accepted. `owners`: the class or function that has a parameter, by its name.
    `name`: the name of `target` in messages.
    """

    def __init__(self, target, provided: Iterable[str] | int = (), name: str | None = None):
        self.name = name or getattr(target, "__name__", str(target))
        self.owners: dict[str, Any] = {}
        self.parameters, self.open = _parameters(target, self.owners)
        self._own = set(_inspect(target).parameters) if _inspect(target) else set()
        if isinstance(provided, int):
            provided = list(self.parameters)[:provided]
        self.provided = {name for name in provided if name in self.parameters}

    def __str__(self):
        shown = [p.replace(annotation=Parameter.empty, kind=Parameter.KEYWORD_ONLY)
                 for p in self.free().values()]
        return f"{self.name}({', '.join(map(str, shown))}{', ...' if self.open else ''})"

    def free(self) -> dict[str, Parameter]:
        """The parameters that a config may set."""
        return {name: p for name, p in self.parameters.items() if name not in self.provided}

    def faults(self, args: Mapping, beside: Iterable[str] = ()) -> list[Fault]:
        """Returns what is wrong with `args`; the path of a missing argument is empty.

        Arguments that were written `beside` them have been reported already and are not missing.
        """
        free, found = self.free(), []
        for name, value in args.items():
            if name in self.provided:
                found.append(Fault((name,), f"{name!r} is filled in by the program. Leave it out."))
            elif name not in free and not self.open:
                found.append(UnknownKey.of((name,), f"{self.name} has no argument {name!r}.", free,
                                           str(self)))
            elif name in free and (wrong := mismatch(value, annotation_of(free[name]))
                                   or library_mismatch(self.owners.get(name), name, value)):
                found.append(WrongValue((name,), wrong))
        if missing := [name for name in self.required() if name not in (*args, *beside)]:
            found.append(Fault((), f"{self.name} needs {', '.join(map(repr, missing))}. {self}"))
        return found

    def required(self) -> list[str]:
        """The parameters that a config must set; another constructor may fill in those behind **kwargs."""
        return [name for name in self.free() if self.is_required(name) and name in self._own]

    def is_required(self, name: str) -> bool:
        """Whether there is a parameter `name` without a default."""
        return name in self.parameters and self.parameters[name].default is Parameter.empty

    def convert(self, args: Mapping) -> dict:
        """Converts `args` to types that YAML lacks, by annotation: dtypes, tensors, paths, tuples, sets."""
        return {name: _convert(value, self.parameters.get(name)) for name, value in args.items()}


def _convert(value, parameter: Parameter | None):
    annotation = parameter.annotation if parameter else None
    wanted = [typing.get_origin(part) or part for part in (annotation, *typing.get_args(annotation))]
    if isinstance(value, str):
        return _convert_text(value, wanted)
    if isinstance(value, dict):
        return _with_number_keys(value, annotation)
    if isinstance(value, list) and any(map(is_tensor, wanted)):
        import torch  # a plug-in with such an argument has loaded it already

        is_weight = parameter.name.endswith("weight")  # weights are floats, also [1, 5]
        return torch.tensor(value, dtype=torch.float32 if is_weight else None)
    if isinstance(value, list) and list not in wanted:
        return next((part(value) for part in wanted if part in (tuple, set)), value)
    return value


def _with_number_keys(table: dict, annotation) -> dict:
    """A table with numbers for text keys, as all are in JSON, where `dict[int, ...]` asks for them."""
    kinds = {typing.get_args(part)[0] for part in (annotation, *typing.get_args(annotation))
             if typing.get_origin(part) in (dict, Mapping)}
    if not kinds or str in kinds:
        return table
    read = {key: read_number(key) if isinstance(key, str) else key for key in table}
    return {read[key] if type(read[key]) in kinds else key: value for key, value in table.items()}


def _convert_text(value: str, wanted: list):
    if any(getattr(part, "__name__", "") == "dtype" for part in wanted):
        import torch

        return getattr(torch, value, value)
    return Path(value) if Path in wanted and str not in wanted else value


def _parameters(target, owners: dict[str, Any]) -> tuple[dict[str, Parameter], bool]:
    """(named parameters, whether others are accepted); follows `**kwargs` to the next constructor in line.

    Adds to `owners` where each parameter comes from.
    """
    signature = _inspect(target)
    if signature is None:
        return {}, True
    line = _constructing_classes(target)
    if line and (line[0] is object or line[0].__module__ == "torch.nn.modules.module"):
        return {}, False  # object and nn.Module take no arguments, although their signatures do
    parameters = {name: p for name, p in signature.parameters.items()
                  if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    for name in parameters:
        owners.setdefault(name, line[0] if line else target)
    rest = [p for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
    next_in_line = _next_in_line(rest[0], line, signature) if rest else None
    if not isinstance(next_in_line, type):
        return parameters, bool(rest)
    inherited, is_open = _parameters(next_in_line, owners)
    return {**inherited, **parameters}, is_open or not inherited


def _next_in_line(rest: Parameter, line: list[type], signature: inspect.Signature) -> Any:
    """What takes `**rest`: a dataclass that its annotation names, the next base, what a function returns."""
    fields = [mark.options for mark in typing.get_args(rest.annotation) if isinstance(mark, FieldsOf)]
    return fields[0] if fields else line[1] if line else signature.return_annotation


def _constructing_classes(target) -> list[type]:
    """The class `target` and its bases, in order, as far as they have a constructor of their own."""
    return [cls for cls in getattr(target, "__mro__", ()) if {"__init__", "__new__"} & vars(cls).keys()]


def _inspect(target) -> inspect.Signature | None:
    try:
        return inspect.signature(target, eval_str=True)
    except Exception:  # an annotation that only a type checker can resolve may raise anything
        pass
    try:
        signature = inspect.signature(target)
    except (ValueError, TypeError):  # builtins without a signature
        return None
    names = getattr(target.__init__ if isinstance(target, type) else target, "__globals__", {})
    parameters = [p.replace(annotation=_resolve(p.annotation, names)) for p in signature.parameters.values()]
    return signature.replace(parameters=parameters)


def _resolve(annotation, names: dict):
    """Evaluates a text annotation; Parameter.empty if its name does not exist at run time."""
    try:
        return eval(annotation, names) if isinstance(annotation, str) else annotation  # plug-in code
    except Exception:
        return Parameter.empty
