"""The sections of a config and their defaults. What each is for: tools/reference/section_texts.py."""
import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from utils.errors import PROJECT


class Section(NamedTuple):
    """A top-level key of a config. `keys`: keys of its blocks besides `type` and `args`."""

    default: Any = None
    keys: tuple[str, ...] = ()


SECTIONS = {
    "name": Section(),
    "seed": Section(0),
    "dataset": Section(),
    "transforms": Section({}),
    "data_loader": Section({}),
    "model": Section(),
    "init": Section(keys=("from", "into", "rename", "skip")),
    "loss": Section(keys=("scale",)),
    "metrics": Section([], ("name",)),
    "optimizer": Section(keys=("match", "groups", "decay_bias_and_norm", "keep_frozen")),
    "scheduler": Section(keys=("per",)),
    "trainer": Section({"type": "Trainer"}),
    "writers": Section(["TensorBoard", *(["Report"] if (PROJECT / "tools/report/page").is_dir() else [])]),
}
REQUIRED = ("name", "dataset", "model", "optimizer")
TRANSFORM_KEYS = ("train", "eval", "batch")
EXTENDS = "Another config, or a list of them, to inherit from; the file names are relative to this file."


def with_defaults(config: Mapping) -> dict:
    """Returns a config with all sections: missing ones get their default; other keys are kept."""
    defaults = {key: copy.deepcopy(section.default) for key, section in SECTIONS.items()}
    full = {key: default if config.get(key) is None else config[key] for key, default in defaults.items()}
    if isinstance(full["trainer"], dict):
        full["trainer"] = {**SECTIONS["trainer"].default, **full["trainer"]}
    return {**full, **{key: value for key, value in config.items() if key not in SECTIONS}}
