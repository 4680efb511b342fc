"""The line of an epoch: whole for run.log, and for the console in columns that stay in place and fit."""
import math
import shutil
import sys
from collections.abc import Iterable, Mapping

from utils.config.suggestions import MOST_SHOWN
from utils.training.timers import data_wait, describe_times


class EpochLine:
    """Formats epochs as `epoch  3/10  train loss 0.1234 | val loss ... | lr 0.001 | 1.2 s  * best`.

    The console's line keeps the columns of the epochs before, also for values that an epoch lacks. On a
    terminal that is too narrow it leaves out learning rates, then values of train, then of val; losses last.
    """

    def __init__(self):
        self._columns: dict[str, dict[str, int]] = {}  # widths, by group and name

    def format(self, head: str, values: Mapping[str, float], elapsed_s: float, improved: bool,
               seconds_of: Mapping[str, float], sets: Iterable[str]) -> tuple[str, str]:
        """The whole line, with how the time was spent, and that of the console.

        A metric with many values is summed up. The console gets a remark if data were waited for much.
        """
        groups: dict[str, dict[str, float]] = {}
        for name, value in values.items():
            group, _, rest = name.rpartition("/")  # a group for each set of val
            groups.setdefault(group, {})[rest] = value
        metrics, best = groups.keys() - {"train", "lr", *sets}, "  * best" if improved else ""
        parts = " | ".join(_describe_group(group, items, group in metrics) for group, items in groups.items())
        whole = f"{head}  {parts} | {elapsed_s:.1f} s ({describe_times(seconds_of)}){best}"
        texts = {group: _texts(group, items, group in metrics) for group, items in groups.items()}
        waited = data_wait(seconds_of) if elapsed_s > 1 else None
        return whole, self._fit(f"{head}  ", texts, f" | {elapsed_s:6.1f} s{best or 8 * ' '}"
                                                    f"{f'  ({waited})' if waited else ''}").rstrip()

    def _fit(self, head: str, texts: Mapping[str, Mapping[str, str]], end: str) -> str:
        for group, items in texts.items():
            widths = self._columns.setdefault(group, {})
            for name, text in items.items():
                widths[name] = max(widths.get(name, 7 if group == "lr" else 6), len(text))
        groups = sorted(self._columns, key=lambda group: (group == "lr", group != "train"))
        room = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else math.inf
        shown = [(group, name) for group in groups for name in self._columns[group]]
        while True:
            parts = [self._part(group, texts.get(group, {}), shown) for group in groups]
            line = head + " | ".join(filter(None, parts)) + end
            if len(line) <= room or len(shown) <= 1:
                return line
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


def _texts(group: str, values: Mapping[str, float], is_metric: bool) -> dict[str, str]:
    if is_metric and len(values) > 2:  # such as one for each class
        return dict(zip(("min", "mean"), map("{:.4f}".format, _range_of(values))))
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
