"""Blocks of a config, `{type: NAME, args: {...}}`: one, or several by name."""
from typing import Any

SPLITS = ("train", "val", "test")
# Where several blocks by name may stand.
_SEVERAL = (("loss",), ("optimizer",), ("scheduler",), ("dataset",), ("dataset", "val"), ("dataset", "test"))


def as_block(block: Any) -> dict:
    """A bare name is short for `{type: name}`."""
    return block if isinstance(block, dict) else {"type": block}


def args_of(block: Any) -> dict:
    """The arguments of a block of any form; empty if it has none."""
    args = block.get("args") if isinstance(block, dict) else None
    return args if isinstance(args, dict) else {}


def is_single(block: dict) -> bool:
    """Whether a table is (part of) one block, and not several by name."""
    keys = {key.removeprefix("~") for key in block}
    numbers = any(isinstance(value, (int, float)) for value in block.values())
    own = {"type", "args", "per", "scale", "match", "groups", "decay_bias_and_norm", "keep_frozen"}
    return bool(keys & own) or numbers or not block


def blocks_by_name(value: Any, single: str) -> dict[str, Any]:
    """The blocks of a section by their names; if it is one block, that one is called `single`."""
    return value if isinstance(value, dict) and not is_single(value) else {single: value}


def holds_blocks(path: tuple, value: Any) -> bool:
    """Whether the value at a key path of a config is a table of blocks by name, where there may be one."""
    if path not in _SEVERAL:
        return False
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return False
    by_split = {key.removeprefix("~") for key in value} & {*SPLITS, "training", "validation", "valid"}
    return not is_single(value) and (path != ("dataset",) or bool(by_split))


def dataset_blocks(section: Any) -> dict[tuple[str, ...], Any]:
    """The blocks of the section `dataset` by their key paths, such as `("dataset", "val", "clean")`.

    A single one, for all splits, has the path `("dataset",)`. What is null is left out.
    """
    found, pending = {}, [(("dataset",), section)]
    for path, value in pending:
        if holds_blocks(path, value):
            pending += [((*path, name), block) for name, block in value.items()]
        elif value is not None:
            found[path] = value
    return found
