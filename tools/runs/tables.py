"""A table as text that fits the terminal, as CSV, JSON or HTML."""
import csv
import html
import io
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.runs.columns import Row, as_text, is_number
from utils.config.syntax import read_number
from utils.errors import printable

_LEAST, _GAP = 12, 2  # characters
_SHORT = re.compile(r"(?:data_loader\.|\w+\.args\.)([^.]*[^.\d][^.]*)")
_STYLE = ("body{font:14px sans-serif}table{border-collapse:collapse}td,th{padding:3px 9px;text-align:left;"
          "border-bottom:1px solid #ccc;white-space:nowrap}td.number{text-align:right}")


@dataclass
class Table:
    """Rows, and which of their columns are shown.

    `columns`: what is shown, with the title of each. `more`: columns that only CSV has. `notes`: sentences
    below the table. `kept`: how many of the first columns must be shown, however narrow the terminal is.
    """

    columns: Mapping[str, str]
    rows: Sequence[Row]
    more: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)
    kept: int = 4

    def as_text(self, width: int) -> str:
        """The table in lines of at most `width` characters, where that is possible."""
        cells = [[*map(escaped, self.columns.values())],
                 *([cell_of(row, name) for name in self.columns] for row in self.rows)]
        columns = [list(column) for column in zip(*cells, strict=True)]
        # the whole key of a config would say something else when cut
        least = [max(_LEAST, _width(title) * (title == name)) for name, title in self.columns.items()]
        number = _number_that_fits(columns, least, width, self.kept)
        fitted = _fit(columns[:number], least, width)
        widths = [*map(_width_of_all, fitted)]
        lines = ["  ".join(map(_pad, line, widths)).rstrip() for line in zip(*fitted, strict=True)]
        hidden = len(columns) - number
        notes = [f"{hidden} more columns do not fit; --csv and --html have them."] * bool(hidden)
        return "\n".join([*lines, *map(escaped, (*self.notes, *notes))])

    def as_csv(self) -> str:
        """The table as CSV, with all digits. No cell is a formula for a spreadsheet."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = [*self.columns, *self.more]
        writer.writerow(map(_csv_cell, names))
        writer.writerows([_csv_cell(row.get(name)) for name in names] for row in self.rows)
        return text.getvalue()

    def as_html(self, title: str) -> str:
        """The table as a page of its own, without scripts and links."""
        head = "".join(f"<th>{html.escape(escaped(name))}</th>" for name in self.columns.values())
        kinds = ("<td>", "<td class=number>")
        body = "\n".join("<tr>" + "".join(
            f"{kinds[is_number(row.get(name))]}{html.escape(cell_of(row, name))}</td>"
            for name in self.columns) + "</tr>" for row in self.rows)
        title, notes = html.escape(escaped(title)), "".join(
            f"<p>{html.escape(escaped(note))}</p>\n" for note in self.notes)
        style = f"<title>{title}</title>\n<style>{_STYLE}</style>"
        return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
                '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
                f"style-src 'unsafe-inline'\">\n{style}</head>\n"
                f"<body><h1>{title}</h1>\n<table>\n<tr>{head}</tr>\n{body}\n</table>\n{notes}"
                "</body></html>\n")


def as_json(content: Any) -> str:
    """JSON in ASCII. What it has no number for, such as NaN, is text."""
    return json.dumps(_without_nan(content), indent=1, allow_nan=False)


def escaped(text: str) -> str:
    """The text on one line, without characters that a terminal would obey, or that UTF-8 cannot hold."""
    if not text.isascii():
        text = text.encode(errors="backslashreplace").decode()
    return printable(text.replace("\n", "\\n").replace("\t", "\\t"))


def cell_of(row: Row, column: str) -> str:
    """A value for people: scores with four digits, hours and minutes; the config as it is written."""
    value = row.get(column)
    if value is None:
        return "null" if column in row else "-"
    if column == "state" and "reason" in row:
        return escaped(f"{value}: {row['reason']}")
    if not is_number(value) or math.isnan(value):
        return escaped(as_text(value))
    if column == "duration":
        return duration_text(value)
    if type(value) is float and ("/" in column or column in ("best", "best std")):
        return f"{value:.4f}" if 0.1 <= abs(value) < 1e6 else f"{value:.4g}"
    return as_text(value)


def duration_text(seconds: float) -> str:
    """`1:02:03` for hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    if is_number(value):
        return "nan" if math.isnan(value) else repr(value)
    text = escaped(as_text(value))
    formula = text[:1] in ("=", "+", "-", "@") and not is_number(read_number(text))
    return "'" * formula + text


def _without_nan(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    return as_text(content) if type(content) is float and not math.isfinite(content) else content


def _number_that_fits(columns: list[list[str]], least: list[int], width: int, kept: int) -> int:
    """How many columns fit, each as narrow as it may become; at least `kept`."""
    room, number = width + _GAP, 0
    for column, narrow in zip(columns, least, strict=True):
        room -= min(_width_of_all(column), narrow) + _GAP
        if room < 0 and number >= kept:
            break
        number += 1
    return number


def _fit(columns: list[list[str]], least: list[int], width: int) -> list[list[str]]:
    """Cuts the widest columns until all fit, none below its least width."""
    widths = [_width_of_all(column) for column in columns]
    while sum(widths) + _GAP * (len(widths) - 1) > width:
        wide = [place for place, size in enumerate(widths) if size > least[place]]
        if not wide:
            break
        widths[max(wide, key=widths.__getitem__)] -= 1
    return [[_cut(cell, limit) for cell in column] for column, limit in zip(columns, widths, strict=True)]


def _cut(text: str, width: int) -> str:
    """The text, or its beginning and its end: names of runs differ in both."""
    if _width(text) <= width:
        return text
    end = (width - 2) // 2
    if text.isascii():
        return f"{text[:width - 2 - end]}..{text[-end:]}"
    text = text[:width]
    while _width(text) > width - 2:
        text = text[:-1]
    return f"{text}.."


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width_of_all(column: Sequence[str]) -> int:
    return max(map(_width, column))


def _width(text: str) -> int:
    """The columns that a terminal takes for a text: two for a Chinese character."""
    if text.isascii():
        return len(text)
    return sum((unicodedata.east_asian_width(letter) in "WF") + (not unicodedata.combining(letter))
               for letter in text)


def short_titles(keys: Sequence[str]) -> dict[str, str]:
    """A title for each config key: `lr` for an argument of a section that no other has; else the key."""
    found = {key: match[1] for key in keys if (match := _SHORT.fullmatch(key))}
    return {key: found[key] if [*found.values()].count(found.get(key)) == 1 else key for key in keys}
