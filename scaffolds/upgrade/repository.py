"""git in the project that is upgraded: its commands, a lock, and the way back from a killed upgrade."""
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from utils.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows: two upgrades at once are not noticed there
    fcntl = None

# No hook runs, nothing is left running, and the result does not depend on the user's settings for merges.
_SETTINGS = {
    "core.hooksPath": os.devnull, "gc.auto": "0", "maintenance.auto": "false", "merge.renames": "true",
    "merge.renameLimit": "100000", "diff.renameLimit": "100000", "merge.directoryRenames": "false",
    "merge.conflictStyle": "merge", "rerere.enabled": "false", "protocol.ext.allow": "never",
    "advice.mergeConflict": "false", "fetch.recurseSubmodules": "false", "core.quotePath": "false"}
_TEMPLATE = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in
             (("NAME", "template"), ("EMAIL", "template@localhost"), ("DATE", "1000000000 +0000"))}


class Git:
    """Runs git in `folder`: `git("rev-parse", "HEAD")` is what it prints, without the newline at the end."""

    def __init__(self, folder: Path, keep_open: tuple[int, ...] = ()):
        self.folder, self._keep_open = folder, keep_open

    def __call__(self, *command: str, stdin: str = "", index: Path | None = None,
                 as_template: bool = False) -> str:
        """Raises ConfigError with git's last line if git fails.

        `index`: a file in place of the project's own. `as_template`: commits have a fixed author and date.
        """
        done = self.run(*command, stdin=stdin, index=index, as_template=as_template)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if not line.startswith("hint:")]
            raise ConfigError(f"git {command[0]}: {lines[-1].removeprefix('fatal: ') if lines else 'failed'}")
        return done.stdout.removesuffix("\n")

    def run(self, *command: str, stdin: str = "", index: Path | None = None,
            as_template: bool = False) -> subprocess.CompletedProcess:
        """Like a call, but gives the exit code and both outputs."""
        of_others = ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_PREFIX")
        environment = {key: value for key, value in os.environ.items() if key not in of_others}
        environment |= {"LC_ALL": "C", **({"GIT_INDEX_FILE": str(index)} if index else {}),
                        **(_TEMPLATE if as_template else {})}
        settings = [part for key, value in _SETTINGS.items() for part in ("-c", f"{key}={value}")]
        try:
            done = subprocess.run(["git", *settings, *command], cwd=self.folder, input=os.fsencode(stdin),
                                  env=environment, capture_output=True, pass_fds=self._keep_open)
        except FileNotFoundError:
            raise ConfigError("git is not installed. An upgrade is a merge by git: install it.") from None
        # not as text, which would change the ends of lines of Windows
        done.stdout, done.stderr = os.fsdecode(done.stdout), os.fsdecode(done.stderr)
        return done

    def find(self, revision: str) -> str | None:
        """The full hash of a commit; None if there is no such commit."""
        done = self.run("rev-parse", "--quiet", "--verify", f"{revision}^{{commit}}")
        return done.stdout.strip() if done.returncode == 0 else None

    def read(self, commit: str, name: str) -> str | None:
        """The text of a file of a commit; None if it has no such file."""
        done = self.run("cat-file", "blob", f"{commit}:{name}")
        return done.stdout if done.returncode == 0 else None

    def files(self, commit: str) -> dict[str, tuple[str, str]]:
        """The mode and the hash of each file of a commit, by its path."""
        listed = split(self("ls-tree", "-r", "-z", "--full-tree", commit))
        entries = [entry.split("\t", 1) for entry in listed]
        return {name: (about.split()[0], about.split()[2]) for about, name in entries}

    def path(self, name: str) -> Path:
        """The path of a file that git keeps, such as `MERGE_HEAD`."""
        return self.folder / self("rev-parse", "--git-path", name)

    def write_tree(self, files: Mapping[str, tuple[str, str]], index: Path) -> str:
        """Writes a tree of these files, which are as `files` gives them; returns its hash."""
        index.unlink(missing_ok=True)
        lines = (f"{mode} {blob}\t{name}\0" for name, (mode, blob) in files.items())
        self("update-index", "-z", "--index-info", stdin="".join(lines), index=index)
        return self("write-tree", index=index)


