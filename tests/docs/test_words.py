"""Pages, docstrings and messages are in plain technical English: no word that a reader has to look up."""
import ast
import re
from pathlib import Path

import pytest

from conftest import PROJECT, needs

WORDS = re.compile(r"(?<![\w.])(whoever|nobody|whatever|of which|goes on|is told|so many|those that|"
                   r"mend(s|ed|ing)?)\b", re.IGNORECASE)
PAGES = [str(file.relative_to(PROJECT)) for pattern in ("README.md", "benchmarks/README.md", "docs/*.md")
         for file in sorted(PROJECT.glob(pattern))]
TASKS = """notebook, Jupyter, ONNX, export, predict, confusion matrix, k-fold, cross-validation, sweep,
    W&B, MLflow, Hugging Face, timm, freeze, unfreeze, segmentation, Docker, Slurm, upgrade,
    DDP, FSDP, resume, early stopping, EMA, mixed precision, learning-rate finder, class
    imbalance, NaN, gradient accumulation, transfer learning, own dataset, custom loss,
    per-class metrics, multi-GPU, checkpoint, TensorBoard, reproducibility, fine-tuning,
    IterableDataset, pytorch-template"""
FOLDERS = ("base", "benchmarks", "utils", "logger", "tools", "model", "data_loader", "trainer", "scaffolds")


def files_of_code() -> list[Path]:
    return [*PROJECT.glob("*.py"), *(file for folder in FOLDERS for file in (PROJECT / folder).rglob("*.py"))]


def texts_of(file: Path) -> list[tuple[int, str]]:
    """The line and the text of every string in a file: docstrings, messages, help texts."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return [(node.lineno, " ".join(node.value.split())) for node in nodes
            if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.fixture(autouse=True)
def in_the_template():
    """A project made from the template may use the words that it likes."""
    needs("new.py", "configs/digits.yaml")
    import new
    if "created" in new.template():
        pytest.skip("a copy of the template")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_in_plain_words(page):
    text = " ".join((PROJECT / page).read_text(encoding="utf-8").split())
    assert [text[max(found.start() - 40, 0):found.end() + 20] for found in WORDS.finditer(text)] == []


def test_docstrings_and_messages_are_in_plain_words():
    assert [f"{file.relative_to(PROJECT)}:{line}: {found[0]}" for file in files_of_code()
            for line, text in texts_of(file) for found in WORDS.finditer(text)] == []


def test_the_index_finds_a_page_for_each_task():
    rows = [line for line in (PROJECT / "docs/index.md").read_text().splitlines() if line.startswith("|")]
    found = " ".join(row.split("|")[1].lower() for row in rows if "](" in row)
    assert [task for task in " ".join(TASKS.split()).split(", ") if task.lower() not in found] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_a_page_begins_with_what_most_readers_look_for(page):
    beginning = (PROJECT / page).read_text(encoding="utf-8").partition("\n## ")[0]
    assert re.match(r"# .+\n\n(.+\n)?(.+\n)?(\n)?```(bash|yaml|text)\n", beginning)
