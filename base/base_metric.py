"""Averages over samples, which add up over batches; torchmetrics objects for metrics that do not."""
import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from numbers import Real
from typing import Any

import numpy as np
import torch

from base.data.nested import describe_shapes, to_device
from base.metric_values import class_names, flatten, logits_of
from utils.checkpoint.state import find_unstorable
from utils.distributed import collectives as dist
from utils.errors import ConfigError

log = logging.getLogger(__name__)


class Totals:
    """Sample-weighted means of named values over an epoch, and since the last log point.

    The means are over all processes together, so every process has to ask for them.

    On an accelerator, values stay on the device until they are asked for; the host then reads them all at
    once. On the CPU they are read as they come. They are added one by one in double precision, so the result
    does not depend on when, or how often, they are read.
    """

    def __init__(self):
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self._mark: dict[str, tuple[float, int]] = {}
        self._pending: dict[str, list[tuple]] = {}  # (value, its weight, samples, whether it is skipped)
        self.first_nan: dict[str, int] = {}  # number of the first NaN among the values that were read last

    def add(self, values: Mapping[str, Any], count: int, skipped: bool | torch.Tensor = False) -> None:
        """Adds the values of a batch of `count` samples: each its mean (0-dim) or one per sample `[count]`.

        A batch of 0 samples does not count. `skipped` (bool, or 0-dim bool on a device) marks values that do
        not count; only those may be non-finite.
        """
        if skipped is True:
            return
        for name, value in values.items():
            of_numbers = not isinstance(value, torch.Tensor) and isinstance(
                value, (Real, np.generic, np.ndarray, list))
            value = torch.as_tensor(value) if of_numbers else value
            if not isinstance(value, torch.Tensor) or value.ndim and value.numel() != len(value):
                raise ValueError(f"'{name}' is {describe_shapes(value)}; a value is one number for the "
                                 "batch, or one for each sample [B]")
            if value.ndim == 0:  # a copy: the value may be a weight, which later steps change
                entry = (value.item() if value.is_cpu else value.detach().clone(), count, count, skipped)
            else:
                entry = (_sum(value.detach() if value.requires_grad else value), 1,
                         len(value) if count else 0, skipped)
            if name not in self._pending:
                self._pending[name] = []
            self._pending[name].append(entry)

    def _reduce_pending(self) -> None:
        self.first_nan = {}
        gathered = dist.all_gather_object({name: _read_values(entries)
                                           for name, entries in self._pending.items()})
        for name in dict.fromkeys(name for read in gathered for name in read):
            batches = [read.get(name, []) for read in gathered]
            # Batch by batch, each over all processes: so the sums do not depend on when they are asked for.
            parts = batches[0] if len(batches) == 1 else [
                (sum([total for total, _ in each]), sum([count for _, count in each]))
                for each in zip_longest(*batches, fillvalue=(0.0, 0))]
            total, count = self.sums.get(name, 0.0), self.counts.get(name, 0)
            for part, num_samples in parts:
                total, count = total + part, count + num_samples
            if count:
                self.sums[name], self.counts[name] = total, count
            if math.isnan(total):  # found afterwards: no batch waits for the device
                number = next((number for number, (part, _) in enumerate(parts, 1) if math.isnan(part)), None)
                self.first_nan |= {name: number} if number else {}
        self._pending = {}

    def estimate(self, name: str) -> float | None:
        """About the mean since `reset`, without communication: the latest values are this process's only."""
        pending = _read_values(self._pending.get(name, []))
        count = self.counts.get(name, 0) + sum(count for _, count in pending)
        return (self.sums.get(name, 0.0) + sum(total for total, _ in pending)) / count if count else None

    def means(self) -> dict[str, float]:
        """The means since `reset`. Waits for the device."""
        self._reduce_pending()
        return {name: self.sums[name] / self.counts[name] for name in self.sums}

    def recent(self) -> dict[str, float]:
        """The means since the last call of `recent` (or `reset`). Waits for the device."""
        self._reduce_pending()
        values = {}
        for name, total in self.sums.items():
            earlier_total, earlier_count = self._mark.get(name, (0.0, 0))
            if count := self.counts[name] - earlier_count:
                values[name] = (total - earlier_total) / count
            self._mark[name] = (total, self.counts[name])
        return values

    def reset(self) -> None:
        self.sums, self.counts, self._mark, self._pending = {}, {}, {}, {}

    def state_dict(self) -> dict:
        self._reduce_pending()
        return {"sums": dict(self.sums), "counts": dict(self.counts),
                "mark": {n: list(m) for n, m in self._mark.items()}}

    def load_state_dict(self, state: dict) -> None:
        self.sums, self.counts, self._pending = dict(state["sums"]), dict(state["counts"]), {}
        self._mark = {name: tuple(mark) for name, mark in state["mark"].items()}


