"""The curves in metrics.jsonl: grouped by metric, thinned where there are many points."""
import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SPLITS = {"step": "train, within epochs", "train": "train", "val": "val"}
_NAMES = {"lr": "learning rate", "grad_norm": "gradient norm", "speed": "speed"}


@dataclass
class Curve:
    """The values of one name at optimizer steps; NaN where it was not finite."""

    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: float, value: float | None) -> None:
        """Adds a point."""
        self.steps.append(step)
        self.values.append(math.nan if value is None else value)


@dataclass
class Points:
    """All curves by name, and the step at which each epoch ended."""

    curves: dict[str, Curve] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)


@dataclass
class Group:
    """What one chart shows: curves by label. `members`: the names of values that are shown by their range."""

    title: str
    curves: dict[str, Curve]
    members: dict[str, Curve] = field(default_factory=dict)
    about_training: bool = True  # rates, norms and speed are not


def read_points(file: Path) -> Points:
    """The points in metrics.jsonl. A line that a kill has cut off, or that is no point, is left out."""
    points = Points()
    try:
        with open(file, "rb") as lines:
            for text in lines:
                _add_line(points, text)
    except OSError:  # there is none yet
        pass
    return points


def _add_line(points: Points, text: bytes) -> None:
    try:
        line = json.loads(text)
        step, epoch = line.pop("step"), line.pop("epoch")
        if type(step) is not int or type(epoch) is not int:
            return
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    for name, value in line.items():
        if value is None or type(value) is float or type(value) is int and abs(value) < 2**53:
            if name not in points.curves:
                points.curves[name] = Curve()
            curve = points.curves[name]  # without `add`: a long run has a million values
            curve.steps.append(step)
            curve.values.append(math.nan if value is None else value)
    if any(name.startswith(("train/", "val/")) for name in line):
        points.ends[epoch] = step


def thinned(curve: Curve, limit: int) -> list[tuple[float, float]]:
    """At most `limit` points: of each stretch the lowest and the highest one, so that no peak is lost."""
    points = list(zip(curve.steps, curve.values, strict=True))
    if len(points) <= limit:
        return points
    kept, number = [], max(limit // 2, 1)
    for place in range(number):
        stretch = points[len(points) * place // number:len(points) * (place + 1) // number]
        finite = [point for point in stretch if not math.isnan(point[1])] or stretch[:1]
        ends = {min(finite, key=_value), max(finite, key=_value)}
        kept += sorted(ends)
    return kept


def _value(point: tuple[float, float]) -> float:
    return point[1]


def value_at_step(curve: Curve, step: float | None) -> float | None:
    """The value at a step, the last one of several; None if there is none."""
    place = 0 if step is None else bisect_right(curve.steps, step)
    return curve.values[place - 1] if place and curve.steps[place - 1] == step else None


def grouped(curves: dict[str, Curve]) -> list[Group]:
    """The charts: one for each metric, with all splits. The values of classes become one range."""
    groups: dict[tuple, Group] = {}
    plain = _names_without_classes(curves)
    for name, curve in curves.items():
        split, _, rest = name.partition("/")
        head, _, tail = rest.partition("/")
        if split not in SPLITS:
            title = _NAMES.get(split, split) if rest else name
            _group(groups, title, split not in _NAMES).curves[rest or name] = curve
        elif not tail:
            _group(groups, rest, True).curves[SPLITS[split]] = curve
        elif tail in plain and head not in plain:
            _group(groups, tail, True).curves[f"{split}: {head}"] = curve
        else:
            above, _, last = rest.rpartition("/")
            _group(groups, f"{above} ({split})", True).members[last] = curve
    for group in groups.values():
        group.curves.update(_range_of(group.members.values()) if group.members else {})
    return [*groups.values()]


def _names_without_classes(curves: Iterable[str]) -> set[str]:
    """The names of values, such as `f1`, which may be followed by a class, or follow a set of val."""
    plain = {name.partition("/")[2] for name in curves if name.startswith(("train/", "step/"))}
    return plain | {rest for name in curves if name.startswith("val/") and "/" not in (rest := name[4:])}


def _group(groups: dict, title: str, about_training: bool) -> Group:
    return groups.setdefault((title, about_training), Group(title, {}, about_training=about_training))


def _range_of(curves: Iterable[Curve]) -> dict[str, Curve]:
    """The lowest, mean and highest of several curves at each step."""
    found, at = {name: Curve() for name in ("highest", "mean", "lowest")}, {}
    for curve in curves:
        for step, value in zip(curve.steps, curve.values, strict=True):
            at.setdefault(step, []).append(value)
    for step, values in sorted(at.items()):
        for name, value in zip(found, _three(values), strict=True):
            found[name].add(step, value)
    return found


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    finite = [value for value in values if not math.isnan(value)] or [math.nan]
    return max(finite), sum(finite) / len(finite), min(finite)
