"""The parts of the page on where a run comes from: config, history, environment, how to repeat it."""
import re
import shlex
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from tools.report.page.markup import block, folded, table, text
from tools.runs.columns import as_text
from tools.runs.one_run import commands, notes_on
from tools.runs.reading import CONFIG, Run
from utils.config.loading import read_text
from utils.config.syntax import parse_yaml
from utils.config.values import default_values, masked
from utils.errors import ConfigError
from utils.run_files import file_stamp
from utils.run_record import OUTCOMES, keys_from_environment

_MOST_KEYS, _MOST_EVENTS, _LOG_BYTES = 400, 60, 300_000
_OVERRIDE = re.compile(r"~?([A-Za-z_][\w.\-]*)=", re.DOTALL)
_WARNING = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ (WARNING|ERROR|CRITICAL) +(.*)")
_IN_RECORDS = ("resumed", "stopped", "failed")  # events that environment.jsonl tells, too


class Material(Protocol):
    """What these parts show."""

    run: Run
    kept: dict[str, Any]
    detail: float


def config(material: Material) -> str:
    """The config that was written, with the origin of each value; the defaults, folded."""
    run, folder = material.run, material.run.folder
    most = round(_MOST_KEYS * material.detail) + 20
    given, hidden = _overridden(run), keys_from_environment(folder)
    origins = {key: _origin(key, given, hidden) for key in run.config}
    unwritten = {key for key in _recorded(run.starts, "not_written") if origins.get(key) == "file"}
    rows = [(key, as_text(value), origins[key]) for key, value in run.config.items() if key not in unwritten]
    stamp = file_stamp(folder / CONFIG)
    defaults = masked(_defaults(folder / CONFIG, stamp), hidden) if stamp else {}
    left = [(key, as_text(value)) for key, value in {**run.config, **defaults}.items()
            if key in unwritten or key not in run.config]
    more = f"<p>{len(rows) - most} more keys are in {CONFIG}.</p>" if len(rows) > most else ""
    parts = [table("What was written", ["key", "value", "from"], rows[:most]) if rows else "", more]
    if left:
        parts.append(folded(f"{len(left)} defaults", table("Defaults", ["key", "value"], left[:most])))
    return "".join(parts)


def _origin(key: str, given: set[str], hidden: set[str]) -> str:
    def below(keys: set[str]) -> bool:
        return any(key == other or key.startswith(f"{other}.") for other in keys)

    return "environment" if below(hidden) else "command line" if below(given) else "file"


def _overridden(run: Run) -> set[str]:
    """The keys that a command line has set, in any start. Earlier versions recorded only its words."""
    words = [word for start in run.starts if "from_command_line" not in start for word in _command(start)[1:]]
    return {found[1] for word in words if (found := _OVERRIDE.match(word))} | _recorded(
        run.starts, "from_command_line")


def _recorded(starts: Iterable[dict], name: str) -> set[str]:
    """The keys in a list of any start."""
    lists = [start.get(name) for start in starts]
    return {str(key) for keys in lists if isinstance(keys, list) for key in keys}


@lru_cache(maxsize=1)
def _defaults(file: Path, stamp: str) -> dict[str, Any]:
    """The values in a run's config that were not written. It takes 20 ms, and the file does not change."""
    try:
        content = parse_yaml(read_text(file), str(file)).value
    except ConfigError:
        return {}
    return default_values(content) if isinstance(content, dict) else {}


def history(material: Material) -> str:
    """Starts and ends, events, and the warnings in run.log, in the order of time."""
    run = material.run
    rows = [*_records(run), *_warnings(run.folder / "run.log")]
    if run.state in OUTCOMES and "outcome" not in next(reversed(run.records), {}):  # not recorded yet
        rows.append((f"{datetime.now():%Y-%m-%d %H:%M:%S}", f"{run.state}: {run.reason or ''}"))
    known = {what.partition(": ")[2] for _, what in rows}
    rows += [(str(time), f"{kind}: {what}") for time, kind, what in material.kept["events"]
             if kind not in _IN_RECORDS and what not in known]
    rows.sort(key=lambda row: row[0])
    left = max(len(rows) - _MOST_EVENTS, 0)
    note = f"<p>{left} earlier ones are in run.log and environment.jsonl.</p>" if left else ""
    return table("Starts, ends and warnings", ["time", "what"], rows[left:]) + note if rows else ""


def _records(run: Run) -> Iterator[tuple[str, str]]:
    """The time of each start and end, and what happened."""
    for number, record in enumerate(run.records):
        if "started_s" in record:
            kind = "resumed" if number else "started"
            yield _time(record.get("started")), f"{kind}: {shlex.join(_command(record))}"
        else:
            reason = record.get("reason")
            at = f"epoch {record['epoch']}" if "epoch" in record else ""
            what = ", ".join(filter(None, [at, str(reason) if reason else ""]))
            yield _time(record.get("ended")), f"{record.get('outcome')}: {what}"


def _warnings(log: Path) -> Iterator[tuple[str, str]]:
    """Warnings and errors in the end of run.log."""
    try:
        with open(log, "rb") as file:
            file.seek(max(log.stat().st_size - _LOG_BYTES, 0))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return
    for line in lines:
        if found := _WARNING.match(line):
            yield found[1], f"{found[2].lower()}: {found[3]}"


def environment(material: Material) -> str:
    """Versions, device, command and commit of the last start."""
    start = next(reversed(material.run.starts), None)
    if start is None:
        return ""
    packages = start.get("packages") if isinstance(start.get("packages"), dict) else {}
    shown = {"command": shlex.join(_command(start)), "folder": start.get("folder"),
             "commit": start.get("git_commit"), "uncommitted changes": start.get("git_diff"),
             "device": start.get("device"),
             "processes": start.get("num_processes"), "threads": start.get("num_threads"),
             "CPUs": start.get("num_cpus"), "platform": start.get("platform"), "Python": start.get("python"),
             **packages, "run id": start.get("run_id")}
    rows = [(name, str(value)) for name, value in shown.items() if value is not None]
    return table("The last start", ["what", "value"], rows)


def reproduce(material: Material) -> str:
    """The commands that train the run again, and what may keep them from giving the same numbers."""
    if not material.run.starts:
        return ""
    return block("\n".join(commands(material.run))) + "".join(
        f"<p>{text(note)}</p>" for note in notes_on(material.run))


def _command(start: dict) -> list[str]:
    words = start.get("command")
    return [str(word) for word in words] if isinstance(words, list) else []


def _time(value: Any) -> str:
    """`2026-01-31 12:00:00` of a time in ISO format."""
    return str(value)[:19].replace("T", " ")