def _sum(values: torch.Tensor) -> torch.Tensor | float:
    """The sum of `values` `[B]`, in float32 or better; a plain number on the CPU."""
    if values.is_cpu and values.dtype == torch.bool:
        return int(np.count_nonzero(values.numpy()))
    total = values.sum(dtype=torch.float64 if values.dtype == torch.float64 else torch.float32)
    return total.item() if values.is_cpu else total


def _read_values(entries: list[tuple]) -> list[tuple[float, int]]:
    """(sum, samples) of each of a name's pending values, read from the device all at once."""
    if not entries:
        return []
    values = [value for value, *_ in entries]
    if on_device := [value for value in values if isinstance(value, torch.Tensor)]:
        numbers = iter(torch.stack(on_device).tolist())
        values = [next(numbers) if isinstance(value, torch.Tensor) else value for value in values]
    flags = [skipped for *_, skipped in entries]
    if device := next((flag.device for flag in flags if isinstance(flag, torch.Tensor)), None):
        flags = torch.stack([torch.as_tensor(flag, device=device) for flag in flags]).tolist()
    return [(value * weight, int(count)) if count and not skipped else (0.0, 0)
            for value, (_, weight, count, _), skipped in zip(values, entries, flags, strict=True)]


class Metrics:
    """The metrics of a split, called with `(outputs, targets)` batch by batch.

    A metric is a function that returns one value per sample `[B]` (or the batch mean), or an object with
    `update`, `compute` and `reset`, such as a torchmetrics.Metric, for metrics that do not add up over
    samples (F1, AUROC).

    With several processes, torchmetrics objects and collections of them synchronise themselves in `compute`;
    any other object gets the outputs and targets of all processes.

    `arrays`: what the last `compute` gave that is more than numbers, by metric and name. `classes`: the names
    of the classes that its dataset had.
    """

    def __init__(self, metrics: Mapping[str, Callable] = (), device: torch.device | None = None):
        metrics = dict(metrics)
        self.names = list(metrics)
        objects = {name: metric for name, metric in metrics.items() if hasattr(metric, "compute")}
        self.functions = {name: metric for name, metric in metrics.items() if name not in objects}
        self.objects = {name: copy.deepcopy(metric) for name, metric in objects.items()}
        self.arrays: dict[str, dict[str, np.ndarray]] = {}
        self.classes: list[str] = []
        self.given = ""  # shapes of the first outputs and targets, for messages
        self._updated, self._padding, self.device = False, False, device
        self._watcher: Callable | None = None
        for metric in self.objects.values():
            if isinstance(metric, torch.nn.Module):
                metric.to(device)
            for part in _torchmetrics_in(metric):
                if hasattr(part, "persistent"):
                    part.persistent(True)  # their counts are part of the state of an unfinished epoch
                if not _synchronises(metric):  # its owner gets the batches of all processes
                    part.distributed_available_fn = bool  # which gives False

    def watch(self, watcher: Callable[[Any, Any, Mapping], None]) -> None:
        """Calls `watcher(outputs, targets, values of the functions)` for each batch from here on."""
        self._watcher = watcher

    def begin_batch(self, num_samples: int) -> None:
        """Call before a batch. One of no samples does not count: other processes have the batch's samples."""
        self._padding = num_samples == 0

    def __call__(self, outputs: Any, targets: Any) -> dict[str, torch.Tensor]:
        """The functions' values on this batch. Objects are updated; `compute` returns their values."""
        if not self.names and not self._watcher:
            return {}
        with torch.no_grad():
            if self.objects:
                self.given = self.given or describe_shapes((outputs, targets))
                self.update_objects(outputs, targets)
            values = {}
            for name, function in self.functions.items():  # a loop: see locate_error.py
                values[name] = function(outputs, targets)
            if self._watcher and not self._padding:
                self._watcher(logits_of(outputs), targets, values)
            return values

    def update_objects(self, outputs: Any, targets: Any) -> None:
        for name, metric in self.objects.items():  # an error's traceback shows the name: see locate_error.py
            if _synchronises(metric):
                for part in [] if self._padding else _updated_parts(metric):
                    part.update(logits_of(outputs), targets)
            else:
                for theirs in self._gather_batches(outputs, targets):
                    metric.update(*theirs)
        self._updated = True

    def compute(self, dataset: Any = None) -> dict[str, float]:
        """The objects' numbers since `reset`, if there were batches, as `flatten` names them.

        `dataset`: whose `classes` they may be about. Raises ConfigError if one computes what is no number.
        """
        values, self.arrays, self.classes = {}, {}, class_names(dataset)
        for name, metric in self.objects.items() if self._updated else ():
            for part in _torchmetrics_in(metric) if _synchronises(metric) else ():
                _add_empty_states(part)
            result = metric.compute()
            try:
                found = flatten(name, result, self.classes)
            except ValueError as error:
                raise ConfigError.at(f"metrics.{self.names.index(name)}",
                                     f"{type(metric).__name__}.compute() gives what is not logged: {error}. "
                                     "Numbers, arrays, and tables or lists of these are.") from error
            for key, value in found.items():
                if isinstance(value, np.ndarray):
                    self.arrays.setdefault(name, {})[key] = value
                else:
                    values[key] = value
        # all processes decide by identical numbers
        return dist.broadcast_object(values) if self.objects else values

    def reset(self) -> None:
        self._updated = False
        for metric in self.objects.values():
            metric.reset()

    def snapshot(self) -> "Metrics":
        """A copy, for `restore`. The objects need no `state_dict` for it."""
        return copy.deepcopy(self) if self.objects else self

    def restore(self, kept: "Metrics") -> None:
        """Restores the state of when `kept` was made."""
        if kept is not self:
            self.objects, self._updated = copy.deepcopy(kept.objects), kept._updated

    def _gather_batches(self, outputs: Any, targets: Any) -> list[tuple[Any, Any]]:
        if dist.world_size() == 1:
            return [] if self._padding else [(outputs, targets)]
        gathered = dist.all_gather_object(None if self._padding
                                          else to_device((outputs, targets), torch.device("cpu")))
        return [to_device(theirs, self.device) for theirs in gathered if theirs is not None]

    def state_dict(self) -> dict:
        """The state of every object; with several processes also that of each torchmetrics object by rank."""
        cpu, state = torch.device("cpu"), {"updated": self._updated, "objects": {}}
        for name, metric in self.objects.items():
            if _synchronises(metric) and dist.world_size() > 1:
                state.setdefault("processes", {})[name] = dist.all_gather_object(
                    to_device(metric.state_dict(), cpu))
                parts = [part for part in _torchmetrics_in(metric) if getattr(part, "metric_state", True)]
                for part in parts:
                    _add_empty_states(part)
                    part.sync()
                state["objects"][name] = to_device(metric.state_dict(), cpu)
                for part in parts:
                    part.unsync()
            elif hasattr(metric, "state_dict"):
                state["objects"][name] = metric.state_dict()
            elif hasattr(metric, "__dict__") and not find_unstorable(vars(metric), name):
                state["objects"][name] = dict(vars(metric))
        return state

    def load_state_dict(self, state: dict) -> None:
        """Loads a state: each rank its own if there are as many as before, else the main process all."""
        self.reset()  # torchmetrics caches its last result
        self._updated = state["updated"]
        if self._updated and (lost := self.objects.keys() - state["objects"].keys()):
            log.warning("train/%s of this epoch lacks the batches before the resume: the checkpoint has no "
                        "state of it, for which a metric has a state_dict", ", train/".join(sorted(lost)))
        for name in self.objects.keys() & state["objects"].keys():
            metric, own = self.objects[name], state["objects"][name]
            if _synchronises(metric):
                theirs = state.get("processes", {}).get(name, [own])
                own = (theirs[dist.rank()] if len(theirs) == dist.world_size()
                       else own if dist.is_main() else None)
            if own is not None and not hasattr(metric, "load_state_dict"):
                vars(metric).update(copy.deepcopy(to_device(own, self.device)))
            elif own is not None:
                metric.load_state_dict(_as_lists(own, metric))
            if isinstance(metric, torch.nn.Module):
                metric.to(self.device)  # torchmetrics leaves loaded tensors on the device they come from


