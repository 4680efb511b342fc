"""Example: where it sends what a run logs."""
import csv
from collections.abc import Mapping
from pathlib import Path

from logger.writer import WRITERS, Writer


@WRITERS.register
class Example(Writer):
    """Writes numbers as rows `step,name,value` of a CSV file in the run's folder.

    A resumed run first drops the rows after its checkpoint, which come again. logger/writer.py has the methods for images,
    histograms and hyper-parameters.

    Args:
        folder, start_step: given by the program, as Writer says.
        file_name: of the CSV file.
    """

    def __init__(self, folder: Path, start_step: int | None = None, file_name: str = "example.csv"):
        super().__init__(folder, start_step)
        self.file = folder / file_name
        if start_step is not None and self.file.exists():
            rows = self.file.read_text().splitlines(keepends=True)
            self.file.write_text("".join(row for row in rows if int(row.split(",")[0]) <= start_step))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        with open(self.file, "a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows((step, name, value) for name, value in values.items())
