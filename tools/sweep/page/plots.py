"""Trials as dots and lines, in SVG: the best so far, slices, parallel coordinates, learning curves."""
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.report.page.charts import Scale, short_number
from tools.report.page.markup import number, scrolled, text
from tools.sweep.space import Parameter
from utils.config.syntax import format_value
from utils.config.values import is_same

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 360, 86, 16, 16, 40
_UPWARD = (_HEIGHT - _BOTTOM - 12, _TOP + 8)
_GAP, _LEAST_PX, _MOST_PX, _TALL = 230, 105, 170, 440  # of parallel coordinates
_UNUSED = 404  # the height of parameters that a trial does not use
_LEAST_FOR_EDGE = 5  # trials: of as many the worst fifth may stand at the edge
_LISTED = 6  # values with a step that are all named
_NAME = 14  # characters of a choice below its place


@dataclass(frozen=True)
class Dot:
    """A trial with its value. `quality`: from 0, the worst one, to 1, the best one.

    `finished`: else the value is one of a trial that was paused or still runs.
    """

    trial: int
    params: Mapping[str, Any]
    value: float
    quality: float
    finished: bool

    @property
    def title(self) -> str:
        """What stands under the mouse."""
        about = f"trial {self.trial}: {number(self.value)}; {shown_values(self.params)}"
        return f"<title>{text(about)}</title>"


@dataclass(frozen=True)
class Axis:
    """From values to places in a picture, None for no place. `beyond`: how many values are at the edge."""

    place: Callable[[Any], int | None]
    ticks: Sequence[tuple[int, str]]
    beyond: int = 0


def shown_values(params: Mapping[str, Any]) -> str:
    """Values of parameters on a line."""
    return ", ".join(f"{key} {short_number(value) if isinstance(value, float) else format_value(value)}"
                     for key, value in params.items())


