"""The table of many runs or of groups of them, and the table of a few side by side."""
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from tools.runs.columns import (
    AFTER,
    BEFORE,
    Columns,
    Row,
    config_keys,
    differing_keys,
    parse_condition,
    row_of,
    test_scores,
)
from tools.runs.groups import group_row, group_runs
from tools.runs.reading import Run
from tools.runs.tables import Table, duration_text, short_titles


class Overview(NamedTuple):
    """A table, and what JSON has of it."""

    table: Table
    content: list[dict[str, Any]]


def overview(all_runs: Sequence[Run], where: Iterable[str] = (), sort: str | None = None,
             group: str | None = None) -> Overview:
    """The runs that meet all conditions, newest first or in the order of a column, or groups of them.

    Raises ConfigError for columns that do not exist and for conditions that cannot be read.
    """
    monitors = {run.monitor for run in all_runs}
    columns = Columns([*BEFORE, *AFTER, *test_scores(all_runs), *config_keys(all_runs)], monitors)
    conditions = [parse_condition(text, columns) for text in where]
    shown = [(row, run) for row, run in zip(map(row_of, all_runs), all_runs, strict=True)
             if all(condition.holds(row) for condition in conditions)]
    key = columns.find(group, "--group") if group else None
    order = columns.order(columns.find(sort, "--sort")) if sort else None
    runs = [run for _, run in shown]
    notes = _notes(runs, len(all_runs))
    if key:
        table, content = _overview_of_groups(runs, key, order)
        notes.append("Means of finished runs; std is that of a sample, n how many runs count.")
    else:
        shown = sorted(shown, key=lambda pair: order(pair[0])) if order else shown
        table = _table_of_runs([row for row, _ in shown], runs)
        content = [as_content(run) for _, run in shown]
    return Overview(replace(table, notes=[*table.notes, *notes]), content)


def _overview_of_groups(runs: Sequence[Run], key: str, order: Callable[[Row], Any] | None) -> Overview:
    scores = test_scores(runs)
    groups = [(group_row(group, key, scores), group) for group in group_runs(runs, key)]
    groups = sorted(groups, key=lambda pair: order(pair[0])) if order else groups
    table = _table_of_groups([row for row, _ in groups], runs, key)
    return Overview(table, [
        {**{name: row.get(name) for name in table.columns}, "runs": [run.name for run in group]}
        for row, group in groups])


def compare(runs: Sequence[Run]) -> Overview:
    """A few runs side by side: a row for each value, and for each config key that differs."""
    rows = [_full_row(run) for run in runs]
    names = [*BEFORE[1:], *{f"last {name}": None for run in runs for name in run.scores},
             *test_scores(runs), *differing_keys(runs), *AFTER]
    has = [name for name in names if any(name in row for row in rows)]
    places = [str(number) for number in range(len(runs))]
    table = Table({"name": "", **{place: run.name for place, run in zip(places, runs, strict=True)}},
                  [{"name": name} | {place: row[name] for place, row in zip(places, rows, strict=True)
                                     if name in row} for name in has], kept=2)
    return Overview(table, [as_content(run) for run in runs])


def _full_row(run: Run) -> Row:
    """The values of a run by name, also those of its last evaluation."""
    row = {**row_of(run), **{f"last {name}": value for name, value in run.scores.items()}}
    return row | {"duration": duration_text(row["duration"])} if "duration" in row else row


def as_content(run: Run) -> dict[str, Any]:
    """All that is known of a run, for JSON."""
    start = next(reversed(run.starts), {})
    row = row_of(run)
    return {"run": run.name, "folder": str(run.folder), "state": run.state, "reason": run.reason,
            "monitor": run.monitor, "best": run.best, "epoch": run.epoch, "scores": run.scores,
            "test": run.test, "seed": run.config.get("seed"), "commit": start.get("git_commit"),
            "uncommitted": start.get("git_diff"), "started": row["started"], "duration_s": run.duration_s,
            "config": run.config}


def _table_of_runs(rows: list[Row], runs: Sequence[Run]) -> Table:
    best, titles = _best_title(runs), short_titles(differing_keys(runs))
    columns = {"run": "run", "state": "state", "best": best, "epoch": "epoch",
               **{name: name for name in test_scores(runs)}, **titles,
               "seed": "seed", "commit": "commit", "duration": "duration"}
    return Table(columns, rows, ("reason", "monitor", "started"))


def _table_of_groups(rows: list[Row], runs: Sequence[Run], key: str) -> Table:
    columns = {"run": "newest run", "state": "runs", key: short_titles([key])[key]}
    for score, title in {"best": _best_title(runs), **{name: name for name in test_scores(runs)}}.items():
        columns |= {score: title, f"{score} std": "std", f"{score} n": "n"}
    columns |= {name: title for name, title in short_titles(differing_keys(runs)).items() if name != key}
    columns |= {name: name for name in ("seed", "commit") if name not in columns}
    return Table(columns, rows, ("monitor", "started"), kept=6)


def _best_title(runs: Iterable[Run]) -> str:
    names = {run.monitor for run in runs if run.monitor}
    return names.pop() if len(names) == 1 else "best"


def _notes(runs: Sequence[Run], number: int) -> list[str]:
    monitors: dict[str, int] = {}
    for run in runs:
        if run.monitor:
            monitors[run.monitor] = monitors.get(run.monitor, 0) + 1
    listed = ", ".join(f"{monitor} ({count})" for monitor, count in sorted(monitors.items()))
    notes = [f"These runs have different monitors, whose values cannot be compared: {listed}."]
    some = [f"{len(runs)} of {number} runs."]
    return notes * (len(monitors) > 1) + some * (len(runs) < number)
