"""Curves as SVG, which scales with the page. The values stand in titles, which appear under the mouse."""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tools.report.page.markup import COLORS, number, text
from tools.report.page.points import SPLITS, Curve, Group, thinned, value_at_step

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 360, 86, 16, 16, 40
_MOST_LINES = 6
_COLORS = {SPLITS["step"]: "f", SPLITS["train"]: "a", SPLITS["val"]: "b"}
_LOG_ABOVE = 300  # the largest value by the smallest one


@dataclass(frozen=True)
class Frame:
    """What the charts of a page share.

    `ends`: the last step of each epoch. `best`: the best epoch, if any. `points`, `titles`: how many a curve
    may have.
    """

    ends: dict[int, int]
    best: int | None
    points: int
    titles: int

    @cached_property
    def _epochs(self) -> dict[float, int]:
        return {end: epoch for epoch, end in self.ends.items()}

    @property
    def in_epochs(self) -> bool:
        """Whether the axis counts epochs; else steps."""
        return len(self.ends) > 1

    def name_of(self, step: float) -> str:
        """The epoch, or the step within it."""
        epoch = self._epochs.get(step) if self.in_epochs else None
        return f"step {step:.0f}" if epoch is None else f"epoch {epoch}"


class Scale:
    """From values to places in a picture; logarithmic if `log`."""

    def __init__(self, values: Sequence[float], start: int, end: int, log: bool = False):
        self.log, self.start, self.end = log, start, end
        low, high = map(self._inner, (min(values), max(values)))
        spread = (high - low) or abs(high) * 0.1 or 1.0
        self.low, self.high = (low, high) if high > low else (low - spread / 2, high + spread / 2)

    def _inner(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def __call__(self, value: float) -> int:
        part = (self._inner(value) - self.low) / (self.high - self.low)
        return round(self.start + part * (self.end - self.start))

    def ticks(self) -> list[float]:
        """Round values from the lowest to the highest one."""
        if self.log:
            whole = range(math.ceil(self.low), math.floor(self.high) + 1)
            every = max(len(whole) // 4, 1)
            found = [10.0**power for power in whole[::every]]
            return found if len(found) > 1 else [10**self.low, 10**self.high]
        step = _round_step((self.high - self.low) / 4)
        first = math.ceil(self.low / step - 1e-9)
        return [place * step for place in range(first, math.floor(self.high / step + 1e-9) + 1)]


def chart(group: Group, frame: Frame) -> str:
    """The chart of a group with its key; a sentence if there is no finite value."""
    curves = dict([*group.curves.items()][:_MOST_LINES])
    lines = {label: thinned(curve, frame.points) for label, curve in curves.items()}
    finite = [value for points in lines.values() for _, value in points if math.isfinite(value)]
    notes = _notes(group, curves)
    if not finite:
        return (f"<figure><figcaption>{text(group.title)}</figcaption><p>no finite value</p>{notes}</figure>")
    steps = [step for points in lines.values() for step, _ in points]
    x = Scale(steps, _LEFT, _WIDTH - _RIGHT)
    low, high = min(finite), max(finite)
    y = Scale(finite, _HEIGHT - _BOTTOM, _TOP, log=0 < low < high / _LOG_ABOVE)
    drawn = "".join(_line(lines[label], x, y, color, label) for label, color in _colors(curves).items())
    about = ", ".join(f"{label} ends at {number(_last(curve))}".strip() for label, curve in curves.items())
    return (f"<figure><figcaption>{text(group.title)}{_key(curves, frame)}</figcaption>\n"
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="{text(group.title)}: {text(about)}">'
            f"{_axes(x, y, frame)}{_best_line(x, frame)}{drawn}{_best_dots(curves, x, y, frame)}"
            f"{_titles(curves, x, frame)}</svg>{notes}</figure>\n")


def _colors(curves: dict[str, Curve]) -> dict[str, str]:
    """A color for each label: train and val have theirs. The lines within epochs are below the others."""
    free = [color for color in COLORS if color not in _COLORS.values() or not curves.keys() & _COLORS.keys()]
    found = {label: _COLORS[label] for label in _COLORS if label in curves}
    return found | dict(zip([label for label in curves if label not in found], free))


def _line(points: Sequence[tuple[float, float]], x: Scale, y: Scale, color: str, label: str) -> str:
    """A line, with a gap where values are not finite; a lonely point is a dot."""
    parts: list[list[str]] = [[]]
    for step, value in points:
        if math.isfinite(value):
            parts[-1].append(f"{x(step)},{y(value)}")
        elif parts[-1]:
            parts.append([])
    thin = " spot" if len(points) == 1 else " thin" if label == SPLITS["step"] else ""
    path = "".join("M" + " ".join(part if len(part) > 1 else part * 2) for part in parts if part)
    return f'<path class="l {color}{thin}" d="{path}"/>'


def _axes(x: Scale, y: Scale, frame: Frame) -> str:
    parts = []
    for value in y.ticks():
        at = y(value)
        parts.append(f'<path class="grid" d="M{_LEFT},{at}H{_WIDTH - _RIGHT}"/>'
                     f'<text x="{_LEFT - 8}" y="{at + 7}" text-anchor="end">{short_number(value)}</text>')
    marks = _marks(x, frame)
    for at, name in marks[:-1]:
        parts.append(f'<text x="{at}" y="{_HEIGHT - 10}" text-anchor="middle">{name}</text>')
    for at, name in marks[-1:]:
        unit = "epoch" if frame.in_epochs else "step"
        parts.append(f'<text x="{min(at + 14, _WIDTH - 4)}" y="{_HEIGHT - 10}" text-anchor="end">'
                     f"{unit} {name}</text>")
    return "".join(parts)


def _marks(x: Scale, frame: Frame) -> list[tuple[int, str]]:
    """Places and names on the axis of epochs or steps."""
    if not frame.in_epochs:
        return [(x(step), short_number(step)) for step in x.ticks() if step == int(step)]
    inside = {epoch: end for epoch, end in frame.ends.items() if x.low <= end <= x.high}
    every = max(round(_round_step(len(inside) / 5)), 1)
    return [(x(end), str(epoch)) for epoch, end in inside.items() if epoch % every == 0]


def _best_line(x: Scale, frame: Frame) -> str:
    end = frame.ends.get(frame.best)
    return "" if end is None else f'<path class="best" d="M{x(end)},{_TOP}V{_HEIGHT - _BOTTOM}"/>'


def _best_dots(curves: dict[str, Curve], x: Scale, y: Scale, frame: Frame) -> str:
    end, dots = frame.ends.get(frame.best), []
    for label, color in _colors(curves).items():
        value = None if end is None else value_at_step(curves[label], end)
        if value is not None and math.isfinite(value):
            dots.append(f'<circle class="dot {color}" cx="{x(end)}" cy="{y(value)}" r="6"/>')
    return "".join(dots)


def _titles(curves: dict[str, Curve], x: Scale, frame: Frame) -> str:
    """Columns with the values at a step, which a browser shows under the mouse."""
    whole = [curve for label, curve in curves.items() if label != SPLITS["step"]] or [*curves.values()]
    steps = sorted({step for curve in whole for step in curve.steps})
    if not frame.titles or not steps:
        return ""
    shown = steps[::-(-len(steps) // frame.titles)]
    values = [(label, dict(zip(curve.steps, curve.values, strict=True))) for label, curve in curves.items()]
    columns, half = [], max((_WIDTH - _LEFT - _RIGHT) // (2 * len(shown)), 2)
    for step in shown:
        found = [f"{text(label)} {number(at[step])}" for label, at in values if step in at]
        columns.append(f'<rect class="h" x="{x(step) - half}" y="{_TOP}" width="{2 * half}" '
                       f'height="{_HEIGHT - _TOP - _BOTTOM}"><title>{frame.name_of(step)}: '
                       f"{', '.join(found)}</title></rect>")
    return "".join(columns)


def _key(curves: dict[str, Curve], frame: Frame) -> str:
    """Which line is what, with its last value and that of the best epoch."""
    best = frame.ends.get(frame.best)
    items = []
    colors = _colors(curves)
    for label, curve in curves.items():
        at_best = None if best is None else value_at_step(curve, best)
        there = "" if at_best is None else f", {number(at_best)} at the best epoch"
        value = f"{text(label)} {number(_last(curve))}{there}"
        items.append(f'<span><i class="{colors[label]}"></i>{value}</span>')
    return f'<span class="key">{"".join(items)}</span>'


def _notes(group: Group, curves: dict[str, Curve]) -> str:
    left_out = len(group.curves) - len(curves)
    missing = sum(not math.isfinite(value) for curve in curves.values() for value in curve.values)
    notes = [f"{left_out} more lines are not drawn." if left_out else "",
             f"The range of {len(group.members)} values." if group.members else "",
             f"{missing} values are not finite." if missing and not group.members else ""]
    return "".join(f'<p class="soft">{note}</p>' for note in notes if note)


def _last(curve: Curve) -> float | None:
    return curve.values[-1] if curve.values else None


def _round_step(value: float) -> float:
    """The next of 1, 2, 5, 10, ... times a power of ten."""
    power = 10.0**math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999)


def short_number(value: float) -> str:
    """A number with three digits."""
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
