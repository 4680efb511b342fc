"""Helpers for models: a base class, parameter groups, freezing, a summary."""
import fnmatch
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from utils.errors import ConfigError


class BaseModel(nn.Module):
    """An nn.Module that can freeze its parameters by name. Plain nn.Modules work just as well."""

    def freeze(self, *patterns: str) -> None:
        """Stops training the parameters whose names match one of `patterns` (`"features.*"`)."""
        freeze(self, patterns)


def freeze(model: nn.Module, patterns: Iterable[str]) -> None:
    """Stops training the parameters whose names match. Raises ConfigError for a pattern that matches nothing.

    What a trainer does with the running statistics of frozen layers (BatchNorm) is its option `frozen_norm`.
    """
    for pattern in patterns:
        matching = [p for name, p in model.named_parameters() if fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            raise ConfigError(f"no parameter of the model matches '{pattern}'. There are: "
                              f"{some_names(name for name, _ in model.named_parameters())}")
        for parameter in matching:
            parameter.requires_grad_(False)


def parameter_groups(model: nn.Module, rules: Iterable[Mapping] = (),
                     decay_bias_and_norm: bool = True, keep_frozen: bool = True,
                     choose: Callable | None = None) -> list[dict]:
    """The parameters as groups for an optimizer; those of frozen parameters alone come last.

    Args:
        model: the module whose parameters are grouped.
        rules: `{"match": "backbone.*", "lr": 1e-4}` gives the parameters with matching names their own
            options; `{"match": ..., "frozen": True}` freezes them, `"frozen": {"until_epoch": 3}` for the
            first epochs: base/phases.py does that, by the option `frozen_until` of the group. The first rule
            that matches counts, so `[{"match": "head.*", "lr": 1e-3}, {"match": "*", "frozen": True}]` trains
            the head alone.
        decay_bias_and_norm: False exempts biases, and weights and gains of normalisation layers (all
            parameters of fewer than two dimensions), from weight decay.
        keep_frozen: whether frozen parameters are in the groups, so that they are trained once they are
            unfrozen. False, as in version 1.0.0: they are not, and rules that freeze come before all others.
        choose: gives those of the names whose parameters are meant; by default all.

    Raises ConfigError for a rule that is the first match of no parameter, and if none is left to train.
    """
    rules = list(rules) if keep_frozen else sorted(rules, key=lambda rule: rule.get("frozen") is not True)
    named = dict(model.named_parameters())
    names = choose(named) if choose else [*named]
    matches = [_first_match(rules, name) for name in names]
    _require_matches(rules, matches, names)
    by_rule: dict[tuple[int, bool], dict] = {}  # by the number of the rule, -1 without one
    for parameter, number in zip(map(named.get, names), matches, strict=True):
        rule = rules[number] if number >= 0 else {}
        if rule.get("frozen") is True:
            parameter.requires_grad_(False)
        if keep_frozen or parameter.requires_grad:
            exempt = not decay_bias_and_norm and parameter.ndim < 2
            group = by_rule.setdefault((number, exempt), {"params": [], **_options(rule, exempt)})
            group["params"].append(parameter)
    groups = [by_rule[key] for key in sorted(by_rule)]
    if not any(map(_has_trained, groups)):
        raise ConfigError.at("optimizer", "the model has no parameters to train")
    # the first group's rate is logged
    return sorted(groups, key=lambda group: "frozen_until" in group or not _has_trained(group))


def _first_match(rules: list[Mapping], name: str) -> int:
    """The number of the first rule that a name matches; -1 if none does."""
    return next((i for i, rule in enumerate(rules) if fnmatch.fnmatchcase(name, rule["match"])), -1)


def _require_matches(rules: list[Mapping], matches: list[int], names: list[str]) -> None:
    """Raises ConfigError for a rule that is the first match of no name. `matches`: the first of each name."""
    for number, rule in enumerate(rules):
        if number in matches:
            continue
        earlier = {rules[first]["match"]: None for name, first in zip(names, matches, strict=True)
                   if fnmatch.fnmatchcase(name, rule["match"])}
        why = (f"has no effect: earlier rules match all of its parameters: {', '.join(map(repr, earlier))}. "
               "The first rule that matches counts: put it before them." if earlier
               else "matches no parameter.")
        raise ConfigError.at("optimizer.groups", f"'{rule['match']}' {why} There are: {some_names(names)}")


def _has_trained(group: Mapping) -> bool:
    return any(parameter.requires_grad for parameter in group["params"])


def set_mode(module: nn.Module, training: bool, frozen_norm: str) -> None:
    """Sets training or evaluation mode; with `frozen_norm` "eval" frozen normalisation layers do not train.

    These are layers with running statistics (BatchNorm) that have parameters, all of them frozen.
    """
    module.train(training)
    for layer in module.modules() if training and frozen_norm == "eval" else ():
        own = list(layer.parameters(recurse=False))
        if own and getattr(layer, "running_mean", None) is not None and not any(p.requires_grad for p in own):
            layer.eval()


def _options(rule: Mapping, exempt: bool) -> dict:
    """The options of a group; parameters that are `exempt` have no weight decay, unless the rule sets one."""
    options = {key: value for key, value in rule.items() if key != "frozen"}
    if isinstance(phase := rule.get("frozen"), Mapping):
        options["frozen_until"] = phase["until_epoch"]
    return {"weight_decay": 0.0, **options} if exempt else options


def summarize(model: nn.Module) -> str:
    """A table of the model's layers (two levels deep) and their parameters."""
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    rows = []
    for name, module in model.named_modules():
        if name and name.count(".") < 2:
            size = _size(module)
            label = f"  {'  ' * name.count('.')}{name}"
            rows.append((label, class_name(module), f"{size:,}" if size else "-"))
    rows = rows if len(rows) <= 24 else [row for row in rows if "." not in row[0]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
    of_them = f", {frozen:,} of them frozen" if frozen else ""
    return "\n".join([f"{class_name(model)}: {_size(model):,} parameters{of_them}", *lines])


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def class_name(module: nn.Module) -> str:
    """The name of a module's class; without the prefix that FSDP2 adds when it derives a class (FSDPNAME)."""
    name = type(module).__name__
    return (name.removeprefix("FSDP")
            if any(base.__name__ == "FSDPModule" for base in type(module).__bases__) else name)


def some_names(names: Iterable[str]) -> str:
    """The first of some names, as text, and their number."""
    names = list(names)
    return ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")


def as_floats(parameters: Iterable[torch.Tensor]) -> bool:
    """Whether all parameters are floating point and on a device for which torch has fused optimizers."""
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
