"""Who may import whom, no circles, what may stand nowhere, and that links lead somewhere."""
import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import PROJECT, needs

SHIPPED = ("digits", "mnist", "cifar10_resnet", "linear_regression", "digits_gan")
ENGINE = ("base", "logger", "utils", "tools")
PLUG_INS = ("data_loader", "model", "trainer")
PROGRAMS = ("train", "test", "new", "runs", "sweep")
# Which rooms a room may import from, besides itself. A file of utils/ in no package is a room of its own.
MAY_IMPORT = {
    "model": {"base", "utils"}, "data_loader": {"base", "utils"}, "trainer": {"base", "utils"},
    "tools": {"base", "logger", "utils"}, "base": {"logger", "utils"},
    "logger": {"utils"}, "utils": {"utils"},
    "base.data": {"utils"},
    "utils.config": {"utils.errors", "utils.moved", "utils.torch_messages"},
    "utils.distributed": {"utils.config", "utils.errors", "utils.signals", "utils.torch_messages"},
    "utils.checkpoint": {"utils.distributed", "utils.errors", "utils.moved"},
    "utils.training": {"utils.checkpoint", "utils.config", "utils.distributed", "utils.errors",
                       "utils.signals"},
}
# Files that import modules by names they do not know beforehand: plug-ins, installed libraries, the tool of a
# flag, the present modules for former names.
BY_NAME = {"utils/config/registry.py", "base/registries.py", "train.py", "utils/moved.py"}
FILES = sorted(file for room in (*ENGINE, *PLUG_INS) for file in (PROJECT / room).rglob("*.py"))


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


def is_importlib(node: ast.AST) -> bool:
    """Whether a call imports what its first argument names, or runs it."""
    function = node.func if isinstance(node, ast.Call) else None
    name = getattr(function, "attr", getattr(function, "id", ""))
    return name in ("import_module", "__import__", "run_module", "run_path", "spec_from_file_location")


def named(call: ast.Call) -> str | None:
    """The module that a call names in plain text; None if the name comes from elsewhere."""
    first = [*call.args, *(keyword.value for keyword in call.keywords)][0]
    return first.value if isinstance(first, ast.Constant) else None


def imports(file: Path) -> Iterator[str]:
    """The modules that a file imports anywhere, importlib included; for `from a import b` both a and a.b."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: imports are absolute here"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif is_importlib(node) and named(node):
            yield named(node)


def imported_files(file: Path) -> set[Path]:
    """The project's files that a file imports, with the __init__ of packages that it does not lie in."""
    found = set()
    for name in imports(file):
        for end in range(1, len(name.split(".")) + 1):
            path = PROJECT.joinpath(*name.split(".")[:end])
            package, module = path / "__init__.py", path.with_suffix(".py")
            if module.exists() or (package.exists() and not file.is_relative_to(path)):
                found.add(module if module.exists() else package)
    return found & {*FILES} - {file}


def room_of(file: Path) -> str:
    """`base.data`, `utils.config`, `utils.errors`, `tools`: the innermost package, or of utils/ the file."""
    module = module_of(file).split(".")
    depth = 2 if module[0] == "utils" or module[:2] == ["base", "data"] else 1
    return ".".join(module[:depth])


def first_circle(graph: dict) -> list:
    """The nodes of a circle in a graph, in order; none where it has none."""
    done: set = set()

    def visit(node, path: list) -> list:
        if node in path:
            return path[path.index(node):]
        if node not in done:
            for other in sorted(graph.get(node, ())):
                if circle := visit(other, [*path, node]):
                    return circle
            done.add(node)
        return []

    return next(filter(None, (visit(node, []) for node in sorted(graph))), [])


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PROJECT)))
def test_every_room_imports_only_from_the_rooms_below_it(file):
    for name in imports(file):
        assert name.split(".")[0] not in (*PROGRAMS, "tests", "benchmarks"), name
    room = room_of(file)
    for target in map(room_of, imported_files(file)):
        for part in {room, room.split(".")[0]} & MAY_IMPORT.keys():
            inside = target == part or target.startswith(f"{part}.")
            allowed = inside or target in MAY_IMPORT[part] or target.split(".")[0] in MAY_IMPORT[part]
            assert allowed, f"{part} must not import {target}"


