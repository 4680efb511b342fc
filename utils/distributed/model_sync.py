"""What several processes have in common of a model: its weights or their parts, its gradients, its buffers."""
from torch import nn

from utils.distributed import collectives as dist


def shard_model(trainer) -> None:
    """Leaves each process its part of the weights, if the strategy says so; what an optimizer steps is a whole by itself."""
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
    """Makes gradients their mean over processes; where processes hold whole models, call it after a first backward pass."""
    for updater in trainer.updaters.values() if dist.world_size() > 1 else ():
        trained = [parameter for parameter in updater.parameters if parameter.requires_grad]
        unused, = dist.agree(any(parameter.grad is None for parameter in trained))
        updater.gradients = trainer.strategy.gradients(updater.parameters, bool(unused))
        trainer.guard.shared = True


def broadcast_buffers(trainer) -> None:
    """Gives all processes the buffers of the main one, such as BatchNorm's statistics: those that a checkpoint holds."""
    if dist.world_size() > 1:
        modules = [trainer.model, trainer.loss] if isinstance(trainer.loss, nn.Module) else [trainer.model]
        dist.broadcast_([buffer for module in modules for buffer in module.buffers()])
