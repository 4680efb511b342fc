"""`new.py upgrade`: brings a newer version of the template into a project, as a merge by git.

The template's two versions, without what is the project's own, are merged in a temporary work tree. Then the
project changes: it gets one commit or, with conflicts, their markers and no commit.
"""
import collections
import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from scaffolds.upgrade.repository import Git, Workspace, split
from scaffolds.upgrade.trees import template_trees
from scaffolds.upgrade.versions import (
    default_source,
    fetch,
    public_address,
    stamp_of,
    stamped_commit,
    wanted_commit,
    your_side,
)
from utils.errors import ConfigError, printable

REPORT_FILE = Path("scaffolds/upgrade/own_side.py")


@dataclass
class Upgrade:
    """A merge that is computed, and not yet in the project.

    `old`, `new`: the template's commits. `step`: a commit whose difference from its parent is the upgrade.
    `parent`: the second parent of the merge. `result`: its tree. `changes`: (letter, file) as git has them.
    """

    old: str
    new: str
    step: str
    parent: str
    result: str | None = None
    conflicts: list[str] = field(default_factory=list)
    changes: list[tuple[str, str]] = field(default_factory=list)


def upgrade(folder: Path, template: Path, source: str | None = None, version: str | None = None,
            dry_run: bool = False, yes: bool = False) -> int:
    """Upgrades the project in `folder`; `template` is that of the program that runs. Returns the exit code.

    Raises ConfigError, and changes nothing, if there is no project in git, if changes are not committed, or
    if the versions cannot be found.
    """
    git = open_project(folder, dry_run, yes)
    with Workspace(folder) as workspace:
        git = workspace.git
        require_clean(git)
        stamp = stamp_of(git.read("HEAD", "setup.cfg"))
        source = source or default_source(git, stamp, template)
        new = wanted_commit(git, fetch(git, source), version)
        plan = plan_upgrade(git, workspace, stamp, new, source)
        if plan is None:
            return 0
        merge(git, workspace, plan)
        require_free(folder, plan)
        show(git, plan, source, dry_run)
        if dry_run:
            return 0
        confirm(yes)
        require_clean(git)  # it may have taken long
        apply(git, workspace, plan)
    return report_conflicts(plan) if plan.conflicts else finish(git, plan)


# -- the project -------------------------------------------------------------------------------------------

def open_project(folder: Path, dry_run: bool, yes: bool) -> Git:
    """git in the project; a copy without a history gets one. Raises ConfigError if it cannot be upgraded."""
    git, setup = Git(folder), folder / "setup.cfg"
    stamp = stamp_of(setup.read_text(encoding="utf-8")) if setup.exists() else {}
    if "version" not in stamp:
        raise ConfigError(f"{folder} is no project of this template: its setup.cfg has no [template] with a "
                          "version. Go to the project's folder first.")
    top = git.run("rev-parse", "--show-toplevel")
    if top.returncode == 0:
        if Path(top.stdout.strip()).resolve() != folder.resolve():
            raise ConfigError(f"this project is a folder inside the repository {top.stdout.strip()}. An "
                              "upgrade needs a project with a repository of its own.")
    elif "created" not in stamp or dry_run:
        raise ConfigError("this project is not in git, and an upgrade is a merge by git. Put it there: "
                          "git init && git add -A && git commit -m Begin")
    else:
        print("This project is not in git. An upgrade makes it a repository with one commit of all files.")
        confirm(yes)
        identify(git)
        git("init", "--quiet")
        git("add", "--all")
        git("commit", "--quiet", "--no-verify", "--message", "Begin")
    identify(git)
    return git


def identify(git: Git) -> None:
    """Raises ConfigError if git does not know the name for commits."""
    if git.run("var", "GIT_COMMITTER_IDENT").returncode:
        raise ConfigError("git does not know your name. Set it: git config user.name NAME && git config "
                          "user.email MAIL")


