"""Pages, docstrings and messages are in plain technical English: no word that a reader has to look up."""
import ast
import re
from pathlib import Path

import pytest

from conftest import PROJECT

WORDS = re.compile(r"(?<![\w.])(whoever|nobody|whatever|of which|goes on|is told|so many|those that|"
                   r"mend(s|ed|ing)?)\b", re.IGNORECASE)
PAGES = ["README.md", *sorted(str(file.relative_to(PROJECT)) for file in PROJECT.glob("docs/*.md"))]
FOLDERS = ("base", "utils", "logger", "tools", "model", "data_loader", "trainer", "scaffolds")


def files_of_code() -> list[Path]:
    return [*PROJECT.glob("*.py"), *(file for folder in FOLDERS for file in (PROJECT / folder).rglob("*.py"))]


def texts_of(file: Path) -> list[tuple[int, str]]:
    """The line and the text of every string in a file: docstrings, messages, help texts."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return [(node.lineno, " ".join(node.value.split())) for node in nodes
            if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_in_plain_words(page):
    text = " ".join((PROJECT / page).read_text(encoding="utf-8").split())
    assert [text[max(found.start() - 40, 0):found.end() + 20] for found in WORDS.finditer(text)] == []


def test_docstrings_and_messages_are_in_plain_words():
    assert [f"{file.relative_to(PROJECT)}:{line}: {found[0]}" for file in files_of_code()
            for line, text in texts_of(file) for found in WORDS.finditer(text)] == []
