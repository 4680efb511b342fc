"""Parses YAML and JSON into plain values with the line of each; writes values as YAML."""
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import yaml

from utils.errors import ConfigError, Fault

COMMAND_LINE = "command line"
DEFAULT_VALUES = "default_values"  # the key of a complete config for its unwritten values
DATA_VALUES = "data_values"  # the key of a complete config for `${data:NAME}` whose values stand in it
_MAX_REPEATED = 300_000  # characters and items that stand in a config again by YAML aliases
KeyPath = tuple[str, ...]  # ("optimizer", "args", "lr"); list items by index: ("metrics", "0", "args", "k")


class Place(NamedTuple):
    """Where a value was written, and how: `Place("configs/mnist.yaml:14", "off")`."""

    source: str
    text: str | None = None


class DataReference(str):
    """Text with a `${data:NAME}`, which gets its value once the train dataset is built."""


class Parsed(NamedTuple):
    """A value, the Place of every key path in it, and faults that do not stop the reading."""

    value: Any
    places: dict[KeyPath, Place]
    faults: list[Fault]


class _TooDeepError(ConfigError):
    """Lists or tables are nested too deeply."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the numbers of YAML 1.2: `1e-3` is a float, `010` and `1:30` are text, so are dates.

    Refuses aliases that repeat too much: ten lines of `[*a, *a, ...]` could stand for 10^9 values.
    """

    def __init__(self, text: str):
        super().__init__(text)
        self._seen: set[int] = set()
        self._repeated = 0

    def visit(self, node: yaml.Node) -> None:
        """Counts the characters or items of a node that was visited before: an alias repeats it."""
        if id(node) in self._seen:
            self._repeated += 1 + len(node.value)
        self._seen.add(id(node))
        if self._repeated > _MAX_REPEATED:
            raise yaml.YAMLError(f"aliases repeat more than {_MAX_REPEATED} values and characters, too many "
                                 f"for a config (those of line {node.start_mark.line + 1}, for one)")

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        self.visit(node)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes all text that _Loader would read as a number, and escapes `${` in text."""


# An underscore stands between thousands: 1_000 is a number, the date 2024_05_01 is text.
_DIGITS = "([0-9]{1,3}(_[0-9]{3})+|[0-9]+)"
_FLOAT = re.compile(
    rf"[-+]?(\.[0-9]+|{_DIGITS}\.[0-9]*(_[0-9]{{3}})*)([eE][-+]?[0-9]+)?$"  # 0.5  .5  1.  1.5e-3
    rf"|[-+]?{_DIGITS}[eE][-+]?[0-9]+$"  # 1e-3
    r"|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
_INT = re.compile(rf"[-+]?(0|(?!0){_DIGITS})$|0x[0-9a-fA-F_]+$|0b[01_]+$")
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
_NUMBER_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float")}
_ODD = "[\u00a0\u2000-\u200b\u202f\u3000\ufeff]"  # they look like spaces, or like nothing, and are none
# At the edge of a word, outside of quotes and comments. Inside a word it may be meant.
_ODD_AT_EDGE = re.compile(rf"[^#'\"]*?((?<![^\s:,\[{{]){_ODD}|{_ODD}(?=[\s:,\]}}]|$))")
_NO_SPACE = "this sign (U+{:04X}) only looks like a space. Type a space in its place."
_SWITCHES = ("yes", "no", "on", "off")  # as keys they are words: {no: Norway}
_OURS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OURS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Dumper.add_representer(str,
                        lambda dumper, text: dumper.represent_str(text.replace("${", "$${")))  # no reference
_Dumper.add_representer(DataReference, yaml.SafeDumper.represent_str)

# Patterns in messages of the YAML parser, and the usual fix. The first match counts.
_YAML_FIXES = {
    r"'\\t'": "YAML is indented by spaces, not tabs.",
    r"mapping values are not allowed": "Text with ': ' in it stands in quotes; a line that is indented "
                                       "further than the one above belongs to it.",
    r"could not find expected ':'": "A key ends in a colon and a space: 'model: LeNet'.",
    r"cannot start any token|undefined alias|expected alphabetic": "Text that begins with such a sign stands "
                                                                   "in quotes.",
    r"unexpected end of stream": "A quote was opened and not closed.",
    r"expected ',' or|expected the node|expected <block end>":
        "A comma, a bracket or a quote is missing or one too many, "
        "or a line is not indented like its neighbours.",
}
# Patterns for the message of the JSON parser, a newline and the text where it failed; and the fix.
_JSON_FIXES = {
    r"Extra data": "The table ended before this: a bracket is one too many, perhaps.",
    r".*\n\s*$": "The file ends in the middle: a bracket or a quote is not closed.",
    r".*\n,?\s*[}\]]": "A comma before a closing bracket is one too many.",
    r".*\n\s*'": "Text stands in double quotes: \"name\".",
    r".*\n\s*(//|#|/\*)": "JSON has no comments; YAML does.",
    r".*\n\s*(True|False|None)\b": "JSON writes true, false, null.",
    r".*\n\s*[-+]?\.\d": "A number begins with a digit: 0.5.",
    r"Invalid control": "A quote is not closed on its line.",
    r"Expecting property": "A key stands in double quotes.",
    r"Expecting": "A comma, a colon or a quote is missing.",
}


def items_of(value: Any) -> Iterable[tuple[Any, Any]]:
    """(key, item) for each item of a table, (index, item) for each of a list, nothing for a plain value."""
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def walk(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every value in a config with its key path, tables and lists before what they hold."""
    yield path, value
    for key, item in items_of(value):
        yield from walk(item, (*path, str(key)))


