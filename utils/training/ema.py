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
        # what old weight_norm and pruning compute from weights, and compute again in each forward pass
        computed = {id(value): value.detach().clone() for module in model.modules() for value in vars(
            module).values() if isinstance(value, torch.Tensor) and not value.is_leaf}
        try:
            self.model = copy.deepcopy(model, computed).requires_grad_(False).eval()
        except (TypeError, RuntimeError) as error:  # a lock, an open file, a tensor with a graph in a list
            raise ConfigError.at("trainer.args.ema", f"the model cannot be copied: {error}. Leave ema "
                                                     "out, or keep that outside the model.") from error

    @torch.no_grad()
    def update(self) -> None:
        """Call after each optimizer step."""
        self.num_updates += 1
        weight = 1 - min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        averaged, current = list(self.model.parameters()), list(self.source.parameters())
        torch._foreach_lerp_(averaged, current, weight)
        kinds = [[(name, buffer.shape, buffer.dtype) for name, buffer in model.named_buffers()]
                 for model in (self.model, self.source)]
        if kinds[0] != kinds[1]:
            for mine, theirs in zip(self.model.modules(), self.source.modules(), strict=True):
                mine._buffers.clear()
                mine._buffers.update(copy.deepcopy(theirs._buffers))
                mine._non_persistent_buffers_set.update(theirs._non_persistent_buffers_set)
        for mine, theirs in zip(self.model.buffers(), self.source.buffers(), strict=True):
            mine.copy_(theirs)

    def state_dict(self) -> dict:
        return {"model": self.model.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict) -> None:
        fit_buffers(self.model, state["model"])
        self.model.load_state_dict(state["model"])
        self.num_updates = state["num_updates"]
