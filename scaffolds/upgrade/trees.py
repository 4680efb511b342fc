"""Two trees of the template without what is a project's own: their difference is the upgrade."""
import ast
from pathlib import Path

from scaffolds.upgrade.repository import Git, split
from scaffolds.upgrade.versions import restamped, stamp_of

# Files in these belong to the project as soon as it has changed them.
OWN = ("model/", "data_loader/", "trainer/", "configs/", "saved/", "README.md", "docs/config.md")
_RENAMES = ("diff-tree", "-r", "-z", "--find-renames=40%", "--diff-filter=R", "--name-status")
Files = dict[str, tuple[str, str]]


def template_trees(git: Git, project: str, old: str, new: str, index: Path,
                   source: str) -> tuple[str, str]:
    """The trees of the template's commits `old` and `new` as the project takes them, stamped as it is.

    Left out is what it has changed of its own (OWN), what it deleted, also if the template has moved that
    since, new files in folders that it deleted, and what a copy never has. `source`: the stamp's.
    """
    ours, before, after = git.files(project), git.files(old), git.files(new)
    left = {name for name in before if name.startswith(OWN) and ours.get(name) != before[name]}
    left |= set(split(git(*_RENAMES[:-2], "--diff-filter=D", "--name-only", old, project)))
    pairs = split(git(*_RENAMES, old, new))
    left |= {target for origin, target in zip(pairs[1::3], pairs[2::3]) if origin in left}
    gone = _folders(before) - _folders(ours)
    not_taken = _never_in(git, new, is_bare="TEMPLATE.md" in ours)
    for name in after.keys() - before.keys():
        is_ours, around = name in ours, _folders([name])
        unwanted = name.startswith(OWN) if is_ours else (around | {name}) & not_taken
        if unwanted or around & gone:
            left.add(name)
    before, after = ({name: file for name, file in files.items() if name not in left}
                     for files in (before, after))
    if "setup.cfg" in before and "setup.cfg" in after:
        _stamp(git, before, after, git.read(project, "setup.cfg"), new, source)
    if "TEMPLATE.md" in ours:
        _manuals(git, {old: before, new: after}, git.read(project, "TEMPLATE.md"))
    return git.write_tree(before, index), git.write_tree(after, index)


def _folders(files) -> set[str]:
    return {str(folder) for name in files for folder in Path(name).parents}


def _never_in(git: Git, new: str, is_bare: bool) -> set[str]:
    """What `new.py project` of a version leaves out, by its lists of constants."""
    lists = {"TEMPLATE_ONLY", "EXAMPLES"} if is_bare else {"TEMPLATE_ONLY"}
    for_lists = [node for node in ast.parse(git.read(new, "new.py") or "").body
                 if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in lists]
    return {name for node in for_lists for name in ast.literal_eval(node.value)}


def _stamp(git: Git, before: Files, after: Files, own: str, new: str, source: str) -> None:
    values = {"version": stamp_of(git.read(new, "setup.cfg"))["version"], "commit": new[:10]}
    values |= {"source": source} if source else {}
    for files, stamped in ((before, {}), (after, values)):
        text = git("cat-file", "blob", files["setup.cfg"][1])
        files["setup.cfg"] = _blob(git, restamped(f"{text}\n", own, **stamped))


def _manuals(git: Git, versions: dict[str, Files], own: str) -> None:
    """A bare project has the template's README as TEMPLATE.md, after a note."""
    note = own.partition("\n\n")[0]
    for commit, files in versions.items():
        files["TEMPLATE.md"] = _blob(git, f"{note}\n\n{git.read(commit, 'README.md')}")


def _blob(git: Git, text: str) -> tuple[str, str]:
    return "100644", git("hash-object", "-w", "--stdin", stdin=text)
