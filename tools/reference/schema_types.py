"""Pieces of JSON Schema: what a config may hold in the place of an argument, in lists and in tables."""
import json
import math
import textwrap
from inspect import Parameter
from typing import Any

from tools.reference.docstrings import argument_text
from utils.config.annotations import annotation_of, item_annotations, ranges, simple_types

_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string", type(None): "null", list: "array", dict: "object"}
DELETED = {"^~": {"type": "null"}}  # `~key: null` takes away what would be inherited
REFERENCE = {"type": "string", "pattern": r"\$\{", "description": "Another value: ${seed}, ${env:DATA_DIR,data/}."}


def ref(name: str) -> dict:
    """What the schema defines under a name."""
    return {"$ref": f"#/definitions/{name}"}


def any_of(*schemas: dict) -> dict:
    """The schema of what one of `schemas` admits."""
    return {"anyOf": list(schemas)}


def all_of(*schemas: dict) -> dict:
    """The schema of what all of `schemas` admit."""
    return {"allOf": list(schemas)} if schemas else {}


def or_reference(*types: str, **constraints) -> dict:
    """The schema of values of these types of JSON, or of a reference to one."""
    plain = {"type": types[0] if len(types) == 1 else list(types), **constraints}
    return plain if "string" in types else any_of(plain, ref("reference"))


# The commonest of those, to be defined once.
TYPES = {"-".join(types): or_reference(*types) for kind in ("boolean", "integer", "number", "array", "object")
         for types in ((kind,), (kind, "null"))}


def typed(*types: str, **constraints) -> dict:
    """`or_reference`, by its definition where there is one."""
    defined = "-".join(types) in TYPES and not constraints
    return ref("-".join(types)) if defined else or_reference(*types, **constraints)


def listed(items: dict, by_number: dict) -> dict:
    """The schema of a list; in a file that inherits one, a table tells what is new `by_number` of its items."""
    table = {**closed({}), "patternProperties": {**DELETED, "^[0-9]+$": by_number}}
    return typed("array", "object", "null", items=items, **table)


def closed(properties: dict) -> dict:
    """The part of a table's schema that admits these keys and no others."""
    return {"properties": properties, "patternProperties": DELETED, "additionalProperties": False}


def described(text: str, schema: dict) -> dict:
    """`schema` with a description; editors see it beside a `$ref`, too."""
    return {**schema, "description": text} if text else schema


def value_schema(annotation: Any) -> dict:
    """The schema of what `signature.mismatch` finds no fault with, or of a reference; {} where that is anything."""
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
    """What is known of the items, where a list is admitted."""
    if (found := item_annotations(annotation)) is None:
        return {}
    items, counted = found
    schemas = [value_schema(item) for item in items]
    if not any(schemas):
        return {}
    alike = schemas[0] if all(schema == schemas[0] for schema in schemas) else schemas
    return {"items": alike, **({"minItems": len(items), "maxItems": len(items)} if counted else {})}


def argument_schema(target, parameter: Parameter, width: int | None = None) -> dict:
    """The schema of an argument of `target`, with its default and with what is said of it, in `width` characters."""
    schema = value_schema(annotation_of(parameter))
    if parameter.default is not Parameter.empty and is_plain(parameter.default):
        schema = {**schema, "default": parameter.default}
    return described(shortened(argument_text(target, parameter.name), width), schema)


def shortened(text: str, width: int | None) -> str:
    """`text` in `width` characters at most, in whole words; None leaves it as it is."""
    return textwrap.shorten(text, width, placeholder=" ...") if width else text


def is_plain(value: Any) -> bool:
    """Whether a config could hold `value`, and JSON, too."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))


def dump(schema: dict) -> str:
    """`schema` as JSON text, with a line for each of its keys and for each definition."""
    lines = []
    for key, value in schema.items():
        text = line(value)
        if key == "definitions":
            text = "{\n" + ",\n".join(f"{line(name)}:{line(part)}" for name, part in value.items()) + "\n}"
        lines.append(f"{line(key)}:{text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def line(value: Any) -> str:
    """`value` as JSON, without a space too many."""
    return json.dumps(value, separators=(",", ":"))