def _add_empty_states(metric: Any) -> None:
    """Gives a process without samples empty tensors of the others' kind, so that it can synchronise."""
    if dist.world_size() == 1 or not hasattr(metric, "metric_state"):
        return
    lists = {name: value for name, value in metric.metric_state.items() if isinstance(value, list)}
    empty = {name: [torch.atleast_1d(tensor)[:0].cpu() for tensor in value[:1]]
             for name, value in lists.items()}
    for examples in dist.all_gather_object(empty):
        for name, example in examples.items():
            if example and not lists[name]:
                lists[name].append(example[0].to(metric.device))


def _as_lists(state: dict, metric: Any) -> dict:
    """Synchronising makes one tensor of a list of tensors; `update` needs a list again."""
    parts = metric.named_modules() if isinstance(metric, torch.nn.Module) else [("", metric)]
    lists = {f"{path}.{name}".lstrip(".") for path, part in parts for name, value in vars(part).items()
             if isinstance(value, list)}
    return {name: [value] if name in lists and isinstance(value, torch.Tensor) else value
            for name, value in state.items()}


def _is_torchmetric(metric: Any) -> bool:
    """Whether a metric object can synchronise over processes, as torchmetrics objects do."""
    return hasattr(metric, "sync") and hasattr(metric, "unsync")


