"""HTML of the page: text is escaped here and nowhere else, tables, and the style for light and dark."""
import html
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tools.runs.tables import escaped
from utils.errors import describe_error

MOST_BYTES = 950_000
_DETAILS = (1.0, 0.5, 0.2, 0.05, 0.0)  # of pictures, points and rows, until the page is small enough
_LONGEST = 400  # characters of one text
HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style></head>
<body><main>
"""
STYLE = """
:root{--page:#fff;--card:#f5f6f8;--text:#1b1f24;--soft:#57606a;--line:#d5d9df;--a:#0b62c4;--b:#c2410c;
--c:#0f766e;--d:#7e22ce;--e:#a16207;--f:#57606a;--good:#116329;--bad:#b3261e;--heat:11,98,196}
@media(prefers-color-scheme:dark){:root{--page:#14171c;--card:#1e232a;--text:#e6e9ed;--soft:#a3acb8;
--line:#363d47;--a:#6cb0ff;--b:#ff9d5c;--c:#4fd1c0;--d:#d0a2ff;--e:#e8c14e;--f:#a3acb8;--good:#6fd08c;--bad:#ff8f86;
--heat:108,176,255}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,sans-serif}
main{max-width:1120px;margin:auto;padding:20px 16px 40px}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 6px;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:34px 0 10px;padding-bottom:4px;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:16px 0 6px}
p{margin:6px 0;overflow-wrap:anywhere}.soft{color:var(--soft)}
.state{font-weight:600}.finished{color:var(--good)}.failed,.killed{color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:10px;margin:16px 0}
.card{background:var(--card);border-radius:8px;padding:10px 12px;overflow-wrap:anywhere}
.card b{display:block;font-size:1.3rem;font-weight:600}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:14px}
figure{margin:0;background:var(--card);border-radius:8px;padding:10px 12px;min-width:0}
figcaption{font-weight:600;overflow-wrap:anywhere}
.key{display:flex;flex-wrap:wrap;gap:0 14px;font-size:.85rem;font-weight:400;color:var(--soft)}
.key i{display:inline-block;width:16px;height:0;border-width:3px 0 0;border-style:solid;
margin-right:5px;vertical-align:middle}
svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font:22px system-ui,sans-serif}
svg .on{paint-order:stroke;stroke:var(--card);stroke-width:7;stroke-linejoin:round}
.grid{stroke:var(--line);stroke-width:1.5}.best{stroke:var(--soft);stroke-width:2;stroke-dasharray:5 6}
.l{fill:none;stroke-width:4;stroke-linejoin:round;stroke-linecap:round}.thin{stroke-width:1.8;opacity:.75}.spot{stroke-width:12}
.a{stroke:var(--a);border-color:var(--a)}.b{stroke:var(--b);border-color:var(--b)}
.c{stroke:var(--c);border-color:var(--c)}.d{stroke:var(--d);border-color:var(--d)}
.e{stroke:var(--e);border-color:var(--e)}.f{stroke:var(--f);border-color:var(--f)}
.dot{fill:var(--card);stroke-width:4}.h{fill:transparent}.h:hover{fill:var(--text);fill-opacity:.12}
.wide{overflow-x:auto;max-width:100%}.beside{display:flex;flex-wrap:wrap;gap:0 56px;align-items:flex-start}
table{border-collapse:collapse;font-size:.9rem}caption{text-align:left;font-weight:600;padding:12px 0 4px}
td,th{padding:3px 14px 3px 0;text-align:left;vertical-align:top;font-weight:400;
border-bottom:1px solid var(--line)}
thead th{color:var(--soft)}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.wrap td{overflow-wrap:anywhere;min-width:4.5em}.wrap td:nth-child(2){min-width:8em}
.wrap th{overflow-wrap:break-word}
.matrix td,.matrix th{padding:4px 7px;text-align:right;border:0;font-variant-numeric:tabular-nums}
.matrix thead th{vertical-align:bottom}.matrix th{white-space:nowrap}
.tiles{display:flex;flex-wrap:wrap;gap:8px}
.tiles div{min-width:72px;width:min-content;font-size:.8rem;text-align:center}
.tiles span{display:block;overflow-wrap:anywhere;line-height:1.25}
.tiles img{width:auto;height:72px;max-width:288px;object-fit:contain;
image-rendering:pixelated;background:#8884}
.picture{max-width:100%;height:auto;background:#fff}
.pixels{width:100%;max-width:480px;image-rendering:pixelated}
pre{background:var(--card);border-radius:8px;padding:10px 12px;white-space:pre-wrap;overflow-wrap:anywhere;
font-size:.85rem;margin:8px 0}
details{margin:10px 0}summary{cursor:pointer;color:var(--a)}
.bar{display:flex;height:18px;border-radius:4px;overflow:hidden;max-width:640px;margin:6px 0}
.bar i{border-width:18px 0 0;border-style:solid}
@media print{.h{display:none}}
"""
CLOSED = "</main></body></html>\n"
COLORS = "abcdef"


def text(value: Any) -> str:
    """A text of the run in HTML: on one line, cut if it is long, without what a browser would obey."""
    shown = escaped(str(value))
    return html.escape(shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}...")


def block(value: str, longest: int = 20_000) -> str:
    """Text of several lines."""
    lines = [html.escape(escaped(line)) for line in value[:longest].split("\n")]
    return f"<pre>{chr(10).join(lines)}</pre>"


def number(value: float | None) -> str:
    """A number with four digits or more."""
    if value is None:
        return "-"
    if math.isnan(value) or math.isinf(value):
        return "not finite"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4f}" if 0.1 <= abs(value) < 100 else f"{value:.5g}"


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence], wraps: bool = True) -> str:
    """A table. Cells that are numbers stand on the right. It scrolls where it is too wide.

    `wraps`: whether long cells break.
    """
    rows = list(rows)
    right = [any(_is_number(row[place]) for row in rows) for place in range(len(columns))]
    marks = [" class=n" if is_right else "" for is_right in right]
    head = "".join(f"<th scope=col{mark}>{text(name)}</th>"
                   for mark, name in zip(marks, columns, strict=True))
    body = "\n".join("<tr>" + "".join(
        f"<th scope=row>{_name(cell)}</th>" if not place else f"<td{mark}>{_cell(cell)}</td>"
        for place, (mark, cell) in enumerate(zip(marks, row, strict=True))) + "</tr>" for row in rows)
    return scrolled(caption, f'<table{" class=wrap" * wraps}><caption>{text(caption)}</caption><thead><tr>'
                             f"{head}</tr></thead><tbody>{body}</tbody></table>")


def scrolled(name: str, content: str) -> str:
    """What is too wide for a phone scrolls, also with the keyboard."""
    return f'<div class="wide" tabindex="0" role="group" aria-label="{text(name)}">{content}</div>'


def _is_number(cell: Any) -> bool:
    return type(cell) in (int, float)


def _cell(cell: Any) -> str:
    return number(cell) if _is_number(cell) else "" if cell is None else text(cell)


def _name(cell: Any) -> str:
    """A name, which breaks after its dots and slashes."""
    return _cell(cell).replace(".", ".<wbr>").replace("/", "/<wbr>") if isinstance(cell, str) else _cell(cell)


def folded(title: str, content: str) -> str:
    """What opens with a click."""
    return f"<details><summary>{text(title)}</summary>{content}</details>"


def section(title: str, content: str) -> str:
    """A part of the page; nothing if it is empty."""
    return f"<section><h2>{text(title)}</h2>\n{content}\n</section>\n" if content else ""


def picture(content: str, about: str, kind: str = "picture") -> str:
    """A PNG file, given in base64."""
    return f'<img class="{kind}" alt="{text(about)}" src="data:image/png;base64,{html.escape(content)}">'


def heat(share: float, value: float) -> str:
    """A cell of a confusion matrix: a value, on a ground that is as deep as the root of its share."""
    deep = math.sqrt(min(max(float(share), 0.0), 1.0))
    strong = ";color:var(--page)" if deep > 0.55 else ""
    opacity = 0.0 if not value else 0.1 + 0.9 * deep if deep > 0.55 else 0.08 + 0.4 * deep
    return f'<td style="background:rgba(var(--heat),{opacity:.2f}){strong}">{number(float(value))}</td>'


def matrix(name: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[float], Sequence[float]]]) -> str:
    """A confusion matrix; `rows`: the shares and the values of each true class."""
    names = "".join(f"<th scope=col>{text(label)}</th>" for label in labels)
    body = "".join(f"<tr><th scope=row>{text(label)}</th>{''.join(map(heat, shares, values))}</tr>"
                   for label, (shares, values) in zip(labels, rows, strict=True))
    return scrolled(name, f'<table class="matrix"><caption>{text(name)}</caption><thead><tr><td></td>'
                          f"{names}</tr></thead><tbody>{body}</tbody></table>")


def made(make: Callable[[Any], str], material: Any) -> str:
    """A part of a page; a sentence if a file is not as the part expects it."""
    try:
        return make(material)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return f"<p>This part could not be made: {text(describe_error(error))}</p>"


def document(title: str, parts: Iterable[str], folder: Path, detail: float) -> str:
    """A whole page, which says when it was written, from which folder, and whether it leaves things out."""
    less = "" if detail == 1 else " This page shows less of it, to stay small."
    foot = (f'<p class="soft">Written {datetime.now():%Y-%m-%d %H:%M:%S} from the files in '
            f"{text(folder.absolute())}.{less}</p>")
    return HEAD.format(title=text(title), style=STYLE) + "".join(parts) + foot + CLOSED


def fitted(build: Callable[[float], str]) -> str:
    """The page that `build(detail)` makes, with as much detail, from 1 to 0, as its size allows."""
    for detail in _DETAILS:
        page = build(detail)
        if len(page.encode(errors="backslashreplace")) <= MOST_BYTES:
            break
    return page


def cards(shown: Iterable[tuple[str, Any, str]]) -> str:
    """Values in a row: what each is, the value, and more on it."""
    return '<div class="cards">' + "".join(
        f'<div class="card"><span class="soft">{text(name)}</span><b>{text(value)}</b>'
        f'<span class="soft">{text(more)}</span></div>' for name, value, more in shown) + "</div>\n"
