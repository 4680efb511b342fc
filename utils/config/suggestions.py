"""Suggests a fix for a value of the wrong type: `'0,01' is text; a number is needed. Did you mean 0.01?`"""
import difflib
import math
import re
from collections.abc import Iterable
from typing import Any

from utils.config.syntax import format_value, read_number

_LIKE_A_NUMBER = re.compile(r"\s*([-+.\d_]+(?:,\d+)?(?:[eE][-+]?\d+)?)([%fFdD]?)\s*[,;]?")
MOST_SHOWN = 8  # values of one metric in a line
_SWITCHES = {"true": True, "yes": True, "on": True, "1": True,
             "false": False, "no": False, "off": False, "0": False}


def suggest_value(value: Any, kinds: Iterable) -> str:
    """` Did you mean 0.01?`: `value` converted to the first of `kinds` that can read it; '' if none can."""
    for kind in kinds:
        if isinstance(kind, type) and kind in _READERS and (read := _READERS[kind](value)):
            return f" Did you mean {read}?"
    return ""


def _null(value: Any) -> str | None:
    return ("null" if isinstance(value, str) and value.strip().lower() in ("none", "null", "off", "no", "")
            else None)


def _switch(value: Any) -> str | None:
    known = _SWITCHES.get(str(value).strip().lower()) if type(value) in (str, int) else None
    return known if known is None else str(known).lower()


def _whole(value: Any) -> str | None:
    number = _number_in(value.replace(",", "") if isinstance(value, str) else value)
    return (str(int(number)) if number is not None and math.isfinite(number)
            and number == int(number) else None)


def _number(value: Any) -> str | None:
    number = _number_in(value)
    return None if number is None else str(number)


def _number_in(value: Any) -> int | float | None:
    """The number in what YAML does not read as one: `10`, `0,01`, `10%`, `1e-3f` as text, `[10]`."""
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if type(value) in (int, float):
        return value
    found = _LIKE_A_NUMBER.fullmatch(value) if isinstance(value, str) else None
    number = read_number(found[1].replace(",", ".")) if found else ""
    if isinstance(number, str):
        return None
    return number / 100 if found[2] == "%" else number


def _list(value: Any) -> str | None:
    """Puts `0.9, 0.999`, `(64, 10)`, `64 10`, `{64, 10}` into brackets, also a number, a name or a block."""
    if isinstance(value, dict) and value and (
            "type" in value or all(item is None for item in value.values())):
        return format_value([value] if "type" in value else list(value))
    if type(value) not in (str, int, float) or value == "" or _null(value):
        return None
    items = re.split(r"[,;\s]+", str(value).strip("()[] "))
    return f"[{', '.join(items)}]"


def _text(value: Any) -> str | None:
    return f"'{value}'" if type(value) in (int, float) else None


_READERS = {type(None): _null, bool: _switch, int: _whole, float: _number, list: _list, str: _text}


def suggest_name(name: object, options: Iterable[str]) -> str:
    """` Did you mean 'LeNet'?`, or ''. `learning_rate` is near `lr`, `acc` near `accuracy`."""
    by_lower = {str(option).lower(): str(option) for option in reversed([*options])}  # the first one wins
    word = str(name).lower()
    close = difflib.get_close_matches(word, by_lower, n=1, cutoff=0.6)
    close += ["".join(part[:1] for part in word.split("_"))]
    close += sorted((option for option in by_lower if len(word) > 2 and word in option), key=len)  # `acc`
    close += difflib.get_close_matches(word.partition("-")[0], by_lower, n=1, cutoff=0.6)  # `bf16-mixed`
    found = next((by_lower[option] for option in close if option in by_lower), None)
    return f" Did you mean '{found}'?" if found else ""


def list_briefly(names: Iterable[str]) -> str:
    """`train/loss, val/f1/cat, val/f1/dog`; of what has more than eight names before the last / only two."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.rpartition("/")[0], []).append(name)
    return ", ".join(name for group, names in groups.items() for name in (
        names if len(names) <= MOST_SHOWN else [*names[:2], f"... ({len(names)} of {group})"]))
