"""From the text of a config to plain values, each with the place where it was written. Begin with loading.py.

loading        files, `extends`, overrides      syntax       YAML and JSON with line numbers
interpolation  `${seed}`, `${env:NAME}`         sections     the keys of a config and their defaults
registry       names to classes                 signature    the constructor is the schema; annotations, suggestions
"""
from utils.moved import find_in_package


def __getattr__(name: str):
    """What was in the module of this name in earlier versions."""
    return find_in_package(__name__, name)
