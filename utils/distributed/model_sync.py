"""What several processes share of a model: the shards of its weights, and its buffers."""
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from utils.distributed import collectives as dist


class ShardedTraining(Protocol):
    """What `shard_model` needs of a trainer."""

    strategy: Any
    unwrapped_model: nn.Module
    loss: Any
    ema: Any
    device: torch.device
    optimizers: Mapping

    def stepped(self, model: nn.Module, name: str) -> nn.Module: ...


def shard_model(trainer: ShardedTraining) -> None:
    """Shards the weights. Modules of different optimizers are sharded separately."""
    strategy, model, loss = trainer.strategy, trainer.unwrapped_model, trainer.loss
    strategy.validate(model, trainer.device)
    roots = {id(trainer.stepped(model, name)): name for name in trainer.optimizers}  # several may share one
    for name in roots.values() if dist.world_size() > 1 else ():
        strategy.shard(root := trainer.stepped(model, name), trainer.device)
        if trainer.ema:
            strategy.shard(trainer.stepped(trainer.ema.model, name), trainer.device, averaged=True)
        if root is model and isinstance(loss, nn.Module) and any(True for _ in loss.parameters()):
            strategy.shard(loss, trainer.device, computes=False)


def broadcast_buffers(modules: Sequence[Any]) -> None:
    """Copies the main process's buffers, such as BatchNorm's statistics, to all: a checkpoint holds them.

    `modules` may hold other things, such as a loss that is a function.
    """
    modules = [module for module in modules if isinstance(module, nn.Module)]
    dist.broadcast_([buffer for module in modules for buffer in module.buffers()])
