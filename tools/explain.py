"""`train.py --explain KEY`: what a config key is, where its value comes from, and what uses it."""
from typing import Any

from tools.print_config import MISSING, Rows, origin, with_kept_arguments
from tools.reference.section_texts import SECTION_TEXTS
from utils.config.interpolation import data_references
from utils.config.loading import Layer, Reading, place_of
from utils.config.values import flatten, value_at
from utils.config.sections import SECTIONS, with_defaults
from utils.config.suggestions import suggest_name
from utils.config.syntax import KeyPath, format_value
from utils.errors import ConfigError


def run_tool(args, reading: Reading | None) -> str:
    """The text that `--explain KEY` prints for the config, if any. Loads torch only if a class takes KEY."""
    reading = with_kept_arguments(reading or Reading({}, {}, [], []))
    path = path_of(args.explain, reading.config)
    rows = explain_value(reading, path)
    if path[0] in ("extends", "name", "seed"):
        rows += [("but", "it is a single value, with nothing below it")] * (len(path) > 1)
    else:
        from tools.explain_argument import explain_argument

        rows += explain_argument(with_defaults(reading.config), path)
    width = max(len(name) for name, _ in rows)
    return "\n".join([args.explain, *(f"  {name:<{width}}  {fact}" for name, fact in rows if fact)])


def path_of(key: str, config: Any) -> KeyPath:
    """`optimizer.args.lr` as a key path. Raises ConfigError if there is no such section."""
    path = tuple(key.split("."))
    if path[0] in (*SECTIONS, "extends"):
        return path
    same = [known for known in flatten(config) if known.endswith(f".{key}")]
    hint = f" Did you mean {' or '.join(same)}?" if same else suggest_name(path[0], SECTIONS)
    raise ConfigError(f"--explain: there is no section '{path[0]}'.{hint} Sections: {', '.join(SECTIONS)}.")


def explain_value(reading: Reading, path: KeyPath) -> Rows:
    """The purpose of the section, the value at a path, its origin, and the values that it replaces."""
    value = value_at(with_defaults(reading.config), path, MISSING)
    section = (path[0], SECTION_TEXTS[path[0]])
    if value is MISSING:
        return [section, ("value", "not set")]
    rows = [section, ("value", format_value(value)), ("from", origin(reading, path))]
    if any(data_references(value)):
        rows.append(("gets", "its value from the train dataset, when a run or --check begins"))
    if not isinstance(value, dict):  # tables merge
        rows += _explain_layers(reading, path, value)
    if len(files := [_file(layer) for layer in reading.layers if layer.config]) > 1:
        rows.append(("read from", ", then ".join(files)))
    return rows


def _explain_layers(reading: Reading, path: KeyPath, value: Any) -> Rows:
    """How the value was written, if otherwise or deleted, and the values of lower layers that it replaces."""
    written = [(value_at(layer.config, path, MISSING), place_of(layer.places, path).source)
               for layer in reversed(reading.layers)]
    written = [(there, source) for there, source in written if there is not MISSING]
    gone = (*path[:-1], f"~{path[-1]}")
    rows = [("deleted", layer.places[gone].source) for layer in reading.layers if gone in layer.places]
    replaced = written if rows else written[1:]
    if not rows and written and written[0][0] != value:
        rows.append(("written as", format_value(written[0][0])))
    return rows + [("instead of", f"{format_value(there)}, {source}") for there, source in replaced]


def _file(layer: Layer) -> str:
    return next(iter(layer.places.values())).source.rpartition(":")[0] or "command line"
