"""The definitions of blocks, and of the things that they name, in the schema of a config."""
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from tools.reference.docstrings import summary
from tools.reference.schema_types import (
    all_of,
    any_of,
    argument_schema,
    closed,
    described,
    line,
    listed,
    ref,
    shortened,
    typed,
    value_schema,
)
from tools.reference.section_texts import KEY_TEXTS
from tools.reference.settable import KEPT_ON, ArgumentTable, settable_arguments, split_arguments
from utils.config.annotations import PositiveInt, nested_blocks
from utils.config.registry import Registry
from utils.config.sections import SECTIONS

OWN, LIBRARY = "own.", "library."
LISTS = ("transforms", "metrics", "scheduler", "writers")  # sections that may hold a list of blocks
_WIDTH = {OWN: None, LIBRARY: 120}  # length of the texts about things and their arguments, in characters
RULE = {"rule.match": described("A pattern of parameter names.", typed("string")),  # once for all optimizers
        "rule.frozen": described(
            "Whether they stay as they are: always, or in the first epochs.",
            any_of(value_schema(bool),
                   typed("object", **closed({"until_epoch": value_schema(PositiveInt)}))))}
_RULE = {key.removeprefix("rule."): ref(key) for key in RULE}
_ARGS = described("The arguments of what the type names.", typed("object", "null"))
_KEYS = {"scale": value_schema(float),
         "match": any_of(typed("string"), typed("array", items=typed("string"))),
         "per": value_schema(Literal["epoch", "step"]),
         "decay_bias_and_norm": value_schema(bool),
         "keep_frozen": value_schema(bool),
         "groups": listed(typed("object", required=["match"], properties=_RULE), by_number=typed("object"))}


def block_definitions(section: str, kind: str, sources: list[str]) -> dict:
    """KIND (a block as name or table), KIND.table, KIND.list (of KIND), KIND.whole (what a block must have).

    `sources` are OWN, LIBRARY or both: the sources with things of this kind.
    """
    names = [*(ref(f"{source}{kind}.names") for source in sources), ref("reference")]
    keys = {key: described(KEY_TEXTS[section][key], _KEYS.get(key, {})) for key in SECTIONS[section].keys}
    has_type = without = {"required": ["type"]}
    if isinstance(default := SECTIONS[section].default, dict) and "type" in default:  # a type may be left out
        without = {"properties": {"args": ref(f"{OWN}{kind}:{default['type']}")}}
    definitions = {
        kind: any_of(*names, ref(f"{kind}.table")),
        f"{kind}.table": {
            "type": "object",
            **closed({"type": described(f"Which {kind}.", any_of(*names)), "args": _ARGS, **keys}),
            "if": has_type, "then": all_of(*(ref(f"{source}{kind}.arguments") for source in sources))},
        f"{kind}.whole": {
            "if": has_type, "then": all_of(*(ref(f"{source}{kind}.required") for source in sources)),
            "else": without},
    }
    if section == "dataset":
        definitions[f"{kind}.single"] = all_of(*(ref(f"{source}{kind}.single") for source in sources))
    if section in LISTS:
        definitions[f"{kind}.list"] = listed(all_of(ref(kind), ref(f"{kind}.whole")), by_number=ref(kind))
    return definitions


def thing_definitions(section: str, registry: Registry, source: str, things: Mapping, places: dict) -> dict:
    """The definitions of the `things` of a source: names, arguments by name, and which of them are required.

    `places` holds the definitions of things so far, and is extended: a loss of torch.nn is a model, too.
    """
    kind, width = source + registry.kind, _WIDTH[source]
    definitions, cases, demands = {}, [], {}
    for name, thing in things.items():
        about = settable_arguments(section, registry, thing)
        place = places.setdefault(thing, f"{kind}:{name}")
        then = {"args": ref(place)}
        if place == f"{kind}:{name}":
            definitions[place] = _arguments(section, registry, thing, about, width)
        if section == "optimizer":
            then["groups"] = {"items": ref(f"{place}.rule")}
            definitions[f"{place}.rule"] = _rule(place, about)
        cases.append(_case([name], {"properties": then}))
        if about.required:
            demands.setdefault(tuple(about.required), []).append(name)
    if section == "dataset":
        definitions[f"{kind}.single"] = _single(registry, things)
    summaries = [shortened(summary(thing), width) for thing in things.values()]
    return {
        f"{kind}.names": {"enum": list(things), "enumDescriptions": summaries},
        f"{kind}.arguments": all_of(*cases),
        f"{kind}.required": _required(demands),
        **definitions,
    }


