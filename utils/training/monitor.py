"""Watches one value over the epochs: finds the best epoch and decides when to stop early."""
import logging
import math
from collections.abc import Mapping

log = logging.getLogger(__name__)


def parse_monitor(text: str) -> tuple[str, str]:
    """Parses `"max val/accuracy"` into ("max", "val/accuracy"). Raises ValueError for anything else."""
    mode, _, name = text.partition(" ")
    if mode not in ("min", "max") or "/" not in name:
        raise ValueError(f"{text!r} cannot be read. Write 'min val/loss' or 'max val/accuracy', or null")
    return mode, name.strip()


class Monitor:
    """Keeps the best value so far and counts the updates since then.

    Args:
        monitor: "min NAME" or "max NAME", with NAME as in the logs (`val/loss`).
        patience: updates without improvement after which `exhausted` is true; None means never.
        min_delta: how much better a value has to be to count as an improvement.
    """

    def __init__(self, monitor: str, patience: int | None = None, min_delta: float = 0.0):
        self.mode, self.name = parse_monitor(monitor)
        self.patience, self.min_delta = patience, min_delta
        self._forget()

    def _forget(self) -> None:
        self.best = math.inf if self.mode == "min" else -math.inf
        self.best_epoch, self.num_bad = 0, 0

    def value_in(self, values: Mapping[str, float]) -> float | None:
        """The monitored one of `values`, if any; also by its name before 1.1.0: `val/f1_0` is `val/f1/0`."""
        former = {name.replace("/", "_"): value for name, value in values.items()}
        return values.get(self.name, former.get(self.name.replace("/", "_")))

    def update(self, value: float, epoch: int) -> bool:
        """Adds the value of an epoch. Returns whether it is the best so far; a NaN never is."""
        gain = self.best - value if self.mode == "min" else value - self.best
        improved = gain > self.min_delta
        if improved:
            self.best, self.best_epoch, self.num_bad = value, epoch, 0
        else:
            self.num_bad += 1
        return improved

    def __str__(self):
        return f"{self.name} {self.best:.4f} at epoch {self.best_epoch}"

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.num_bad >= self.patience

    def state_dict(self) -> dict:
        return {"mode": self.mode, "name": self.name, "best": self.best, "best_epoch": self.best_epoch,
                "num_bad": self.num_bad}

    def load_state_dict(self, state: dict) -> None:
        """Restores the state. Drops a best value that belongs to another name or mode."""
        if (state["mode"], state["name"]) != (self.mode, self.name):
            log.warning("monitor is now '%s %s', it was '%s %s': the best value so far is forgotten",
                        self.mode, self.name, state["mode"], state["name"])
            return self._forget()
        self.best, self.best_epoch, self.num_bad = (
            float(state["best"]), int(state["best_epoch"]), int(state["num_bad"]))
