"""The values of a run's epochs as curves in a notebook: `Curves(fit(CONFIG).history)`."""
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT, _LEFT, _TOP = 320, 180, 56, 24
_COLORS = {"train": "#1f77b4", "val": "#ff7f0e"}


class Curves:
    """The last expression of a cell shows it, a chart for each value. `history`: of what `fit` returns."""

    def __init__(self, history: Mapping[str, Sequence[float | None]]):
        self.history = history

    def _repr_html_(self) -> str:
        return draw_curves(self.history)


def draw_curves(history: Mapping[str, Sequence[float | None]]) -> str:
    """A chart for each value, such as the loss, with a curve for train and one for each set of val."""
    charts: dict[str, dict[str, Sequence[float | None]]] = {}
    for name, values in history.items():
        split, _, value = name.rpartition("/")
        if split.partition("/")[0] in _COLORS:
            charts.setdefault(value, {})[split] = values
    return "".join(_chart(name, curves, history["epoch"]) for name, curves in charts.items())


def _chart(name: str, curves: Mapping[str, Sequence[float | None]], epochs: Sequence[int]) -> str:
    points = {split: [(epoch, value) for epoch, value in zip(epochs, values, strict=True)
                      if value is not None and abs(value) < float("inf")] for split, values in curves.items()}
    numbers = [value for pairs in points.values() for _, value in pairs]
    if not numbers:
        return ""
    low, high, last = min(numbers), max(numbers), max(epochs[-1] - epochs[0], 1)
    lines, legend = [], []
    for split, pairs in points.items():
        color = _COLORS[split.partition("/")[0]]
        places = [(_LEFT + (epoch - epochs[0]) / last * (_WIDTH - _LEFT - 8),
                   _HEIGHT - 24 - (value - low) / ((high - low) or 1) * (_HEIGHT - 24 - _TOP))
                  for epoch, value in pairs]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        legend.append(f'<tspan fill="{color}"> {escape(split)}</tspan>')
    texts = [(_LEFT, 16, f"{escape(name)}{''.join(legend)}"), (2, _TOP + 4, f"{high:.4g}"),
             (2, _HEIGHT - 22, f"{low:.4g}"), (_LEFT, _HEIGHT - 6, f"epoch {epochs[0]} to {epochs[-1]}")]
    lines += [f'<text x="{x}" y="{y}">{text}</text>' for x, y, text in texts]
    return (f'<svg width="{_WIDTH}" height="{_HEIGHT}" font-size="12" font-family="sans-serif">'
            f'{"".join(lines)}</svg>')