def _single(registry: Registry, things: Mapping) -> dict:
    """What a block for all splits must not say: which split it gives. The program passes that."""
    switches = {name: split_arguments(registry, thing) for name, thing in things.items()}
    without = {"enum": [name for name, found in switches.items() if not found]}
    cases = []
    for switch in ("split", "train"):
        if names := [name for name, found in switches.items() if found == [switch]]:
            cases.append(_case(names, {"properties": {"args": {"not": {"required": [switch]}}}}))
    if without["enum"]:
        named = {"type": "object", "required": ["type"], "properties": {"type": without}}
        cases.append({"not": any_of(without, named)})
    return all_of(*cases)


def share_arguments(definitions: dict) -> None:
    """Defines once what several library things have in common: else the schema would be a fifth larger."""
    tables = [part["properties"] for name, part in definitions.items()
              if name.startswith(LIBRARY) and "properties" in part]
    arguments = [(table, name, line(argument)) for table in tables for name, argument in table.items()]
    counts = Counter((name, text) for _, name, text in arguments)
    places: dict[tuple, str] = {}
    for table, name, text in arguments:
        if counts[name, text] > 1 and len(text) > len(line(ref(f"{LIBRARY}argument:{name}.000"))):
            place = places.setdefault((name, text), f"{LIBRARY}argument:{name}.{len(places)}")
            definitions.setdefault(place, table[name])
            table[name] = ref(place)


def _arguments(section: str, registry: Registry, thing, about: ArgumentTable, width: int | None) -> dict:
    properties = {name: argument_schema(thing, parameter, width)
                  for name, parameter in about.parameters.items()}
    block = all_of(ref(registry.kind), ref(f"{registry.kind}.whole"))
    for name, parameter in about.parameters.items():
        if registry.nests and nested_blocks([None], parameter):
            text = properties[name].get("description", "")
            properties[name] = described(text, listed(block, by_number=ref(registry.kind)))
    if section == "dataset":
        properties |= {name: argument_schema(thing, parameter, width)
                       for name, parameter in about.of_split.items()}
        properties.setdefault("device", described(KEPT_ON, typed("string", "null")))
    if section == "scheduler" and "schedulers" in properties:
        properties["schedulers"] = described("Blocks, as in the section.", ref("scheduler.list"))
    return {"properties": properties} if about.open else closed(properties)


def _rule(place: str, about: ArgumentTable) -> dict:
    """The schema of a rule for parameter groups: its own keys, and options of the optimizer."""
    options = {name: ref(f"{place}/properties/{name}") for name in about.parameters}
    return {"properties": {**options, **_RULE}} if about.open else closed({**options, **_RULE})


def _case(names: list[str], then: dict) -> dict:
    """Applies `then` to blocks with a type in `names`."""
    chosen = {"const": names[0]} if len(names) == 1 else {"enum": names}
    return {"if": {"properties": {"type": chosen}}, "then": then}


def _required(demands: Mapping[tuple, list]) -> dict:
    """Requires the arguments that these names need. A bare name has none."""
    if not demands:
        return {}
    cases = [_case(names, {"required": ["args"],
                           "properties": {"args": typed("object", required=list(arguments))}})
             for arguments, names in demands.items()]
    # editors show errorMessage; other programs ignore it
    bare = {"if": {"enum": [name for names in demands.values() for name in names]},
            "then": {"type": "object", "errorMessage": "It needs arguments: {type: NAME, args: {...}}."}}
    return all_of(bare, *cases)
