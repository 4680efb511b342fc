"""`${data:NAME}` in a config: a value that the train dataset gives, such as its number of classes."""
import math
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from base.base_data_loader import DataSplits
from base.build import build_data
from base.data.split_info import labels_of
from base.run.checkpoints import Checkpoint
from base.run.run_config import RunConfig, resolve_reading
from utils.config.interpolation import Unresolved, data_references, resolve
from utils.config.values import set_value, value_at
from utils.config.suggestions import suggest_name
from utils.config.syntax import DATA_VALUES, DataReference
from utils.distributed import collectives as dist
from utils.errors import Fault
from utils.random import derive, has_drawn, seed_all

COUNTED, MAX_ITEMS = ("num_classes", "class_counts", "class_weights"), 1000


def enter_data_values(resolved: RunConfig, checkpoint: Checkpoint | None,
                      device: torch.device) -> tuple[RunConfig, Dataset | None]:
    """The config with the values of its `${data:NAME}`, and the train dataset if it can be used further.

    Raises ConfigError for a value that there is not, that does not fit, or that is another one than the
    resumed run has. Without `${data:NAME}` nothing is built. All processes call it.
    """
    reading, kept = resolved.reading, {}
    for key, text in (checkpoint.config.get(DATA_VALUES, {}) if checkpoint else {}).items():
        path, was = tuple(key.split(".")), value_at(checkpoint.config, key)
        if (now := value_at(reading.config, path)) == text or repr(now) == repr(was):
            kept[path] = was
            reading = reading._replace(config=set_value(reading.config, path, DataReference(text)))
    references, seed = dict(data_references(reading.config)), derive(resolved.config["seed"], "data")
    if not references:
        return resolved, None
    seed_all(seed, device)
    data = build_data({**resolved.config, "transforms": {}}, device)
    dataset = data.dataset("train")
    # one that drew random numbers is built again, in its usual place among the draws
    reusable = None if has_drawn(seed) else dataset
    config, faults, _ = dist.broadcast_object(
        resolve(reading.config, references.__contains__, lambda name: _value_of(data, name)))
    faults += [Fault(path, f"the data changed under the run: {references[path]} was {was}, is {now}. Resume "
                           "with the data as it was, or begin a new run.") for path, was in kept.items()
               if repr(now := value_at(config, path)) != repr(was) and not isinstance(now, DataReference)]
    if faults or any(data_references(resolved.reading.config)):
        reading = reading._replace(config=config, faults=faults)
        resolved = resolve_reading(reading, checkpoint, dist.world_size())
    table = {".".join(path): str(text) for path, text in references.items()}
    return resolved._replace(complete={**resolved.complete, DATA_VALUES: table}), reusable


def _value_of(data: DataSplits, name: str) -> Any:
    """A value of the train dataset: a public attribute, or one of COUNTED. Raises Unresolved."""
    dataset, missing = data.dataset("train"), object()
    kind = type(dataset).__name__
    value = missing if name.startswith("_") else _plain(getattr(dataset, name, missing))
    if value is missing and name in COUNTED:
        return _counted(data, name)
    if value is missing:
        known = [*COUNTED, *(key for key in getattr(dataset, "__dict__", ()) if key[:1] != "_")]
        raise Unresolved(f"the train dataset, {kind}, has no {name!r}.{suggest_name(name, known)} "
                         f"There are: {', '.join(known)}.")
    items = value if isinstance(value, list) else [value]
    if len(items) > MAX_ITEMS or not all(type(item) in (int, float, str, bool) for item in items):
        raise Unresolved(f"{name!r} of {kind} is neither a number, text, true or false, nor a list of up to "
                         f"{MAX_ITEMS:,} of them.")
    return value


def _plain(value: Any) -> Any:
    """Numbers and short lists as Python has them; anything else as it is."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value[:MAX_ITEMS + 1]]
    small = hasattr(value, "tolist") and value.ndim < 2 and math.prod(value.shape) <= MAX_ITEMS
    return value.tolist() if small else value


def _counted(data: DataSplits, name: str) -> int | list:
    """`num_classes` of the train dataset; `class_counts` and `class_weights` of what is left to train on."""
    dataset = data.dataset("train")
    names, labels = getattr(dataset, "classes", ()), labels_of(dataset)
    num_classes = len(names) if isinstance(names, (list, tuple)) else 0
    if labels is None and (name != "num_classes" or not num_classes):
        raise Unresolved(f"{type(dataset).__name__} has no targets to count: whole numbers, one per sample. "
                         f"Give it an attribute {name!r}, or write the value.")
    num_classes = num_classes if labels is None else max(num_classes, int(labels.max()) + 1)
    if name == "num_classes":
        return num_classes
    chosen = labels[data.indices("train")]
    counts = np.bincount(chosen[chosen >= 0], minlength=num_classes).tolist()  # some mark unknown as -1
    # inverse counts with a mean of 1; it makes no difference for a class without samples, which gets 1
    scale = sum(count > 0 for count in counts) / sum(1 / count for count in counts if count)
    weights = [float(f"{scale / count:.6g}") if count else 1.0 for count in counts]
    return counts if name == "class_counts" else weights
