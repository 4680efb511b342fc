"""From the text of a config to plain values and the place where each was written. Start with loading.py.

loading        files, `extends`, overrides      syntax       YAML and JSON with line numbers
interpolation  `${seed}`, `${env:NAME}`         sections     the keys of a config and their defaults
registry       names to classes                 signature    the constructor is the schema, by annotations.py
"""
from utils.moved import find_in_package


def __getattr__(name: str):
    """Finds names that the module of this name had in earlier versions."""
    return find_in_package(__name__, name)
