"""Losses and their terms: several in a weighted sum, and what a loss or a model with its own returns."""
import inspect
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import nn

from base.data.nested import describe_shapes
from utils.errors import ConfigError


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


def named_terms(result) -> dict:
    """`{"loss": what is minimised, ...}` of what a loss returns."""
    loss, logs = result if isinstance(result, (tuple, list)) and len(result) == 2 else (result, {})
    logs, terms = {} if logs is None else logs, loss if isinstance(loss, Mapping) else {"loss": loss}
    numbers = isinstance(logs, Mapping) and all(isinstance(value, (torch.Tensor, Real))
                                                for value in [*logs.values(), *terms.values()])
    if not numbers:
        raise ConfigError.at("loss", f"it returned {describe_shapes(result)}. A loss returns a scalar "
                                     "tensor, {'name': term, ...}, or (loss, {'name': number}).")
    terms = {**logs, **terms}
    if "loss" not in terms:
        terms["loss"] = torch.stack(list(loss.values())).sum()
    return terms


def own_terms(outputs) -> dict:
    """The terms of the loss that a model computes itself: its `loss` and other scalars; empty without one."""
    if isinstance(outputs, Mapping):
        scalars = {name: value for name, value in outputs.items()
                   if isinstance(value, torch.Tensor) and value.ndim == 0}
        return named_terms(scalars) if "loss" in scalars or 0 < len(scalars) == len(outputs) else {}
    parts = outputs if type(outputs) is tuple else [getattr(outputs, "loss", outputs)]
    found = next((part for part in parts if isinstance(part, torch.Tensor) and part.ndim == 0), None)
    return {} if found is None else {"loss": found}


def num_targets(loss) -> int:
    """How many targets a loss of torch takes besides the outputs: CTCLoss three, most of them one."""
    return len(inspect.signature(loss.forward).parameters) - 1
