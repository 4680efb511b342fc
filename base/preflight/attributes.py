"""The attributes of models and trainers, to put back after a trial: counters, hidden states."""
import sys
from collections import OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from utils.errors import is_plug_in
from utils.training.schedule import Schedule

_SEQUENCES = (list, deque)
_TABLES = (dict, OrderedDict, defaultdict, set)
_OF_MODULES = vars(nn.Module()).keys() - {"_buffers", "_modules"}


class AttributeSnapshot:
    """What objects and their parts have in their attributes, for `restore`.

    Followed are modules, optimizers with their schedules, objects of plug-ins' classes, and containers of
    Python. An attribute gets back the object that it had; tensors, arrays, containers and torch.Generators
    also their content. Weights, and objects of a library's class, keep what has changed inside them.
    """

    def __init__(self, *objects: Any):
        self._kept: dict[int, tuple[Any, Any]] = {}  # by identity: an object, and its content
        waiting = list(objects)
        while waiting:
            value = waiting.pop()
            if id(value) not in self._kept and (content := _content(value)) is not None:
                self._kept[id(value)] = value, content
                if isinstance(content, (dict, list)):
                    waiting += content.values() if isinstance(content, dict) else content

    @torch.no_grad()
    def restore(self) -> None:
        """Puts everything back."""
        for value, content in self._kept.values():
            if isinstance(value, torch.Generator):
                value.set_state(content)
            elif isinstance(value, torch.Tensor):
                _restore_tensor(value, *content)
            elif isinstance(value, np.ndarray):
                value[...] = content
            elif type(value) in (*_SEQUENCES, *_TABLES):
                value.clear()
                (value.extend if type(value) in _SEQUENCES else value.update)(content)
            elif not isinstance(value, tuple):
                for name in vars(value).keys() - content.keys() - _OF_MODULES:
                    del vars(value)[name]
                vars(value).update(content)


def _content(value: Any) -> Any:
    """A copy of what an object holds; None if it is not to be put back."""
    if type(value) is torch.Tensor and not value.is_inference():
        return value.detach().clone(), value._version
    if isinstance(value, torch.Generator):
        return value.get_state()
    if type(value) is np.ndarray and value.flags.writeable:
        return value.copy()
    if isinstance(value, tuple) or type(value) in (*_SEQUENCES, *_TABLES):
        return dict(value) if isinstance(value, dict) else list(value)
    module = sys.modules.get(type(value).__module__)
    if isinstance(value, (nn.Module, torch.optim.Optimizer, LRScheduler, Schedule)) or (
            hasattr(value, "__dict__") and is_plug_in(getattr(module, "__file__", None) or "")):
        return {name: inner for name, inner in vars(value).items() if name not in _OF_MODULES}
    return None


def _restore_tensor(tensor: torch.Tensor, before: torch.Tensor, version: int) -> None:
    # written to only if it has changed: an expanded one cannot be. A fused optimizer leaves the version
    if tensor.shape != before.shape:  # resized in place
        tensor.set_(before)
    elif tensor._version != version or tensor.layout == torch.strided and not torch.equal(tensor, before):
        tensor.copy_(before)
