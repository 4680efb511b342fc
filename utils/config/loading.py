"""Reads configs from files and the command line: `extends`, `key.path=value`, `~key`.

A config is a plain dict. Its `places`, a dict from key path to Place, are only for error messages.
"""
import os
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from utils.config.blocks import holds_blocks
from utils.config.interpolation import Resolved, resolve
from utils.config.suggestions import suggest_name
from utils.config.syntax import (
    COMMAND_LINE, KeyPath, Parsed, Place, items_of, key_in, parse_json, parse_yaml, walk)
from utils.config.values import set_value, value_at, written_config
from utils.errors import Attempts, ConfigError, Fault, WrongValue

_MAX_BYTES, _MAX_FILES = 10 * 10**6, 100  # of a file; of files that one config extends
_NOT_DELETED = ("there is nothing inherited to delete here. "
                "(An item of a list cannot be deleted: write the list anew.)")


class Layer(NamedTuple):
    """The config of one file, or of the command line, alone."""

    config: dict
    places: dict[KeyPath, Place]


class ChangedType(NamedTuple):
    """The `block` at `path`, with its places, before an override such as `trainer.type=X` replaced it."""

    path: KeyPath
    block: dict
    places: dict[KeyPath, Place]
    from_environment: frozenset[str] = frozenset()


class Reading(NamedTuple):
    """A config, its places, its faults so far, and the layers it was merged from, lowest first.

    `changed_types`: see `base.run.run_config.keep_arguments`. `from_environment`: the keys whose
    values came from `${env:...}`. `unresolved`: the config with its references, for `read_config`.
    """

    config: dict
    places: dict[KeyPath, Place]
    faults: list[Fault]
    layers: list[Layer]
    changed_types: Iterable[ChangedType] = ()
    from_environment: frozenset[str] = frozenset()
    unresolved: Mapping[str, Any] = {}


def load_config(file: str | os.PathLike, overrides: Iterable[str] = ()) -> tuple[dict, dict]:
    """Returns (config, places) of `file`, with all that it extends and the `key.path=value` overrides.

    Raises ConfigError for all errors of `read_config`, and for the faults that it recorded.
    """
    reading = read_config(file, overrides)
    raise_faults(reading)
    return reading.config, reading.places


def raise_faults(reading: Reading) -> None:
    """Raises ConfigError for the faults that were recorded while a config was read."""
    if reading.faults:
        raise ConfigError(format_faults(reading.faults, reading.places))


def read_config(file: str | os.PathLike, overrides: Iterable[str] = ()) -> Reading:
    """Reads the config in `file` with all that it extends, overrides, references; records duplicate keys etc.

    Raises one ConfigError for all files that are missing, broken or circular, and for malformed overrides.
    """
    files, attempts, overrides = _Files(), Attempts(), list(overrides)
    config, places = files.read(Path(file), attempts)
    with attempts:
        over = parse_overrides(overrides)
    attempts.end()
    before = Layer(config, places)
    if over.config:
        config, places = merge_with_places((config, places), over)
        files.layers.append(over)
    with located(places):
        resolved, unresolved, hidden = resolve(config)
    return Reading(resolved, places, [*files.faults, *unresolved, *_take_undeleted(resolved)], files.layers,
                   _changed_types(before, resolved, overrides), hidden, config)


def override_config(config: dict, source: str, overrides: Iterable[str]) -> Reading:
    """Applies overrides to a config without a file of its own. It has no references; the overrides may have.

    Raises ConfigError for a malformed override.
    """
    overrides = list(overrides)
    given = Layer(config, {path: Place(source) for path, _ in walk(config)})
    over = parse_overrides(overrides)
    config, places = merge_with_places(given, over)
    keys = [_path_of(override.partition("=")[0]) for override in overrides]
    with located(places):
        config, unresolved, hidden = resolve(config, lambda path: any(path[:len(key)] == key for key in keys))
    return Reading(config, places, [*unresolved, *_take_undeleted(config)], [given, over],
                   _changed_types(given, config, overrides, has_references=False), hidden)


def _changed_types(before: Layer, config: dict, overrides: list[str],
                   has_references: bool = True) -> list[ChangedType]:
    """The blocks whose type was changed by overrides of the `type` itself; references in them resolved."""
    found = []
    for path in {_path_of(override.partition("=")[0]) for override in overrides}:
        key = ".".join(path[:-1])
        old, new = value_at(before.config, key), value_at(config, key)
        is_block = path[1:] and path[-1] == "type" and isinstance(old, dict) and isinstance(new, dict)
        if is_block and old.get("type") not in (None, new.get("type")):
            places = {at: place for at, place in before.places.items() if at[:len(path) - 1] == path[:-1]}
            whole = set_value(config, path[:-1], old)
            resolved = resolve(whole) if has_references else Resolved(whole, [], frozenset())
            found.append(ChangedType(path[:-1], value_at(resolved.config, key), places,
                                     resolved.from_environment))
    return found


