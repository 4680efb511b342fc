"""A first step of each optimizer before the run, on the gradients of the preflight, which is then undone."""
import os
from collections.abc import Mapping

import torch

from base.build import optimizer_path
from base.preflight.attributes import AttributeSnapshot
from utils.distributed.sharding import is_sharded
from utils.errors import ConfigError, describe_error
from utils.torch_messages import is_out_of_memory
from utils.training.updater import Updater

# What a trial takes, in sizes of the weights: a copy, the two moments of Adam, what the step computes.
_ROOM = 4


def try_steps(updaters: Mapping[str, Updater]) -> None:
    """Steps each optimizer that has gradients once, and puts weights and optimizers back.

    There is no trial of sharded weights (strategy fsdp), nor where four times the size of an optimizer's
    weights is not free on the device: it must not be the trial that needs the most memory. Raises ConfigError
    for a step that fails.
    """
    for name, updater in updaters.items():
        stepped = [parameter for parameter in updater.parameters if parameter.grad is not None]
        size = sum(parameter.nbytes for parameter in updater.parameters)
        if not stepped or any(map(is_sharded, stepped)) or _ROOM * size > _free_memory(stepped[0].device):
            continue
        try:
            _try_step(updater)
        except Exception as error:
            if is_out_of_memory(error):
                continue
            message = f"its first step was tried before the run, and failed: {describe_error(error)}"
            raise ConfigError.at(optimizer_path(name), message + _hint(updater)) from error


def _try_step(updater: Updater) -> None:
    weights = [(parameter, parameter.detach().clone()) for parameter in updater.parameters]
    optimizer = AttributeSnapshot(updater.optimizer)
    try:
        updater.try_step()
    finally:
        optimizer.restore()
        for parameter, before in weights:
            parameter.detach().copy_(before)


def _hint(updater: Updater) -> str:
    sparse = [str(name) for name, parameter in zip(updater.names, updater.parameters, strict=True)
              if parameter.grad is not None and parameter.grad.is_sparse]
    if not sparse:
        dense = isinstance(updater.optimizer, torch.optim.SparseAdam)
        return "\nSparseAdam is for layers with sparse: true; Adam steps the others." * dense
    return (f"\nThe gradients of {', '.join(sparse)} are sparse. Set sparse: false in the layer, or "
            "give these weights an optimizer of their own with 'match': SparseAdam or SGD.")


def _free_memory(device: torch.device) -> int:
    """Bytes that tensors on a device may still take; on others than CUDA, those of the machine."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    known = "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {})  # not on macOS and Windows
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 2**34
