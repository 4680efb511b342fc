"""TensorBoard's pages: which tag a value has, which decides its place, and the charts of Custom Scalars."""
import re
from collections import Counter
from collections.abc import Iterable

from utils.config.suggestions import MOST_SHOWN

# The page sorts groups by the first part of a tag and opens two of them: train and val are to be these.
_GROUPS = {"step": "within_epoch", "lr": "z_technical/lr", "grad_norm": "z_technical/grad_norm",
           "speed": "z_technical/speed", "time": "z_technical/time", "memory": "z_technical/memory"}
# Charts of the last group, and what their tags begin with; those of earlier versions had no z_technical.
_TECHNICAL = {"learning rate": "lr/", "gradient norm": "grad_norm/",
              "samples per second": "speed/samples_per_s", "seconds of an epoch": "time/",
              "memory": "memory/"}


def tag_of(name: str) -> str:
    """The tag of a value: `z_technical/lr/optimizer` for `lr/optimizer`."""
    first, slash, rest = name.partition("/")
    return _GROUPS.get(first, first) + slash + rest if slash else name


def layout_of(names: Iterable[str]) -> dict[str, dict[str, list]]:
    """Charts by group, as `custom_scalars` takes them, for values of these names: losses are first.

    A chart holds a value's curves in train, val and each set of val.
    """
    names = list(names)
    charts = _charts_of(names)
    losses = sorted((chart for chart in charts if "loss" in chart), key=lambda chart: chart != "loss")
    layout = {"losses": {chart: _curves_of(chart) for chart in losses}}
    if any(name.startswith("step/") for name in names):
        layout["losses"]["loss within an epoch"] = _lines("(within_epoch|step)/.*loss")
    layout["metrics"] = {chart: _curves_of(chart) for chart in charts if chart not in losses}
    layout["technical"] = {chart: _lines(f"(z_technical/)?{start}") for chart, start in _TECHNICAL.items()
                           if any(name.startswith(start) for name in names)}
    return {group: of_group for group, of_group in layout.items() if of_group}


def _charts_of(names: list[str]) -> list[str]:
    """The values of the splits, without those of long lists, such as one of a thousand classes."""
    charts = list(dict.fromkeys(filter(None, (_value_of(name, names) for name in names))))
    parts = Counter(chart.rpartition("/")[0] for chart in charts)
    return [chart for chart in charts if "/" not in chart or parts[chart.rpartition("/")[0]] <= MOST_SHOWN]


def _curves_of(chart: str) -> list:
    return _lines(rf"(train|val(/[^/]+)?)/{re.escape(chart)}$")


def _lines(pattern: str) -> list:
    return ["Multiline", [pattern]]


def _value_of(name: str, names: list[str]) -> str | None:
    """`loss` for `train/loss`, `val/loss` and `val/noisy/loss`; None for what is of no split."""
    split, _, value = name.partition("/")
    of_set = value.partition("/")[2]
    if split not in ("train", "val"):
        return None
    return of_set if split == "val" and of_set and f"train/{of_set}" in names else value
