"""Checks configs of trials as train.py does, without training.

    python -m tools.sweep.checks QUESTION.json

A process of its own, because the check loads torch, which takes the memory that trials need.
"""
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.sweep.space import Space
from utils.config.loading import Reading, place_of, read_config
from utils.config.syntax import COMMAND_LINE, DataReference, dump_yaml, items_of
from utils.config.values import value_at
from utils.errors import PROJECT, ConfigError


_NEWLINE, _END = "\n", "\n..."  # after a plain value
_VALUES = ("epochs", "monitor", "eval_every")  # of trainer.args


def overrides_for(params: Mapping[str, Any]) -> list[str]:
    """The values of parameters as arguments of train.py."""
    texts = {key: dump_yaml(with_references(value), flow=True) for key, value in params.items()}
    return [f"{key}={text.removesuffix(_NEWLINE).removesuffix(_END)}" for key, text in texts.items()]


def with_references(value: Any) -> Any:
    """A config whose text with `${` `dump_yaml` writes as it stands, and does not escape."""
    if isinstance(value, str):
        return DataReference(value) if "${" in value else value
    inner = {key: with_references(item) for key, item in items_of(value)}
    return inner if isinstance(value, dict) else [*inner.values()] if isinstance(value, list) else value


def end_points(space: Space) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each parameter at each end of its values, beside first values of the others: its key, all values."""
    conditions: dict[str, dict[str, Any]] = {}
    for parameter in space.parameters:  # conditions come before what depends on them
        own = conditions[parameter.key] = dict(parameter.when)
        for key in parameter.when:
            own |= conditions[key]
        for value in parameter.ends():
            wanted, point = {**own, parameter.key: value}, {}
            for other in space.parameters:
                if space.active(other, point):
                    point[other.key] = wanted.get(other.key, other.ends()[0])
            yield parameter.key, point


def find_faults(source: Path, overrides: Sequence[str], space: Space,
                samples: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, Any] | None]:
    """What the check of a run says of the parameters' ends and of samples; values of the completed config.

    Without samples, what it says of parameters that have no valid end. The values (epochs, monitor,
    eval_every) are None if no point is valid.
    """
    ends = list(end_points(space)) or [("", {})]
    found = check_points(source, overrides, [*(point for _, point in ends), *samples])
    errors, drawn = found["errors"][:len(ends)], found["errors"][len(ends):]
    valid = {key for (key, _), error in zip(ends, errors, strict=True) if error is None}
    shown = [error for (key, _), error in zip(ends, errors, strict=True)
             if error and (samples or key not in valid)]
    shown += [f"{' '.join(overrides_for(point))}:\n{error}"
              for point, error in zip(samples, drawn, strict=True) if error and error not in shown]
    return list(dict.fromkeys(shown)), found["config"]


def check_points(config: Path, overrides: Sequence[str],
                 points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`{"errors": [text or None for each point], "config": {...}}`, by a process of its own.

    "config" holds values of the completed config of the first point without an error.
    """
    question = {"config": str(config), "overrides": list(overrides), "points": list(points)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "question.json"
        file.write_text(json.dumps(question))
        done = subprocess.run([sys.executable, "-m", "tools.sweep.checks", str(file)], text=True,
                              capture_output=True, env=_environment())
    if done.returncode:
        raise ConfigError(f"the config cannot be checked:\n{done.stderr.strip()}")
    return json.loads(done.stdout)


def _environment() -> dict[str, str]:
    paths = [str(PROJECT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """Answers a question of `check_points`; imports torch."""
    from base.run.run_config import resolve_reading

    file, errors, about = Path(question["config"]), [], None
    written = read_config(file, [])
    delete = ["~sweep"] if "sweep" in written.config else []
    for point in question["points"]:
        try:
            reading = read_config(file, [*delete, *question["overrides"], *overrides_for(point)])
            config = resolve_reading(_kept(_placed(reading, point, written.places)), None, 1).complete
        except ConfigError as error:
            errors.append(str(error))
            continue
        errors.append(None)
        about = about or {key: value_at(config, f"trainer.args.{key}") for key in _VALUES}
    return {"errors": errors, "config": about}


def _kept(reading: Reading) -> Reading:
    from base.run.run_config import keep_arguments

    return keep_arguments(reading)


def _placed(reading: Reading, point: Mapping[str, Any], written: Mapping) -> Reading:
    """The reading, where values of parameters stand at the line of the parameter."""
    places = dict(reading.places)
    for key in point:
        path, place = tuple(key.split(".")), place_of(written, ("sweep", "parameters", key))
        for at in [at for at in places if at[:len(path)] == path and places[at].source == COMMAND_LINE]:
            places[at] = place
    return reading._replace(places=places)


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(Path(sys.argv[1]).read_text()))))
