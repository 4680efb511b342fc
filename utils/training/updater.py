"""From a loss to new weights. Only this file orders scale, backward, unscale, clip, step, schedule, zero."""
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch

from utils.distributed.sharding import full_tensor
from utils.distributed.strategy import Gradients
from utils.errors import ConfigError
from utils.training.non_finite_guard import NonFiniteGuard
from utils.training.schedule import Schedule

# The order below is correct, but torch also warns after a resume, and when fp16 skips its first step.
warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler\.step\(\)` before",
                        category=UserWarning)


class Window(NamedTuple):
    """The position of a micro-batch in its accumulation window (one optimizer step).

    `weight`: its fraction of the window's samples. `final`: whether it is the last micro-batch. `measured`:
    whether the gradient norm is wanted.
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
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: "Schedule", scaler: torch.amp.GradScaler,
                 clip_norm: float | None = None, exclusive: bool = False):
        self.optimizer, self.schedule, self.scaler, self.clip_norm = optimizer, schedule, scaler, clip_norm
        self.guard = NonFiniteGuard()  # a trainer replaces it by one that all its updaters share
        self.gradients = Gradients()  # with several processes a trainer replaces it: averaged gradients
        self.stepping = False  # still true after an error: the step is incomplete
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.inputs = self.parameters if exclusive else None
        self._kernels = [{k: group[k] for k in ("fused", "foreach") if k in group}
                         for group in optimizer.param_groups]
        self.grad_norm: torch.Tensor | None = None  # 0-dim, of the last measured step, before clipping
        _initialize_momentum(optimizer)

    def update(self, loss: torch.Tensor, window: Window) -> None:
        """Adds the gradients of `loss`. The window's last call makes the step, unless the guard skips it."""
        self.guard.inspect(loss)
        if self.guard.skipped is not True or self.gradients.shared:
            scaled = self.scaler.scale(loss if window.weight == 1 else loss * window.weight)
            if self.scaler.is_enabled() and (mask := self.guard.mask) is not None:
                scaled = torch.where(mask, torch.nan, scaled)  # the scaler skips a step with NaN gradients
            self.gradients.backward(scaled, window.final, self.guard.skipped, self.inputs)
        if window.final:
            if (any_skipped := self.gradients.any_skipped()) is not None:
                self.guard.settle(any_skipped)
            if self.guard.skipped is not True:
                self._step(window.measured)
            self.schedule.step()
            self._drop_gradients()

    def preflight(self, loss: torch.Tensor) -> None:
        """Runs backward only, as in `update`. Raises ConfigError for a loss that backward cannot use."""
        if isinstance(loss, torch.Tensor) and loss.numel() != 1:
            raise ConfigError.at("loss", f"it gives numbers of shape {list(loss.shape)}; "
                                         "training minimises one. A loss of torch takes reduction: mean; "
                                         "one of your own ends in .mean().")
        if isinstance(loss, torch.Tensor) and not loss.requires_grad:
            raise ConfigError.at("loss", "it does not depend on any weight that is trained: "
                                         "somewhere on the way it was cut off, by detach(), item(), argmax() "
                                         "or no_grad(), say.")
        self.gradients.backward(loss, final=True, non_finite=False, inputs=self.inputs)
        self.gradients.any_skipped()

    def _step(self, measured: bool) -> None:
        self.stepping = True
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        if self.clip_norm:
            self.grad_norm = full_tensor(torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm))
        elif measured or self.guard.tolerated:
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            dense = [gradient.coalesce().values() if gradient.is_sparse else gradient
                     for gradient in gradients]
            self.grad_norm = full_tensor(torch.nn.utils.get_total_norm(dense))
        if self.scaler.is_enabled():  # it skips steps with infinite gradients itself, to find its scale
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self._guarded_step(known_norm=measured or bool(self.clip_norm or self.guard.tolerated))
        self.stepping = False

    def _guarded_step(self, known_norm: bool) -> None:
        if known_norm:
            self.guard.inspect(self.grad_norm, "gradient norm", everywhere=True)
        if (mask := self.guard.mask) is not None:
            if getattr(self.optimizer, "_step_supports_amp_scaling", False):
                self.optimizer.grad_scale, self.optimizer.found_inf = None, mask.float()
            elif mask:  # this optimizer cannot be masked: the host waits for the device in every step
                return
        if self.guard.skipped is not True:
            self.optimizer.step(*self._closure())

    def _drop_gradients(self) -> None:
        """Like `zero_grad`, without torch's profiler range, which takes longer than a small layer."""
        if type(self.optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
            self.optimizer.zero_grad(set_to_none=True)
            return
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _closure(self) -> list[Callable]:
        """LBFGS needs a closure. With `max_iter: 1` it calls it once, and the gradients are already there."""
        return [lambda: 0.0] if isinstance(self.optimizer, torch.optim.LBFGS) else []

    @property
    def lr(self) -> float:
        """The learning rate of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict:
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        # the choice of kernels depends on this machine, not on the one that wrote the state
        groups = [{**group, **own}
                  for group, own in zip(state["optimizer"]["param_groups"], self._kernels, strict=True)]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        self.schedule.load_state_dict(state["schedule"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


def _initialize_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Sets momentum to 0, which changes no number: fused SGD leaves it unset if a first step is masked."""
    for group in optimizer.param_groups if isinstance(optimizer, torch.optim.SGD) else ():
        if group.get("fused") and group["momentum"] and not group["dampening"]:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
