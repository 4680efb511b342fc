"""What the class of a dataset reads from a file that belongs to none, and inputs as a batch."""
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import default_collate

from base.data.views import SampleTransforms, read_ahead
from base.registries import DATASETS
from utils.config.blocks import args_of, as_block, dataset_blocks
from utils.config.signature import Signature
from utils.errors import ConfigError


def as_batch(inputs: Sequence[Any]) -> Any:
    """Inputs as a batch without targets: `(inputs, None)`, or a dict of them."""
    data = default_collate(inputs)
    return data if isinstance(data, Mapping) else (data, None)


def input_reader(section: Any, transforms: list[Callable]) -> Callable[[Path], Any]:
    """Reads a file as the dataset that a config names for test, val or train does, and transforms its input.

    It uses the `read_input` of the dataset's class, with the arguments in its block: a function of a path and
    of these, or a class whose objects are called with a path and made with the arguments. Raises ConfigError
    if none has it.
    """
    blocks = dataset_blocks(section)
    paths = [path for split in ("test", "val", "train") for path in blocks if path[1:2] in ((), (split,))]
    for block in (as_block(blocks[path]) for path in paths):
        if read := getattr(DATASETS.get(block["type"]), "read_input", None):
            known = Signature(read).parameters
            args = {name: value for name, value in args_of(block).items() if name in known}
            source = read(**args) if isinstance(read, type) else partial(read, **args)
            return partial(_read, *read_ahead(source, SampleTransforms(transforms, joint=False)))
    names = ", ".join(dict.fromkeys(as_block(blocks[path])["type"] for path in paths))
    raise ConfigError.at("dataset", f"{names} has no read_input, so it cannot read files. Give it a static "
                         "method read_input(path, **args) that returns the input of one sample, or predict "
                         "for a split: --split test dataset.args.root=FOLDER")


def _read(read: Callable[[Path], Any], transforms: SampleTransforms, path: Path) -> Any:
    return transforms(read(path))
