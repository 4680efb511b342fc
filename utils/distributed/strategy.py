"""How processes share training: full models with averaged gradients (ddp), or sharded models (fsdp)."""
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from utils.config.annotations import PositiveFloat, PositiveInt
from utils.config.signature import Signature
from utils.config.suggestions import suggest_name
from utils.distributed import collectives as dist
from utils.distributed.sharding import shard_modules
from utils.errors import ConfigError
from utils.torch_messages import is_unused_parameters


class SharedGradients:
    """The gradients of one optimizer's parameters, averaged over processes.

    All processes run every backward pass, also one whose loss is not finite.
    """

    def connect(self) -> None:
        """Begins to average. All processes call it after a backward pass of each alone (the preflight's)."""

    def backward(self, loss: torch.Tensor, final: bool, non_finite: bool | torch.Tensor,
                 inputs: Sequence | None, beside: Sequence["SharedGradients"] = ()) -> None:
        """Adds the gradient of `loss`; with `final`, the last of a step, averages the accumulated gradient.

        `inputs`: the only leaves that get a gradient. `non_finite`: this process's loss is not finite.
        `beside`: the gradients of other optimizers that step on the same loss.
        """
        raise NotImplementedError

    def any_skipped(self) -> torch.Tensor | None:
        """After a final backward: above 0 if any process's loss was `non_finite`; None before `connect`."""
        raise NotImplementedError


class _LossCarrier(nn.Module):
    """Returns the loss unchanged. It holds the parameters of the loss, so that DDP averages their gradients.

    So the model itself stays unwrapped, and trainers may call it, or parts of it, as they like. `flag` is
    averaged with them: its gradient is the value of `non_finite`, and needs no message of its own.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], device: torch.device):
        super().__init__()
        self.carried = nn.ParameterList(parameters)  # empty where all of an optimizer's are frozen
        self.flag = nn.Parameter(torch.zeros((), device=device))

    def forward(self, loss: torch.Tensor, non_finite: bool | torch.Tensor) -> torch.Tensor:
        return loss + self.flag * non_finite


UNUSED = ("this step leaves some parameters unused, others do not: processes have to be told. "
          "Set trainer.args.strategy={type: ddp, args: {find_unused_parameters: true}}")


class AveragedGradients(SharedGradients):
    """Gradients averaged by DistributedDataParallel in buckets during backward; not in inner micro-batches.

    Parameters may be frozen or unfrozen during training. `find_unused_parameters`: None if the backward pass
    before `connect` shows whether steps leave parameters unused.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], find_unused_parameters: bool | None, **options):
        self.parameters, self.find_unused, self.options = list(parameters), find_unused_parameters, options
        self.ddp: DistributedDataParallel | None = None

    def connect(self) -> None:
        if any(parameter.grad is not None and parameter.grad.is_sparse for parameter in self.parameters):
            raise ConfigError.at("model", "its gradients are sparse, which only one process can use. Set "
                                          "sparse: false in its Embedding, or train with one process.")
        trained = [parameter.requires_grad for parameter in self.parameters]
        unused, = dist.agree(any(parameter.requires_grad and parameter.grad is None
                                 for parameter in self.parameters))
        self.find_unused = bool(unused) if self.find_unused is None else self.find_unused
        self._connect(trained, init_sync=True)

    def _connect(self, trained: list[bool], init_sync: bool) -> None:
        self.trained, self.ddp = trained, None  # frees the previous one first
        carried = [parameter for parameter, is_trained in zip(self.parameters, trained, strict=True)
                   if is_trained]
        carrier = _LossCarrier(carried, self.parameters[0].device)
        self.ddp = DistributedDataParallel(carrier, find_unused_parameters=self.find_unused,
                                           init_sync=init_sync, **self.options)

    def backward(self, loss, final, non_finite, inputs, beside=()) -> None:
        if self.ddp is None:
            return loss.backward(inputs=inputs)
        every = (self, *beside)
        for each in every:
            if (trained := [parameter.requires_grad for parameter in each.parameters]) != each.trained:
                each._connect(trained, init_sync=False)  # weights are equal; this step's graph refers to them
        self._backward(loss, final, non_finite, inputs, [each.ddp for each in every])
        if final and any(parameter.grad is None for each in every if not each.find_unused
                         for parameter in each.ddp.module.carried):
            raise ConfigError(UNUSED)  # before a step with gradients that were not averaged
        for each in beside if final else ():
            each.any_skipped()  # this one has the same flag

    def _backward(self, loss, final, non_finite, inputs, carriers: Sequence[DistributedDataParallel]) -> None:
        try:
            with ExitStack() as stack:
                for ddp in carriers:  # one within the other: a single backward pass fills the buckets of all
                    stack.enter_context(nullcontext() if final else ddp.no_sync())
                    loss = ddp(loss, non_finite)
                flags = [ddp.module.flag for ddp in carriers]
                loss.backward(inputs=[*inputs, *flags] if inputs else None)
        except RuntimeError as error:
            if not is_unused_parameters(error):
                raise
            raise ConfigError(UNUSED) from error

    def any_skipped(self) -> torch.Tensor | None:
        if self.ddp is None:
            return None
        flag = self.ddp.module.flag
        found, flag.grad = flag.grad.clone(), None
        return found


