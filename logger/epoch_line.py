"""The line of an epoch: whole for run.log, and for the console in columns that stay in place and fit."""
import math
import shutil
import sys
from collections.abc import Iterable, Mapping

from utils.config.suggestions import MOST_SHOWN
from utils.training.timers import data_wait, describe_times

_BEST = "  * best"


class EpochLine:
    """Formats epochs as `epoch  3/10  train loss 0.1234 | val loss ... | lr 0.001 | 1.2 s  * best`.

    The console's line keeps the columns of the epochs before, also for values that an epoch lacks. On a
    terminal that is too narrow it leaves out learning rates, then values of train, then of val; losses last.
    """

    def __init__(self):
        self._columns: dict[str, dict[str, int]] = {}  # widths, by group and name

    def whole(self, head: str, values: Mapping[str, float], elapsed_s: float, improved: bool,
              seconds_of: Mapping[str, float], sets: Iterable[str]) -> str:
        """Every value, but one summary for a metric with more than 8, and how the time was spent."""
        parts = " | ".join(_describe_group(group, items, group not in ("train", "lr", *sets))
                           for group, items in _groups_of(values).items())
        return (f"{head}  {parts} | {elapsed_s:.1f} s ({describe_times(seconds_of)})"
                f"{'  * best' if improved else ''}")

    def short(self, head: str, values: Mapping[str, float], elapsed_s: float, improved: bool,
              seconds_of: Mapping[str, float], sets: Iterable[str]) -> str:
        """What fits the terminal, with a remark on the time if much of it was spent waiting for data."""
        texts = {group: _texts(group, items, group not in ("train", "lr", *sets))
                 for group, items in _groups_of(values).items()}
        for group, items in texts.items():
            widths = self._columns.setdefault(group, {})
            for name, text in items.items():
                widths[name] = max(widths.get(name, 7 if group == "lr" else 6), len(text))
        order = sorted(self._columns, key=lambda group: (group == "lr", group != "train"))
        self._columns = {group: self._columns[group] for group in order}
        waited = data_wait(seconds_of) if elapsed_s > 1 else None
        end = f"{elapsed_s:6.1f} s{_BEST if improved else ''}{f'  ({waited})' if waited else ''}"
        room = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else math.inf
        reserved = len(head) + len(end) + (0 if improved else len(_BEST))
        shown = [(group, name) for group, widths in self._columns.items() for name in widths]
        while True:
            parts = [self._part(group, texts.get(group, {}), shown) for group in self._columns]
            line = " | ".join(filter(None, parts))
            if len(line) + reserved + 5 <= room or len(shown) <= 1:
                return f"{head}  {line} | {end}"
            shown.remove(min(reversed(shown), key=_importance))

    def _part(self, group: str, texts: Mapping[str, str], shown: list[tuple[str, str]]) -> str:
        cells = []
        for name, width in self._columns[group].items():
            if (group, name) in shown:
                label = "" if name == "optimizer" else f"{name} "
                blank = " " * (len(label) + width)
                align = "<" if group == "lr" else ">"
                cells.append(f"{label}{texts[name]:{align}{width}}" if name in texts else blank)
        return " ".join([group if texts else " " * len(group), *cells]) if cells else ""


def _importance(column: tuple[str, str]) -> tuple[bool, bool, bool]:
    group, name = column
    return group != "lr", "loss" in name, group != "train"


def _groups_of(values: Mapping[str, float]) -> dict[str, dict[str, float]]:
    groups: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        group, _, rest = name.rpartition("/")  # a group for each set of val
        groups.setdefault(group, {})[rest] = value
    return groups


def _texts(group: str, values: Mapping[str, float], is_metric: bool) -> dict[str, str]:
    if is_metric and len(values) > 2:  # such as one for each class
        low, mean, _ = _range_of(values)
        return {"mean": f"{mean:.4f}", "min": f"{low:.4f}"}
    return {name: f"{value:.3g}" if group == "lr" else f"{value:.4f}" for name, value in values.items()}


def _range_of(values: Mapping[str, float]) -> tuple[float, float, float]:
    numbers = [value for value in values.values() if not math.isnan(value)] or [math.nan]
    return min(numbers), sum(numbers) / len(numbers), max(numbers)


def _describe_group(group: str, values: Mapping[str, float], is_metric: bool) -> str:
    if is_metric and len(values) > MOST_SHOWN:
        return (f"{group} {len(values)} values, see metrics.jsonl: "
                "min {:.4f} mean {:.4f} max {:.4f}".format(*_range_of(values)))
    shown = _texts(group, values, False)
    return " ".join([group, *(text if name == "optimizer" else f"{name} {text}"
                              for name, text in shown.items())])
