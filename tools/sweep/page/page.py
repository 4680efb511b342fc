"""report.html of a sweep: its parts in order, and when it is written."""
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tools.report.page.markup import document, fitted, made, section
from tools.runs.reading import read_json
from tools.sweep.page import parts
from tools.sweep.page.parts import Material
from tools.sweep.plan import Plan
from tools.sweep.trials import Study
from utils.run_files import replace_file

FILE, POOLED = "report.html", "out_of_fold.json"
_EVERY_S = 30.0  # at most so often, while trials run
_MOST_TIME = 0.02  # of the time of a sweep
_PARTS = (("", parts.head), ("Ranking", parts.ranking), ("All folds", parts.folds),
          ("What was tried", parts.tried), ("Trials", parts.pictures), ("Learning curves", parts.curves),
          ("Failed trials", parts.failures), ("How to repeat it", parts.repeat))


class LivePage:
    """Writes the page while the trials run, when one of them has ended."""

    def __init__(self, plan: Plan):
        self._plan, self._due, self._next_s = plan, False, 0.0

    def show(self, study: Study, event: str = "") -> None:
        """Writes it if something is new and the last page is old enough."""
        self._due = self._due or bool(event)
        if self._due and (start := time.monotonic()) >= self._next_s:
            self._due = False
            with suppress(OSError):  # trials do not need the page; the one at the end is not left out
                write_page(self._plan, study, "running")
            now = time.monotonic()
            self._next_s = now + max(_EVERY_S, (now - start) / _MOST_TIME)


def write_page(plan: Plan, study: Study, state: str, importance: Mapping[str, float] | None = None) -> Path:
    """Writes report.html of a sweep, and returns it. Raises OSError."""
    material = Material(plan, study, state, importance or {}, read_json(plan.folder / POOLED))
    file = plan.folder / FILE
    page = fitted(lambda detail: _page_with(replace(material, detail=detail)))
    replace_file(file, page.encode(errors="backslashreplace"))
    return file


def _page_with(material: Material) -> str:
    shown = [section(name, made(make, material)) if name else made(make, material) for name, make in _PARTS]
    folder = material.plan.folder
    return document(f"{folder.absolute().name}: a sweep", shown, folder, material.detail)