def split(listed: str) -> list[str]:
    """The items of what git prints with -z."""
    return [item for item in listed.split("\0") if item]


class Workspace:
    """What an upgrade needs besides commits, in `.git/seedbed-upgrade`. A second upgrade at once is refused.

    Before the work tree changes, `begin` notes the commit and the files. If the process is killed before
    `end`, the next upgrade puts these files back, keeps what it finds in them in a commit, and prints which.
    """

    def __init__(self, root: Path):
        self._common = root / Git(root)("rev-parse", "--git-common-dir")
        self.folder = self._common / "seedbed-upgrade"
        self.tree = self.folder / "upgrade-tree"
        self._note, self._lock, self._root = self.folder / "moving.json", -1, root

    def __enter__(self) -> "Workspace":
        self.folder.mkdir(exist_ok=True)
        self._lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR)
        try:
            if fcntl:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise ConfigError("another upgrade of this project is running. Wait for its end.") from None
        # git has the lock, too: it may outlive a killed upgrade, and must have ended before the next one
        self.git = Git(self._root, (self._lock,) if fcntl else ())
        self._clean()
        return self

    def __exit__(self, *error) -> None:
        self._clean()
        os.close(self._lock)

    def check_out(self, commit: str) -> Git:
        """git in a temporary work tree with the files of a commit."""
        self.git("worktree", "add", "--quiet", "--detach", str(self.tree), commit)
        return Git(self.tree, self.git._keep_open)

    def begin(self, files: Iterable[str]) -> None:
        """From here on these files of the project's own work tree may change."""
        new = self._note.with_suffix(".new")
        note = {"root": str(self._root), "commit": self.git.find("HEAD"), "files": sorted(files)}
        new.write_text(json.dumps(note), encoding="ascii")
        os.replace(new, self._note)

    def end(self) -> None:
        """The change of the work tree is whole."""
        self._note.unlink()

    def _clean(self) -> None:
        if self._note.exists():
            note = json.loads(self._note.read_text(encoding="ascii"))
            git = Git(Path(note["root"]), self.git._keep_open)
            # a merge with conflicts is whole when MERGE_HEAD is there, others when HEAD has moved
            if (git.folder.exists() and git.find("HEAD") == note["commit"]
                    and not git.path("MERGE_HEAD").exists()):
                self._put_back(git, note["commit"], note["files"])
            self._note.unlink()
        shutil.rmtree(self.tree, ignore_errors=True)
        shutil.rmtree(self._common / "worktrees" / self.tree.name, ignore_errors=True)

    def _put_back(self, git: Git, commit: str, names: list[str]) -> None:
        branch = git.run("symbolic-ref", "--quiet", "HEAD").stdout.strip()
        for name in ("index", "HEAD", *([branch] if branch else [])):
            git.path(f"{name}.lock").unlink(missing_ok=True)
        kept = self._keep(git, commit, names)
        there = git.files(commit)
        added = [name for name in names if name not in there]
        git("update-index", "-z", "--force-remove", "--stdin", stdin="".join(f"{name}\0" for name in added))
        for name in added:
            if os.path.lexists(git.folder / name):
                (git.folder / name).unlink()
                _remove_empty((git.folder / name).parent, git.folder)
        if former := "".join(f":(literal){name}\0" for name in names if name in there):
            git("checkout", commit, "--pathspec-from-file=-", "--pathspec-file-nul", stdin=former)
        if kept:
            print("An upgrade was killed in the middle. Its files are put back; what they held is commit "
                  f"{kept[:10]}.")

    def _keep(self, git: Git, commit: str, names: list[str]) -> str | None:
        """A commit of the files as they are now; None if they are as in `commit`."""
        index = self.folder / "index"
        index.unlink(missing_ok=True)
        git("read-tree", commit, index=index)
        git("update-index", "-z", "--add", "--remove", "--stdin", index=index,
            stdin="".join(f"{name}\0" for name in names))
        tree = git("write-tree", index=index)
        if tree == git("rev-parse", f"{commit}^{{tree}}"):
            return None
        return git("commit-tree", tree, "-p", commit, "-m", "Files of an upgrade that was killed",
                   as_template=True)


def _remove_empty(folder: Path, root: Path) -> None:
    """Removes a folder and those around it as far as they are empty."""
    while folder != root and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
