"""The part of `train.py --explain KEY` that needs torch: what takes a value, and which values it accepts."""
import inspect
import os
from collections.abc import Iterable, Mapping

from torch.utils.data import Dataset

from base.base_data_loader import PROVIDED, DataSplits
from base.registries import KINDS
from tools.print_config import Rows
from tools.reference.docstrings import argument_text, summary
from tools.reference.section_texts import JOINT, KEY_TEXTS
from tools.reference.settable import KEPT_ON, LEFT_OPEN
from utils.config.annotations import describe_argument
from utils.config.blocks import as_block
from utils.config.values import value_at
from utils.config.sections import SECTIONS, TRANSFORM_KEYS
from utils.config.signature import Signature
from utils.config.suggestions import suggest_name
from utils.config.syntax import KeyPath, format_value
from utils.errors import PROJECT, ConfigError, is_ours


def explain_argument(config: Mapping, path: KeyPath) -> Rows:
    """What is or may be at a path of a config with its defaults: what uses it, possible values, purpose."""
    section, *inner = path
    if section == "transforms" and (len(inner) < 2 or inner[0] not in TRANSFORM_KEYS):
        return _of_transforms(inner)
    if section == "data_loader" and (inner[:1] != ["sampler"] or len(inner) == 1):
        return _argument(DataSplits, Signature(DataSplits, PROVIDED), inner[0]) if inner else []
    if section == "init":
        return [("is", KEY_TEXTS[section][key]) for key in inner[1:2] if key in KEY_TEXTS[section]]
    end = _end_of_block(config, path)
    if end is None:
        return [("can name", KINDS[section].describe_options())]
    try:
        return _of_block(section, as_block(value_at(config, path[:end])), path[end:])
    except ConfigError as error:  # nothing has that name
        raise ConfigError.at(f"{'.'.join(path[:end])}.type", str(error)) from error


def _of_transforms(inner: list[str]) -> Rows:
    """What is at a key of the section `transforms`."""
    if not inner:
        return []
    if inner == ["joint"]:
        return [("is", JOINT), ("takes", "true or false or null"), ("default", "null")]
    if inner[0] not in TRANSFORM_KEYS:
        known = f"{suggest_name(inner[0], TRANSFORM_KEYS)} There are: {', '.join(TRANSFORM_KEYS)}"
        return [("but", f"there are no '{inner[0]}' transforms.{known}")]
    return [("is", KEY_TEXTS["transforms"][inner[0]])]


def _end_of_block(config: Mapping, path: KeyPath) -> int | None:
    """The length of the path to its block: the first block on it, or the last one of chained schedulers."""
    ends = [end for end in range(1, len(path) + 1)
            if "type" in _table(as_block(value_at(config, path[:end])))]
    chained = [end for end in ends if "schedulers" in path[:end - 1] and path[end - 1].isdigit()]
    end = (chained[-1:] or ends[:1] or [None])[0]
    while end:  # down to the innermost block
        found = KINDS[path[0]].inner_blocks(as_block(value_at(config, path[:end])))
        inner = [len(at) for at, _ in found if path[end:end + len(at)] == tuple(map(str, at))]
        if not inner:
            break
        end += inner[0]
    return end


def _table(block) -> Mapping:
    return block if isinstance(block.get("type"), str) else {}


def _of_block(section: str, block: Mapping, inner: KeyPath) -> Rows:
    registry = KINDS[section]
    target = registry.get(block["type"])
    signature = registry.signature(target)
    if inner and inner[0] in SECTIONS[section].keys:
        return [("is", KEY_TEXTS[section][inner[0]])]
    if len(inner) > 1 and inner[0] == "args":
        return _argument(target, signature, inner[1], LEFT_OPEN.get(section, ()))
    return [("names", f"{signature.name}, {_where(target)}"), ("is", summary(target)),
            ("takes", str(signature))]


def _argument(target, signature: Signature, name: str, left_open: Iterable[str] = ()) -> Rows:
    taken_by = ("taken by", f"{signature.name}, {_where(target)}")
    if (name == "device" and isinstance(target, type) and issubclass(target, Dataset)
            and name not in signature.parameters):
        return [("taken by", "the program"), ("is", KEPT_ON)]
    if name not in signature.parameters:
        other = suggest_name(name, signature.parameters) if not signature.open else " It accepts others, too."
        return [taken_by, ("but", f"it has no argument '{name}'.{other} {signature}")]
    parameter = signature.parameters[name]
    if name in signature.provided:
        return [taken_by, ("but", "the program fills this in")]
    default = "none, it has to be given" if signature.is_required(name) else format_value(parameter.default)
    default = "filled in by the program, unless it is given" if name in left_open else default
    return [taken_by, ("is", argument_text(target, name)), ("takes", describe_argument(parameter)),
            ("default", default)]


def _where(target) -> str:
    """Where the source is: `model/lenet.py:14`, or `torch.optim.adamw`."""
    file = inspect.getsourcefile(target)
    if file is None or not is_ours(file):
        return target.__module__
    return f"{os.path.relpath(file, PROJECT)}:{inspect.getsourcelines(target)[1]}"
