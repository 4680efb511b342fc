"""The JSON Schema of a config. Editors use it to complete, explain and check a config.

    python -m tools.schema > configs/schema.json

It is built from the program's registries, signatures and docstrings. It accepts all that
`base/config/validate.py` accepts, and leaves checks of the whole config, such as two metrics with one
name, to that file. A file with `extends` may omit what it inherits, so keys are required only in files
without `extends`.
"""
import importlib.metadata
import platform
import sys
from collections.abc import Mapping

from base.config.validate_init import KEYS as INIT_KEYS
from tools.reference.docstrings import argument_text
from tools.reference.schema_blocks import (
    LIBRARY, OWN, RULE, block_definitions, share_arguments, thing_definitions)
from tools.reference.schema_types import (
    REFERENCE,
    TYPES,
    all_of,
    any_of,
    argument_schema,
    closed,
    described,
    dump,
    listed,
    ref,
    typed,
    value_schema,
)
from tools.reference.section_texts import JOINT, KEY_TEXTS, SECTION_TEXTS
from tools.reference.settable import config_sources, library_things, own_things
from utils.config.blocks import SPLITS
from utils.config.registry import Registry
from utils.config.sections import REQUIRED, SECTIONS
from utils.config.signature import Signature
from utils.errors import exit_codes

NAMED = ("loss", "optimizer", "scheduler")  # sections that may hold several blocks by name
_SEVERAL = {"type": "object", "not": {"anyOf": [  # blocks by name, as `is_single` in utils/config/blocks.py
    {"required": [key]}
    for key in ("type", "args", *(key for name in NAMED for key in SECTIONS[name].keys))]}}
_BY_SPLIT = {**_SEVERAL, "anyOf": [{"required": [split]} for split in SPLITS]}
_NO_TABLE = {"not": {"type": "object"}}  # a table in place of a list would change inherited items


def config_schema(registries: Mapping[str, Registry], loader: type, loader_parts: tuple[str, ...]) -> dict:
    """The schema of a config.

    Args:
        registries: the registries of the sections that name things, by section.
        loader: the class with the options of data_loader, except `loader_parts`, which the program fills in.
    """
    definitions = {
        "reference": REFERENCE,
        **TYPES,
        **RULE,
        **_data_definitions(loader, loader_parts),
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
    packages -= {"base", "logger", "tools"}
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


def _data_definitions(loader: type, loader_parts: tuple[str, ...]) -> dict:
    """The schemas of the sections data_loader and transforms."""
    options = {name: argument_schema(loader, parameter)
               for name, parameter in Signature(loader, loader_parts).free().items()}
    sampler = any_of(all_of(ref("sampler"), ref("sampler.whole")), {"type": "null"})
    options["sampler"] = described(argument_text(loader, "sampler"), sampler)
    lists = {key: described(text, ref("transform.list")) for key, text in KEY_TEXTS["transforms"].items()}
    lists["joint"] = described(JOINT, value_schema(bool | None))
    return {"data_loader": typed("object", "null", **closed(options)),
            "transforms": typed("object", "null", **closed(lists))}


def _sections(registries: Mapping[str, Registry]) -> dict:
    """The schemas of all keys at the top of a config."""
    shapes = {"name": typed("string"), "seed": value_schema(int | None), "data_loader": ref("data_loader"),
              "transforms": ref("transforms"), "init": _init()}
    shapes = {**{section: _blocks(section, registry.kind) for section, registry in registries.items()},
              **shapes}
    return {
        "$schema": described("The schema of this file, for editors.", {"type": "string"}),
        "extends": described(SECTION_TEXTS["extends"],
                             {"type": ["string", "array"], "items": {"type": "string"}}),
        **{section: described(SECTION_TEXTS[section], shapes[section]) for section in SECTIONS},
        "sweep": described("What `sweep.py` tries; see docs/sweep.md.", typed("object", "null")),
    }


def _init() -> dict:
    """The schema of the section `init`."""
    shapes = {key: value_schema(annotation) for key, annotation in INIT_KEYS.items()}
    shapes["rename"] = typed("object", additionalProperties=typed("string", "null"))  # null: a ~key
    item = typed("object", **closed({key: described(KEY_TEXTS["init"][key], shape)
                                     for key, shape in shapes.items()}))
    return listed(all_of(item, {"required": ["from"]}), by_number=item)


def _blocks(section: str, kind: str) -> dict:
    """The schema of a section that names things: a block, a list of blocks, or several blocks by name."""
    if isinstance(SECTIONS[section].default, list):
        return ref(f"{kind}.list")
    shape = ref(kind)
    if section == "scheduler":
        shape = {"if": {"type": "array"}, "then": ref(f"{kind}.list"), "else": shape}
    if section == "dataset":
        return _for_splits(shape, all_of(shape, ref(f"{kind}.single")))
    if section in NAMED:
        keys = ("type", "args", *SECTIONS[section].keys)
        shape = {**_one_or_several(shape),
                 "properties": {key: ref(f"{kind}.table/properties/{key}") for key in keys}}
    return shape if section in REQUIRED else any_of(shape, {"type": "null"})


def _one_or_several(shape: dict) -> dict:
    """`shape` for a single optimizer, or a table of them for several optimizers by name."""
    return {"if": _SEVERAL, "then": {**closed({}), "additionalProperties": shape}, "else": shape}


def _for_splits(shape: dict, single: dict) -> dict:
    """`single` for one dataset; or a table of blocks, each of a `shape`, by their splits."""
    sets = any_of(_one_or_several(any_of(shape, {"type": "null"})), {"type": "null"})
    return {"if": _BY_SPLIT, "then": closed({"train": shape, "val": sets, "test": sets}), "else": single}


def _whole(registries: Mapping[str, Registry]) -> dict:
    """The additional requirements on the sections of a file that inherits nothing."""
    whole: dict = {"transforms": {"additionalProperties": _NO_TABLE}}
    for section, registry in registries.items():
        if section == "data_loader":
            continue
        is_list = isinstance(SECTIONS[section].default, list)
        whole.setdefault(section, _NO_TABLE if is_list else ref(f"{registry.kind}.whole"))
    by_split = _for_splits(whole["dataset"], whole["dataset"])
    whole["dataset"] = {**by_split, "then": {**by_split["then"], "required": ["train"]}}
    whole |= {section: _one_or_several(whole[section]) for section in NAMED}
    whole["optimizer"]["minProperties"] = 1
    return whole


if __name__ == "__main__":
    with exit_codes():
        sys.stdout.write(dump(config_schema(*config_sources())))
