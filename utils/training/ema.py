"""A moving average of the weights."""
import copy

import torch
from torch import nn

from utils.checkpoint.state import fit_buffers
from utils.errors import ConfigError


class WeightAverage:
    """Exponential moving average of a model's weights, stored in `self.model` under names without prefix.

    After `n` updates the decay is min(decay, (1 + n) / (10 + n)), so short runs leave their first weights
    (the warm-up of TensorFlow's ExponentialMovingAverage). Buffers, such as BatchNorm's statistics, are
    copied. Raises ConfigError for a model that cannot be copied. Reads nothing from the device. Polyak and
    Juditsky 1992; in deep learning Tarvainen and Valpola 2017.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.source, self.decay, self.num_updates = model, decay, 0
        for path, module in model.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, torch.Tensor) and not value.is_leaf:
                    raise _cannot_copy(f"{path}.{name} is computed from weights. Instead of torch.nn.utils."
                                       "weight_norm use torch.nn.utils.parametrizations.weight_norm")
        try:
            self.model = copy.deepcopy(model).requires_grad_(False).eval()
        except TypeError as error:  # a lock, an open file
            raise _cannot_copy(f"{error}. Leave ema out, or keep that outside the model") from error

    @torch.no_grad()
    def update(self) -> None:
        """Call after each optimizer step."""
        self.num_updates += 1
        weight = 1 - min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        averaged, current = list(self.model.parameters()), list(self.source.parameters())
        torch._foreach_lerp_(averaged, current, weight)
        if [b.shape for b in self.model.buffers()] != [b.shape for b in self.source.buffers()]:
            fit_buffers(self.model, dict(self.source.named_buffers(remove_duplicate=False)))
        for mine, theirs in zip(self.model.buffers(), self.source.buffers(), strict=True):
            mine.copy_(theirs)

    def state_dict(self) -> dict:
        return {"model": self.model.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict) -> None:
        fit_buffers(self.model, state["model"])
        self.model.load_state_dict(state["model"])
        self.num_updates = state["num_updates"]


def _cannot_copy(why: str) -> ConfigError:
    return ConfigError.at("trainer.args.ema", f"the model cannot be copied: {why}.")
