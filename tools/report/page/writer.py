"""The writer `Report`: it keeps report.html in the run's folder up to date."""
import logging
import time
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch

from logger.writer import RunInfo, Writer
from utils.run_record import OUTCOMES

log = logging.getLogger(__name__)
_EVERY_S = 30.0  # at most so often, while training
_MOST_TIME = 0.02  # of the time of a run


class Report(Writer):
    """Writes `report.html`: the run on one page, to read offline, on a phone, or to send as a mail.

    It is written after an evaluation, at most every 30 seconds, at the end, and by test.py.
    `python -m tools.report RUN` makes it of the folder alone.
    """

    def __init__(self, run: RunInfo):
        super().__init__(run.folder, run.start_step, run)
        self._due, self._next_s, self._scored, self._refused = False, 0.0, False, False

    @cached_property
    def _kept(self):
        from tools.report.page.kept import Kept  # needs numpy: not before the first step

        return Kept(self.folder, self.start_step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        speed = {name: value for name, value in values.items() if name.startswith(("speed/", "time/"))}
        self._kept.speed(speed, step)
        self._take_turn()
        # not now: summary.json and the images of this epoch follow
        self._due = self._due or "speed/epoch_s" in values

    def images(self, name: str, images: torch.Tensor, step: int,
               captions: Sequence[str] | None = None) -> None:
        self._kept.images(name, images, step, captions)
        self._take_turn()

    def text(self, name: str, text: str, step: int) -> None:
        self._kept.text(name, text, step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence], step: int) -> None:
        self._kept.table(name, columns, rows, step)

    def figure(self, name: str, png: bytes, step: int) -> None:
        self._kept.figure(name, png, step)

    def matrix(self, name: str, values: torch.Tensor, labels: Sequence[str] | None, step: int) -> None:
        self._kept.matrix(name, values, labels, step)

    def event(self, kind: str, text: str) -> None:
        self._kept.event(kind, text)

    def checkpoint(self, path, epoch: int, best: bool) -> None:
        self._take_turn()

    def scores(self, split: str, values: Mapping[str, float]) -> None:
        self._scored = True  # all splits follow each other: one page for them

    def close(self, outcome: str, reason: str | None) -> None:
        if outcome in OUTCOMES:
            self._write(outcome, reason)
        elif self._scored:
            from tools.runs.run_state import state_of

            if state_of(self.folder) != "running":  # it has its own writer, which finds test.json
                self._write(None, None)

    def _take_turn(self) -> None:
        """Writes the page if an evaluation is new and the last page is old enough."""
        if self._due and time.monotonic() >= self._next_s:
            self._due, start = False, time.monotonic()
            self._write("running", None)
            now = time.monotonic()
            self._next_s = now + max(_EVERY_S, (now - start) / _MOST_TIME)

    def _write(self, state: str | None, reason: str | None) -> None:
        from tools.report.page.page import write_page

        try:
            self._kept.write()
            write_page(self.folder, state, reason)
        except OSError as error:
            if not self._refused:
                log.warning("%s: the report cannot be written: %s", self.folder, error.strerror or error)
            self._refused = True
