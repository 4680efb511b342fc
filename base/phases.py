"""Parameter groups that are frozen for the first epochs: `groups: [{match: ..., frozen: {until_epoch: 3}}]`.

The preflight, and tools that try a step, train all: that needs most memory, and shows what is unused.
"""
import logging
from collections.abc import Iterator, Mapping

import torch

from utils.errors import ConfigError
from utils.training.updater import Updater

log = logging.getLogger(__name__)


def begin_phase(updaters: Mapping[str, Updater], epoch: int) -> None:
    """Freezes the groups whose phase has not come after `epoch` whole epochs, and unfreezes the others."""
    for until, parameters in _phased_groups(updaters):
        trained = epoch >= until
        if any(parameter.requires_grad != trained for parameter in parameters):
            log.info("Epoch %d: %s %s", epoch + 1, _count(parameters),
                     "are trained from here on" if trained else f"are frozen until the end of epoch {until}")
        for parameter in parameters:
            parameter.requires_grad_(trained)


def require_first_phase(updaters: Mapping[str, Updater]) -> None:
    """Raises ConfigError if all that is trained is frozen in the first epoch."""
    trained = [parameter for updater in updaters.values() for group in updater.optimizer.param_groups
               for parameter in group["params"] if parameter.requires_grad and "frozen_until" not in group]
    if not trained:
        raise ConfigError.at("optimizer", "there are no parameters to train in the first epoch")


def describe_phases(updaters: Mapping[str, Updater]) -> list[str]:
    """A line for each group that is frozen for some epochs."""
    return [f"frozen until the end of epoch {until}: {_count(parameters)}"
            for until, parameters in _phased_groups(updaters)]


def _phased_groups(updaters: Mapping[str, Updater]) -> Iterator[tuple[int, list[torch.nn.Parameter]]]:
    for updater in updaters.values():
        yield from ((group["frozen_until"], group["params"]) for group in updater.optimizer.param_groups
                    if "frozen_until" in group)


def _count(parameters: list[torch.nn.Parameter]) -> str:
    return f"{sum(parameter.numel() for parameter in parameters):,} parameters ({len(parameters)} tensors)"
