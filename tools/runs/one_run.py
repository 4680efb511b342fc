"""All of one run, and the commands that reproduce it. They are printed, and nothing of a run is executed."""
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tools.runs.columns import as_text, row_of
from tools.runs.reading import CONFIG, METRICS, Run
from tools.runs.tables import cell_of, escaped
from utils.errors import PROJECT

_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_DIFF = re.compile(r"code_[\w-]+\.diff")
_AGAIN = "again"  # the name of the run that the commands make


def describe(run: Run) -> str:
    """All of a run, in lines, with the commands that reproduce it."""
    row = row_of(run)
    shown = ("state", "monitor", "best", "epoch", "seed", "commit", "started", "duration")
    parts = [("", {name: cell_of(row, name) for name in shown}),
             ("scores of the last evaluation", {name: as_text(value) for name, value in run.scores.items()}),
             ("test scores", {name: as_text(value) for name, value in run.test.items()}),
             ("config", {key: as_text(value) for key, value in run.config.items()}),
             ("starts", dict(_starts(run)))]
    lines = [escaped(str(run.folder))]
    for title, table in parts:
        lines += ["", f"{title}:"] if title and table else []
        width = max(map(len, map(escaped, table)), default=0)
        lines += [f"  {escaped(name):<{width}}  {escaped(value)}" for name, value in table.items()]
    lines += ["", "reproduce:", *(f"  {escaped(command)}" for command in commands(run))]
    notes = [escaped(note) for note in notes_on(run)]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def commands(run: Run) -> list[str]:
    """Shell commands that train the run again, from its commit, and compare what both have logged."""
    start, folder, config = _last_start(run), run.folder.absolute(), run.config
    code, lines = PROJECT, []
    commit, diff = _commit_of(start), _diff_of(run, start)
    if commit:
        code = PROJECT.parent / f"{PROJECT.name}-{folder.name}"
        lines = [["git", "-C", PROJECT, "worktree", "add", "--detach", code, commit]]
    if commit and diff:
        deleted = [*_deleted(diff)]
        lines.append(["git", "-C", code, "apply", "--whitespace=nowarn",
                      *(f"--exclude={_literal(name)}" for name in deleted), diff.absolute()])
        if deleted:  # the diff has only their names
            lines.append(["git", "-C", code, "rm", "-q", "--", *(f":(literal){name}" for name in deleted)])
    if isinstance(start.get("folder"), str):  # relative paths of the config count from there
        lines.append(["cd", "--", start["folder"]])
    threads = start.get("num_threads")
    prefix = [f"OMP_NUM_THREADS={threads}"] if type(threads) is int else []
    lines.append([*prefix, "python", code / "train.py", "-q", "-c", folder / CONFIG, *_options(start),
                  "--out", code / "saved", "--run-name", _AGAIN])
    again = code / "saved" / as_text(config.get("name")) / _AGAIN / METRICS
    metrics, whole = folder / METRICS, run.state in ("finished", "unknown")
    lines.append(["cmp", *_to_the_end(metrics, whole), metrics, again])
    return [" ".join(word if word in prefix else shlex.quote(str(word)) for word in line) for line in lines]


def _last_start(run: Run) -> dict:
    return next(reversed(run.starts), {})


def _options(start: dict) -> Iterator[str]:
    """Options of train.py that change numbers, as this start had them."""
    if isinstance(start.get("device"), str):
        yield f"--device={start['device']}"
    if type(processes := start.get("num_processes")) is int and processes > 1:
        yield from ("--distributed", f"--nproc={processes}")
    words = _words(start)
    for option in ("--steps", "--init-from"):
        for word, after in zip(words, [*words[1:], ""], strict=True):
            if word == option or word.startswith(f"{option}="):
                yield word if "=" in word else f"{option}={after}"


def _words(start: dict) -> list[str]:
    words = start.get("command")
    return [str(word) for word in words] if isinstance(words, list) else []


def _commit_of(start: dict) -> str | None:
    commit = start.get("git_commit")
    return commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None


def _diff_of(run: Run, start: dict) -> Path | None:
    name = start.get("git_diff")
    file = run.folder / name if isinstance(name, str) and _DIFF.fullmatch(name) else None
    return file if file and file.is_file() else None


def _deleted(diff: Path) -> Iterator[str]:
    """The files that a recorded diff deletes. It holds no more of them than their names."""
    header = ""
    for line in diff.read_bytes().decode(errors="surrogateescape").split("\n"):
        if line.startswith("diff --git "):
            header = line.removeprefix("diff --git ")
        elif line.startswith("deleted file mode ") and header:
            half = header[:len(header) // 2]  # a/NAME b/NAME, both alike
            name = _unquoted(half[1:-1]) if half.startswith('"') else half
            yield name.partition("/")[2]


def _unquoted(name: str) -> str:
    r"""A name as git quotes it: `\303\244` for the bytes of an umlaut, `\t` for a tab."""
    escapes = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13}

    def byte(match: re.Match) -> bytes:
        text = match[1].decode()
        return bytes([int(text, 8) & 255 if text.isdigit() else escapes.get(text, ord(text))])

    plain = name.encode(errors="surrogateescape")
    return re.sub(rb"\\([0-7]{3}|.)", byte, plain).decode(errors="surrogateescape")


def _literal(name: str) -> str:
    """A pattern of git that means this name alone."""
    return re.sub(r"([\\*?\[])", r"\\\1", name)


def _to_the_end(metrics: Path, whole: bool) -> Sequence[Any]:
    """What makes `cmp` compare as far as the run came."""
    return () if whole or not metrics.exists() else ("-n", metrics.stat().st_size)


def _starts(run: Run) -> Iterator[tuple[str, str]]:
    """Each start with its command, and how it ended."""
    for record in run.records:
        if "started_s" in record:
            device, processes = record.get("device"), record.get("num_processes")
            yield str(record.get("started")), (f"{shlex.join(_words(record))} ({device}, "
                                               f"{processes} process{'es' * (processes != 1)})")
        else:
            reason = f": {record['reason']}" if record.get("reason") else ""
            yield str(record.get("ended")), f"{record.get('outcome')}{reason}"


def notes_on(run: Run) -> Iterator[str]:
    """What keeps the commands from giving the same numbers."""
    starts, start = run.starts, _last_start(run)
    if not _commit_of(start):
        yield "No commit was recorded: the commands use the code that is here now."
    packages = start.get("packages") if isinstance(start.get("packages"), dict) else {}
    versions = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    yield (f"Recorded with Python {start.get('python')}, {versions}, on {start.get('platform')}. "
           "With others, or on another device, the last bits may differ.")
    if start.get("git_diff") and not _diff_of(run, start):
        yield "Its uncommitted changes are not there: no code_*.diff."
    files = [_diff_of(run, start) for start in starts]
    if len({(_commit_of(start), file and file.read_bytes()) for start, file in zip(starts, files)}) > 1:
        yield "The code changed between its starts: the commands use that of the last one."
    if any("=" in word and not word.startswith("-") for start in starts[1:] for word in _words(start)[1:]):
        yield "A later start changed the config: the commands train with the last one from the beginning."
