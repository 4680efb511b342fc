"""A trial as a sampler sees it."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEY = "sweep.sampler"  # of the config
RUNNING, PAUSED, FINISHED = "running", "paused", "finished"


@dataclass(frozen=True)
class Seen:
    """A trial that a sampler learns from. One that failed is none.

    Args:
        number: of the trial.
        params: its values, by key; the parameters that it uses.
        state: RUNNING; PAUSED at the epoch of a rung; or FINISHED.
        value: the monitored value, at the end or at that rung; None while it runs.
        epoch: the one at which `value` was measured.
    """

    number: int
    params: Mapping[str, Any]
    state: str
    value: float | None = None
    epoch: int | None = None
