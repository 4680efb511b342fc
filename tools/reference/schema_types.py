"""Pieces of JSON Schema: what a config may contain as an argument, in lists and in tables."""
import json
import math
import textwrap
from inspect import Parameter
from typing import Any

from tools.reference.docstrings import argument_text
from utils.config.annotations import annotation_of, item_annotations, ranges, simple_types

_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string", type(None): "null",
          list: "array", dict: "object"}
DELETED = {"^~": {"type": "null"}}  # `~key: null` removes an inherited key
REFERENCE = {"type": "string", "pattern": r"\$\{",
             "description": "Another value: ${seed}, ${env:DATA_DIR,data/}, ${data:num_classes}."}


def ref(name: str) -> dict:
    """A reference to a definition of the schema."""
    return {"$ref": f"#/definitions/{name}"}


def any_of(*schemas: dict) -> dict:
    """The schema of values that at least one of `schemas` accepts."""
    return {"anyOf": list(schemas)}


def all_of(*schemas: dict) -> dict:
    """The schema of values that all of `schemas` accept."""
    return {"allOf": list(schemas)} if schemas else {}


def or_reference(*types: str, **constraints) -> dict:
    """The schema of values of these JSON types, or of a reference to one."""
    plain = {"type": types[0] if len(types) == 1 else list(types), **constraints}
    return plain if "string" in types else any_of(plain, ref("reference"))


# The most common ones, defined once.
TYPES = {"-".join(types): or_reference(*types) for kind in ("boolean", "integer", "number", "array", "object")
         for types in ((kind,), (kind, "null"))}


def typed(*types: str, **constraints) -> dict:
    """Like `or_reference`, but refers to its definition if there is one."""
    defined = "-".join(types) in TYPES and not constraints
    return ref("-".join(types)) if defined else or_reference(*types, **constraints)


def listed(items: dict, by_number: dict) -> dict:
    """The schema of a list. In a file that inherits one, a table changes its items `by_number`."""
    table = {**closed({}), "patternProperties": {**DELETED, "^[0-9]+$": by_number}}
    return typed("array", "object", "null", items=items, **table)


def closed(properties: dict) -> dict:
    """The part of a table's schema that accepts these keys and no others."""
    return {"properties": properties, "patternProperties": DELETED, "additionalProperties": False}


def described(text: str, schema: dict) -> dict:
    """`schema` with a description. Editors also show it beside a `$ref`."""
    return {**schema, "description": text} if text else schema


def value_schema(annotation: Any) -> dict:
    """The schema of values that `annotations.mismatch` accepts, or of a reference; {} if that is anything."""
    kinds = simple_types(annotation)
    if kinds is None:
        return {}
    choices = [choice for kind in kinds if isinstance(kind, tuple) for choice in kind]
    types = [_TYPES[kind] for kind in kinds if not isinstance(kind, tuple)]
    unambiguous = len({"integer", "number"}.intersection(types)) == 1
    constraints = {**(ranges(annotation) if unambiguous else {}), **_items(annotation)}
    plain = typed(*types, **constraints) if types else ref("reference")
    return any_of({"enum": choices}, plain) if choices else plain


def _items(annotation: Any) -> dict:
    """The schema of the items as far as they are known, if a list is accepted."""
    if (found := item_annotations(annotation)) is None:
        return {}
    items, counted = found
    schemas = [value_schema(item) for item in items]
    if not any(schemas):
        return {}
    alike = schemas[0] if all(schema == schemas[0] for schema in schemas) else schemas
    return {"items": alike, **({"minItems": len(items), "maxItems": len(items)} if counted else {})}


def argument_schema(target, parameter: Parameter, width: int | None = None) -> dict:
    """The schema of an argument of `target`, with its default and its text in at most `width` characters."""
    schema = value_schema(annotation_of(parameter))
    if parameter.default is not Parameter.empty and is_plain(parameter.default):
        schema = {**schema, "default": parameter.default}
    return described(shortened(argument_text(target, parameter.name), width), schema)


def shortened(text: str, width: int | None) -> str:
    """`text` in at most `width` characters, cut between words. None leaves it unchanged."""
    return textwrap.shorten(text, width, placeholder=" ...") if width else text


def is_plain(value: Any) -> bool:
    """Whether both a config and JSON can contain `value`."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))


def dump(schema: dict) -> str:
    """`schema` as JSON text, with one line per key and per definition."""
    lines = []
    for key, value in schema.items():
        text = line(value)
        if key == "definitions":
            text = "{\n" + ",\n".join(f"{line(name)}:{line(part)}" for name, part in value.items()) + "\n}"
        lines.append(f"{line(key)}:{text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def line(value: Any) -> str:
    """`value` as JSON, without optional spaces."""
    return json.dumps(value, separators=(",", ":"))
