"""How a sweep stands, on the terminal; and the ranking at its end."""
import shutil
import statistics
import sys
import time
from collections.abc import Sequence

from tools.sweep.trials import Study, Trial, ranked
from utils.cli import print_answer
from utils.config.syntax import format_value
from utils.errors import printable

_REDRAW_S = 0.5


def in_columns(rows: Sequence[Sequence[str]], width: int = 10**6) -> list[str]:
    """The rows as lines with aligned columns, cut off at the width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{size}}" for cell, size in zip(row, widths, strict=True)).rstrip()[:width]
            for row in rows]


def column_names(study: Study) -> dict[str, str]:
    """The parameters' keys and how columns call them: by the last part where no other key has it."""
    keys = list(dict.fromkeys(key for trial in study.trials for key in trial.params))
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 and name != "type" else key
            for key, name in zip(keys, last, strict=True)}


def number_text(value: float | None) -> str:
    """A value for a table."""
    return "-" if value is None else f"{value:.5g}"


def _params(trial: Trial, names: dict[str, str]) -> list[str]:
    short = {key: f"{value:.4g}" if isinstance(value, float) else format_value(value)
             for key, value in trial.params.items()}
    return [short.get(key, "") for key in names]


class ProgressTable:
    """Shows a sweep while it runs: a table that is drawn again on a terminal, else a line for each event.

    Args:
        monitor: such as "max val/accuracy".
    """

    def __init__(self, monitor: str, quiet: bool = False):
        self._monitor, self._quiet = monitor, quiet
        self._live = sys.stdout.isatty() and not quiet
        self._begun = time.monotonic()
        self._epochs_before: int | None = None  # trained by earlier drivers
        self._drawn, self._next = 0, 0.0

    def show(self, study: Study, event: str = "") -> None:
        """Shows how it stands; `event` is a line on what has just happened."""
        if self._epochs_before is None:
            self._epochs_before = trained_epochs(study)
        if not self._live:
            if event and not self._quiet:
                print_answer(f"{event}  [{self.summary(study)}]")
        elif event or time.monotonic() > self._next:
            self._next = time.monotonic() + _REDRAW_S
            self._draw(self.lines(study))

    def lines(self, study: Study) -> list[str]:
        """The table: running trials, and below them the best ones, as many as the terminal has room for."""
        size, names = shutil.get_terminal_size(), column_names(study)
        best = [trial for _, trial in ranked(study.trials, study.maximize)]
        running = [trial for trial in study.trials if study.state(trial) in ("running", "interrupted")]
        shown = [*dict.fromkeys([*running, *best, *reversed(study.trials)])]
        rows = [["trial", *names.values(), "epoch", self._monitor.partition(" ")[2], "state"]]
        rows += [[str(trial.number), *_params(trial, names), str(trial.epoch),
                  number_text(trial.value(study.maximize)), study.state(trial)]
                 for trial in shown[:size.lines - 4]]
        return [*in_columns(rows, size.columns - 1), self.summary(study)[:size.columns - 1]]

    def summary(self, study: Study) -> str:
        """`12 of 40 trials, best 0.9812 (trial 7), about 5 min left`."""
        ended = sum(study.state(trial) in ("finished", "failed", "paused") for trial in study.trials)
        best = [f"best {number_text(value)} (trial {trial.number})"
                for value, trial in ranked(study.trials, study.maximize)[:1]]
        return ", ".join([f"{ended} of {study.planned} trials", *best, *self._time_left(study)])

    def _time_left(self, study: Study) -> list[str]:
        """By the epochs since this driver began; with pruning an estimate of how many there will be."""
        trained = trained_epochs(study)
        here = trained - (self._epochs_before or 0)
        left = expected_epochs(study) - trained
        if here <= 0 or left <= 0:
            return []
        seconds = left * (time.monotonic() - self._begun) / here
        return [f"about {seconds:.0f} s left" if seconds < 100 else f"about {seconds / 60:.0f} min left"]

    def _draw(self, lines: list[str]) -> None:
        above = f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
        sys.stdout.write(above + "".join(f"{printable(line)}\n" for line in lines))
        sys.stdout.flush()
        self._drawn = len(lines)


def trained_epochs(study: Study) -> int:
    """Epochs of all runs together."""
    return sum(run.epoch for trial in study.trials for run in trial.runs)


def expected_epochs(study: Study) -> int:
    """About as many epochs as all runs will train: one of `factor` trials is promoted at each rung."""
    total, number, before = 0.0, float(study.planned), 0
    for epochs in study.rungs:
        total += number * (epochs - before)
        number, before = number / study.factor, epochs
    return round(total * len(study.repeats))


def ranking(study: Study, monitor: str, ended: bool) -> list[str]:
    """All trials: finished ones first, best first. Why trials failed stands below.

    `ended`: whether the sweep is at its end, where a paused trial is called pruned.
    """
    names, repeated, trials = column_names(study), len(study.repeats) > 1, in_order(study)
    rows = [["rank", "trial", *names.values(), "epoch", monitor.partition(" ")[2],
             *(["deviation", "n"] if repeated else []), "state"]]
    for place, trial in enumerate(trials, 1):
        state, values = study.state(trial), trial.values(study.maximize)
        mean = statistics.fmean(values) if values else None
        spread = [number_text(statistics.stdev(values) if len(values) > 1 else None), str(len(values))]
        rows.append([str(place) if trial.finished else "-", str(trial.number), *_params(trial, names),
                     str(trial.epoch), number_text(mean),
                     *(spread if repeated else []), "pruned" if ended and state == "paused" else state])
    return [*in_columns(rows), *(f"trial {trial.number} failed: {trial.failed}" for trial in trials
                                 if trial.failed)]


def in_order(study: Study) -> list[Trial]:
    """All trials: finished ones, then trials that came less far, failed ones; each best first."""
    valued = [trial for _, trial in ranked(study.trials, study.maximize)]

    def place(trial: Trial) -> tuple[bool, bool, int]:
        return trial.failed is not None, not trial.finished, -study.level_reached(trial)

    return sorted(dict.fromkeys([*valued, *study.trials]), key=place)
