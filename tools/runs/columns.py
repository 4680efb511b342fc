"""What a table shows of runs, by column; conditions (--where) and order (--sort)."""
import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import ge, gt, le, lt
from typing import Any, NamedTuple

from tools.monitor_direction import usual_mode
from tools.runs.reading import Run
from utils.config.suggestions import suggest_name
from utils.config.syntax import format_value, read_number
from utils.errors import ConfigError
from utils.training.progress import parse_duration

Row = dict[str, Any]  # values by column; what a run does not have is missing
NO_MONITOR = "no monitor"
# The columns of every run, besides the test scores and the config.
BEFORE = ("run", "state", "reason", "monitor", "best", "epoch")
AFTER = ("seed", "commit", "duration", "started")
_COMPARE = {"<": lt, "<=": le, ">": gt, ">=": ge}
_CONDITION = re.compile(r"\s*(.*?)\s*(<=|>=|!=|==|=|<|>|~)\s*(.*?)\s*", re.DOTALL)


def row_of(run: Run) -> Row:
    """All that can be shown of a run, asked for in a condition, or sorted by."""
    best = NO_MONITOR if run.monitor is None else run.best
    fixed = {"run": run.name, "state": run.state, "reason": run.reason, "monitor": run.monitor,
             "best": best, "epoch": run.epoch, "commit": run.commit, "duration": run.duration_s,
             "started": f"{datetime.fromtimestamp(run.started):%Y-%m-%d %H:%M:%S}"}
    return {**run.config, **run.test, **{name: value for name, value in fixed.items() if value is not None}}


def config_keys(runs: Iterable[Run]) -> list[str]:
    """The keys of the runs' configs, in the order of the first."""
    return list({key: None for run in runs for key in run.config})


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """The config keys whose values differ; without keys that have a column anyway, and without writers."""
    tables = [{key: comparable(value) for key, value in run.config.items()} for run in runs]
    return [key for key in config_keys(runs) if key not in ("name", *AFTER)
            and not is_of_writers(key) and any(table.get(key) != tables[0].get(key) for table in tables)]


def is_of_writers(key: str) -> bool:
    """Whether a config key tells where results are logged, which changes none."""
    return key.split(".")[0] == "writers"


def test_scores(runs: Iterable[Run]) -> list[str]:
    """The names of the scores in test.json."""
    return list({name: None for run in runs for name in run.test})


def comparable(value: Any) -> str:
    """A text that is equal for equal values of a config: 1 and 1.0 are, 1 and true are not."""
    return repr(value + 0.0 if type(value) is int and abs(value) < 2**53 else value)


def is_number(value: Any) -> bool:
    """Whether a value is a number, which true and false are not. NaN is."""
    return type(value) in (int, float)


def as_text(value: Any) -> str:
    """A value as it is written in a config; nan for NaN."""
    if isinstance(value, str):
        return value
    if is_number(value) and (value != value or "e" not in repr(value)):  # YAML takes 0.1 ms for a number
        return repr(value)
    return format_value(value)


class Columns:
    """The columns that an option may name, and how they are sorted.

    Args:
        known: their names.
        monitors: those of the runs, such as {"max val/accuracy"}.
    """

    def __init__(self, known: Iterable[str], monitors: Iterable[str | None]):
        self.known = list(dict.fromkeys(known))
        self.monitors = sorted(monitor for monitor in {*monitors} if monitor)

    def find(self, name: str, option: str) -> str:
        """The column for a name: its own, the end of a config key (`lr`), or the monitored value's.

        Raises ConfigError if there is none, or more than one.
        """
        if name in self.known:
            return name
        if [name] == [*{monitor.partition(" ")[2] for monitor in self.monitors}]:
            return "best"
        ends = [key for key in self.known if key.endswith(f".{name}")]
        if len(ends) == 1:
            return ends[0]
        if ends:
            raise ConfigError(f"{option}: '{name}' may be any of {', '.join(ends)}. Write the whole key.")
        raise ConfigError(f"{option}: no run has a column or config key '{name}'."
                          f"{suggest_name(name, [*self.known, *(key.split('.')[-1] for key in self.known)])}")

    def mode(self, column: str) -> str | None:
        """"min" or "max": which value of a score is the better one. None for what is no score."""
        if "/" not in column:
            return None
        same = [monitor.partition(" ")[0] for monitor in self.monitors
                if monitor.partition("/")[2] == column.partition("/")[2]]
        return same[0] if len({*same}) == 1 else usual_mode(column)

    def order(self, column: str) -> Callable[[Row], tuple]:
        """A key for sorting rows: the best value first, or the smallest; then text, NaN, and what is missing.

        Values of different monitors cannot be compared: the rows of each stand together.
        """
        mode = self.mode(column)

        def key(row: Row) -> tuple:
            value, place, monitor = row.get(column), _place(row.get(column)), ""
            falls = mode == "max"
            if column == "best" and place == 0:
                monitor = row["monitor"]
                falls = monitor.startswith("max ")
            number = (-value if falls else value) if place == 0 else 0
            return place, monitor, number, as_text(value) if place == 1 else ""

        return key


def _place(value: Any) -> int:
    """0 for numbers, 1 for text, 2 for NaN, 3 for what is missing."""
    if is_number(value):
        return 2 if math.isnan(value) else 0
    return 3 if value is None or value == NO_MONITOR else 1


class Condition(NamedTuple):
    """A condition such as `optimizer.args.lr<0.01`. `value`: a number, true, false, null or text."""

    column: str
    operator: str
    value: Any

    def holds(self, row: Row) -> bool:
        """Whether a row meets it. What is missing or of another kind is neither smaller nor larger."""
        found = row.get(self.column)
        if self.operator == "~":
            return found is not None and as_text(self.value) in as_text(found)
        if self.operator in ("=", "!="):
            same = (found == self.value if is_number(found) and is_number(self.value)
                    else as_text(found) == as_text(self.value))
            return same == (self.operator == "=")
        one_kind = (is_number(found) and is_number(self.value)
                    or isinstance(found, str) and isinstance(self.value, str))
        return one_kind and _COMPARE[self.operator](found, self.value)


def parse_condition(text: str, columns: Columns) -> Condition:
    """Reads `KEY<VALUE`, with < <= > >= = != or ~. Text may stand in quotes. Raises ConfigError."""
    found = _CONDITION.fullmatch(text)
    if not found or not found[1]:
        raise ConfigError(f"--where: '{text}' cannot be read. Write a column, one of < <= > >= = != ~ and a "
                          "value: 'optimizer.args.lr<0.01'.")
    name, operator, value = found.groups()
    column = columns.find(name, "--where")
    quoted = re.fullmatch(r"""(['"])(.*)\1""", value, re.DOTALL)
    value = quoted[2] if quoted else value if operator == "~" else read_number(value)
    if column == "duration" and isinstance(value, str) and operator != "~":
        try:
            value = parse_duration(value)
        except ValueError as error:
            raise ConfigError(f"--where: {error}") from error
    return Condition(column, "=" if operator == "==" else operator, value)
