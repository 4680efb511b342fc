"""Which code that is in no commit is recorded beside a run."""
import shutil
import subprocess

import pytest

from utils import git

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
record = git.uncommitted_changes  # before conftest.py keeps its answer


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one commit: model/old.py, configs/old.json, train.py."""
    monkeypatch.setattr(git, "PROJECT", tmp_path)
    for name in ("model/old.py", "model/key_value.py", "configs/old.json", "configs/token.json", "train.py"):
        write(tmp_path / name, "committed = 1\n")
    author = ["-c", "user.email=a@b", "-c", "user.name=a"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "a"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def write(file, text: str) -> None:
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(text)


def test_new_code_and_configs_of_the_project_are_recorded(project):
    index = (project / ".git" / "index").read_bytes()
    names = "model/fresh.py", "configs/deep/fresh.yaml", "configs/new [1].json", "lib/staged.py"
    for number, name in enumerate(names):
        write(project / name, f"fresh{number}\n")
    write(project / "train.py", "changed\n")
    assert all(f"+fresh{number}" in record() for number in range(3)) and "+changed" in record()
    assert "staged" not in record() and (project / ".git" / "index").read_bytes() == index
    subprocess.run(["git", "add", "lib"], cwd=project, check=True)
    assert "+fresh3" in record()


def test_no_new_code_is_no_record(project):
    assert record() is None
    (project / "model" / "old.py").unlink()
    assert "model/old.py" in record() and "committed" not in record()


@pytest.mark.parametrize("name", ["my_keys.py", "notes/a.py", "model/data.csv", "credentials.json"])
def test_a_stray_file_is_not_recorded(project, name):
    write(project / name, "stray\n")
    assert record() is None


@pytest.mark.parametrize("name", ["configs/credentials.json", "model/api_keys.py", "configs/secrets/db.yaml",
                                  "configs/token.json"])
def test_a_file_that_is_named_like_credentials_is_not_recorded(project, name, caplog):
    write(project / name, "hunter2\n")
    write(project / "model" / "tokenizer.py", "fresh\n")
    write(project / "model" / "key_value.py", "changed\n")
    changes = record()
    assert "hunter2" not in changes and "+fresh" in changes and "+changed" in changes
    assert f"{name} (named like credentials)" in caplog.text


def test_large_files_are_not_recorded_and_named(project, monkeypatch, caplog):
    monkeypatch.setattr(git, "_FILE_LIMIT", 100)
    monkeypatch.setattr(git, "_LIMIT", 150)
    write(project / "configs" / "old.json", "large" * 30)
    write(project / "model" / "a.py", "first " * 15)
    write(project / "model" / "b.py", "second " * 12)
    changes = record()
    assert "first" in changes and "large" not in changes and "second" not in changes
    assert "configs/old.json (0.0 MB" in caplog.text and "model/b.py (0.0 MB" in caplog.text
