"""`train.py --print-config [--origins]`: the config of a run, and where each value was written."""
import yaml

from utils.config.loading import Reading, place_of
from utils.config.values import value_at
from utils.config.sections import with_defaults
from utils.config.syntax import KeyPath, dump_yaml

MISSING = object()
Rows = list[tuple[str, str]]  # facts about a key: (name, text)


def run_tool(args, reading: Reading) -> str:
    """The text that `--print-config` prints for the config that was read."""
    return print_config(with_kept_arguments(reading), args.origins)


def with_kept_arguments(reading: Reading) -> Reading:
    """The reading of a run: `base.run.run_config`. Loads torch only for an override of a type."""
    if not reading.changed_types:
        return reading
    from base.run.run_config import keep_arguments

    return keep_arguments(reading)


def print_config(reading: Reading, origins: bool = False) -> str:
    """The config of a run as YAML. With `origins`, each line has a comment on where its value was written."""
    text = dump_yaml(with_defaults(reading.config), flow=False if origins else None)
    if not origins:
        return text.rstrip("\n")
    lines = text.splitlines()
    width = max(len(line) for line in lines if len(line) < 80)
    for path, node in _leaves(yaml.compose(text, Loader=yaml.SafeLoader), ()):
        line = node.start_mark.line
        if line == node.end_mark.line:  # in a text of several lines, a comment would be part of the text
            lines[line] = f"{lines[line]:<{width}}  # {origin(reading, path)}"
    return "\n".join(lines)


def _leaves(node: yaml.Node, path: KeyPath):
    """The path and the node of everything in a YAML document that contains nothing else."""
    if isinstance(node, yaml.MappingNode) and node.value:
        for key, value in node.value:
            yield from _leaves(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode) and node.value:
        for number, item in enumerate(node.value):
            yield from _leaves(item, (*path, str(number)))
    else:
        yield path, node


def origin(reading: Reading, path: KeyPath) -> str:
    """Where a value was written: `configs/digits.yaml:14`, `command line`, or `default`."""
    unset = value_at(reading.config, path, MISSING) is MISSING
    return "default" if unset else place_of(reading.places, path).source