class DataParallel:
    """Every process holds the full model (torch's DistributedDataParallel). The options are those of DDP.

    Args:
        bucket_cap_mb: the size of the buckets in which gradients are averaged.
        gradient_as_bucket_view: whether gradients are stored in the buckets, which saves a copy.
        static_graph: promises that every step uses the same parameters in the same way.
        find_unused_parameters: whether steps may leave parameters unused; null: tested before the first step.
    """

    shards = False  # whether a process holds only a shard of the weights
    in_fp16 = False  # whether losses need scaling

    def __init__(self, *, bucket_cap_mb: PositiveFloat = 25, gradient_as_bucket_view: bool = True,
                 static_graph: bool = False, find_unused_parameters: bool | None = None):
        self.options = {"bucket_cap_mb": bucket_cap_mb, "gradient_as_bucket_view": gradient_as_bucket_view,
                        "static_graph": static_graph}
        self.find_unused_parameters = find_unused_parameters

    def __str__(self):
        return "ddp"

    def gradients(self, parameters: Sequence[nn.Parameter]) -> SharedGradients:
        """The shared gradients of an optimizer's `parameters`."""
        return AveragedGradients(parameters, self.find_unused_parameters, **self.options)


class ShardedGradients(SharedGradients):
    """Gradients of FSDP2, averaged and sharded when backward leaves a module; not in inner micro-batches.

    Args:
        roots: the sharded modules whose parameters the optimizer steps.
        others: parameters of other optimizers. Backward may reach them, but must leave no gradients there.
    """

    def __init__(self, roots: Sequence[nn.Module], others: Sequence[nn.Parameter]):
        self.roots, self.others, self._non_finite = roots, others, torch.zeros(())

    def backward(self, loss, final, non_finite, inputs, beside=()) -> None:
        roots = [root for each in (self, *beside) for root in each.roots]
        own = {id(parameter) for root in roots for parameter in root.parameters()}
        others = [parameter for parameter in self.others if id(parameter) not in own]
        for root in roots:  # waiting gradients would mix with those of another optimizer's loss
            root.set_requires_gradient_sync(final or bool(others))
        aside = [parameter.grad for parameter in others]
        for parameter in others:
            parameter.grad = None
        loss.backward()
        for parameter, gradient in zip(others, aside, strict=True):
            parameter.grad = gradient
        self._non_finite = torch.as_tensor(non_finite, dtype=torch.float32, device=loss.device)

    def any_skipped(self) -> torch.Tensor:
        return dist.all_reduce(self._non_finite, "max")


