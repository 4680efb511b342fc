"""What is wrong with the section `init` of a config."""
from collections.abc import Iterator
from typing import Any

from utils.config.annotations import mismatch
from utils.config.signature import UnknownKey
from utils.errors import Fault, WrongValue

KEYS = {"from": str, "into": str, "rename": dict, "skip": list[str]}  # of an item of `init`


def init_faults(init: Any) -> Iterator[Fault]:
    """What is wrong with the section `init`. Reads no file."""
    if wrong := mismatch(init, list | None):
        yield WrongValue(("init",), wrong)
    for number, item in enumerate(init if isinstance(init, list) else ()):
        if not isinstance(item, dict) or "from" not in item:
            yield Fault(("init", number), "'from' is missing: a file or a run. Write {from: weights.pt}.")
            continue
        for key, value in item.items():
            path, names = ("init", number, key), value.values() if isinstance(value, dict) else ()
            if key not in KEYS:
                yield UnknownKey.of(path, f"there is no key {key!r} here.", KEYS, f"Keys: {', '.join(KEYS)}.")
            elif wrong := mismatch(value, KEYS[key]) or mismatch([*names], list[str]):
                yield WrongValue(path, wrong)
