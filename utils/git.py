"""Runs git in this project, and reads from it which code is in no commit."""
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from utils.errors import PROJECT

log = logging.getLogger(__name__)
_CODE_FOLDERS = ("base", "configs", "data_loader", "logger", "model", "tools", "trainer", "utils")
_CODE = (".py", ".yaml", ".yml", ".json")
_FILE_LIMIT, _LIMIT = 1_000_000, 10_000_000  # bytes of a file, and of all
_CREDENTIALS = re.compile(r"(^|[^a-z])(credentials?|secrets?|tokens?|keys?|passwords?|passwd|netrc|"
                          r"id_(rsa|dsa|ecdsa|ed25519))([^a-z]|$)|(^|/)\.env", re.IGNORECASE)


def git(*command: str, stdin: bytes = b"", **environment: str) -> str | None:
    """The output of `git COMMAND` in this project; None if there is no git or no repository of its own."""
    if not (PROJECT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *command], cwd=PROJECT, input=stdin, capture_output=True, timeout=20,
                              env={**os.environ, **environment})
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    # surrogates keep bytes that are not UTF-8; blanks at the end belong to a diff
    return done.stdout.decode(errors="surrogateescape").strip("\n") or None


def uncommitted_changes() -> str | None:
    """The difference from the last commit, with new code and configs; git's own index stays unchanged.

    New files count if they are Python files or configs in the folders of this project, or were added by
    `git add`. Large files, and files that are named like credentials, are left out with a warning.
    """
    index = git("rev-parse", "--git-path", "index")
    if index is None:
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "index"
            shutil.copyfile(PROJECT / index, copy)
            return _changes(partial(git, GIT_INDEX_FILE=str(copy)))
    except OSError:  # a full disk, which the next write will report
        return None


def _changes(run: Callable[..., str | None]) -> str | None:
    difference = ("diff", "--no-color", "--no-ext-diff", "--no-renames", "HEAD")
    new = [name for name in _names(run("ls-files", "-o", "--exclude-standard", "-z"))
           if name.endswith(_CODE) and "/" in name and name.split("/")[0] in _CODE_FOLDERS]
    known = _names(run(*difference, "--name-only", "--diff-filter=d", "-z"))
    left_out = _left_out(known, new)
    added = [name for name in new if name not in left_out]
    if added:
        run("add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul",
            stdin=b"\0".join(os.fsencode(f":(literal){name}") for name in added))
    if left_out:
        log.warning("not recorded in code_*.diff, beside the run: %s",
                    ", ".join(f"{name} ({why})" for name, why in left_out.items()))
    # of a file that was deleted only the name
    return run(*difference, "--irreversible-delete", "--", ".",
               *(f":(exclude,literal){name}" for name in left_out))


def _names(listed: str | None) -> list[str]:
    return [name for name in (listed or "").split("\0") if name]


def _left_out(known: Iterable[str], new: Iterable[str]) -> dict[str, str]:
    """The files that must not be recorded, and why. A Python file that git knows is code, however named."""
    left_out, total = {}, 0
    for name in (*known, *new):
        size = (PROJECT / name).lstat().st_size if os.path.lexists(PROJECT / name) else 0
        if _CREDENTIALS.search(name) and not (name in known and name.endswith(".py")):
            left_out[name] = "named like credentials"
        elif size > _FILE_LIMIT or total + size > _LIMIT:
            left_out[name] = f"{size / 1e6:.1f} MB; the limit is 1 MB for a file, 10 MB for all"
        else:
            total += size
    return left_out
