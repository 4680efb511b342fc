"""report.html: its parts in order, and its size."""
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

from tools.report.page import origin, results
from tools.report.page.kept import read_kept
from tools.report.page.markup import document, fitted, made, section
from tools.report.page.points import Group, Points, grouped, read_points
from tools.runs.reading import SCORES, Run, read_folder, read_json
from utils.run_files import replace_file

FILE = "report.html"
_PARTS: tuple[tuple[str, Callable], ...] = (
    ("", results.head), ("Curves", results.curves), ("Scores", results.scores),
    ("Rates, gradients, speed", results.training), ("Inputs and other pictures", results.images),
    ("Confusion", results.matrices), ("Classes and mistakes", results.classes),
    ("Logged texts and tables", results.texts),
    ("Config", origin.config), ("What happened", origin.history), ("Environment", origin.environment),
    ("How to reproduce it", origin.reproduce))


@dataclass(frozen=True)
class Material:
    """What the parts of a page are made of.

    `run`: of summary.json, config.yaml and environment.jsonl. `points`, `groups`: of metrics.jsonl. `test`:
    of test.json. `kept`: of report.json. `detail`: how much to show, from 1 to 0.
    """

    run: Run
    points: Points
    groups: list[Group]
    test: dict[str, Any]
    kept: dict[str, Any]
    detail: float = 1.0


def write_page(folder: Path, state: str | None = None, reason: str | None = None) -> Path:
    """Writes report.html of the run in a folder as a whole, and returns it. Raises OSError.

    `state`, `reason`: of the run of this process; None for another one, whose files and lock tell.
    """
    run = read_folder(folder, None if state is None else "running")
    if state is not None:
        run = replaced(run, state=state, reason=reason)
    points = read_points(folder / "metrics.jsonl")
    material = Material(run, points, grouped(points.curves), read_json(folder / SCORES), read_kept(folder))
    file = folder / FILE
    replace_file(file, page_of(material).encode(errors="backslashreplace"))
    return file


def page_of(material: Material) -> str:
    """The page, with as much detail as its size allows."""
    return fitted(lambda detail: _page_with(replaced(material, detail=detail)))


def _page_with(material: Material) -> str:
    title = f"{material.run.config.get('name', 'run')}: {material.run.folder.absolute().name}"
    parts = [section(name, made(make, material)) if name else made(make, material) for name, make in _PARTS]
    return document(title, parts, material.run.folder, material.detail)
