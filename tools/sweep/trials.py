"""The trials of a sweep: what the ledger decided, and how far their runs have come by their own files."""
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.run_record import is_finished

MOST_LOST = 3  # times in a row that a run may end, without a new epoch, before it counts as failed


@dataclass(eq=False)
class TrialRun:
    """A run of a trial: one seed, one fold.

    Args:
        name: of its folder in the sweep's.
        overrides: what it sets beside the trial's parameters.
        curve: the epochs that were evaluated, with the monitored value (NaN where it was none).
        lost: how often in a row a start of it ended without a verdict and without a new epoch.
        failed: why it failed; None if it did not.
        running: whether this driver has started it, and it has not ended.
    """

    name: str
    overrides: list[str] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)
    finished: bool = False
    lost: int = 0
    failed: str | None = None
    running: bool = False
    seen_at: int = 0  # the last epoch when it was started

    @property
    def epoch(self) -> int:
        """The last epoch that was evaluated; 0 before."""
        return self.curve[-1][0] if self.curve else 0

    def best(self, maximize: bool, until: int | None = None) -> float | None:
        """The best value so far, or until an epoch; None without one."""
        values = [value for epoch, value in self.curve
                  if not math.isnan(value) and (until is None or epoch <= until)]
        return (max if maximize else min)(values, default=None)

    def start(self) -> None:
        """It trains from now on."""
        self.running, self.seen_at = True, self.epoch

    def end(self, folder: Path, name: str) -> None:
        """It has ended: reads its files."""
        self.running = False
        self.read(folder, name)

    def judge(self, failed: str | None, lost: int) -> None:
        self.failed, self.lost = failed, lost

    def read(self, folder: Path, name: str) -> None:
        """Reads its files: `name` is that of the monitored value."""
        self.finished = is_finished(folder / self.name)
        self.curve = read_curve(folder / self.name / "metrics.jsonl", name)


def read_curve(file: Path, name: str) -> list[tuple[int, float]]:
    """The epochs and values of a metric in metrics.jsonl; the rest of a torn line is left out."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found: dict[int, float] = {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and name in row and isinstance(row.get("epoch"), int):
            value = row[name]
            found[row["epoch"]] = float(value) if isinstance(value, (int, float)) else math.nan
    return sorted(found.items())


@dataclass(eq=False)
class Trial:
    """A set of values for the parameters, and its runs. `level`: the rung that it is to reach."""

    number: int
    params: Mapping[str, Any]
    level: int
    runs: list[TrialRun]

    def promote(self, level: int) -> None:
        self.level = level

    @property
    def failed(self) -> str | None:
        """Why one of its runs failed; None if none did."""
        return next((run.failed for run in self.runs if run.failed), None)

    @property
    def finished(self) -> bool:
        """Whether all of its runs have ended, by themselves and without an error."""
        return not self.failed and all(run.finished for run in self.runs)

    def reached(self, epochs: int) -> bool:
        """Whether all of its runs have come so far, or have stopped early."""
        return not self.failed and all(run.finished or run.epoch >= epochs for run in self.runs)

    @property
    def epoch(self) -> int:
        """How far those of its runs have come that were evaluated: the fewest epochs; 0 without any."""
        return min((run.epoch for run in self.runs if run.curve), default=0)

    def values(self, maximize: bool, until: int | None = None) -> list[float]:
        """The best value of each run that has one."""
        values = (run.best(maximize, until) for run in self.runs)
        return [value for value in values if value is not None]

    def value(self, maximize: bool, until: int | None = None) -> float | None:
        """The mean of the best values of all runs; None if one has none."""
        values = self.values(maximize, until)
        return statistics.fmean(values) if len(values) == len(self.runs) else None


@dataclass
class Study:
    """All that decisions depend on: the options, and the trials in the order of their numbers.

    Args:
        rungs: the epochs at which a trial may be paused, and last the full length.
        factor: of this many at a rung one is promoted.
        planned: how many trials there will be. most: how many there can be, on a grid.
        repeats: the name and the overrides of each run of a trial.
    """

    rungs: Sequence[int]
    factor: int
    planned: int
    maximize: bool
    repeats: Sequence[tuple[str, Sequence[str]]] = (("", ()),)
    trials: list[Trial] = field(default_factory=list)
    most: float = math.inf

    @property
    def running(self) -> list[tuple[Trial, TrialRun]]:
        """The runs that train now."""
        return [(trial, run) for trial in self.trials for run in trial.runs if run.running]

    def is_there(self, trial: Trial) -> bool:
        """Whether a trial has reached the rung that it is to reach; the last one is the end of all runs."""
        last = trial.level == len(self.rungs) - 1
        return trial.finished if last else trial.reached(self.rungs[trial.level])

    def level_reached(self, trial: Trial) -> int:
        """The highest rung that all runs of a trial have reached; -1 for none."""
        return max((level for level, epochs in enumerate(self.rungs) if trial.reached(epochs)), default=-1)

    def state(self, trial: Trial) -> str:
        """`failed`, `finished`, `running`, `paused` at its rung, or `interrupted` before it."""
        if trial.failed:
            return "failed"
        if trial.finished:
            return "finished"
        if any(run.running for run in trial.runs):
            return "running"
        return "paused" if self.is_there(trial) else "interrupted"

    def apply(self, event: Mapping[str, Any]) -> None:
        """Takes over an event of the ledger. Numbers of epochs and values come from the runs' own files."""
        kind = event["event"]
        if kind == "new":
            runs = [TrialRun(f"trial_{event['trial']:04d}{suffix}", list(overrides))
                    for suffix, overrides in self.repeats]
            self.trials.append(Trial(event["trial"], event["params"], 0, runs))
        elif kind == "promote":
            self.trials[event["trial"]].promote(event["level"])
        elif kind == "revive":
            trial = self.trials[event["trial"]]
            trial.promote(len(self.rungs) - 1)
            for run in trial.runs:
                run.judge(None, 0)
        elif kind == "more":
            self.planned = min(self.planned + event["trials"], self.most)
        elif kind == "end":
            self.trials[event["trial"]].runs[event["run"]].judge(event.get("failed"), event["lost"])

    def read(self, folder: Path, name: str) -> None:
        """Reads the files of all runs."""
        for run in (run for trial in self.trials for run in trial.runs):
            run.read(folder, name)


def ranked(trials: Iterable[Trial], maximize: bool, until: int | None = None) -> list[tuple[float, Trial]]:
    """The trials that have a value, with it, best first; equal ones by their number."""
    valued = [(value, trial) for trial in trials if (value := trial.value(maximize, until)) is not None]
    return sorted(valued, key=lambda item: (-item[0] if maximize else item[0], item[1].number))


def best_trial(study: Study) -> Trial | None:
    """The finished trial with the best mean; of equal ones the first."""
    finished = ranked((trial for trial in study.trials if trial.finished), study.maximize)
    return finished[0][1] if finished else None