def key_in(table: dict, key: Any) -> Any:
    """`key`, or the number that it reads as if that is a key of the table, or all keys are numbers."""
    if not table or key in table or not isinstance(key, str):
        return key
    number = read_number(key)
    has_numbers = number in table or not any(isinstance(known, str) for known in table)
    return number if has_numbers and number is not None else key


def read_number(text: str) -> Any:
    """Reads a plain word as YAML does: a number, true, false or null; returns other text unchanged."""
    words = {"true": True, "false": False, "null": None}
    if _INT.match(text) or _FLOAT.match(text):
        return _Loader(text).get_single_data()
    return words.get(text.lower(), text)


def dump_yaml(config: Any, flow: bool | None = False) -> str:
    """`config` as YAML that load_config reads back equal. `flow=None`: a line per innermost table or list."""
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120,
                     default_flow_style=flow)


def parse_json(text: str, source: str) -> Parsed:
    """Parses JSON; a duplicate key is a fault. `source`: the file's name. Raises ConfigError if invalid."""
    duplicates: list[str] = []
    try:
        value = json.loads(text, object_pairs_hook=lambda pairs: _table(pairs, duplicates))
    except json.JSONDecodeError as error:
        fix = _suggest_fix(_JSON_FIXES, f"{error.msg}\n{text[error.pos:]}")
        raise ConfigError(f"{source}:{error.lineno}: this is not JSON: {error.msg}.{fix}\n"
                          f"{_caret(text, error.lineno, error.colno)}") from error
    except RecursionError as error:
        raise _TooDeepError(f"{source}: nested too deeply") from error
    try:
        _, places, faults = parse_yaml(text.replace("\t", " "), source)  # JSON is YAML, except tabs
    except _TooDeepError:
        raise
    except ConfigError:
        places, faults = {(): Place(source)}, [Fault((key,), _TWICE, source) for key in duplicates]
    return Parsed(value, places, faults)


_TWICE = "written twice. Keep one of the two."


def _table(pairs: list[tuple[str, Any]], duplicates: list[str]) -> dict:
    keys = [key for key, _ in pairs]
    duplicates += {key for key in keys if keys.count(key) > 1}
    return dict(pairs)


def _suggest_fix(fixes: dict[str, str], text: str) -> str:
    return next((f" {fix}" for start, fix in fixes.items() if re.match(start, text)), "")


def _caret(text: str, line: int, column: int) -> str:
    """The line of `text` with a caret below the column; both count from 1."""
    lines = text.splitlines() or [""]
    shown = lines[min(line, len(lines)) - 1].replace("\t", " ")
    start = max(column - 60, 0)
    return f"    {shown[start:start + 100]}\n    {' ' * (column - 1 - start)}^"


def parse_yaml(text: str, source: str, above: KeyPath = ()) -> Parsed:
    """Parses YAML text. A duplicate key is a fault. `source` names the file, or is COMMAND_LINE.

    `above`: the key path in the config whose value the text is.

    Raises ConfigError for invalid syntax.
    """
    places: dict = {}
    faults: list[Fault] = []
    for number, line in enumerate(text.split("\n") if re.search(_ODD, text) else ()):
        if odd := _ODD_AT_EDGE.match(line):
            raise ConfigError(_at_place(source, text, number, odd.end() - 1,
                                        _NO_SPACE.format(ord(odd[0][-1]))))
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        value = _Construction(loader, source, places, faults, above).of(node, ()) if node else None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_broken_yaml(error, text, source)) from error
    except RecursionError as error:
        raise _TooDeepError(f"{source}: nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: {error}") from error
    return Parsed(value, places, faults)


