"""The JSON Schema of a config, for editors that complete, explain and check it while it is written.

    python -m tools.schema > configs/schema.json

It is made of what the program itself goes by: registries, signatures, docstrings. It takes all that `base/validate.py` takes;
what only the whole of a config could tell, such as two metrics of one name, is left to that. A file with `extends` may
leave out what it inherits, so only files without it are asked for what is required.
"""
import importlib.metadata
import platform
import sys
from collections.abc import Mapping

from tools.reference.schema_blocks import LIBRARY, OWN, block_definitions, share_arguments, thing_definitions
from tools.reference.schema_types import (
    REFERENCE,
    TYPES,
    any_of,
    argument_schema,
    closed,
    described,
    dump,
    ref,
    typed,
    value_schema,
)
from tools.reference.settable import library_things, own_things, project
from utils.config.registry import Registry
from utils.config.sections import EXTENDS, REQUIRED, SECTIONS, TRANSFORM_KEYS
from utils.config.signature import Signature
from utils.errors import exit_codes

_SEVERAL = {"type": "object", "not": {"anyOf": [  # blocks by names, as utils/config.is_single tells
    {"required": [key]} for key in ("type", "args", *SECTIONS["optimizer"].keys, *SECTIONS["scheduler"].keys)]}}
_NO_TABLE = {"not": {"type": "object"}}  # in the place of a list it would tell what is new of inherited items


def config_schema(registries: Mapping[str, Registry], loader: type, loader_parts: tuple[str, ...]) -> dict:
    """The schema of a config.

    Args:
        registries: those of the sections that name things.
        loader: whose arguments the section data_loader sets, except for `loader_parts`, which the program fills in.
    """
    options = Signature(loader, loader_parts).free()
    definitions = {
        "reference": REFERENCE,
        **TYPES,
        "data_loader": typed("object", "null", **closed({
            name: argument_schema(loader, parameter) for name, parameter in options.items()})),
        "transforms": typed("object", "null", **closed({
            key: described(text, ref("transform.list")) for key, text in TRANSFORM_KEYS.items()})),
    }
    packages: set[str] = set()
    places: dict = {}
    for section, registry in registries.items():
        things = {OWN: own_things(section, registry), LIBRARY: library_things(section, registry)}
        sources = [source for source in things if things[source]]
        definitions |= block_definitions(section, registry.kind, sources)
        for source in sources:
            definitions |= thing_definitions(section, registry, source, things[source], places)
        packages |= {thing.__module__.split(".")[0] for thing in things[LIBRARY].values()}
    share_arguments(definitions)
    versions = [f"Python {'.'.join(platform.python_version_tuple()[:2])}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in sorted(packages)]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": f"Written by python -m tools.schema, with {', '.join(versions)}.",
        "type": "object",
        **closed(_sections(registries)),
        "if": {"required": ["extends"]},
        "else": {"required": list(REQUIRED), "properties": _whole(registries)},
        "definitions": definitions,
    }


def _sections(registries: Mapping[str, Registry]) -> dict:
    """The schemas of all that may stand at the top of a config."""
    shapes = {"name": typed("string"), "seed": value_schema(int | None), "data_loader": ref("data_loader"),
              "transforms": ref("transforms")}
    shapes = {**{section: _blocks(section, registry.kind) for section, registry in registries.items()}, **shapes}
    return {
        "$schema": described("The schema of this file, for editors.", {"type": "string"}),
        "extends": described(EXTENDS, {"type": ["string", "array"], "items": {"type": "string"}}),
        **{section: described(about.text, shapes[section]) for section, about in SECTIONS.items()},
    }


def _blocks(section: str, kind: str) -> dict:
    """What a section that names things may hold: a block, a list of them, several by names."""
    if isinstance(SECTIONS[section].default, list):
        return ref(f"{kind}.list")
    shape = ref(kind)
    if section == "scheduler":
        shape = {"if": {"type": "array"}, "then": ref(f"{kind}.list"), "else": shape}
    if section in ("optimizer", "scheduler"):
        keys = ("type", "args", *SECTIONS[section].keys)
        shape = {**_one_or_several(shape), "properties": {key: ref(f"{kind}.table/properties/{key}") for key in keys}}
    return shape if section in REQUIRED else any_of(shape, {"type": "null"})


def _one_or_several(shape: dict) -> dict:
    """`shape` for the only optimizer, or else by the names of several."""
    return {"if": _SEVERAL, "then": {**closed({}), "additionalProperties": shape}, "else": shape}


def _whole(registries: Mapping[str, Registry]) -> dict:
    """What is asked of the sections of a file that inherits nothing, besides."""
    whole: dict = {"transforms": {"additionalProperties": _NO_TABLE}}
    for section, registry in registries.items():
        is_list = isinstance(SECTIONS[section].default, list)
        whole.setdefault(section, _NO_TABLE if is_list else ref(f"{registry.kind}.whole"))
    whole["scheduler"] = _one_or_several(whole["scheduler"])
    whole["optimizer"] = {**_one_or_several(whole["optimizer"]), "minProperties": 1}
    return whole


if __name__ == "__main__":
    with exit_codes():
        sys.stdout.write(dump(config_schema(*project())))
