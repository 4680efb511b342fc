"""What docstrings say of a thing and of its arguments, as plain lines for tables, listings and editors."""
import inspect
import re
from collections.abc import Iterator

_ARGUMENTS = re.compile(r"(\s*)(Args|Arguments|Parameters|Keyword args|Keyword arguments):\s*$", re.IGNORECASE)
_TYPE = r"\((?:[^()]|\([^()]*\))*\)"  # in parentheses, which may hold others
_ENTRY = re.compile(rf"(?P<names>\**\w+(?:,\s*\**\w+)*)\s*(?:{_TYPE})?\s*:(?!:)\s*(?P<text>.*)")
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)\s+(?=[^a-z0-9])")
_CODE_OR_LINK = re.compile(r"(?P<role>:[\w:+-]+:)?(?P<ticks>`{1,2})(?P<text>[^`]+)(?P=ticks)(?P<link>_{0,2})")


def summary(thing, quote: str = "") -> str:
    """The first sentence of a class's or a function's own docstring, as one line; '' where there is none.

    Names and code in it stand between `quote`: nothing, or a backtick for Markdown.
    """
    for text in _docstrings(thing):
        for paragraph in re.split(r"\n\s*\n", text):
            if _ARGUMENTS.match(paragraph.splitlines()[0]):
                break
            if not paragraph.startswith(".. "):  # a directive of Sphinx
                return _SENTENCE_END.split(_plain(paragraph, quote))[0]
    return ""


def argument_text(target, name: str, quote: str = "") -> str:
    """What is said of the argument `name` of a class or a function, as one line; '' where nothing is.

    Looked for under `Args:` and the like in the docstrings of the class and of its constructor, then of those it
    inherits from. `quote` is as for `summary`.
    """
    for owner in inspect.getmro(target) if isinstance(target, type) else [target]:
        for text in _docstrings(owner):
            for names, said in _entries(text):
                if name in names:
                    return _plain(said, quote)
    return ""


def _docstrings(thing) -> Iterator[str]:
    """The docstrings of a thing itself, without any that it inherits or that a dataclass made up."""
    if thing is object or getattr(thing, "__module__", "") == "torch.nn.modules.module":
        return
    sources = [thing, vars(thing).get("__init__")] if isinstance(thing, type) else [thing]
    for source in sources:
        text = vars(source).get("__doc__") if isinstance(source, type) else getattr(source, "__doc__", None)
        if isinstance(text, str) and text.strip() and not text.startswith(f"{getattr(thing, '__name__', '')}("):
            yield inspect.cleandoc(text)


def _entries(text: str) -> Iterator[tuple[list[str], str]]:
    """The entries of a docstring's sections on arguments: (names, first paragraph of what is said of them)."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if header := _ARGUMENTS.match(line):
            for entry in _indented(lines[number + 1:], len(header[1])):
                if said := _ENTRY.match(entry):
                    yield re.findall(r"\w+", said["names"]), said["text"]


def _indented(lines: list[str], outside: int) -> list[str]:
    """The entries of a section whose header is indented by `outside`, each with its first paragraph as one line."""
    entries, first, ended = [], None, False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent <= outside:
            break
        first = indent if first is None and line.strip() else first
        if line.strip() and indent == first:
            entries.append(line.strip())
            ended = False
        elif entries and not ended:
            ended = not line.strip() or line.lstrip().startswith(".. ")
            entries[-1] += "" if ended else " " + line.strip()
    return entries


def _plain(text: str, quote: str) -> str:
    """Text in one line, without the markup of Sphinx: :class:`~torch.Tensor` is Tensor, `paper <url>`_ is paper."""

    def unmarked(match: re.Match) -> str:
        inside = match["text"]
        if match["role"] or match["link"]:
            inside = re.sub(r"\s*<[^<>]*>$", "", inside)
        if inside.startswith("~"):
            inside = inside.rpartition(".")[2]
        return inside if match["link"] else f"{quote}{inside}{quote}"

    return re.sub(r"\*\*(.+?)\*\*", r"\1", _CODE_OR_LINK.sub(unmarked, " ".join(text.split())))