def require_clean(git: Git) -> None:
    """Raises ConfigError if there is no commit, an unfinished merge, or a changed file that git has."""
    if not git.find("HEAD"):
        raise ConfigError("this project has no commit yet. Make one: git add -A && git commit -m Begin")
    if git.find("MERGE_HEAD"):
        raise ConfigError("a merge is not finished here. Resolve it and `git commit`, or abort it: "
                          "`git merge --abort`.")
    if changed := split(git("status", "--porcelain", "-z", "--untracked-files=no")):
        shown = ", ".join(entry[3:] for entry in changed[:3]) + (", ..." if changed[3:] else "")
        raise ConfigError(f"there are uncommitted changes: {shown}. Commit them, or `git stash`.")


def require_free(folder: Path, plan: Upgrade) -> None:
    """Raises ConfigError if a file that git does not have is where the upgrade adds one."""
    if taken := [name for letter, name in plan.changes if letter == "A" and os.path.lexists(folder / name)]:
        raise ConfigError(f"{', '.join(taken[:3])}: the template now has such a file, and yours is not in "
                          "git. Commit it, or move it away.")


# -- the merge ---------------------------------------------------------------------------------------------

def plan_upgrade(git: Git, workspace: Workspace, stamp: dict, new: str, source: str) -> Upgrade | None:
    """The commits to merge; None, after a line to the user, if there is nothing to do."""
    is_copy = "created" in stamp or "commit" in stamp
    base = "" if is_copy else git.run("merge-base", "HEAD", new).stdout.strip()
    old = base or stamped_commit(git, stamp, new, source)
    wanted = f"{stamp_of(git.read(new, 'setup.cfg')).get('version')} (commit {new[:10]})"
    if old == new:
        print(f"This project has version {wanted} already, or a newer one. There is nothing to do.")
        return None
    if git.run("merge-base", "--is-ancestor", new, old).returncode == 0:
        print(f"This project's version is {stamp['version']} (commit {old[:10]}), which is newer than "
              f"{wanted}. There is nothing to do.")
        return None
    if base:  # a clone with the template's history: a plain merge
        trees = [git("rev-parse", f"{commit}^{{tree}}") for commit in (base, new)]
    else:
        place = Path(source).expanduser()
        address = Git(place).run("remote", "get-url", "origin").stdout.strip() if place.is_dir() else source
        trees = template_trees(git, "HEAD", old, new, workspace.folder / "index", public_address(address))
    first = git("commit-tree", trees[0], "-m", f"Template at {old[:10]}", as_template=True)
    step = git("commit-tree", trees[1], "-p", first, "-m", f"Template {wanted}", as_template=True)
    return Upgrade(old, new, step, new if base else step)


def bring_in(git: Git, plan: Upgrade) -> None:
    """Merges `plan.step`, with its parent as the common ancestor, into work tree and index, conflicts too."""
    done = git.run("cherry-pick", "--no-commit", "--allow-empty", "-Xfind-renames=40%", plan.step)
    if done.returncode not in (0, 1) or (done.returncode and not git("ls-files", "--unmerged")):
        raise ConfigError(f"git cherry-pick: {done.stderr.strip()}")


def merge(git: Git, workspace: Workspace, plan: Upgrade) -> None:
    """Completes the plan, in a temporary work tree."""
    inside = workspace.check_out("HEAD")
    bring_in(inside, plan)
    plan.conflicts = sorted(set(split(inside("diff", "-z", "--name-only", "--diff-filter=U"))))
    if plan.conflicts:  # to compare what is there, markers included
        inside("add", "--all")
    plan.result = inside("write-tree")
    found = split(inside("diff-index", "-z", "--cached", "--no-renames", "--name-status", "HEAD"))
    plan.changes = list(zip(found[::2], found[1::2]))


def apply(git: Git, workspace: Workspace, plan: Upgrade) -> None:
    """Moves the project's branch and files to the merge; with conflicts only the files."""
    head = git.find("HEAD")
    subject = git("show", "--no-patch", "--format=%s", plan.step)
    message = f"Merge {subject[0].lower()}{subject[1:]}"
    workspace.begin(name for _, name in plan.changes)
    if plan.conflicts:
        bring_in(git, plan)
        git.path("MERGE_MSG").write_text(f"{message}\n", encoding="utf-8")
        git.path("MERGE_HEAD").write_text(f"{plan.parent}\n", encoding="ascii")
    else:
        commit = git("commit-tree", plan.result, "-p", head, "-p", plan.parent, "-m", message)
        git("update-index", "-q", "--refresh")
        git("read-tree", "-m", "-u", head, commit)
        git("update-ref", "-m", message, "HEAD", commit, head)
    workspace.end()


