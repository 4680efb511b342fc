"""Tensors that are sharded over processes (FSDP2): making them, reading them, and torch.distributed.checkpoint."""
from collections.abc import Sequence

import torch
import torch.distributed as torch_dist

from utils.distributed.collectives import SLOWEST_DISK, Shared, world_size


def shard_modules(modules: Sequence[torch.nn.Module], device: torch.device, dtype: torch.dtype | None = None,
                  cpu_offload: bool = False, reshard_after_forward: bool = True) -> None:
    """Leaves each process its part of the parameters of `modules`, a module and, before it, submodules of its.

    Parameters become DTensors of the same names. A module's are gathered for its forward and backward pass, by its
    `__call__`, and computed with in `dtype`, if one is given; gradients are averaged in fp32 and stay in parts.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    mesh = init_device_mesh(device.type, (world_size(),))
    precision = MixedPrecisionPolicy(dtype, torch.float32, torch.float32) if dtype else MixedPrecisionPolicy()
    for module in modules:
        fully_shard(module, mesh=mesh, reshard_after_forward=reshard_after_forward, mp_policy=precision,
                    offload_policy=CPUOffloadPolicy() if cpu_offload else OffloadPolicy())


def distribute_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a `tensor` that every process has whole, as a DTensor laid out as `like`. Sends nothing."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def background_group():
    """A second group, for a thread: collectives of two threads in one group would get mixed up. The first call is one."""
    if Shared.background is None:
        Shared.background = torch_dist.new_group(backend="gloo", timeout=SLOWEST_DISK)
    return Shared.background


def distributed_checkpoint():
    """The module torch.distributed.checkpoint, imported where somebody asks for it."""
    import torch.distributed.checkpoint
    from torch.distributed.checkpoint import api, metadata, staging, storage  # noqa: F401 (attributes of the module from here on)

    return torch.distributed.checkpoint


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which every process may hold a part. A collective where they do."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def is_sharded(tensor) -> bool:
    """Whether it is a tensor of which every process may hold a part (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process holds; all of it where it is not in parts."""
    return tensor.to_local() if is_sharded(tensor) else tensor
