"""References within a config: `${seed}` is another of its values, `${env:DATA_DIR,data/}` one of the environment."""
import os
import re
from collections.abc import Callable
from typing import Any

from utils.errors import Fault
from utils.sections import SECTIONS
from utils.signature import nearest
from utils.syntax import KeyPath, read_number

_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}?")


class _Unresolved(Exception):
    """A reference that leads nowhere, and why."""


def resolve(config: dict, where: Callable[[KeyPath], bool] = lambda path: True) -> tuple[dict, list[Fault]]:
    """`config` with what its references stand for, and what is wrong with those that stand for nothing.

    A value that is one reference takes its value, of whatever kind; within other text it is written out. `$${` is `${`
    itself. `where` says at which key paths references are looked for.
    """
    faults: list[Fault] = []

    def walk(value: Any, path: KeyPath) -> Any:
        if isinstance(value, dict):
            return {key: walk(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*path, str(number))) for number, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value or not where(path):
            return value
        try:
            return _replaced(value, config, (".".join(path),))
        except _Unresolved as error:
            faults.append((path, str(error)))
            return value

    return walk(config, ()), faults


def _replaced(text: str, config: dict, chain: tuple[str, ...]) -> Any:
    """What a text with references comes to; `chain` are the keys that lead to it."""
    found = list(_REFERENCE.finditer(text))
    if len(found) == 1 and found[0].group() == text and found[0][1] is not None:
        return _value(found[0], config, chain)
    return _REFERENCE.sub(lambda match: "${" if match[1] is None else _as_text(match, config, chain), text)


def _as_text(match: re.Match, config: dict, chain: tuple[str, ...]) -> str:
    value = _value(match, config, chain)
    if isinstance(value, (dict, list)):
        kind = "a table" if isinstance(value, dict) else "a list"
        raise _Unresolved(f"'{match.group()}' is {kind}: it cannot stand within text")
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _value(match: re.Match, config: dict, chain: tuple[str, ...]) -> Any:
    name = match[1].strip()
    if not match.group().endswith("}"):
        raise _Unresolved(f"'{match.group()}' is not closed. A reference looks like ${{seed}}; for the two signs write $${{")
    if name.startswith("env:"):
        return _of_environment(name.removeprefix("env:"))
    if name in chain:
        raise _Unresolved(f"refers to itself, by way of {' -> '.join((*chain, name))}")
    value: Any = {**{key: section.default for key, section in SECTIONS.items()}, **config}
    for part in name.split("."):
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, str) and part == "type":
            continue  # a bare name is short for {type: name}
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            raise _Unresolved(f"there is no '{name}' in this config.{nearest(name, _keys(config))} A variable of the "
                              "environment is ${env:NAME}.")
    return _inner(value, config, (*chain, name))


def _inner(value: Any, config: dict, chain: tuple[str, ...]) -> Any:
    """`value` without references of its own."""
    if isinstance(value, dict):
        return {key: _inner(item, config, chain) for key, item in value.items()}
    if isinstance(value, list):
        return [_inner(item, config, chain) for item in value]
    return _replaced(value, config, chain) if isinstance(value, str) and "${" in value else value


def _of_environment(text: str) -> Any:
    name, comma, default = text.partition(",")
    if name.strip() in os.environ:
        return read_number(os.environ[name.strip()])
    if comma:
        return read_number(default.strip())
    raise _Unresolved(f"the environment has no {name.strip()}. Set it, or write a default: ${{env:{name.strip()},DEFAULT}}")


def _keys(value: Any, prefix: str = "") -> list[str]:
    """The dotted paths of all that stands in a config."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [name for key, item in items for name in (f"{prefix}{key}", *_keys(item, f"{prefix}{key}."))]