def parse_overrides(overrides: Iterable[str]) -> Layer:
    """Parses `key.path=value` (the value is YAML) and `~key.path`, which deletes first, into a layer."""
    tree, attempts = Layer({}, {}), Attempts()
    for override in sorted(overrides, key=lambda text: not text.startswith("~")):
        with attempts:
            tree = Layer(*merge_with_places(tree, _parse_override(override)))
    attempts.end()
    return tree


def _path_of(key: str) -> KeyPath:
    """Returns the key path of `~a.b`: the key `~b` in `a`."""
    *above, last = key.removeprefix("~").split(".")
    return *above, f"~{last}" if key.startswith("~") else last


def _parse_override(override: str) -> Layer:
    key, equals, text = override.partition("=")
    path = _path_of(key)
    if not (equals or key.startswith("~")) or not all(part.removeprefix("~") for part in path):
        raise ConfigError(f"{COMMAND_LINE}: cannot read '{override}'. Overrides look like "
                          "optimizer.args.lr=0.01")
    nested, inner_places, faults = parse_yaml(text, COMMAND_LINE, path)
    if faults:
        raise ConfigError(format_faults([fault.below(path) for fault in faults], {}))
    for part in reversed(path):
        nested = {part: nested}
    places = {path + inner: place for inner, place in inner_places.items()}
    places |= {path[:end]: Place(COMMAND_LINE) for end in range(1, len(path) + 1) if path[:end] not in places}
    return Layer(nested, places)


def merge_with_places(base: tuple[Any, dict], new: tuple[Any, dict]) -> tuple[Any, dict]:
    """`merge` for (config, places) pairs: replaced or deleted values lose their places."""
    replaced: list[KeyPath] = []
    with located(new[1]):
        value = merge(base[0], new[0], (), replaced)
    kept = {path: place for path, place in base[1].items()
            if not any(path[:len(gone)] == gone for gone in replaced)}
    return value, {**kept, **new[1]}


def merge(base: Any, new: Any, path: KeyPath = (), replaced: list[KeyPath] | None = None) -> Any:
    """Merges `new` over `base` without changing either: dicts merge by key, everything else is replaced.

    A block with another `type` replaces the whole block below it; a string is short for `{type: string}`. A
    key `~name` without a value deletes `name` from `base`. The index addresses items of a list
    (`metrics.0.args.k=5`). The paths of replaced values are added to `replaced`.
    """
    replaced = [] if replaced is None else replaced
    if isinstance(base, list) and isinstance(new, dict) and new and all(str(key).isdigit() for key in new):
        return _merge_items(base, new, path, replaced)
    base, new = _as_tables(base, new)
    if not _is_same_thing(base, new, path):
        replaced.append(path)
        return new
    deleting = {f"~{key}" for key in base if new.get(f"~{key}", "") is None}
    replaced += [(*path, key[1:]) for key in deleting]
    merged = {key: value for key, value in base.items() if f"~{key}" not in deleting}
    for key, value in new.items():
        if key not in deleting:
            key = key_in(merged, key)
            merged[key] = merge(merged[key], value, (*path, str(key)), replaced) if key in merged else value
    return merged


def _merge_items(base: list, new: dict, path: KeyPath, replaced: list[KeyPath]) -> list:
    """`merge` for some items of a list, by their index."""
    if beyond := [key for key in new if int(key) >= len(base)]:
        raise ConfigError.at(".".join(path), f"the list has {len(base)} items; there is no item {beyond[0]}")
    return [merge(item, new[key], (*path, str(i)), replaced) if (key := key_in(new, str(i))) in new else item
            for i, item in enumerate(base)]


def _as_tables(base: Any, new: Any) -> tuple[Any, Any]:
    """Writes a bare name as a block, where the other of the two is a block."""
    if isinstance(base, dict) and "type" in base and isinstance(new, str):
        return base, {"type": new}
    if isinstance(base, str) and isinstance(new, dict) and new.keys() - {"type"}:
        return {"type": base}, new
    return base, new


def _is_same_thing(base: Any, new: Any, path: KeyPath) -> bool:
    """Whether both are tables, of one type, and both one block or both several by name.

    What is no whole block is kept beside several datasets, so that the mistake is reported.
    """
    if not isinstance(base, dict) or not isinstance(new, dict):
        return False
    if holds_blocks(path, base) != holds_blocks(path, new) and not (
            path[:1] == ("dataset",) and holds_blocks(path, base) and "type" not in new):
        return False
    return "type" not in base or new.get("type", base["type"]) == base["type"]


def place_of(places: dict, path: tuple) -> Place:
    """The place of `path`, or of the nearest key above it that has a place."""
    path = tuple(map(str, path))
    for end in range(len(path), 0, -1):
        if path[:end] in places:
            place = places[path[:end]]
            return place if end == len(path) else Place(place.source)
    return places.get((), Place("config"))


