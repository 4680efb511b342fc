"""Several losses as one: a weighted sum, with the value of each."""
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn


class WeightedLosses(nn.Module):
    """Gives `{NAME: its value, ..., "loss": the sum}`; in the sum each part is multiplied by its scale."""

    def __init__(self, parts: Mapping[str, Callable], scales: Mapping[str, float]):
        super().__init__()
        self.parts, self.scales = parts, scales
        # not by add_module, which refuses the names of methods, such as "half"
        self._modules.update({name: part for name, part in parts.items() if isinstance(part, nn.Module)})

    def forward(self, outputs: Any, targets: Any) -> dict[str, torch.Tensor]:
        terms, logs = {}, {}
        for name, part in self.parts.items():
            terms[name] = part(outputs, targets)
            if isinstance(terms[name], tuple):  # (loss, {name: value to log})
                terms[name], logs = terms[name][0], logs | terms[name][1]
        return {**logs, **terms, "loss": sum(self.scales[name] * term for name, term in terms.items())}


def loss_parts(loss: Any) -> dict[str, Any]:
    """The losses that a config names, by their keys: `loss`, or `loss.NAME` for each of several."""
    several = isinstance(loss, WeightedLosses)
    return {f"loss.{name}": part for name, part in loss.parts.items()} if several else {"loss": loss}
