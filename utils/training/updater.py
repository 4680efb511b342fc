"""From a loss to new weights. Only this file orders scale, backward, unscale, clip, step, schedule, zero.

`guard.skipped` says whether the present step is left out: False, True, or on an accelerator a 0-dim mask,
whose value the host does not know. (Schedules per epoch are stepped by the trainer at the epoch's end.)
"""
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from utils.distributed.sharding import full_tensor
from utils.distributed.strategy import SharedGradients
from utils.errors import ConfigError
from utils.training.non_finite_guard import NonFiniteGuard
from utils.training.schedule import Schedule


class Window(NamedTuple):
    """The position of a micro-batch in its accumulation window (one optimizer step).

    `weight`: its fraction of the window's samples, times the number of processes. `final`: whether it is the
    last micro-batch. `measured`: whether the gradient norm is wanted.
    """

    weight: float = 1.0
    final: bool = True
    measured: bool = False


class Updater:
    """One optimizer with its schedulers, loss scaler and gradient clipping.

    Args:
        optimizer: built over the parameters that it steps.
        schedule: the optimizer's learning-rate schedulers.
        scaler: enabled for fp16; otherwise it changes nothing.
        clip_norm: the largest global gradient norm, None for no clipping.
        exclusive: backward fills only this optimizer's gradients. For trainers with several optimizers, where
            one loss must leave no gradients in the parameters of another optimizer.
        guard: keeps values that are not finite out of the weights; all updaters of a trainer have the same.
        share: makes the SharedGradients of some parameters; None if this process is alone.
        names: the parameters by their names, by which a checkpoint's state is loaded.

    A trainer that makes an Updater itself may leave out `guard` and `share`: it gets them by `join`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule, scaler: torch.amp.GradScaler,
                 clip_norm: float | None = None, exclusive: bool = False, *,
                 guard: NonFiniteGuard | None = None, share: Callable | None = None,
                 names: Mapping[str, torch.nn.Parameter] | None = None):
        self.optimizer, self.schedule, self.scaler, self.clip_norm = optimizer, schedule, scaler, clip_norm
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.exclusive = exclusive
        self.guard = guard or NonFiniteGuard()
        self.gradients: SharedGradients | None = share(self.parameters) if share else None
        name_of = {id(parameter): name for name, parameter in (names or {}).items()}
        self.names = [name_of.get(id(parameter)) for parameter in self.parameters]
        self._kernel_options = [{key: group[key] for key in ("fused", "foreach") if key in group}
                                for group in optimizer.param_groups]
        self.grad_norm: torch.Tensor | None = None  # 0-dim, of the last measured step, before clipping
        _initialize_momentum(optimizer)

    def join(self, guard: NonFiniteGuard, share: Callable | None) -> None:
        """Takes the trainer's guard, and its sharing of gradients unless it was built with one."""
        self.guard = guard
        if share and self.gradients is None:
            self.gradients = share(self.parameters)

    def update(self, loss: torch.Tensor, window: Window, beside: Sequence["Updater"] = ()) -> None:
        """Adds the gradients of `loss`. The window's last call makes the step, unless the guard skips it.

        The schedule counts a skipped step, too. `beside`: other updaters that step on the same loss.
        """
        self.guard.inspect(loss)
        if self.guard.skipped is not True or self.gradients:  # processes run every backward pass together
            weighted = loss if window.weight == 1 else loss * window.weight
            if self.scaler.is_enabled():
                weighted = self.scaler.scale(weighted)
                if (mask := self.guard.mask) is not None:
                    weighted = torch.where(mask, torch.nan, weighted)  # then the scaler skips the step
            if self.gradients:
                self.gradients.backward(weighted, window.final, self.guard.skipped, self._inputs(beside),
                                        [updater.gradients for updater in beside])
            else:
                weighted.backward(inputs=self._inputs(beside))
        if window.final:
            if self.gradients and (any_skipped := self.gradients.any_skipped()) is not None:
                self.guard.settle(any_skipped)
            for updater in (self, *beside):
                if self.guard.skipped is not True:
                    updater.step(window.measured, self.scaler)
                updater.schedule.step()
                updater._drop_gradients()
            if self.scaler.is_enabled() and self.guard.skipped is not True:
                self.scaler.update()

    def _inputs(self, beside: Sequence["Updater"]) -> list[torch.nn.Parameter] | None:
        """The only leaves that backward fills: what is trained now, of an exclusive one; None for all."""
        if not self.exclusive:
            return None
        return [p for updater in (self, *beside) for p in updater.parameters if p.requires_grad]

    def preflight(self, loss: torch.Tensor, alone: bool = False, beside: Sequence["Updater"] = ()) -> None:
        """Runs backward only, with `alone` for this process's own gradients, as one process would.

        Raises ConfigError for a loss that backward cannot use.
        """
        if isinstance(loss, torch.Tensor) and loss.numel() != 1:
            raise ConfigError.at("loss", f"it gives numbers of shape {list(loss.shape)}; training minimises "
                                         "one. Losses of torch take reduction: mean; yours end in .mean().")
        if not getattr(loss, "requires_grad", False):
            raise ConfigError.at("loss", "it does not depend on any weight that is trained: it was cut off "
                                         "on the way, by detach(), item(), argmax() or no_grad(), say.")
        inputs = self._inputs(beside)
        if alone or not self.gradients:
            loss.backward(inputs=inputs)
        else:
            self.gradients.backward(loss, True, False, inputs, [updater.gradients for updater in beside])
            self.gradients.any_skipped()  # completes what the processes do together

    def step(self, measured: bool, scaler: torch.amp.GradScaler) -> None:
        """Steps the optimizer with the accumulated gradients, which are of a loss that `scaler` has scaled.

        `measured`: whether their norm is wanted.
        """
        if uses_scaler := scaler.is_enabled():
            scaler.unscale_(self.optimizer)
        if self.clip_norm:
            self.grad_norm = full_tensor(torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm))
        elif measured or self.guard.tolerated:
            self.grad_norm = self.measure_norm()
        if uses_scaler:  # it skips steps with infinite gradients itself, to find its scale
            scaler.step(self.optimizer)
            return
        if measured or self.clip_norm or self.guard.tolerated:
            self.guard.inspect(self.grad_norm, "gradient norm", everywhere=True)
        if self.guard.skipped is not False and (mask := self.guard.mask) is not None:
            # a fused optimizer leaves out the step itself where found_inf is 1
            if getattr(self.optimizer, "_step_supports_amp_scaling", False):
                self.optimizer.grad_scale, self.optimizer.found_inf = None, mask.float()
            elif mask:  # this optimizer cannot be masked: the host waits for the device in every step
                return
        if self.guard.skipped is not True:
            _step_function(self.optimizer)()

    def try_step(self) -> None:
        """The preflight's step, with the gradients as they are; neither scaler nor guard see it."""
        if self.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        _step_function(self.optimizer)()

    def measure_norm(self) -> torch.Tensor:
        """The global norm of the gradients as they are, 0-dim."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        return full_tensor(torch.nn.utils.get_total_norm([
            gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]))

    def _drop_gradients(self) -> None:
        """Like `zero_grad`, without torch's profiler range, which takes longer than a small layer."""
        if type(self.optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
            self.optimizer.zero_grad(set_to_none=True)
            return
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @property
    def lr(self) -> float:
        """The learning rate of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def rates(self, name: str) -> dict[str, float]:
        """The rate of the first group, as `name`, and those of groups that began with another, by pattern."""
        first, *others = self.optimizer.param_groups
        begun = [group.get("initial_lr", group["lr"]) for group in (first, *others)]
        return {name: self.lr, **{group["match"]: float(group["lr"]) for group, rate in zip(others, begun[1:])
                                  if "match" in group and rate != begun[0]}}

    def hold_lr(self) -> None:
        """From here on schedulers do nothing: the learning rates are those in the optimizer's groups."""
        self.schedule = Schedule(self.optimizer)

    def abandon_step(self) -> None:
        """Forgets a step that was not completed: its gradients, and what the loss scaler knows of it."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler = torch.amp.GradScaler(self.parameters[0].device.type, enabled=self.scaler.is_enabled())

    def state_dict(self) -> dict:
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(), "names": list(self.names)}

    def load_state_dict(self, state: dict) -> None:
        """Loads a state: that of each parameter by its name, so their order may have changed."""
        saved = state["optimizer"]
        if None not in self.names and None not in state.get("names", [None]):
            saved = _in_order(saved, state["names"], self.names, self.optimizer.param_groups)
        # the choice of kernels depends on this machine, not on the one that wrote the state
        groups = [{**group, **own}
                  for group, own in zip(saved["param_groups"], self._kernel_options, strict=True)]
        self.optimizer.load_state_dict({**saved, "param_groups": groups})
        self.schedule.load_state_dict(state["schedule"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


def _step_function(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """What makes the optimizer's step: `optimizer.step`, or the function in torch's wrapper of it.

    The wrapper opens a range for torch's profiler, which takes 20 microseconds, a seventh of a step of a tiny
    model. It is needed where the profiler runs, for hooks, and where something else wraps the step, too.
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        # it needs a closure. With `max_iter: 1` it calls it once, and the gradients are already there
        return partial(optimizer.step, lambda: 0.0)
    step, own = type(optimizer).step, vars(optimizer).get("step")
    if not getattr(step, "hooked", False) or own and getattr(own, "__wrapped__", None) is not step:
        return optimizer.step  # torch's schedulers wrap it, too, but only to see that it is called
    of_torch = step.__globals__.get  # a name that torch has no more counts as a hook
    needed = (getattr(optimizer, "_optimizer_step_pre_hooks", True)
              or getattr(optimizer, "_optimizer_step_post_hooks", True)
              or of_torch("_global_optimizer_pre_hooks", True)
              or of_torch("_global_optimizer_post_hooks", True) or torch.autograd._profiler_enabled())
    return optimizer.step if needed else partial(step.__wrapped__, optimizer)


def _in_order(saved: dict, saved_names: list[str], names: list[str], groups: list[dict]) -> dict:
    """The `saved` state of an optimizer with its parameters in the order of `names`, divided as in `groups`.

    The names are listed group by group. Raises ValueError if these are other parameters.
    """
    if changed := set(saved_names) ^ set(names):
        raise ValueError(f"the optimizer steps other parameters: {', '.join(sorted(changed))}")
    number_of = {name: number for number, name in enumerate(names)}
    state = {number_of[saved_names[number]]: values for number, values in saved["state"].items()}
    numbers = iter(range(len(names)))
    divided = [{**old, "params": [next(numbers) for _ in group["params"]]}
               for old, group in zip(saved["param_groups"], groups, strict=True)]
    return {"state": state, "param_groups": divided}


def _initialize_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Sets momentum to 0, which changes no number: fused SGD leaves it unset if a first step is masked."""
    for group in optimizer.param_groups if isinstance(optimizer, torch.optim.SGD) else ():
        if group.get("fused") and group["momentum"] and not group["dampening"]:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