class FullyShardedDataParallel:
    """Every process holds a shard of weights, gradients and optimizer state (torch's FSDP2, `fully_shard`).

    A unit is a submodule whose weights are gathered for its call and freed after it. Weights outside all
    units are gathered with the model. Assumes that trainers call the model (with several optimizers, each
    one's submodule), not its methods or parts. With one process nothing is sharded.

    Args:
        wrap: names of module classes that become units, such as the blocks of a transformer.
        min_num_params: a submodule of at least this many parameters is a unit; 5 million if `wrap` is empty.
        mixed_precision: the dtype of computation, "bf16" or "fp16"; weights, gradients and outputs stay fp32.
            BatchNorm may not support it; the trainer's `precision` leaves BatchNorm in fp32.
        cpu_offload: whether weights, gradients and optimizer state are in CPU memory; CUDA only.
        reshard_after_forward: whether to free units between forward and backward: less memory, more messages.
        activation_checkpointing: whether to recompute a unit's activations in backward, not store them.
    """

    shards = True
    MIN_NUM_PARAMS = 5_000_000

    def __init__(self, *, wrap: list[str] = (), min_num_params: PositiveInt | None = None,
                 mixed_precision: Literal["bf16", "fp16"] | None = None, cpu_offload: bool = False,
                 reshard_after_forward: bool = True, activation_checkpointing: bool = False):
        if misfit := next((name for name in wrap if not isinstance(name, str)), None):
            raise ValueError(f"wrap: {misfit!r} is not the name of a module class")
        self.wrap = set(wrap)
        self.min_num_params = min_num_params or (float("inf") if wrap else self.MIN_NUM_PARAMS)
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision)
        self.in_fp16 = mixed_precision == "fp16"
        self.cpu_offload, self.reshard_after_forward = cpu_offload, reshard_after_forward
        self.activation_checkpointing = activation_checkpointing
        self._roots: list[nn.Module] = []

    def __str__(self):
        return "fsdp"

    def validate(self, model: nn.Module, device: torch.device) -> None:
        """Raises ConfigError for options that have no effect with this model or device."""
        classes = sorted({type(module).__name__ for module in model.modules()})
        for name in sorted(self.wrap.difference(classes)):
            raise ConfigError.at("trainer.args.strategy.args.wrap",
                                 f"the model has no module of the class '{name}'."
                                 f"{suggest_name(name, classes)} It has: {', '.join(classes)}")
        if self.cpu_offload and device.type != "cuda":
            raise ConfigError.at("trainer.args.strategy.args.cpu_offload",
                                 f"weights are on the CPU already (device {device})")
        if self.activation_checkpointing and not self._units(model):
            raise ConfigError.at("trainer.args.strategy.args.activation_checkpointing",
                                 "no part of the model is a unit. Name the "
                                 f"classes of some in wrap. It has: {', '.join(classes)}")

    def shard(self, root: nn.Module, device: torch.device, computes: bool = True,
              averaged: bool = False) -> None:
        """Shards the parameters of `root`, a module that is called as a whole.

        `computes`: it has activations, so that `mixed_precision` and units apply. `averaged`: it is a moving
        average, which has no backward pass.
        """
        units = self._units(root) if computes else []
        if self.activation_checkpointing and not averaged:
            for unit in units:
                unit.forward = partial(checkpoint, unit.forward, use_reentrant=False)
        shard_modules([*units, root], device, self.dtype if computes else None, self.cpu_offload,
                      reshard_after_forward=self.reshard_after_forward or averaged)
        if not averaged:
            self._roots.append(root)

    def gradients(self, parameters: Sequence[nn.Parameter]) -> SharedGradients:
        """The shared gradients of an optimizer's `parameters`."""
        mine = {id(parameter) for parameter in parameters}
        own = [root for root in self._roots if any(id(parameter) in mine for parameter in root.parameters())]
        others = [parameter for root in self._roots
                  if not any(root is one for one in own) for parameter in root.parameters()]
        return ShardedGradients(own, others)

    def _units(self, root: nn.Module) -> list[nn.Module]:
        """The submodules that are sharded separately, inner ones first."""
        units = []

        def visit(module: nn.Module) -> int:  # returns how many parameters are left for the outer units
            if isinstance(module, nn.MultiheadAttention):  # does not call its parts; itself not always called
                return sum(parameter.numel() for parameter in module.parameters())
            left = (sum(parameter.numel() for parameter in module.parameters(recurse=False))
                    + sum(map(visit, module.children())))
            large = left >= self.min_num_params and not isinstance(module, (nn.ModuleList, nn.ModuleDict))
            if module is root or not (large or type(module).__name__ in self.wrap):
                return left
            units.append(module)
            return 0

        visit(root)
        return list(dict.fromkeys(units))


STRATEGIES = {"ddp": DataParallel, "fsdp": FullyShardedDataParallel}


def parse_strategy(block: str | dict):
    """Parses `ddp`, or `{type: fsdp, args: {...}}`, into a strategy. Raises ValueError for anything else."""
    block = {"type": block} if isinstance(block, str) else block
    if unknown := block.keys() - {"type", "args"}:
        raise ValueError(f"'{min(unknown)}' has no place here. "
                         f"Write ddp, fsdp or {{type: ddp, args: {{...}}}}")
    name, args = block.get("type"), block.get("args") or {}
    if not isinstance(name, str) or name not in STRATEGIES:
        raise ValueError(f"there is no strategy '{name}'.{suggest_name(name, STRATEGIES)} "
                         f"There are: {', '.join(STRATEGIES)}")
    if not isinstance(args, dict):
        raise ValueError(f"args: a table of arguments is needed; this is {args!r}")
    for fault in Signature(STRATEGIES[name]).faults(args):
        raise ValueError(fault.message)
    return STRATEGIES[name](**args)
