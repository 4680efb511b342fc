"""How processes share the training of a model: whole copies whose gradients are averaged (ddp), or parts of it (fsdp)."""
from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from utils.errors import ConfigError
from utils.signature import PositiveFloat, Signature, nearest


class Gradients:
    """What backward leaves in the parameters of one optimizer; here that of a process alone.

    `shared`: whether it is averaged over processes, which then all have to go through every backward pass.
    """

    shared = False

    def backward(self, loss: torch.Tensor, final: bool, lost: bool | torch.Tensor, inputs: Sequence | None) -> None:
        """Adds the gradient of `loss`; with `final`, the last of a step, averages what has come together.

        `inputs`: the only leaves to get a gradient. `lost` says that this process's loss is not finite.
        """
        loss.backward(inputs=inputs)

    def any_lost(self) -> torch.Tensor | None:
        """After a final backward: above 0 if any process said `lost`; None where that is this process's own matter."""


class _Carrier(nn.Module):
    """Hands a loss on. The parameters it holds are those that the loss depends on: DDP averages their gradients.

    So the model itself stays as it is, and trainers may call it, or parts of it, in whatever way they like. `flag` rides
    along: its gradient is what was given as `lost`, averaged like all others, without a message of its own.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]):
        super().__init__()
        self.carried = nn.ParameterList(parameters)
        first = self.carried[0]
        self.flag = nn.Parameter(torch.zeros((), dtype=first.dtype, device=first.device))

    def forward(self, loss: torch.Tensor, lost: bool | torch.Tensor) -> torch.Tensor:
        return loss + self.flag * lost


class AveragedGradients(Gradients):
    """DistributedDataParallel's: averaged in buckets, while backward is still under way; none in inner micro-batches."""

    shared = True

    def __init__(self, parameters: Iterable[nn.Parameter], **options):
        self.ddp = DistributedDataParallel(_Carrier(parameters), **options)

    def backward(self, loss, final, lost, inputs) -> None:
        flag = self.ddp.module.flag
        try:
            with nullcontext() if final else self.ddp.no_sync():
                self.ddp(loss, lost).backward(inputs=[*inputs, flag] if inputs else None)
        except RuntimeError as error:
            if "find_unused_parameters" not in str(error):
                raise
            raise ConfigError("the step before left some parameters unused, others do not: processes have to be told. Set "
                              "trainer.args.strategy={type: ddp, args: {find_unused_parameters: true}}") from error

    def any_lost(self) -> torch.Tensor:
        flag = self.ddp.module.flag
        found, flag.grad = flag.grad.clone(), None
        return found


class DataParallel:
    """Every process holds the whole model (torch's DistributedDataParallel); the options are DDP's, with its meanings.

    Args:
        bucket_cap_mb: gradients are averaged in buckets of this size.
        gradient_as_bucket_view: whether gradients live in the buckets, which saves a copy of them.
        static_graph: promises that every step uses the same parameters in the same way.
        find_unused_parameters: whether steps may leave parameters unused; null finds out before the first step.
    """

    def __init__(self, *, bucket_cap_mb: PositiveFloat = 25, gradient_as_bucket_view: bool = True,
                 static_graph: bool = False, find_unused_parameters: bool | None = None):
        self.options = {"bucket_cap_mb": bucket_cap_mb, "gradient_as_bucket_view": gradient_as_bucket_view,
                        "static_graph": static_graph}
        self.find_unused_parameters = find_unused_parameters

    def __str__(self):
        return "ddp"

    def gradients(self, parameters: Sequence[nn.Parameter], unused: bool) -> Gradients:
        """What averages the gradients of an optimizer's `parameters`; `unused` tells that a step left some without one."""
        find = unused if self.find_unused_parameters is None else self.find_unused_parameters
        return AveragedGradients(parameters, find_unused_parameters=find, **self.options)


STRATEGIES = {"ddp": DataParallel}


def parse_strategy(block: str | dict):
    """`ddp`, or `{type: fsdp, args: {...}}`, as a strategy. Raises ValueError for anything else."""
    block = {"type": block} if isinstance(block, str) else block
    if unknown := block.keys() - {"type", "args"}:
        raise ValueError(f"'{min(unknown)}' has no place here. Write ddp, fsdp or {{type: ddp, args: {{...}}}}")
    name, args = block.get("type"), block.get("args") or {}
    if name not in STRATEGIES:
        raise ValueError(f"there is no strategy '{name}'.{nearest(name, STRATEGIES)} There are: {', '.join(STRATEGIES)}")
    for _, fault in Signature(STRATEGIES[name]).faults(args):
        raise ValueError(fault)
    return STRATEGIES[name](**args)
