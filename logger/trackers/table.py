"""A run as one table that a spreadsheet opens."""
import csv
import io
from collections.abc import Mapping

from logger.trackers.shared import points_before
from logger.writer import RunInfo, Writer
from utils.run_files import replace_file


class CSV(Writer):
    """Writes a row for each log point and epoch into the run's folder; a new name becomes a column.

    A resumed run first drops the rows after its checkpoint, which come again.

    Args:
        file_name: of the table.
    """

    def __init__(self, run: RunInfo, file_name: str = "metrics.csv"):
        super().__init__(run.folder, run.start_step, run)
        self.file = run.folder / file_name
        self._columns = ["step"]
        if run.start_step is not None:
            rows = self._rewrite(run.start_step)
            for step, values in points_before(run, int(rows[-1][0]) if rows else -1):
                self.scalars(values, step)
        elif not run.resumed:
            self.file.unlink(missing_ok=True)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        if new := [name for name in values if name not in self._columns]:
            self._columns += new
            self._rewrite()
        row = {"step": step, **values}
        with open(self.file, "a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(row.get(name, "") for name in self._columns)

    def _rewrite(self, last_step: int | None = None) -> list[list[str]]:
        """Writes the file anew, with all columns, up to a step and without half a line of a killed run.

        Returns the rows.
        """
        content = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        header, *rows = csv.reader(content[:content.rfind("\n") + 1].splitlines() or ["step"])
        self._columns = list(dict.fromkeys([*header, *self._columns]))
        kept = [row for row in rows if last_step is None or int(row[0]) <= last_step]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([self._columns, *(row + [""] * (len(self._columns) - len(row)) for row in kept)])
        replace_file(self.file, text.getvalue())
        return kept
