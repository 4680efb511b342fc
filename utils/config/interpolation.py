"""References in a config: `${seed}` to another value, `${env:DATA_DIR,data/}`, `${data:num_classes}`."""
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from utils.config.sections import with_defaults
from utils.config.suggestions import suggest_name
from utils.config.syntax import DataReference, KeyPath, read_number, walk
from utils.config.values import value_at
from utils.errors import ConfigError, Fault, UnresolvedReference

_MAX_SIZE, _MAX_CHAIN = 300_000, 50  # what all references of a config stand for; from one to the next
_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}?")
_MISSING = object()
_BEFORE_DATA = ("name", "seed", "dataset", "data_loader")  # sections that there are before the train dataset


class Resolved(NamedTuple):
    """A config without references, the faults of references that lead nowhere, the keys that hold values of
    `${env:...}`."""

    config: dict
    faults: list[Fault]
    from_environment: frozenset[str]


def resolve(config: dict, where: Callable[[KeyPath], bool] = lambda path: True,
            data: Callable[[str], Any] | None = None) -> Resolved:
    """Resolves the references of a config.

    A value that is a single reference takes over the value and its type; within other text it becomes text.
    `$${` means a literal `${`. `where` decides at which key paths references are resolved. `data` gives the
    values of `${data:NAME}` and may raise Unresolved; without it, text that has one becomes a DataReference.
    """
    references = _References(config, where, data)
    config = references.replaced_in(config, ())
    return Resolved(config, references.faults, frozenset(references.from_environment))


def data_references(config: Any) -> Iterator[tuple[KeyPath, DataReference]]:
    """The `${data:NAME}` in a config that have no value yet, with their key paths."""
    return ((path, item) for path, item in walk(config) if isinstance(item, DataReference))


class Unresolved(Exception):
    """A reference cannot be resolved; the message says why."""


class _References:
    def __init__(self, config: dict, where: Callable[[KeyPath], bool], data: Callable[[str], Any] | None):
        self.config, self.where, self.data, self.faults = config, where, data, []
        self.from_environment: set[str] = set()
        self.full = with_defaults(config)
        self.size = 0  # characters and values that stand in place of references

    def replaced_in(self, value: Any, path: KeyPath) -> Any:
        """Returns the `value` at `path` without references; records unresolved ones and keeps them."""
        if isinstance(value, dict):
            return {key: self.replaced_in(item, (*path, str(key))) for key, item in value.items()}
        if isinstance(value, list):
            return [self.replaced_in(item, (*path, str(number))) for number, item in enumerate(value)]
        try:
            return self._followed(value, path, (".".join(path),))
        except Unresolved as error:
            self.faults.append(UnresolvedReference(path, str(error)))
            return value

    def _followed(self, value: Any, path: KeyPath, chain: tuple[str, ...]) -> Any:
        """Resolves `value`; `chain` holds the keys that led to it."""
        self._count(value, path, chain)
        if isinstance(value, dict):
            return {key: self._followed(item, (*path, str(key)), chain) for key, item in value.items()}
        if isinstance(value, list):
            return [self._followed(item, (*path, str(number)), chain) for number, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value or not self.where(path):
            return value
        if (whole := _REFERENCE.fullmatch(value)) and whole[1] is not None:
            return self._value(whole, chain)
        values = [None if match[1] is None else self._value(match, chain)
                  for match in _REFERENCE.finditer(value)]
        waits, left = any(isinstance(item, DataReference) for item in values), iter(values)
        text = _REFERENCE.sub(lambda match: _as_text(match, next(left), waits), value)
        return DataReference(text) if waits else text

    def _count(self, value: Any, path: KeyPath, chain: tuple[str, ...]) -> None:
        """Adds what a reference leads to; raises ConfigError beyond a size that no config needs."""
        if len(chain) > 1:
            self.size += 1 + (len(value) if isinstance(value, (str, dict, list)) else 0)
        if self.size > _MAX_SIZE:
            raise ConfigError.at(chain[0], f"references stand for more than {_MAX_SIZE} values or "
                                           "characters, too many for a config")

    def _value(self, match: re.Match, chain: tuple[str, ...]) -> Any:
        name = match[1].strip()
        if len(chain) > _MAX_CHAIN:
            raise Unresolved(f"leads through more than {_MAX_CHAIN} references, one to the next")
        if not match.group().endswith("}"):
            raise Unresolved(f"{match.group()!r} is not closed. A reference looks like ${{seed}}; "
                             "for the signs write $${")
        if name.startswith("data:"):
            return self._of_data(match, chain[0].split(".")[0])
        if name.startswith("env:"):
            self.from_environment.add(chain[0])
            return _of_environment(name.removeprefix("env:"))
        if name in chain:
            raise Unresolved(f"refers to itself, by way of {' -> '.join((*chain, name))}")
        path = tuple(name.split("."))
        if (value := value_at(self.full, path, _MISSING)) is _MISSING:
            known = [".".join(path) for path, _ in walk(self.config) if path]
            raise Unresolved(f"there is no {name!r} in this config.{suggest_name(name, known)} "
                             "A variable of the environment is ${env:NAME}.")
        return self._followed(value, path, (*chain, name))

    def _of_data(self, match: re.Match, section: str) -> Any:
        if section in _BEFORE_DATA:
            raise Unresolved(f"{match.group()!r} cannot stand in {section}: the train dataset is built "
                             "later. Write the value.")
        name = match[1].strip().removeprefix("data:").strip()
        return self.data(name) if self.data else DataReference(f"${{data:{name}}}")


def _as_text(match: re.Match, value: Any, waits: bool) -> str:
    """What stands for a reference within text. `waits`: the text is resolved once more, with the data."""
    if match[1] is None:
        return match.group() if waits else "${"
    if isinstance(value, DataReference):
        return value
    if isinstance(value, (dict, list)):
        kind = "a table" if isinstance(value, dict) else "a list"
        raise Unresolved(f"{match.group()!r} is {kind}: it cannot stand within text")
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text.replace("${", "$${") if waits else text


def _of_environment(text: str) -> Any:
    name, comma, default = text.partition(",")
    name = name.strip()
    if name not in os.environ and not comma:
        raise Unresolved(f"the environment has no {name}. Set it, "
                         f"or write a default: ${{env:{name},DEFAULT}}")
    return read_number(os.environ.get(name, default.strip()))