def _synchronises(metric: Any) -> bool:
    """Whether it is a torchmetrics object or a MetricCollection."""
    return _is_torchmetric(metric) or hasattr(metric, "compute_groups")


def _updated_parts(metric: Any) -> list:
    """What to update. A collection alone would decide by its first batch which members have equal counts."""
    groups = getattr(metric, "compute_groups", None) or {}
    return [getattr(metric, group[0]) for group in groups.values()] or [metric]


def _torchmetrics_in(thing: Any) -> Iterator[Any]:
    """The torchmetrics objects in a metric, also the ones in an object of the user."""
    if isinstance(thing, torch.nn.Module) or _is_torchmetric(thing):
        yield from filter(_is_torchmetric, thing.modules() if hasattr(thing, "modules") else [thing])
        return
    held = thing.values() if isinstance(thing, Mapping) else thing if isinstance(thing, (list, tuple)) else ()
    for part in vars(thing).values() if hasattr(thing, "compute") and hasattr(thing, "__dict__") else held:
        yield from _torchmetrics_in(part)


def as_values(result: Any) -> Mapping[str, Any]:
    """A step's result as named values: a dict as it is, a tensor or float as the loss; else a TypeError."""
    if isinstance(result, Mapping):
        return result
    if isinstance(result, (torch.Tensor, float)):
        return {"loss": result}
    raise TypeError("a step returns a dict of values such as {'loss': loss}, or the loss; not "
                    f"{type(result).__name__}")
