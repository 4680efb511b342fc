"""How much each parameter decides the result: Optuna's PED-ANOVA (Watanabe, Bansal, Hutter 2023)."""
import math
import warnings
from collections.abc import Sequence

from tools.sweep.sampling.seen import FINISHED, Seen
from tools.sweep.space import Space
from utils.errors import ConfigError

FEWEST = 10  # finished trials: fewer give equal parts, or chance


def importance(space: Space, seen: Sequence[Seen], maximize: bool) -> dict[str, float] | None:
    """The part of each parameter, by key, the largest first; they sum to 1.

    None without Optuna, with fewer than FEWEST finished trials, or where all of them ended equal.
    """
    finished = [trial for trial in seen if trial.state == FINISHED and trial.value is not None
                and math.isfinite(trial.value)]
    if len(finished) < FEWEST or len({trial.value for trial in finished}) == 1:
        return None
    try:
        from tools.sweep.sampling.optuna_study import build_study, import_optuna

        optuna = import_optuna()
    except ConfigError:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the estimate is experimental
        return dict(optuna.importance.get_param_importances(build_study(space, finished, maximize)))
