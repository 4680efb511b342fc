"""Whether a run has the data that it had before, and the processes have the same: by their fingerprints."""
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from base.base_data_loader import DataSplits
from base.data.fingerprint import Fingerprint, content_change, kept_fingerprint, shape_change
from utils.distributed import collectives as dist
from utils.errors import ConfigError

log = logging.getLogger(__name__)


def require_kept_data(data: DataSplits, state: Mapping[str, Any], file: Path) -> None:
    """Raises ConfigError if train or val have other sizes or classes than when `file` was written.

    Samples of another content are a warning. A checkpoint without fingerprint is compared with nothing.
    """
    for split in ("train", *data.sets("val")):
        before, now = kept_fingerprint(state, split), data.fingerprint.of(split)
        if before is None or now is None:
            continue
        if change := shape_change(before, now):
            raise ConfigError.at("dataset", f"the data changed under the run: its {split} split had "
                                 f"{change}. With other data it would mix up training and validation. "
                                 "Resume with the data as it was, or begin a new run from these weights: "
                                 f"python train.py -c CONFIG --init-from {file}")
        if change := content_change(before, now):
            log.warning("dataset: the data changed under the run: its %s split has %s", split, change)


def require_same_data_everywhere(data: DataSplits) -> None:
    """Raises ConfigError naming a process whose data is not the main process's. A collective."""
    if dist.world_size() == 1:
        return
    trained = ("train", *data.evaluation_sets.get("val", ["val"]))  # a process may lack one
    gathered = dist.all_gather_object([data.fingerprint.of(split) for split in trained])
    for number, others in enumerate(gathered):
        for split, first, other in zip(trained, gathered[0], others, strict=True):
            if change := _difference(first, other):
                raise ConfigError.at("dataset", f"process {number} has other data than process 0, whose "
                                     f"{split} split has {change.replace('now', f'in process {number}')}. "
                                     "All processes need the same samples in the same order.")


def _difference(first: Fingerprint | None, other: Fingerprint | None) -> str | None:
    if first is None or other is None:
        return None if first is other else "samples in one of them only"
    return shape_change(first, other) or content_change(other, first)


def report_scored_data(data: DataSplits, state: Mapping[str, Any], split: str) -> None:
    """Logs a warning if the split that is scored is not as it was in training.

    The test split is not known from training: its classes are compared with those of train.
    """
    is_test = split.partition("/")[0] == "test"
    before, now = kept_fingerprint(state, "train" if is_test else split), data.fingerprint.of(split)
    if before is None or now is None:
        return
    if is_test:
        before = Fingerprint(None, before.classes)
    if change := shape_change(before, now) or content_change(before, now):
        log.warning("dataset: the data is not that of the training: the %s split had %s", split, change)
