"""Faults of the section `dataset`: a block for all splits, or one for each split or evaluation set."""
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress

from base.build import open_split_arguments, split_device_argument
from base.registries import DATASETS
from utils.config.blocks import SPLITS, args_of, as_block, dataset_blocks, holds_blocks
from utils.config.signature import UnknownKey
from utils.device import device_fault
from utils.errors import ConfigError, Fault, WrongValue

_RESERVED = (*SPLITS, "all")  # words of `test.py --split`


def dataset_faults(section, transforms, data_loader) -> Iterator[Fault]:
    """What is wrong with the section `dataset`, by itself and with the other two."""
    by_split, blocks = holds_blocks(("dataset",), section), dataset_blocks(section)
    if by_split:
        yield from _split_faults(section, blocks, data_loader)
    for path, block in blocks.items():
        if by_split and path[1] not in SPLITS:
            continue
        faults = [*_name_faults(path), *_misplaced_arguments(path, block)]
        yield from faults or _block_faults(path, block, transforms)


def _split_faults(section: Mapping, blocks: Mapping[tuple, object], data_loader) -> Iterator[Fault]:
    yield from (UnknownKey.of(("dataset", key), f"there is no split {key!r}.", SPLITS,
                              f"Splits: {', '.join(SPLITS)}.") for key in section if key not in SPLITS)
    if section.get("train") is None:
        yield Fault(("dataset", "train"), "is missing: what to train on.")
    options = data_loader if isinstance(data_loader, dict) else {}
    held_out = [key for key in ("validation_split", "folds") if options.get(key)]
    if held_out and any(path[:2] == ("dataset", "val") for path in blocks):
        yield Fault(("data_loader", held_out[0]),
                    "would take val from train, and dataset.val is there. Set it to null, or leave "
                    "dataset.val out.")


def _name_faults(path: tuple) -> Iterator[Fault]:
    """The fault of the name of an evaluation set, which names values in the logs."""
    if len(path) == 3 and (path[2] in _RESERVED or not re.fullmatch(r"\w[\w+=-]*", path[2])):
        yield Fault(path, f"{path[2]!r} is no name for a set: letters, digits and _ + = - only, and none of "
                          f"{', '.join(_RESERVED)}.")


def _misplaced_arguments(path: tuple, block) -> Iterator[Fault]:
    """Faults of arguments for several datasets at once: `dataset.args.root` beside `dataset.train`."""
    if not isinstance(block, dict) or "type" in block or "args" not in block:
        return
    names = [key for key in block if isinstance(block[key], (dict, str)) and (
        key in SPLITS if path == ("dataset",) else key != "args")]
    if names and len(path) < 3 and path != ("dataset", "train"):
        yield Fault((*path, "args"), f"{', '.join(names)} have arguments of their own. Write "
                                     f"{'.'.join((*path, names[0], 'args'))}.")


def _block_faults(path: tuple, block, transforms) -> Iterator[Fault]:
    kept, args = None, args_of(block)
    if "device" in args and isinstance(block.get("type"), str):
        with suppress(ConfigError):  # unknown type; reported below
            block, kept = split_device_argument(block)
    if kept is not None and (wrong := device_fault(kept)):
        yield WrongValue((*path, "args", "device"), wrong)
    elif kept and isinstance(transforms, dict) and (transforms.get("train") or transforms.get("eval")):
        yield Fault((*path, "args", "device"),
                    "what is kept on a device is not transformed sample by sample. Move transforms.train and "
                    "transforms.eval to transforms.batch, or leave it out.")
    faults = DATASETS.faults(block, path, provided={"split", "train"} - args.keys())
    yield from faults
    if not faults and path == ("dataset",) and not open_split_arguments(block):
        yield _fixed_split(block)


def _fixed_split(block) -> Fault:
    """The fault of a block for all splits that gives the same one each time."""
    path, what = ("dataset",), (f"{as_block(block)['type']} is not told which split to give: it has no "
                                "argument 'split' or 'train' left open. Write")
    if given := [key for key in ("split", "train") if key in args_of(block)]:
        path = ("dataset", "args", given[0])
        what = f"the program passes '{given[0]}' itself, for every split. Leave it out, or write"
    return Fault(path, f"{what} a block for each split: dataset: {{train: BLOCK, val: BLOCK}}.")
