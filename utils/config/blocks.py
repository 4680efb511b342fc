"""Blocks of a config, `{type: NAME, args: {...}}`: one, or several by name."""
from typing import Any


def as_block(block: Any) -> dict:
    """A bare name is short for `{type: name}`."""
    return block if isinstance(block, dict) else {"type": block}


def is_single(block: dict) -> bool:
    """Whether a table is (part of) one block, and not several by name."""
    keys = {key.removeprefix("~") for key in block}
    numbers = any(isinstance(value, (int, float)) for value in block.values())
    own = {"type", "args", "per", "scale", "match", "groups", "decay_bias_and_norm", "keep_frozen"}
    return bool(keys & own) or numbers or not block


def blocks_by_name(value: Any, single: str) -> dict[str, Any]:
    """The blocks of a section by their names; if it is one block, that one is called `single`."""
    return value if isinstance(value, dict) and not is_single(value) else {single: value}
