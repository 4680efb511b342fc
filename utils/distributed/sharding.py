"""Sharded tensors (FSDP2): making and reading them, and the import of torch.distributed.checkpoint."""
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as torch_dist

from utils.distributed.collectives import SLOWEST_DISK, Shared, world_size


class ShardedTraining(Protocol):
    """What `shard_model` needs of a trainer."""

    strategy: Any
    unwrapped_model: torch.nn.Module
    loss: Any
    ema: Any
    device: torch.device
    optimizers: Mapping

    def stepped(self, model: torch.nn.Module, name: str) -> torch.nn.Module: ...


def shard_model(trainer: ShardedTraining) -> None:
    """Shards the weights. Modules of different optimizers are sharded separately."""
    strategy, model, loss = trainer.strategy, trainer.unwrapped_model, trainer.loss
    strategy.validate(model, trainer.device)
    roots = {id(trainer.stepped(model, name)): name for name in trainer.optimizers}  # several may share one
    for name in roots.values() if world_size() > 1 else ():
        strategy.shard(root := trainer.stepped(model, name), trainer.device)
        if trainer.ema:
            strategy.shard(trainer.stepped(trainer.ema.model, name), trainer.device, averaged=True)
        if root is model and isinstance(loss, torch.nn.Module) and any(True for _ in loss.parameters()):
            strategy.shard(loss, trainer.device, computes=False)


def shard_modules(modules: Sequence[torch.nn.Module], device: torch.device, dtype: torch.dtype | None = None,
                  cpu_offload: bool = False, reshard_after_forward: bool = True) -> None:
    """Shards the parameters of `modules`: each process keeps its shard. Submodules come before their module.

    Parameters become DTensors of the same names. A module's `__call__` gathers them for the forward and
    backward pass and computes in `dtype`, if given. Gradients are averaged in fp32 and stay sharded.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    mesh = init_device_mesh(device.type, (world_size(),))
    precision = MixedPrecisionPolicy(dtype, torch.float32, torch.float32) if dtype else MixedPrecisionPolicy()
    for module in modules:
        fully_shard(module, mesh=mesh, reshard_after_forward=reshard_after_forward, mp_policy=precision,
                    offload_policy=CPUOffloadPolicy() if cpu_offload else OffloadPolicy())


def distribute_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Returns this process's shard of a full `tensor`, as a DTensor laid out as `like`. Sends nothing."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def background_group():
    """A second group, for a thread: two threads must not share a group. The first call is a collective."""
    if Shared.background is None:
        Shared.background = torch_dist.new_group(backend="gloo", timeout=SLOWEST_DISK)
    return Shared.background


def distributed_checkpoint():
    """The module torch.distributed.checkpoint, imported on first use."""
    import torch.distributed.checkpoint
    from torch.distributed.checkpoint import api, metadata, staging, storage  # noqa: F401 (sets attributes)

    return torch.distributed.checkpoint


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the full tensor of a tensor that may be sharded. A collective if it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def is_sharded(tensor) -> bool:
    """Whether it is a tensor that may be sharded over processes (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """This process's shard of a tensor; the tensor itself if it is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor
