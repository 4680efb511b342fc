"""Runs that are equal but for one key, such as seed: mean and standard deviation of their values."""
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tools.runs.columns import Row, as_text, comparable, is_number, is_of_writers, row_of
from tools.runs.reading import Run

_MEASURED = ("finished", "unknown")  # what was broken off would pull the mean


def group_runs(runs: Sequence[Run], key: str) -> list[list[Run]]:
    """Runs whose configs are equal but for `key`, name and writers, in the order of their first ones."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        same = tuple(sorted((name, comparable(value)) for name, value in run.config.items()
                            if name not in (key, "name") and not is_of_writers(name)))
        groups.setdefault(same, []).append(run)
    return list(groups.values())


def group_row(group: Sequence[Run], key: str, scores: Iterable[str]) -> Row:
    """The row of a group: means of the monitored value and of test scores, with `std` and `n` of each.

    Only runs that are finished count, or whose state is unknown; of several with one value of `key`, the
    newest. `std` is that of a sample: the sum of squares is divided by n - 1.
    """
    rows = [row_of(run) for run in group]
    measured: dict[str, Row] = {}
    for row in rows:  # newest first
        if row["state"] in _MEASURED:
            measured.setdefault(comparable(row.get(key)), row)
    states = Counter(row["state"] for row in rows)
    commits = {run.commit for run in group}
    row = {**group[0].config, "run": group[0].name, "monitor": rows[0].get("monitor"),
           "state": ", ".join(f"{number} {state}" for state, number in states.items()),
           key: ", ".join(dict.fromkeys(as_text(row.get(key)) for row in reversed(rows))),
           "commit": rows[0].get("commit") if len(commits) == 1 else f"{len(commits)} different",
           "started": rows[0].get("started")}
    for score in ("best", *scores):
        row |= _mean(score, [row.get(score) for row in measured.values()])
    return {name: value for name, value in row.items() if value is not None}


def _mean(score: str, values: list[Any]) -> Row:
    numbers = [value for value in values if is_number(value) and value - value == 0]  # neither NaN nor inf
    return {score: statistics.fmean(numbers) if numbers else None, f"{score} n": len(numbers),
            f"{score} std": statistics.stdev(numbers) if len(numbers) > 1 else None}
