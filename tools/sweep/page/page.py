"""report.html of a sweep: its parts in order, and when it is written."""
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tools.report.page.markup import CLOSED, HEAD, STYLE, fitted, made, section, text
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
    material = Material(plan, study, state, importance or {}, read_pooled(plan.folder))
    file = plan.folder / FILE
    page = fitted(lambda detail: _page_with(replace(material, detail=detail)))
    replace_file(file, page.encode(errors="backslashreplace"))
    return file


def read_pooled(folder: Path) -> dict[str, Any]:
    """The content of out_of_fold.json; {} without one."""
    try:
        content = json.loads((folder / POOLED).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _page_with(material: Material) -> str:
    folder = material.plan.folder.absolute()
    shown = [section(name, made(make, material)) if name else made(make, material) for name, make in _PARTS]
    less = "" if material.detail == 1 else " This page shows less of it, to stay small."
    foot = (f'<p class="soft">Written {datetime.now():%Y-%m-%d %H:%M:%S} from the files in '
            f"{text(folder)}.{less}</p>")
    return HEAD.format(title=text(f"{folder.name}: a sweep"), style=STYLE) + "".join(shown) + foot + CLOSED