def _broken_yaml(error: yaml.MarkedYAMLError, text: str, source: str) -> str:
    begun, problem, context = error.context_mark, error.problem or error.context, str(error.context)
    is_scanning = begun and context.startswith("while scanning")  # the mistake is where that text begins
    mark = begun if is_scanning else error.problem_mark or begun
    above = _line_without_key(text, mark.line) if problem.startswith("mapping values") else None
    if above is not None:
        return _at_place(source, text, above, 0,
                         "this line has no key. A key ends in a colon and a space: 'model: LeNet'.")
    fix = _suggest_fix({f".*({part})": fix for part, fix in _YAML_FIXES.items()}, problem)
    if "${" in text.split("\n")[mark.line]:
        fix = " A reference within brackets stands in quotes: \"${seed}\"."
    if error.context and begun and begun.line != mark.line:
        problem += f" ({context}, from line {begun.line + 1} on)"
    return _at_place(source, text, mark.line, mark.column, f"{problem}.{fix}")


def _line_without_key(text: str, end: int) -> int | None:
    """The number of the last line before `end` that is not empty, if no key stands in it."""
    for number, line in reversed([*enumerate(text.split("\n")[:end])]):
        if line.strip():
            return None if re.search(r":(\s|$)|#", line) else number
    return None


def _at_place(source: str, text: str, line: int, column: int, message: str) -> str:
    """The message with its place, and a caret below the line; line and column count from 0."""
    where = source if source == COMMAND_LINE else f"{source}:{line + 1}"
    return f"{where}: {message}\n{_caret(text, line + 1, column + 1)}"


class _Construction:
    """Builds plain values from the nodes of a YAML document; records their places and duplicate keys."""

    def __init__(self, loader: _Loader, source: str, places: dict, faults: list[Fault], above: KeyPath):
        self.loader, self.source, self.places, self.faults = loader, source, places, faults
        self.above = above

    def of(self, node: yaml.Node, path: KeyPath, key: yaml.Node | None = None) -> Any:
        if not isinstance(node, yaml.MappingNode):  # a table is counted where it is flattened
            self.loader.visit(node)
        where = self.where(  # tables and lists: the line of the key
            node if key is None or isinstance(node, yaml.ScalarNode) else key)
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        self.places[path] = Place(where, node.value if plain else None)
        if node.tag not in _PLAIN_TAGS:
            raise ConfigError(f"{where}: a config holds plain values, not {node.tag}")
        if isinstance(node, yaml.ScalarNode):
            return self.loader.construct_object(node)
        if len(path) > 50:
            raise _TooDeepError(f"{where}: nested too deeply")
        if isinstance(node, yaml.SequenceNode):
            return [self.of(item, (*path, str(i))) for i, item in enumerate(node.value)]
        return self.table(node, path)

    def table(self, node: yaml.MappingNode, path: KeyPath) -> dict:
        written = [self.key(key, path) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        self.loader.flatten_mapping(node)  # `<<: *anchor` comes first, so that keys written here win
        values = {}
        for key_node, value_node in node.value:
            key = self.key(key_node, path)
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{self.where(node)}: a key is a word, not a list or a table")
            if key in values and written.count(key) > 1:
                self.faults.append(Fault((*path, str(key)), _TWICE, self.where(key_node)))
            values[key] = self.of(value_node, (*path, str(key)), key_node)
        return values

    def key(self, node: yaml.Node, path: KeyPath) -> Any:
        """The key of a table at `path`: text, as in JSON; in a table that is an argument, also a number."""
        place = (*self.above, *path)
        is_argument = "args" in place[:-1] or (place[:1] == (DEFAULT_VALUES,) and len(place) > 1)
        if is_argument and node.tag in _NUMBER_TAGS and node.value.lower() not in _SWITCHES:
            return self.loader.construct_object(node)
        return node.value

    def where(self, node: yaml.Node) -> str:
        return self.source if self.source == COMMAND_LINE else f"{self.source}:{node.start_mark.line + 1}"


def format_value(value: Any) -> str:
    """Formats a value on one line, as in a config; in Python's notation if YAML cannot express it."""
    try:
        text = yaml.safe_dump(str(value) if isinstance(value, DataReference) else value, width=10**6,
                              default_flow_style=True, sort_keys=False, allow_unicode=True)
    except yaml.YAMLError:
        return repr(value)
    return text.removesuffix("\n").removesuffix("\n...")
