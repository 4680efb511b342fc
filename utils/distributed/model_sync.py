"""What several processes share of a model: its weights or their shards, its gradients, its buffers."""
from torch import nn

from utils.distributed import collectives as dist


def shard_model(trainer) -> None:
    """Shards the weights, if the strategy does so. Modules of different optimizers are sharded separately."""
    strategy, model, loss = trainer.strategy, trainer.unwrapped_model, trainer.loss
    if not strategy.shards:
        return
    strategy.validate(model, trainer.device)
    for name in trainer.optimizers if dist.world_size() > 1 else ():
        strategy.shard(trainer.stepped(model, name), trainer.device)
        if trainer.ema:
            strategy.shard(trainer.stepped(trainer.ema.model, name), trainer.device, averaged=True)
        if name == "optimizer" and isinstance(loss, nn.Module) and any(True for _ in loss.parameters()):
            strategy.shard(loss, trainer.device, computes=False)


def average_gradients(trainer) -> None:
    """Averages gradients over processes. If they hold full models, call it after a first backward pass."""
    for updater in trainer.updaters.values() if dist.world_size() > 1 else ():
        trained = [parameter for parameter in updater.parameters if parameter.requires_grad]
        unused, = dist.agree(any(parameter.grad is None for parameter in trained))
        updater.gradients = trainer.strategy.gradients(updater.parameters, bool(unused))
        trainer.guard.shared = True


def broadcast_buffers(trainer) -> None:
    """Copies the main process's buffers, such as BatchNorm's statistics, to all: a checkpoint holds them."""
    if dist.world_size() > 1:
        modules = [trainer.model, trainer.loss] if isinstance(trainer.loss, nn.Module) else [trainer.model]
        dist.broadcast_([buffer for module in modules for buffer in module.buffers()])
