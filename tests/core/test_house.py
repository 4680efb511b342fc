"""The walls of the house: who may import whom, what may stand nowhere, and that links lead somewhere."""
import ast
import re
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, needs

ROOMS = ("base", "data_loader", "model", "trainer", "logger", "utils")
MAY_IMPORT = {
    "model": {"base", "utils", "model"},
    "data_loader": {"base", "utils", "data_loader"},
    "trainer": {"base", "utils", "trainer"},
    "base": {"base", "logger", "utils"},
    "logger": {"logger", "utils"},
    "utils": {"utils"},
}
SHIPPED = ("digits", "mnist", "cifar10_resnet", "linear_regression", "digits_gan")
CORE = sorted(file for room in ("base", "logger", "utils") for file in (PROJECT / room).rglob("*.py"))
FILES = sorted(file for room in ROOMS for file in (PROJECT / room).rglob("*.py"))


def imports(tree: ast.AST) -> set[str]:
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PROJECT)))
def test_every_room_imports_only_from_the_rooms_below_it(file):
    room = file.relative_to(PROJECT).parts[0]
    rooms = {name.split(".")[0] for name in imports(ast.parse(file.read_text()))} & {*ROOMS, "train", "test", "new"}
    assert rooms <= MAY_IMPORT[room]


@pytest.mark.parametrize("file", CORE, ids=lambda file: str(file.relative_to(PROJECT)))
def test_every_file_public_class_and_function_says_what_it_is_for(file):
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    defined = [node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name[0] != "_"]
    assert [node.name for node in defined if not ast.get_docstring(node)] == []


def test_torch_distributed_is_imported_in_one_file_only():
    importing = [file for file in FILES if any(n.startswith("torch.distributed") for n in imports(ast.parse(file.read_text())))]
    assert importing in ([], [PROJECT / "utils" / "dist.py"])


def test_nothing_unpickles_and_yaml_is_read_safely():
    forbidden = re.compile(r"weights_only\s*=\s*False|add_safe_globals|pickle\.loads?\(|yaml\.(load|full_load|unsafe_load)\(")
    for file in [*FILES, *PROJECT.glob("*.py")]:
        assert not forbidden.search(file.read_text()), file


def test_every_torch_load_asks_for_weights_only():
    for file in FILES:
        for call in re.findall(r"torch\.load\([^)]*\)", file.read_text()):
            assert "weights_only=True" in call, file


def test_every_shipped_config_opens_with_what_it_trains_its_score_and_its_command():
    shipped = [PROJECT / "configs" / f"{name}.yaml" for name in SHIPPED]
    for file in filter(Path.exists, shipped):  # a fork may have thrown some out
        comments = [line for line in file.read_text().splitlines() if line.startswith("#")]
        assert len(comments) >= 3 and f"python train.py -c configs/{file.name}" in comments[-1], file


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{file.name}" for file in sorted(PROJECT.glob("docs/*.md")))])
def test_links_between_pages_lead_to_a_file_and_a_heading_in_it(page):
    needs("configs/digits.yaml")  # some lead to examples
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", (PROJECT / page).read_text()):
        name, _, anchor = link.partition("#")
        file = (PROJECT / page).parent / name if name else PROJECT / page
        assert file.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], link


def test_supported_python_versions_only_need_what_they_have():
    assert sys.version_info >= (3, 10)
    for file in FILES:
        ast.parse(file.read_text(), feature_version=(3, 10))
