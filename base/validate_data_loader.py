"""Faults of a config's data_loader section: its options, its sampler, its folds."""
from collections.abc import Iterator

from base.base_data_loader import PROVIDED, DataSplits
from base.registries import SAMPLERS
from utils.config.blocks import as_block
from utils.config.signature import Signature
from utils.errors import Fault, WrongValue

# What takes the place of torch's samplers.
_OF_TORCH = {
    "WeightedRandomSampler": "Write {type: Weighted, args: {weights: NAME}}, or class_weights: a list.",
    "RandomSampler": "That is shuffle: true. Leave it out.",
    "SequentialSampler": "That is shuffle: false.",
    "SubsetRandomSampler": "Which samples train is validation_split, folds, or the dataset's own affair.",
    "BatchSampler": "Batches are made by batch_size and drop_last. Leave it out.",
    "DistributedSampler": "Processes share every batch as it is. Leave it out.",
}


def data_loader_faults(options) -> Iterator[Fault]:
    """What is wrong with the options of data_loader. Builds nothing."""
    if not isinstance(options, dict):
        yield WrongValue(("data_loader",), f"a table of options is needed; this is {options!r}")
        return
    signature, path = Signature(DataSplits, PROVIDED, name="data_loader"), ("data_loader", "sampler")
    yield from (fault.below(("data_loader",)) for fault in signature.faults(options))
    if (sampler := options.get("sampler")) is None:
        return
    name = as_block(sampler).get("type")
    if name in _OF_TORCH and name not in SAMPLERS.names():
        yield WrongValue((*path, "type"), f"{name} is torch's. {_OF_TORCH[name]}")
    else:
        yield from SAMPLERS.faults(sampler, path)
    if options.get("shuffle") is False:
        yield Fault(("data_loader", "shuffle"), "has no effect beside a sampler, which chooses the order. "
                                                "Leave it out.")
