"""The parts of the page on results: the state, scores, curves, pictures, confusion, classes."""
import base64
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tools.report.page.charts import Frame, chart
from tools.report.page.kept import png_of
from tools.report.page.markup import (
    COLORS, block, cards, folded, matrix, number, picture, table, text)
from tools.report.page.points import Curve, Group, Points, value_at_step
from tools.runs.reading import Run
from tools.runs.tables import duration_text

_CHARTS, _POINTS, _CURVE_BYTES, _TITLE_BYTES = 48, 240, 250_000, 120_000
_COUNTED, _LISTED, _PAIRS, _MATRICES = 20, 30, 10, 4  # classes with counts, classes listed, mistakes listed
_PICTURE_BYTES, _FILE_BYTES = 300_000, 20_000_000
_OF_TEST, _MORE = ("confusion", "mistakes", "residuals"), ("calibration_error", "r2", "mae", "macro_f1")


class Material(Protocol):
    """What these parts show."""

    run: Run
    points: Points
    groups: list[Group]
    test: dict[str, Any]
    kept: dict[str, Any]
    detail: float


def head(material: Material) -> str:
    """Which run it is, its state, and the best value."""
    run, ends = material.run, material.points.ends
    reason = f": {text(run.reason)}" if run.reason else ""
    epochs = run.config.get("trainer.args.epochs")
    done, commit = max(ends, default=0), run.commit or "unknown"
    shown = [(f"best {run.monitor.partition(' ')[2]}" if run.monitor else "monitor",
              "none" if run.monitor is None else "none yet" if run.best is None else number(run.best),
              f"at epoch {run.epoch}, {run.monitor}" if run.monitor and run.epoch is not None else ""),
             ("epochs", f"{done} of {epochs}" if epochs is not None else str(done), ""),
             ("time", "unknown" if run.duration_s is None else duration_text(run.duration_s),
              "in all starts"),
             ("commit", commit, "+: with uncommitted changes" if "+" in commit else ""),
             *((name, number(value), "") for name, value in run.test.items() if name.count("/") == 1)]
    return (f"<h1>{text(run.config.get('name', 'run'))}: {text(run.folder.absolute().name)}</h1>\n"
            f'<p><span class="state {text(run.state)}">{text(run.state)}</span>{reason}</p>\n'
            f"{cards(shown[:12])}")


def scores(material: Material) -> str:
    """Test scores with their standard errors, and values of the last and the best epoch."""
    run, parts = material.run, []
    tested = {name: value for name, value in material.test.items() if "/" in name}
    if tested:
        errors = _standard_errors(material)
        rows = [(name, _plain(value), *([_plain(errors.get(name))] if errors else []))
                for name, value in [*tested.items()][:_rows(material)]]
        about = f"From test.py: {material.test.get('checkpoint')}, epoch {material.test.get('epoch')}"
        columns = ["score", "value", *(["standard error"] if errors else [])]
        parts.append(table(about, columns, [row for row in rows if row[0].count("/") == 1]))
        if more := [row for row in rows if row[0].count("/") > 1]:
            parts.append(folded(f"{len(more)} more scores", table("More scores", columns, more)))
    parts.append(_values(material, run.epoch))
    return f'<div class="beside">{"".join(parts)}</div>'


def _values(material: Material, best: int | None) -> str:
    """A table of all metrics at the best and the last epoch."""
    names = [name for name in material.points.curves if name.startswith(("train/", "val/"))]
    if not names:
        return "<p>No evaluation yet.</p>"
    end, shown = material.points.ends.get(best), names[:_rows(material)]
    rows = [(name, _at(curve, end), curve.values[-1]) for name in shown
            if (curve := material.points.curves[name]).values]
    more = f"<p>{len(names) - len(shown)} more are in metrics.jsonl.</p>" if len(names) > len(shown) else ""
    content = table("Values of metrics", ["metric", "best epoch", "last"], rows) + more
    return content if len(rows) <= 12 else folded(f"Values of {len(names)} metrics", content)


