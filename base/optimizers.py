"""Which parameters each of several optimizers steps: those of a submodule, or those whose names match."""
import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from torch import nn

from utils.config.suggestions import suggest_name
from utils.errors import ConfigError
from utils.training.updater import Updater


class OptimizersByPattern(dict):
    """Factories of optimizers that share one model and one loss: each takes the parameters that match.

    `patterns`: of parameter names, by optimizer; None for the one that takes the rest, which is `rest`.
    """

    def __init__(self, factories: Mapping[str, Callable], patterns: Mapping[str, str | list[str] | None]):
        super().__init__({name: partial(factory, choose=partial(self.names_of, name))
                          for name, factory in factories.items()})
        self.patterns = {name: [own] if isinstance(own, str) else own or () for name, own in patterns.items()}
        self.rest = next((name for name, own in patterns.items() if own is None), None)

    def names_of(self, optimizer: str, names: Iterable[str]) -> list[str]:
        """The names of an optimizer's parameters. ConfigError for a name of no optimizer, or of several."""
        found = []
        for name in names:
            takers = [taker for taker, own in self.patterns.items()
                      if any(fnmatch.fnmatchcase(name, pattern) for pattern in own)] or [self.rest]
            if len(takers) > 1 or takers == [None]:
                what = (f"is matched by {' and '.join(takers)}; one of them steps it" if len(takers) > 1 else
                        "is matched by no optimizer. One without 'match' takes the rest.")
                raise ConfigError.at("optimizer", f"the parameter {name} {what}")
            if takers == [optimizer]:
                found.append(name)
        if not found:
            raise ConfigError.at(f"optimizer.{optimizer}", "it matches no parameter that others leave to it")
        return found


def stepped_module(model: nn.Module, optimizers: Mapping, name: str) -> nn.Module:
    """The part of `model` that an optimizer steps: all, or the submodule of its name."""
    parts = {"optimizer": model, **dict(model.named_modules())}
    if isinstance(optimizers, OptimizersByPattern):
        parts |= dict.fromkeys(optimizers, model)
    if name not in parts:
        raise ConfigError.at(f"optimizer.{name}",
                             f"the model has no part '{name}'.{suggest_name(name, parts)} To choose "
                             "parameters by their names, give each optimizer but one a 'match'.")
    return parts[name]


def chosen_updaters(updaters: Mapping[str, Updater], optimizers: Mapping,
                    names: Sequence[str]) -> list[Updater]:
    """The updaters of these optimizers; all for "optimizer" where a config has several by pattern."""
    if names == ("optimizer",) and isinstance(optimizers, OptimizersByPattern):
        return [*updaters.values()]
    try:
        return [updaters[name] for name in names]
    except KeyError as unknown:
        raise ConfigError.at("optimizer", f"this trainer updates {unknown}; the config has "
                                          f"{', '.join(updaters)}") from None
