"""`new.py upgrade` in tiny repositories: what it merges, what it leaves alone, kills at any moment."""
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import PROJECT
from utils.errors import ConfigError

program_of_upgrades = pytest.importorskip("scaffolds.upgrade.upgrade", reason="a fork may do without it")
upgrade = program_of_upgrades.upgrade
LINES = [f"line {number} of the file\n" for number in range(20)]
SETUP = "[tool]\nname = value\n\n[template]\nversion = {}\n"
CHANGELOG = """# Changelog

| version | commit |
| --- | --- |
| 1.1.0 | the newest |
| 1.0.0 | {} |

## 1.1.0

### Your side
- Rename `old` to `new`.

### Engine
- Faster.
"""


def text(changed: dict[int, str] | None = None, name: str = "") -> str:
    return name + "".join((changed or {}).get(number, line) for number, line in enumerate(LINES))


def git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(folder: Path, files: dict[str, str | None]) -> str:
    """Writes files (None: deletes one), and commits all; returns the hash."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).unlink() if content is None else (folder / name).write_text(content)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Change")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(autouse=True)
def own_settings(monkeypatch):
    for key, value in {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_AUTHOR_NAME": "me", "GIT_AUTHOR_EMAIL": "me@x",
                       "GIT_COMMITTER_NAME": "me", "GIT_COMMITTER_EMAIL": "me@x"}.items():
        monkeypatch.setenv(key, value)


@pytest.fixture(scope="module")
def versions(tmp_path_factory) -> tuple[Path, str, str]:
    """A template with two versions: its folder and both commits."""
    folder = tmp_path_factory.mktemp("template")
    git(folder, "init", "-q")
    git(folder, "config", "user.name", "them")
    git(folder, "config", "user.email", "them@x")
    old = commit(folder, {
        "setup.cfg": SETUP.format("1.0.0"), "base/loop.py": text(), "utils/former.py": text(name="former\n"),
        "model/shipped.py": text(name="shipped\n"), "model/yours.py": text(name="yours\n"),
        "docs/page.md": text(name="page\n"), "README.md": "The template\n", ".gitignore": "*.tmp\n",
        "base/leaves.py": "short\n"})
    new = commit(folder, {
        "setup.cfg": SETUP.format("1.1.0").replace("value", "other"), "base/loop.py": text({10: "theirs\n"}),
        "utils/former.py": None, "utils/deep/present.py": text({3: "theirs\n"}, "former\n"),
        "model/shipped.py": text({3: "theirs\n"}, "shipped\n"),
        "model/yours.py": text({3: "theirs\n"}, "yours\n"), "model/fresh.py": "fresh\n",
        "docs/page.md": text({3: "theirs\n"}, "page\n"), "docs/more.md": "more\n",
        "README.md": "The template, newer\n", "CHANGELOG.md": CHANGELOG.format(old[:7]),
        "CONTRIBUTING.md": "us\n", "base/leaves.py": None,
        "new.py": 'TEMPLATE_ONLY = ("CONTRIBUTING.md",)\nEXAMPLES = ()\n'})
    return folder, old, new


@pytest.fixture
def fork(versions, tmp_path) -> Path:
    """A copy of the first version, with a stamp and changes: a line in two files, a plug-in, no docs."""
    folder, old, _ = versions
    target = tmp_path / "fork"
    subprocess.run(["git", "clone", "-q", str(folder), str(target)], check=True)
    git(target, "checkout", "-q", old)
    shutil.rmtree(target / ".git")
    (target / "setup.cfg").write_text(SETUP.format(f"1.0.0\ncreated = 2026-01-01\ncommit = {old[:7]}"))
    git(target, "init", "-q")
    commit(target, {})
    commit(target, {"base/loop.py": text({2: "ours\n"}), "utils/former.py": text({15: "ours\n"}, "former\n"),
                    "model/yours.py": text({3: "ours\n"}, "yours\n"), "model/own.py": "own\n",
                    "docs/page.md": None, "README.md": "Ours\n"})
    return target


def files(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in git(folder, "ls-files").splitlines()}


def nothing_is_left(folder: Path) -> bool:
    left = {file.name for file in (folder / ".git" / "seedbed-upgrade").iterdir()} - {"lock", "index"}
    trees = git(folder, "worktree", "list").splitlines()
    return not left and not git(folder, "status", "--porcelain") and len(trees) == 1


def test_changes_of_both_sides_are_merged_and_what_is_a_projects_own_is_left_alone(versions, fork, capsys):
    folder, old, new = versions
    before = files(fork)
    assert upgrade(fork, PROJECT, str(folder), yes=True) == 0
    after = files(fork)
    assert after["base/loop.py"] == text({2: "ours\n", 10: "theirs\n"})
    assert after["utils/deep/present.py"] == text({3: "theirs\n", 15: "ours\n"}, "former\n")
    assert after["model/shipped.py"] == text({3: "theirs\n"}, "shipped\n")
    for name in ("model/yours.py", "model/own.py", "README.md"):
        assert after[name] == before[name]
    gone = {"utils/former.py", "base/leaves.py"}
    added = {"utils/deep/present.py", "model/fresh.py", "CHANGELOG.md", "new.py"}
    assert after.keys() == before.keys() - gone | added
    stamp = f"[template]\nversion = 1.1.0\ncreated = 2026-01-01\ncommit = {new[:10]}\n"
    assert after["setup.cfg"].endswith(stamp) and "name = other" in after["setup.cfg"]
    assert len(git(fork, "show", "-s", "--format=%p").split()) == 2 and nothing_is_left(fork)
    assert "1 points on your side" in capsys.readouterr().out
    head = git(fork, "rev-parse", "HEAD")
    assert upgrade(fork, PROJECT, str(folder), yes=True) == 0 and git(fork, "rev-parse", "HEAD") == head
    assert "nothing to do" in capsys.readouterr().out
    assert upgrade(fork, PROJECT, str(folder), "1.0.0", yes=True) == 0
    assert git(fork, "rev-parse", "HEAD") == head
    assert f"commit {new[:10]}), which is newer than 1.0.0" in capsys.readouterr().out


def test_ends_of_lines_of_windows_stay(versions, fork):
    setup = (fork / "setup.cfg").read_text().replace("\n", "\r\n")
    (fork / "setup.cfg").write_bytes(setup.encode())
    git(fork, "commit", "-qam", "Windows")
    assert upgrade(fork, PROJECT, str(versions[0]), yes=True) == 1  # each line is another one: a conflict
    assert b"version = 1.0.0\r\n" in (fork / "setup.cfg").read_bytes()


def test_a_third_version_follows_the_second(versions, fork, tmp_path):
    subprocess.run(["git", "clone", "-q", str(versions[0]), str(tmp_path / "newer")], check=True)
    upgrade(fork, PROJECT, str(versions[0]), yes=True)
    commit(tmp_path / "newer", {"utils/deep/present.py": text({3: "theirs\n", 8: "theirs\n"}, "former\n")})
    assert upgrade(fork, PROJECT, str(tmp_path / "newer"), yes=True) == 0
    merged = text({3: "theirs\n", 8: "theirs\n", 15: "ours\n"}, "former\n")
    assert files(fork)["utils/deep/present.py"] == merged


def test_a_dry_run_changes_nothing_and_prints_a_table_conflicts_and_the_owners_side(versions, fork, capsys):
    commit(fork, {"base/loop.py": text({10: "ours\n"})})
    head = git(fork, "rev-parse", "HEAD")
    assert upgrade(fork, PROJECT, str(versions[0]), dry_run=True) == 0
    printed = capsys.readouterr().out
    assert "  conflict: base/loop.py\n" in printed and "- Rename `old`" in printed and "Faster" not in printed
    assert "base                     1                   1         1\n" in printed
    assert git(fork, "rev-parse", "HEAD") == head and nothing_is_left(fork)


def test_conflicts_end_with_markers_and_a_list_and_can_be_resolved_or_aborted(versions, fork, capsys):
    commit(fork, {"base/loop.py": text({10: "ours\n"})})
    head, before = git(fork, "rev-parse", "HEAD"), files(fork)
    assert upgrade(fork, PROJECT, str(versions[0]), yes=True) == 1
    assert "have conflicts:\n  base/loop.py\nEdit" in capsys.readouterr().out
    assert "<<<<<<< HEAD\nours\n=======\ntheirs\n>>>>>>> " in (fork / "base/loop.py").read_text()
    assert git(fork, "rev-parse", "HEAD") == head
    assert git(fork, "diff", "--name-only", "--diff-filter=U") == "base/loop.py"
    with pytest.raises(ConfigError, match="a merge is not finished"):
        upgrade(fork, PROJECT, str(versions[0]), yes=True)
    git(fork, "merge", "--abort")
    assert files(fork) == before and nothing_is_left(fork)
    upgrade(fork, PROJECT, str(versions[0]), yes=True)
    (fork / "base/loop.py").write_text("resolved\n")
    git(fork, "add", "-u")
    git(fork, "commit", "-q", "--no-edit")
    assert len(git(fork, "show", "-s", "--format=%p").split()) == 2
    assert files(fork)["model/fresh.py"] == "fresh\n"
    assert upgrade(fork, PROJECT, str(versions[0]), yes=True) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_a_clone_with_the_history_gets_a_plain_merge(versions, tmp_path):
    folder, old, new = versions
    subprocess.run(["git", "clone", "-q", str(folder), str(tmp_path / "clone")], check=True)
    git(tmp_path / "clone", "reset", "-q", "--hard", old)
    commit(tmp_path / "clone", {"base/loop.py": text({2: "ours\n"})})
    assert upgrade(tmp_path / "clone", tmp_path / "clone", yes=True) == 0  # from its origin
    assert git(tmp_path / "clone", "rev-parse", "HEAD^2") == new
    assert files(tmp_path / "clone")["base/loop.py"] == text({2: "ours\n", 10: "theirs\n"})
    assert upgrade(tmp_path / "clone", PROJECT, str(folder), yes=True) == 0


def test_a_copy_without_a_commit_goes_by_its_version_and_one_without_git_gets_a_history(versions, fork):
    shutil.rmtree(fork / ".git")
    (fork / "setup.cfg").write_text(SETUP.format("1.0.0\ncreated = 2026-01-01"))
    (fork / "base" / "work.tmp").write_text("ignored")
    with pytest.raises(ConfigError, match="not in git"):
        upgrade(fork, PROJECT, str(versions[0]), dry_run=True)
    assert upgrade(fork, PROJECT, str(versions[0]), yes=True) == 0
    assert files(fork)["base/loop.py"] == text({2: "ours\n", 10: "theirs\n"}) and nothing_is_left(fork)
    assert git(fork, "rev-list", "--count", "--first-parent", "HEAD") == "2"


def test_a_bare_copys_manual_is_the_templates_readme(versions, fork):
    commit(fork, {"TEMPLATE.md": "> A note.\n\nThe template\n"})
    upgrade(fork, PROJECT, str(versions[0]), yes=True)
    assert files(fork)["TEMPLATE.md"] == "> A note.\n\nThe template, newer\n"


@pytest.mark.parametrize("change, message", [
    ({"base/loop.py": "changed\n"}, "uncommitted changes: base/loop.py"),
    ({"model/fresh.py": "mine\n"}, "model/fresh.py: the template now has such a file"),
    ({"setup.cfg": "[tool]\n"}, "no project of this template"),
])
def test_what_would_be_lost_is_refused_and_nothing_changes(versions, fork, change, message):
    for name, content in change.items():
        (fork / name).write_text(content)
    head, status = git(fork, "rev-parse", "HEAD"), git(fork, "status", "--porcelain")
    with pytest.raises(ConfigError, match=message):
        upgrade(fork, PROJECT, str(versions[0]), yes=True)
    assert (git(fork, "rev-parse", "HEAD"), git(fork, "status", "--porcelain")) == (head, status)


def test_other_mistakes_are_one_line(versions, fork, tmp_path, monkeypatch):
    folder = versions[0]
    for arguments, message in [((str(tmp_path / "nowhere"),), "git ls-remote: "),
                               ((str(folder), "9.9"), "Versions: 1.1.0, 1.0.0"),
                               ((None,), "Name its folder or address: --from"),
                               ((str(folder),), "Add --yes")]:
        with pytest.raises(ConfigError, match=message) as raised:
            upgrade(fork, fork, *arguments)
        assert "\n" not in str(raised.value)
    (fork / "inner").mkdir()
    (fork / "inner" / "setup.cfg").write_text(SETUP.format("1.0.0"))
    with pytest.raises(ConfigError, match="a folder inside the repository"):
        upgrade(fork / "inner", PROJECT, str(folder))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="git is not installed"):
        upgrade(fork, PROJECT, str(folder))


def test_no_hook_runs(versions, fork):
    for name in ("pre-commit", "post-checkout", "post-merge", "reference-transaction", "commit-msg"):
        hook = fork / ".git" / "hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {fork}/hooked\nexit 1\n")
        hook.chmod(0o755)
    assert upgrade(fork, PROJECT, str(versions[0]), yes=True) == 0
    assert not (fork / "hooked").exists()


# -- kills -------------------------------------------------------------------------------------------------

FAKE = """#!/bin/bash
# git that kills its whole session before its call number KILL_AT
echo >> "$COUNTED"
[ "$(wc -l < "$COUNTED")" = "$KILL_AT" ] && kill -9 -- -$(ps -o pgid= $$ | tr -d ' ')
exec {} "$@"
"""


def in_a_process(fork: Path, source: Path, kill_at: int, tmp_path: Path) -> tuple[int, int]:
    """Upgrades in a process that is killed before a call of git. Returns its exit code and their number."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / "git").write_text(FAKE.replace("{}", shutil.which("git")))
    (tmp_path / "bin" / "git").chmod(0o755)
    counted = tmp_path / "counted"
    counted.write_text("")
    code = (f"import sys; sys.path.insert(0, {str(PROJECT)!r})\nfrom pathlib import Path\n"
            "from scaffolds.upgrade.upgrade import upgrade\n"
            f"sys.exit(upgrade(Path({str(fork)!r}), Path({str(PROJECT)!r}), {str(source)!r}, yes=True))")
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "KILL_AT": str(kill_at),
                   "COUNTED": str(counted)}
    done = subprocess.run([sys.executable, "-c", code], start_new_session=True, capture_output=True,
                          env=environment)
    return done.returncode, len(counted.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("conflict", [False, True])
def test_killed_at_any_moment_nothing_is_half_done_and_the_next_is_whole(versions, fork, conflict, tmp_path):
    if conflict:
        commit(fork, {"base/loop.py": text({10: "ours\n"})})
    begun, whole = tmp_path / "begun", tmp_path / "whole"
    shutil.copytree(fork, begun)
    shutil.copytree(fork, whole)
    code, calls = in_a_process(whole, versions[0], 0, tmp_path)
    assert code == conflict and calls > 20
    expected, old = files(whole), git(fork, "rev-parse", "HEAD^{tree}")
    for kill_at in range(2 - conflict, calls + 1, 2):
        shutil.rmtree(fork)
        shutil.copytree(begun, fork)
        assert in_a_process(fork, versions[0], kill_at, tmp_path)[0] == -signal.SIGKILL
        if (fork / ".git" / "seedbed-upgrade" / "moving.json").exists():
            (fork / ".git" / "index.lock").touch()  # as git leaves it if it is killed
        assert git(fork, "rev-parse", "HEAD^{tree}") in (old, git(whole, "rev-parse", "HEAD^{tree}"))
        again = in_a_process(fork, versions[0], 0, tmp_path)[0]
        assert again == conflict or (conflict and (fork / ".git" / "MERGE_HEAD").exists() and again == 1)
        assert files(fork) == expected, kill_at
        assert conflict or nothing_is_left(fork)


def test_what_stood_in_files_of_a_killed_upgrade_is_kept_in_a_commit(versions, fork, capsys):
    head = git(fork, "rev-parse", "HEAD")
    with program_of_upgrades.Workspace(fork) as workspace:
        workspace.begin(["base/loop.py", "model/fresh.py"])
        shutil.copyfile(workspace.folder / "moving.json", fork / "kept.json")
        workspace.end()
    (fork / "kept.json").replace(fork / ".git" / "seedbed-upgrade" / "moving.json")
    (fork / "base" / "loop.py").write_text("half")
    (fork / "model" / "fresh.py").write_text("half, too")
    upgrade(fork, PROJECT, str(versions[0]), yes=True)
    name = capsys.readouterr().out.split("what they held is commit ")[1][:10]
    assert git(fork, "show", f"{name}:base/loop.py") == "half"
    assert git(fork, "show", f"{name}:model/fresh.py") == "half, too"
    assert git(fork, "rev-parse", "HEAD^1") == head and files(fork)["model/fresh.py"] == "fresh\n"


def test_a_second_upgrade_at_the_same_time_is_refused(versions, fork):
    with program_of_upgrades.Workspace(fork), pytest.raises(ConfigError, match="another upgrade"):
        upgrade(fork, PROJECT, str(versions[0]), yes=True)