def test_no_file_imports_itself_by_way_of_others():
    circle = first_circle({file: imported_files(file) for file in FILES})
    assert [module_of(file) for file in circle] == []


def test_no_room_imports_itself_by_way_of_others():
    graph: dict[str, set[str]] = {}
    for file in FILES:
        others = {*map(room_of, imported_files(file))} - {room_of(file), "utils", "base"}
        graph.setdefault(room_of(file), set()).update(others)
    assert first_circle(graph) == []


def test_rooms_of_base_import_only_from_those_before_them():
    order = ["data", "config", "preflight", "run"]
    for number, room in enumerate(order):
        for file in (PROJECT / "base" / room).glob("*.py"):
            later = {name.split(".")[1] for name in imports(file) if name.startswith("base.")} & {*order[number + 1:]}
            assert not later, f"{file.name} of base/{room} must not import {later}"


def test_a_circle_is_found():
    assert first_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert first_circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_modules_are_imported_by_name_in_few_files_only():
    for file in [*FILES, *PROJECT.glob("*.py")]:
        calls = filter(is_importlib, ast.walk(parsed(file)))
        unknown = [call for call in calls if not named(call)]
        assert not unknown or str(file.relative_to(PROJECT)) in BY_NAME, file


def test_every_file_public_class_and_function_says_what_it_is_for():
    for file in FILES:
        if file.relative_to(PROJECT).parts[0] not in ENGINE:
            continue
        assert ast.get_docstring(parsed(file)), f"{file} has no docstring"
        defined = [node for node in parsed(file).body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
        public = [node for node in defined if not node.name.startswith("_")]
        assert [node.name for node in public if not ast.get_docstring(node)] == [], file


def test_torch_distributed_is_imported_in_one_folder_only():
    for file in [*FILES, *PROJECT.glob("*.py")]:
        if file.parent != PROJECT / "utils" / "distributed":
            assert not any(name.startswith("torch.distributed") for name in imports(file)), file
            attributes = [ast.unparse(node) for node in ast.walk(parsed(file)) if isinstance(node, ast.Attribute)]
            assert not any(name.startswith("torch.distributed") for name in attributes), file


def test_no_file_takes_private_names_of_another():
    for file in [*FILES, *PROJECT.glob("*.py")]:
        ours = [node for node in ast.walk(parsed(file)) if isinstance(node, ast.ImportFrom)
                and node.module.split(".")[0] in (*ENGINE, *PLUG_INS)]
        assert [alias.name for node in ours for alias in node.names if alias.name.startswith("_")] == [], file


def test_nothing_unpickles_and_yaml_is_read_safely():
    forbidden = re.compile(r"weights_only\s*=\s*False|add_safe_globals|pickle\.loads?\("
                           r"|yaml\.(load|full_load|unsafe_load)\(")
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


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{file.name}" for file in PROJECT.glob("docs/*.md"))])
def test_links_between_pages_lead_to_a_file_and_a_heading_in_it(page):
    needs("configs/digits.yaml", "docs/design.md", "benchmarks/README.md")  # some lead to examples
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", (PROJECT / page).read_text()):
        name, _, anchor = link.partition("#")
        file = (PROJECT / page).parent / name if name else PROJECT / page
        room = PROJECT / file.resolve().relative_to(PROJECT).parts[0]
        assert file.exists() or not room.exists(), link  # a fork may have deleted the room
        if anchor and file.exists():
            headings = re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
            assert anchor in anchors, link


def test_supported_python_versions_only_need_what_they_have():
    assert sys.version_info >= (3, 10)
    for file in FILES:
        ast.parse(file.read_text(), feature_version=(3, 10))
