"""Reports what a newer version of the template asks of a project's own files: configs and former imports.

    python scaffolds/upgrade/own_side.py      # after an upgrade; new.py upgrade runs it, too
"""
import ast
import io
import logging
import os
import sys
import warnings
from pathlib import Path

sys.path.insert(0, os.getcwd())

from utils import moved  # noqa: E402
from utils.config.loading import load_config  # noqa: E402
from utils.errors import ConfigError, printable  # noqa: E402


def faults_of(file: Path) -> list[str]:
    """What is wrong with a config, and what would be right; a line each, warnings included."""
    from base.config.validate import validate_config

    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger().addHandler(handler)
    try:
        config, places = load_config(file)
        if "model" in config:  # not a part that other configs extend
            validate_config(config, places)
    except ConfigError as error:
        print(error, file=said)
    finally:
        logging.getLogger().removeHandler(handler)
    lines = said.getvalue().splitlines()
    return [line if line.startswith(str(file)) else f"{file}: {line}" for line in lines]


def former_imports(file: Path) -> list[str]:
    """The modules of former versions that a file imports, with what they are now."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):  # training reports it
        return []
    found = [(node.lineno, alias.name) for node in nodes if isinstance(node, ast.Import)
             for alias in node.names]
    found += [(node.lineno, node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    return [f"{file}:{line}: {name} is now {' and '.join(moved.MODULES[name])}"
            for line, name in sorted(found) if name in moved.MODULES]


def main() -> None:
    warnings.simplefilter("ignore", FutureWarning)  # former_imports lists these with their lines
    folders = ("data_loader", "logger", "model", "trainer")
    modules = [file for folder in folders for file in sorted(Path(folder).rglob("*.py"))]
    lines = [line for file in modules for line in former_imports(file)]
    for file in sorted(Path("configs").rglob("*.*")):
        if file.suffix in (".yaml", ".yml", ".json") and file.name != "schema.json":
            lines += faults_of(file)
    if lines:
        print("In your own files:", *(printable(line) for line in lines), sep="\n  ")


if __name__ == "__main__":
    main()
