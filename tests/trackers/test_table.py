"""The writer CSV: a row for each point, columns that grow, no row twice."""
import csv

import pytest
from conftest import metrics, train

from logger.writer import RunInfo, build_writer
from utils.errors import Interrupted


def table(run) -> list[dict]:
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_stopped_and_resumed_run_has_a_row_for_each_line_of_its_metrics(small, tmp_path):
    with pytest.raises(Interrupted):
        train("-c", small, "writers=[CSV]", "--run-name", "r", "--steps", 7, out=tmp_path)
    run = tmp_path / "small" / "r"
    with open(run / "metrics.csv", "a") as file:
        file.write("8,0.1\n9,0.")  # as a killed run leaves it: a later row, half a row
    lines = (run / "metrics.csv").read_text().splitlines(keepends=True)
    (run / "metrics.csv").write_text("".join(lines[:4] + lines[-1:]))  # steps 4 and 6 did not get there
    train("-r", run, "metrics=[]", out=tmp_path)
    rows, lines = table(run), metrics(run)
    assert [int(row["step"]) for row in rows] == [line["step"] for line in lines]
    for row, line in zip(rows, lines):
        written = {name: float(text) for name, text in row.items()
                   if text and not name.startswith(("speed/", "time/", "memory/"))}
        assert written == {name: value for name, value in line.items() if name != "epoch"}


def test_a_name_that_comes_later_is_a_column_and_a_new_run_begins_anew(tmp_path):
    for _ in range(2):
        writer = build_writer("CSV", "writers.0", RunInfo("a", "b", "c", tmp_path, {}))
        writer.scalars({"x": 1.0}, 1)
        writer.scalars({"y, z": 2.0}, 2)
        assert (tmp_path / "metrics.csv").read_text() == 'step,x,"y, z"\n1,1.0,\n2,,2.0\n'