def value_axis(values: Sequence[float], start: int, end: int) -> Axis:
    """For finite values, best first. Those far worse than four fifths of all stand at the edge."""
    best, usual = values[0], values[len(values) - 1 - len(values) // _LEAST_FOR_EDGE]
    inside = [value for value in values if abs(value - best) <= 3 * abs(usual - best)]
    scale = Scale(inside, start, end)
    low, high = min(inside), max(inside)
    return Axis(lambda value: scale(min(max(value, low), high)),
                [(scale(tick), short_number(tick)) for tick in scale.ticks()], len(values) - len(inside))


def parameter_axis(parameter: Parameter, start: int, end: int) -> Axis:
    """A range, logarithmic if its scale is, or the choices in their order."""
    if (choices := parameter.values) is not None:
        places = [round(start + (end - start) * (at + 0.5) / len(choices)) for at in range(len(choices))]
        ticks = [(at, _cut(format_value(value))) for at, value in zip(places, choices)]
        return Axis(lambda value: next((at for at, choice in zip(places, choices)
                                        if is_same(choice, value)), None), ticks)
    scale = Scale([parameter.low, parameter.high], start, end, parameter.log)
    ticks = [tick for tick in scale.ticks() if not parameter.is_integer or tick == round(tick)]
    if (listed := parameter.listed()) and len(listed) <= _LISTED:
        ticks = listed
    return Axis(scale, [(scale(tick), short_number(tick)) for tick in ticks])


def best_so_far(dots: Sequence[Dot], maximize: bool, num_trials: int) -> str:
    """The value of each trial, and the best one of finished trials up to it. `dots`: best first."""
    y = value_axis([dot.value for dot in dots], *_UPWARD)
    x = Scale([0, max(num_trials - 1, 1)], _LEFT + 8, _WIDTH - _RIGHT - 8)
    best, path = None, ""
    for dot in sorted(dots, key=lambda dot: dot.trial):
        if dot.finished and (best is None or (dot.value > best if maximize else dot.value < best)):
            path += f"{'H' if path else 'M'}{x(dot.trial)}{'V' if path else ','}{y.place(dot.value)}"
            best = dot.value
    line = f'<path class="l b" d="{path}H{_WIDTH - _RIGHT}"/>' if path else ""
    ticks = [(x(tick), short_number(tick)) for tick in x.ticks() if tick == int(tick)]
    drawn = line + "".join(_circle(dot, x(dot.trial), y) for dot in reversed(dots))
    return _figure("Best so far", _frame(y, ticks, "trial") + drawn, y,
                   {"b": "the best of finished trials", **_kinds(dots)})


def slices(dots: Sequence[Dot], parameters: Iterable[Parameter], names: Mapping[str, str]) -> str:
    """The value over each parameter. `dots`: best first."""
    drawn = []
    for parameter in parameters:
        x = parameter_axis(parameter, _LEFT + 8, _WIDTH - _RIGHT - 8)
        used = [(dot, at) for dot in dots if (at := x.place(dot.params[parameter.key]) if parameter.key
                                              in dot.params else None) is not None]
        if used:
            y = value_axis([dot.value for dot, _ in used], *_UPWARD)
            circles = "".join(_circle(dot, at, y) for dot, at in reversed(used))
            own = [dot for dot, _ in used]
            drawn.append(_figure(names.get(parameter.key, parameter.key), _frame(y, x.ticks) + circles, y,
                                 _kinds(own)))
    return "".join(drawn)


def parallel(dots: Sequence[Dot], parameters: Sequence[Parameter], names: Mapping[str, str],
             metric: str) -> str:
    """A line for each trial over all parameters, and last its value. `dots`: best first."""
    top, bottom = 64, _UNUSED - 40
    axes = [parameter_axis(parameter, bottom, top) for parameter in parameters]
    axes.append(value_axis([dot.value for dot in dots], bottom, top))
    places = [_GAP // 2 + _GAP * number for number in range(len(axes))]
    parts, titles = [], [*(names.get(one.key, one.key) for one in parameters), metric]
    unused = set()
    for dot in reversed(dots):
        found = _crossings(dot, axes, parameters)
        unused |= {place for place, at in zip(places, found) if at is None}
        heights = [_UNUSED if at is None else at for at in found] + [axes[-1].place(dot.value)]
        path = "M" + "L".join(f"{at},{height}" for at, height in zip(places, heights, strict=True))
        parts.append(f'<path class="l{" thin" * (dot.quality < 1)}" stroke="{_color(dot.quality)}" '
                     f'd="{path}">{dot.title}</path>')
    parts += [_vertical(axis, at, name, top, bottom) for axis, at, name in zip(
        axes, places, titles, strict=True)]
    parts += [f'<text class="on" x="{at + 10}" y="{_UNUSED + 7}">unused</text>' for at in sorted(unused)]
    size = f"min-width:{_LEAST_PX * len(axes)}px;max-width:{_MOST_PX * len(axes)}px"
    svg = (f'<svg viewBox="0 0 {_GAP * len(axes)} {_TALL}" style="{size}" role="img" '
           f'aria-label="Parallel coordinates">{"".join(parts)}</svg>')
    return (f"<figure><figcaption>A line for each trial{_spectrum()}</figcaption>"
            f"{scrolled('Parallel coordinates', svg)}{_beyond(axes[-1])}</figure>")


def _crossings(dot: Dot, axes: Sequence[Axis], parameters: Sequence[Parameter]) -> list[int | None]:
    """Where a trial's line crosses the axes of the parameters; None where it does not use one."""
    return [axis.place(dot.params[one.key]) if one.key in dot.params else None
            for axis, one in zip(axes, parameters)]


def learning_curves(curves: Sequence[tuple[str, float, Sequence[tuple[int, float]]]], metric: str,
                    maximize: bool) -> str:
    """Name, quality and points (epoch, value) of each run, best first."""
    values = sorted((value for _, _, points in curves for _, value in points), reverse=maximize)
    y = value_axis(values, *_UPWARD)
    x = Scale([epoch for _, _, points in curves for epoch, _ in points], _LEFT + 4, _WIDTH - _RIGHT - 8)
    drawn = ""
    for name, quality, points in reversed(curves):
        path = " ".join(f"{x(epoch)},{y.place(value)}" for epoch, value in (points * 2)[:max(len(points), 2)])
        drawn += (f'<path class="l{" thin" * (quality < 1)}" stroke="{_color(quality)}" d="M{path}">'
                  f"<title>{text(name)}</title></path>")
    ticks = [(x(tick), short_number(tick)) for tick in x.ticks() if tick == int(tick)]
    return (f'<figure style="max-width:560px"><figcaption>{text(metric)} by epoch{_spectrum()}</figcaption>'
            f"{_svg(metric, _frame(y, ticks, 'epoch') + drawn)}{_beyond(y)}</figure>")


def _circle(dot: Dot, at: int, y: Axis) -> str:
    size, color = (11, "b") if dot.quality == 1 else (8, "a") if dot.finished else (6, "f")
    return (f'<circle class="dot {color}" cx="{at}" cy="{y.place(dot.value)}" r="{size}">'
            f"{dot.title}</circle>")


def _frame(y: Axis, marks: Sequence[tuple[int, str]], unit: str = "") -> str:
    """Lines and names of the values, and names below."""
    parts = [f'<path class="grid" d="M{_LEFT},{at}H{_WIDTH - _RIGHT}"/>'
             f'<text x="{_LEFT - 8}" y="{at + 7}" text-anchor="end">{name}</text>' for at, name in y.ticks]
    taken: list[tuple[int, int]] = []
    marks = [(at, f"{unit} {name}".strip()) for at, name in marks[-1:]] + [*marks[:-1]]
    for at, name in marks:
        half = 6 * len(name)
        at = min(max(at, half), _WIDTH - half)
        if all(abs(at - other) > half + width + 8 for other, width in taken):  # none stands on another
            parts.append(f'<text x="{at}" y="{_HEIGHT - 10}" text-anchor="middle">{text(name)}</text>')
            taken.append((at, half))
    return "".join(parts)


def _vertical(axis: Axis, at: int, name: str, top: int, bottom: int) -> str:
    """An axis of parallel coordinates, with its name above."""
    ticks = "".join(f'<text class="on" x="{at + 10}" y="{place + 7}">{text(tick)}</text>'
                    for place, tick in axis.ticks)
    short = name if len(name) <= 20 else f"...{name[-18:]}"
    return (f'<path class="grid" d="M{at},{top}V{bottom}"/>{ticks}'
            f'<text x="{at}" y="28" text-anchor="middle">{text(short)}<title>{text(name)}</title></text>')


def _figure(title: str, drawn: str, y: Axis, kinds: Mapping[str, str]) -> str:
    key = "".join(f'<span><i class="{color}"></i>{name}</span>' for color, name in kinds.items())
    return (f'<figure><figcaption>{text(title)}<span class="key">{key}</span></figcaption>'
            f"{_svg(title, drawn)}{_beyond(y)}</figure>\n")


def _svg(title: str, drawn: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(title)}">{drawn}</svg>'


def _kinds(dots: Sequence[Dot]) -> dict[str, str]:
    """The key of the dots' colors."""
    found = {"a": any(dot.finished for dot in dots), "f": any(not dot.finished for dot in dots)}
    names = {"a": "finished", "f": "not finished"}
    return {color: names[color] for color, is_there in found.items() if is_there}


def _spectrum() -> str:
    shown = "".join(f'<span><i style="border-color:{_color(part)}"></i>{name}</span>'
                    for part, name in ((0.0, "worst"), (0.5, "middle"), (1.0, "best")))
    return f'<span class="key">{shown}</span>'


def _beyond(y: Axis) -> str:
    return f'<p class="soft">{y.beyond} values are beyond the edge.</p>' if y.beyond else ""


def _color(quality: float) -> str:
    """From blue over gray to orange: told apart on light and dark ground, and with weak color vision."""
    ends = ((42, 111, 196), (140, 143, 150), (232, 106, 23))
    low, high, part = (*ends[:2], quality * 2) if quality < 0.5 else (*ends[1:], quality * 2 - 1)
    return "rgb({},{},{})".format(*(round(one + (other - one) * part) for one, other in zip(low, high)))


def _cut(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[:_NAME - 2]}.."
