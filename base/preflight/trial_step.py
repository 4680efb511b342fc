"""A first step of each optimizer and schedule, on the gradients of the preflight, which undoes it."""
from collections.abc import Mapping

import torch

from base.build import optimizer_path
from utils.distributed.sharding import is_sharded
from utils.errors import ConfigError, describe_error
from utils.torch_messages import is_out_of_memory
from utils.training.updater import Updater


def try_steps(updaters: Mapping[str, Updater]) -> None:
    """Steps each optimizer that has gradients once, then each schedule; the preflight puts all of it back.

    Sharded weights (strategy fsdp) are not stepped, nor those for which the device lacks memory. Raises
    ConfigError for a step that fails.
    """
    for name, updater in updaters.items():
        stepped = [parameter for parameter in updater.parameters if parameter.grad is not None]
        try:
            if stepped and not any(map(is_sharded, stepped)):
                updater.try_step()
        except Exception as error:
            if is_out_of_memory(error):
                continue
            message = f"its first step was tried before the run, and failed: {describe_error(error)}"
            raise ConfigError.at(optimizer_path(name), message + _hint(updater)) from error
    for updater in updaters.values():
        updater.schedule.step()
        updater.schedule.epoch(0.0)


def _hint(updater: Updater) -> str:
    sparse = [str(name) for name, parameter in zip(updater.names, updater.parameters, strict=True)
              if parameter.grad is not None and parameter.grad.is_sparse]
    if not sparse:
        dense = isinstance(updater.optimizer, torch.optim.SparseAdam)
        return "\nSparseAdam is for layers with sparse: true; Adam steps the others." * dense
    return (f"\nThe gradients of {', '.join(sparse)} are sparse. Set sparse: false in the layer, or "
            "give these weights an optimizer of their own with 'match': SparseAdam or SGD.")
