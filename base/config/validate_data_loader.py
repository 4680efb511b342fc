"""Faults of a config's data_loader section: its options, its sampler, its folds."""
from collections.abc import Iterator

import torch.utils.data

from base.base_data_loader import PROVIDED, DataSplits
from base.registries import SAMPLERS
from utils.config.blocks import as_block
from utils.config.signature import Signature
from utils.errors import Fault, WrongValue


def data_loader_faults(options) -> Iterator[Fault]:
    """What is wrong with the options of data_loader. Builds nothing."""
    if not isinstance(options, dict):
        yield WrongValue(("data_loader",), f"a table of options is needed; this is {options!r}")
        return
    signature, path = Signature(DataSplits, PROVIDED, name="data_loader"), ("data_loader", "sampler")
    yield from (fault.below(path[:1]) for fault in signature.faults(options))
    yield from _fold_faults(options)
    if (sampler := options.get("sampler")) is None:
        return
    name = as_block(sampler).get("type")
    if name not in SAMPLERS.names() and hasattr(torch.utils.data, str(name)):
        yield WrongValue((*path, "type"),
                         f"{name} is torch's. Write {{type: Weighted, args: {{weights: NAME}}}}, or shuffle: "
                         "true or false. Batches are made by batch_size and drop_last; validation_split or "
                         "folds say what trains; processes share every batch as it is.")
    else:
        yield from SAMPLERS.faults(sampler, path)
    if options.get("shuffle") is False:
        yield Fault(("data_loader", "shuffle"), "has no effect beside a sampler, which chooses the order. "
                                                "Leave it out.")


def _fold_faults(options: dict) -> Iterator[Fault]:
    """Faults of k-fold cross-validation."""
    folds, fold = options.get("folds"), options.get("fold", 0)
    if folds is None:
        yield from (Fault(("data_loader", key), "has no effect without folds. Set folds: 5, say.")
                    for key in ("fold", "stratify", "group_by") if options.get(key))
    elif options.get("validation_split") is not None:
        yield Fault(("data_loader", "validation_split"),
                    "the folds tell which samples validate. Leave one of validation_split and folds out.")
    elif type(folds) is type(fold) is int and fold >= folds:
        yield WrongValue(("data_loader", "fold"),
                         f"{fold} is none of {folds} folds, which are 0 to {folds - 1}")
