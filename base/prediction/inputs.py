"""What the class of a dataset reads from a file that belongs to none, and inputs as a batch."""
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from base.data.views import SampleTransforms, read_ahead
from base.registries import DATASETS
from utils.config.blocks import args_of, as_block, dataset_blocks
from utils.config.signature import Signature
from utils.errors import ConfigError, describe_error

log = logging.getLogger(__name__)


def as_batch(samples: Sequence[Any], section: Any) -> Any:
    """Samples as a batch: those in mappings, tuples or lists by the `collate_fn` of the class of a dataset.

    `section`: the config's dataset, which is not built. Other inputs are stacked: `(inputs, None)`. Samples
    may lack the targets that a `collate_fn` needs: if it fails, they are stacked, too, with a warning.
    Raises ConfigError if they cannot be.
    """
    name, collate = _collate_of(section) if isinstance(samples[0], (Mapping, tuple, list)) else ("", None)
    failed = ""
    if collate:
        try:
            data = collate(samples)
            return (data, None) if isinstance(data, torch.Tensor) else data
        except Exception as error:  # of any plug-in
            failed = (f"{name}.collate_fn failed: {describe_error(error)}. It gets samples that may lack "
                      "targets, and no dataset is built: it should be a static method")
    try:
        data = default_collate(samples)
    except (RuntimeError, TypeError) as error:
        if failed:
            raise ConfigError.at("dataset", f"{failed}.") from error
        raise
    if failed:
        log.warning("dataset: %s. The samples are stacked as they are.", failed)
    return data if isinstance(data, Mapping) else (data, None)


def is_batch(value: Any) -> bool:
    """Whether a mapping is a collated batch: tensors or arrays `[B, ...]`, not all of one dimension."""
    shapes = [np.shape(item) for item in value.values()]
    return (all(isinstance(item, (torch.Tensor, np.ndarray)) for item in value.values())
            and max(map(len, shapes), default=0) > 1 and len({shape[:1] for shape in shapes}) == 1)


def _collate_of(section: Any) -> tuple[str, Callable[[Sequence[Any]], Any] | None]:
    """The name of the class of a dataset that has a `collate_fn`, and this function."""
    for block in _blocks(section):
        kind = DATASETS.get(block["type"])
        if collate := getattr(kind, "collate_fn", None):
            if isinstance(kind, type) and inspect.isfunction(inspect.getattr_static(kind, "collate_fn")):
                collate = partial(collate, object.__new__(kind))  # a method, which seldom needs its object
            return block["type"], collate
    return "", None


def _blocks(section: Any) -> list[dict]:
    """The blocks of the datasets that a config names for test, val and train, in this order."""
    blocks = dataset_blocks(section)
    return [as_block(blocks[path]) for split in ("test", "val", "train") for path in blocks
            if path[1:2] in ((), (split,))]


def input_reader(section: Any, transforms: list[Callable]) -> Callable[[Path], Any]:
    """Reads a file as the dataset that a config names for test, val or train does, and transforms its input.

    It uses the `read_input` of the dataset's class, with the arguments in its block: a function of a path and
    of these, or a class whose objects are called with a path and made with the arguments. Raises ConfigError
    if none has it.
    """
    for block in (blocks := _blocks(section)):
        if read := getattr(DATASETS.get(block["type"]), "read_input", None):
            known = Signature(read).parameters
            args = {name: value for name, value in args_of(block).items() if name in known}
            source = read(**args) if isinstance(read, type) else partial(read, **args)
            return partial(_read, *read_ahead(source, SampleTransforms(transforms, joint=False)))
    names = ", ".join(dict.fromkeys(block["type"] for block in blocks))
    raise ConfigError.at("dataset", f"{names} has no read_input, so it cannot read files. Give it a static "
                         "method read_input(path, **args) that returns the input of one sample, or predict "
                         "for a split: --split test dataset.args.root=FOLDER")


def _read(read: Callable[[Path], Any], transforms: SampleTransforms, path: Path) -> Any:
    return transforms(read(path))