def curves(material: Material) -> str:
    """A chart for each metric."""
    groups = [group for group in material.groups if group.about_training]
    ranges, most = [group for group in groups if group.members], round(_CHARTS * material.detail)
    single = [group for group in groups if not group.members]
    room = max(most - len(ranges), most // 2)
    shown = [*single[:room], *ranges[:most - len(single[:room])]]
    frame = _frame(material, shown)
    left_out = [group.title for group in groups if group not in shown]
    note = (f"<p>{len(left_out)} more metrics are not drawn: {text(', '.join(left_out))}</p>"
            if left_out else "")
    members = "".join(_members(group, frame, material) for group in shown if group.members)
    return f'<div class="charts">{"".join(chart(group, frame) for group in shown)}</div>{members}{note}'


def _members(group: Group, frame: Frame, material: Material) -> str:
    """The values that a chart shows by their range."""
    end = frame.ends.get(frame.best)
    rows = [(name, _at(curve, end), curve.values[-1]) for name, curve in group.members.items()]
    rows.sort(key=lambda row: _order(row[-1]))
    most = _rows(material) // 2
    about = f"{group.title}: the {most} lowest of {len(rows)} values" if len(rows) > most else (
        f"{group.title}: {len(rows)} values")
    return folded(about, table(about, ["name", "best epoch", "last"], rows[:most]))


def training(material: Material) -> str:
    """Rates, gradient norms and speed, and how the time was spent."""
    groups = [group for group in material.groups if not group.about_training]
    speed = {name: _as_curve(points) for name, points in material.kept["speed"].items()}
    split = {name[len("time/"):-2].replace("_", " "): sum(curve.values) for name, curve in speed.items()
             if name.startswith("time/")}
    titles = {"speed/samples_per_s": "samples per second", "speed/epoch_s": "seconds per epoch"}
    groups += [Group(title, {"": speed[name]}, about_training=False) for name, title in titles.items()
               if name in speed and speed[name].values]
    frame = _frame(material, groups)
    drawn = "".join(chart(group, frame) for group in groups[:12])
    return (f'<div class="charts">{drawn}</div>' if drawn else "") + _time_split(split)


def _time_split(seconds: dict[str, float]) -> str:
    whole = sum(seconds.values())
    if not whole:
        return ""
    parts = sorted(seconds.items(), key=lambda part: -part[1])[:len(COLORS)]
    bar = "".join(f'<i class="{color}" style="width:{100 * part / whole:.1f}%"></i>'
                  for color, (_, part) in zip(COLORS, parts))
    key = "".join(f'<span><i class="{color}"></i>{text(name)} {100 * part / whole:.1f} %</span>'
                  for color, (name, part) in zip(COLORS, parts))
    return f'<h3>How the time was spent</h3><div class="bar">{bar}</div><p class="key">{key}</p>'


def images(material: Material) -> str:
    """Images as the network gets them, with labels, and figures."""
    parts, kept = [], material.kept
    for name, shown in kept["images"].items():
        most = round(32 * material.detail)
        labels = [*shown["labels"], *[""] * len(shown["tiles"])]
        tiles = "".join(
            f"<div>{picture(tile, f'{name} {place}: {label}', '')}<span>{text(label)}</span></div>"
            for place, (tile, label) in enumerate(zip(shown["tiles"][:most], labels), 1))
        about = f"{name}, step {shown['step']}"
        parts.append(f'<h3>{text(about)}</h3><div class="tiles">{tiles}</div>' if tiles else "")
    for name, shown in kept["figures"].items():
        fits = shown["png"] is not None and material.detail > 0.3
        content = picture(shown["png"], name) if fits else "<p>too large for this page</p>"
        parts.append(f"<h3>{text(name)}, step {text(shown['step'])}</h3>{content}")
    return "".join(parts)


def matrices(material: Material) -> str:
    """Confusion matrices: of test.py, of the writer, and of the files in metrics/."""
    found = [(f"{split} split, from test.py", np.asarray(part["confusion"]), [*part.get("classes", {})])
             for split, part in _reports(material).items() if "confusion" in part]
    found += [(f"{name}, step {kept['step']}", np.asarray(kept["values"]), kept["labels"])
              for name, kept in material.kept["matrices"].items()]
    known = (*(f"{split}/" for split, part in _reports(material).items() if "confusion" in part),
             *material.kept["matrices"])
    files = [(f"{name}, {epoch}", values, []) for name, epoch, values in _matrix_files(material.run.folder)
             if not name.startswith(known)]
    found += sorted(files, key=lambda file: file[0].startswith("train/"))
    most = _MATRICES if material.detail > 0.3 else 1
    return "".join(_matrix(*one) for one in found[:most])


def _matrix(name: str, values: np.ndarray, labels: Sequence[str]) -> str:
    """A matrix with a row for each true class: with counts, or of many classes as a picture."""
    size = len(values)
    labels = [*labels] if len(labels) == size else [str(place) for place in range(size)]
    shares = values / np.maximum(values.sum(1, keepdims=True), 1e-12)
    if size <= _COUNTED:
        content = matrix(name, labels, zip(shares, values))
    else:
        dark = (255 * (1 - np.sqrt(np.clip(shares, 0, 1)))).round().astype(np.uint8)
        png = base64.b64encode(png_of(dark)).decode()
        content = f"<h3>{text(name)}</h3>{picture(png, name, 'picture pixels')}"
    confused = _confused(name, values, labels) if size > 2 else ""
    return (f'{content}<p class="soft">A row for each true class, a column for each predicted one. The color '
            f"of a cell is the root of its part of the row.</p>{confused}")


def _confused(name: str, values: np.ndarray, labels: Sequence[str]) -> str:
    """The pairs of classes that are taken for each other most often."""
    wrong = values * (1 - np.eye(len(values)))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    pairs = [np.unravel_index(place, wrong.shape) for place in order if wrong.flat[place] > 0]
    rows = [(labels[true], labels[predicted], float(wrong[true, predicted])) for true, predicted in pairs]
    about = f"Most frequent mistakes: {name}"
    return folded(about, table(about, ["true", "predicted", "samples"], rows)) if rows else ""


def _matrix_files(folder: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """The square matrices in the latest file of each metric: name, epoch, values."""
    latest = {}
    for file in sorted((folder / "metrics").glob("*_epoch*.npz")):
        latest[file.stem.rpartition("_epoch")[0]] = file
    for file in latest.values():
        try:
            if file.stat().st_size > _FILE_BYTES:
                continue
            with np.load(file) as arrays:
                found = [(name, arrays[name]) for name in arrays.files]
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            continue
        for name, values in found:
            is_square = values.ndim == 2 and values.shape[0] == values.shape[1] <= 1000
            if is_square and values.dtype.kind in "biuf":
                yield name, f"epoch {int(file.stem.rpartition('_epoch')[2])}", values


def classes(material: Material) -> str:
    """What test.py found: a table of the classes, and its pictures of mistakes and residuals."""
    parts = []
    for split, part in _reports(material).items():
        rows = [(name, *(_plain(row.get(key)) for key in ("precision", "recall", "f1", "support")))
                for name, row in part.get("classes", {}).items()]
        about = f"Classes of the {split} split"
        if len(rows) > _LISTED:
            rows = sorted(rows, key=lambda row: _order(row[3]))[:_LISTED]
            about += f": the {_LISTED} with the lowest F1 of {len(part['classes'])}; test.json has all"
        more = {key: _plain(part[key]) for key in _MORE if key in part}
        parts += [table(about, ["class", "precision", "recall", "F1", "support"], rows)] if rows else []
        parts += [table(f"More of the {split} split", ["score", "value"], more.items())] if more else []
    return "".join([*parts, *_pictures(material)])


def _pictures(material: Material) -> Iterator[str]:
    """The pictures that test.py has drawn, as far as they are small enough."""
    reports, room = _reports(material), _PICTURE_BYTES * material.detail
    for kind in _OF_TEST:
        for split, part in reports.items():
            file = material.run.folder / f"{split.replace('/', '_')}_{kind}.png"
            if not file.is_file() or (kind == "confusion" and "confusion" in part):
                continue
            about = f"{split} split: {kind}"
            if file.stat().st_size > room:
                yield f"<p>{text(file.name)} in the run's folder is too large for this page.</p>"
                continue
            content = file.read_bytes()
            if content.startswith(b"\x89PNG"):
                room -= len(content)
                yield f"<h3>{text(about)}</h3>{picture(base64.b64encode(content).decode(), about)}"


def texts(material: Material) -> str:
    """Texts and tables that the trainer has logged."""
    kept = material.kept
    parts = [f"<h3>{text(name)}, step {text(shown['step'])}</h3>{block(shown['text'])}"
             for name, shown in kept["texts"].items()]
    parts += [table(f"{name}, step {shown['step']}", shown["columns"], shown["rows"])
              for name, shown in kept["tables"].items()]
    return "".join(parts)


def _frame(material: Material, groups: Sequence[Group]) -> Frame:
    """How many points and titles each chart may have."""
    lines = sum(min(len(group.curves), len(COLORS)) for group in groups)
    points = min(_POINTS, round(material.detail * _CURVE_BYTES / 9 / max(lines, 1)))
    titles = min(60, round(material.detail * _TITLE_BYTES / 130 / max(lines, 1)))
    return Frame(material.points.ends, material.run.epoch, max(points, 2), titles)


def _reports(material: Material) -> dict[str, dict]:
    """The reports in test.json by split."""
    reports = material.test.get("report")
    return {split: part for split, part in reports.items() if isinstance(part, dict)} if isinstance(
        reports, dict) else {}


def _rows(material: Material) -> int:
    return round(300 * material.detail) + 20


def _at(curve: Curve, step: int | None) -> float | None:
    return None if step is None else value_at_step(curve, step)


def _order(value: Any) -> float:
    return value if type(value) in (int, float) and not math.isnan(value) else math.inf


def _standard_errors(material: Material) -> dict[str, float]:
    return {f"{split}/{name}": error for split, part in _reports(material).items()
            for name, error in part.get("standard_errors", {}).items()}


def _plain(value: Any) -> Any:
    """A number as it is; for what was not finite a word."""
    return value if type(value) in (int, float) else "" if value is None else str(value)


def _as_curve(points: Sequence[Sequence[float]]) -> Curve:
    curve = Curve()
    for step, value in points:
        curve.add(step, value)
    return curve