def format_faults(faults: Iterable[Fault], places: Mapping) -> str:
    """Formats a line for each fault: its place, the key, what is wrong."""
    rows = []
    for fault in faults:
        place, message = place_of(places, fault.path), fault.message
        if place.text and place.text.lower() in ("off", "no", "on", "yes"):
            truth = str(place.text.lower() in ("on", "yes")).lower()
            message += (f" (YAML reads {place.text} as {truth}. For nothing write null; "
                        f"for text quote it: '{place.text}'.)")
        elif place.text == "" and isinstance(fault, WrongValue):
            message += " (Nothing stands after the colon.)"
        rows.append((fault.place or place.source, fault.key, message))
    width = max(len(source) for source, _, _ in rows)
    return "\n".join(f"{source:<{width}}  {f'{key}: ' if key else ''}{message}"
                     for source, key, message in rows)


@contextmanager
def located(places: Mapping):
    """Context: adds the places of config values to the message of a ConfigError about them."""
    try:
        yield
    except ConfigError as error:
        if not error.faults:
            raise
        raise ConfigError(format_faults(error.faults, places)) from error


def _take_undeleted(value: Any, path: KeyPath = ()) -> list[Fault]:
    """Removes the remaining `~key`s, which deleted nothing, and returns them as faults."""
    left = [key for key in value if str(key).startswith("~")] if isinstance(value, dict) else []
    for key in left:
        del value[key]
    below = [fault for key, item in items_of(value) for fault in _take_undeleted(item, (*path, str(key)))]
    return [Fault((*path, key), _NOT_DELETED) for key in left] + below


def read_text(file: Path) -> str:
    """The text of a config file. Raises ConfigError for what could be read without end."""
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise ConfigError(f"{file}: is no regular file. A config is a file of YAML or JSON.")
    with file.open("rb") as stream:
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{file}: is larger than {_MAX_BYTES // 10**6} MB, too large for a config. Long "
                          "tables belong into a file of their own that a plug-in reads.")
    return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


class _Files:
    """Reads a file and the files that it extends; records their faults."""

    def __init__(self):
        self.layers: list[Layer] = []
        self.faults: list[Fault] = []

    def read(self, file: Path, attempts: Attempts, chain: tuple[Path, ...] = (),
             where: str = "") -> tuple[dict, dict]:
        """Returns the config of `file`, merged over those it extends, and its places.

        `chain`: the files that led here; `where`: the `extends` for it. Without a config the attempt fails.
        """
        merged: tuple[dict, dict] = ({}, {})
        with attempts:
            config, places, faults = self._parse(file, chain, f"{where}  extends: " if where else "")
            config = written_config(config)
            self.faults += faults
            for parent in self._parents(config, places):
                above = self.read(file.parent / parent, attempts, (*chain, file.resolve()),
                                  places[("extends",)].source)
                merged = merge_with_places(merged, above)
            self.layers.append(Layer(config, places))
            merged = merge_with_places(merged, (config, places))
        return merged

    def _parse(self, file: Path, chain: tuple[Path, ...], where: str) -> Parsed:
        if file.resolve() in chain:
            raise ConfigError(f"{where}{file}: extends itself, by way of " +
                              " -> ".join(f.name for f in (*chain, file)))
        if len(self.layers) + len(chain) >= _MAX_FILES:
            raise ConfigError(f"{where}{file}: a config extends at most {_MAX_FILES} files")
        try:
            text = read_text(file)
        except OSError as error:
            folder = file if file.is_dir() else file.parent
            others = sorted(p.name for p in folder.glob("*") if p.suffix in (".yaml", ".yml", ".json"))
            also = (f"{suggest_name(file.name, others)} Configs in {folder}: {', '.join(others)}."
                    if others else "")
            raise ConfigError(f"{where}{file}: cannot be read: {error.strerror}.{also}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file}: is not UTF-8 text: {error}. A checkpoint goes with -r.") from error
        parsed = (parse_json if file.suffix == ".json" else parse_yaml)(text, str(file))
        if not isinstance(parsed.value, dict):
            raise ConfigError(f"{file}: a config is a table of sections (name, dataset, model, ...); "
                              f"this is {str(parsed.value)[:100]!r}")
        return parsed

    def _parents(self, config: dict, places: dict) -> list[str]:
        """Removes the keys about the file itself (`extends`, `$schema`). Returns the files it extends."""
        config.pop("$schema", None)
        parents = config.pop("extends", [])
        parents = [parents] if isinstance(parents, str) else parents
        if not isinstance(parents, list) or not all(
                isinstance(parent, str) and parent.isprintable() for parent in parents):
            raise ConfigError(f"{places[('extends',)].source}  extends: "
                              "a file name or a list of them is needed")
        return parents
