"""new.py makes copies that are clean and tell where they come from, and overwrites nothing."""
import re

import pytest
from conftest import program

new = pytest.importorskip("new", reason="a fork may do without new.py")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A new project."""
    folder = tmp_path_factory.mktemp("copy") / "Blank"
    new.new_project(folder)
    return folder


@pytest.fixture
def in_copy(copy, monkeypatch):
    """The new project is the one to copy."""
    monkeypatch.setattr(new, "PROJECT", copy)
    return copy


def test_a_new_project_is_clean_keeps_the_licence_and_refuses_to_overwrite(tmp_path):
    target = tmp_path / "New"
    program("new.py", "project", target)
    names = {path.name for path in target.iterdir()}
    assert {"LICENSE", "README.md", "train.py", "setup.cfg", "saved", "tests", "launch", "docs"} <= names
    assert ".git" not in names
    assert [path.name for path in (target / "saved").iterdir()] == [".gitkeep"]
    assert "there already" in program("new.py", "project", target, code=2).stderr
    assert "inside this project" in program("new.py", "project", "inner", code=2).stderr


def test_a_copy_says_when_it_was_made_of_which_version_and_so_does_a_copy_of_it(in_copy, tmp_path, monkeypatch):
    stamp = new.template()
    assert re.fullmatch(r"\d+\.\d+\.\d+", stamp["version"]) and re.fullmatch(r"\d{4}-\d\d-\d\d", stamp["created"])
    new.new_project(tmp_path / "second")
    monkeypatch.setattr(new, "PROJECT", tmp_path / "second")
    assert new.template() == stamp
    said = program("new.py", "--version", cwd=tmp_path / "second").stdout
    assert said.startswith(f"version {stamp['version']}, created {stamp['created']}")
