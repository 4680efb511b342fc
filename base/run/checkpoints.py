"""Checkpoints by the path of a file, a run or an experiment, and the weights in them."""
import logging
from pathlib import Path
from typing import NamedTuple

import torch

from base.config.complete_config import complete_config
from utils.checkpoint import format_1
from utils.checkpoint.loading import is_valid_checkpoint, load_checkpoint

from utils.config.syntax import DEFAULT_VALUES
from utils.errors import ConfigError
from utils.run_files import file_stamp
from utils.run_folder import find_checkpoints, run_of

log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """A loaded checkpoint: its file, complete config and state; `stamp` tells when the file was replaced."""

    file: Path
    config: dict
    state: dict
    stamp: str | None = None


def open_checkpoint(path: Path, prefer: tuple[str, ...], whole: bool = True) -> Checkpoint:
    """The checkpoint of a file, run or experiment. In a run, damaged ones are logged and skipped.

    `whole`: see `load_checkpoint`. Raises ConfigError if there is no valid one, or if the file itself is
    damaged.
    """
    for file in find_checkpoints(path, prefer):
        try:
            stamp = file_stamp(file)
            content = load_checkpoint(file, whole)
            config = content["config"]
            if DEFAULT_VALUES not in config:  # of version 1.0.0
                config = complete_config(config, former=format_1.DEFAULTS).complete
            return Checkpoint(file, config, content["state"], stamp)
        except ConfigError as error:
            if path.is_file():
                other = newest_valid_checkpoint(file)
                raise ConfigError(f"{error}{f'. Beside it {other} is sound.' if other else ''}") from error
            log.warning("%s. Looking for an older one.", error)
    raise ConfigError(f"{path}: holds no checkpoint that is sound")


def newest_valid_checkpoint(damaged: Path) -> Path | None:
    """The newest valid checkpoint in the same run."""
    others = find_checkpoints(damaged.parent, ("last.pt",)) if run_of(damaged) else ()
    return next(filter(is_valid_checkpoint, others), None)


def evaluated_weights(state: dict) -> dict[str, torch.Tensor]:
    """The averaged weights of a state if there are any, else its weights."""
    return state["ema"]["model"] if "ema" in state else state["model"]
