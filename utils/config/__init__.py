"""From the text of a config to plain values and the place where each was written. Start with loading.py.

loading        files, `extends`, overrides      syntax       YAML and JSON with line numbers
values         finding and setting by key path  blocks       `{type: NAME, args: {...}}`, one or several
interpolation  `${seed}`, `${env:NAME}`         sections     the keys of a config and their defaults
registry       names to classes                 signature    the constructor is the schema, by annotations.py
"""
from utils.moved import former_names_of

__getattr__ = former_names_of(__name__)