# -- what the user sees ------------------------------------------------------------------------------------

def show(git: Git, plan: Upgrade, source: str, dry_run: bool) -> None:
    """Prints the template's commit, how many files change in each folder, and what the owner may do."""
    names = {"A": "added", "M": "changed", "T": "changed", "D": "removed"}
    rooms = collections.defaultdict(collections.Counter)
    for letter, name in plan.changes:
        rooms[name.split("/")[0] if "/" in name else "."][names.get(letter, "changed")] += 1
    for name in plan.conflicts:
        rooms[name.split("/")[0] if "/" in name else "."]["conflicts"] += 1
    print(f"From {source}:")
    about = git("show", "--no-patch", "--format=  commit %H%n  %an, %ad%n  %s", "--date=iso", plan.new)
    print(printable(about), end="\n\n")
    columns = ("changed", "added", "removed", "conflicts")
    rows = [(room, *(rooms[room][name] or "" for name in columns)) for room in sorted(rooms)]
    for room, *numbers in [("files in", *columns), *rows]:
        print(f"{printable(room):<16}" + "".join(f"{number:>10}" for number in numbers))
    for name in plan.conflicts:
        print(f"  conflict: {printable(name)}")
    if items := your_side(git, plan.old, plan.new):
        number = sum(item.startswith("- ") for item in items)
        print(f"\nCHANGELOG.md has {number} points on your side since then",
              ":\n\n" + "\n\n".join(items) if dry_run else "; --dry-run prints them.", sep="")


def confirm(yes: bool) -> None:
    """Raises ConfigError if the user does not agree."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("this asks before it changes the project, and there is no terminal. Add --yes.")
    print("Go ahead? After the merge, tests/core of the new version are run. [y/N]", end=" ", flush=True)
    answer = sys.stdin.readline()  # nothing at its end, which is no
    if answer.strip().lower() not in ("y", "yes"):
        raise ConfigError("nothing was changed")


def report_conflicts(plan: Upgrade) -> int:
    """Prints the files with conflicts and how to continue or to abort."""
    print("\nNothing is committed yet. These files have conflicts:", *plan.conflicts, sep="\n  ")
    print("Edit them, then:", "git add -u && git commit", f"python {REPORT_FILE}",
          "python -m pytest tests/core", sep="\n  ")
    print("Or abort, and all is as before:", "git merge --abort", sep="\n  ")
    return 1


def finish(git: Git, plan: Upgrade) -> int:
    """Reports on the project's own files, and runs tests/core of the new version."""
    print(f"\nMerged. To undo it: git reset --keep {git('rev-parse', 'HEAD^1')[:10]}")
    changed = {name for _, name in plan.changes}
    if "requirements.txt" in changed:
        print("requirements.txt has changed: pip install -r requirements.txt")
    folder = git.folder
    if (folder / "utils" / "moved.py").exists():
        own = folder / REPORT_FILE  # it may be deleted there
        report = own if own.exists() else Path(__file__).with_name(own.name)
        subprocess.run([sys.executable, str(report)], cwd=folder)
    if not (folder / "tests" / "core").is_dir() or not importlib.util.find_spec("pytest"):
        print("No tests were run: tests/core or pytest is missing (pip install -r requirements-dev.txt).")
        return 0
    parallel = ["-n", "auto"] if importlib.util.find_spec("xdist") else []
    print("Running the tests of the new version: python -m pytest tests/core", flush=True)
    failed = subprocess.run([sys.executable, "-m", "pytest", *parallel, "tests/core"], cwd=folder).returncode
    if failed:
        print("The merge is committed, and some of its tests fail here: see above.")
    return 1 if failed else 0
