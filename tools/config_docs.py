"""The config reference as a Markdown page: all sections, and all arguments of the project's own plug-ins.

    python -m tools.config_docs > docs/config.md

For libraries it says how to list their names, so the page does not depend on the installed versions.
"""
import re
import sys
from collections.abc import Iterable, Mapping
from inspect import Parameter

from tools.reference.docstrings import argument_text, summary
from tools.reference.section_texts import JOINT, KEY_TEXTS, SECTION_TEXTS
from tools.reference.settable import KEPT_ON, config_sources, own_things, settable_arguments
from utils.cli import KINDS as PLURALS
from utils.config.annotations import describe_argument
from utils.config.registry import Registry
from utils.config.sections import REQUIRED, SECTIONS
from utils.config.signature import Signature
from utils.config.syntax import format_value
from utils.errors import exit_codes

_INTRODUCTION = """\
# Config reference

```bash
python train.py -c configs/digits.yaml --explain optimizer.args.lr   # one key: meaning, type, default, value
python train.py --list optimizers                                    # all names of a kind
python -m tools.config_docs > docs/config.md                         # writes this page, with your own parts
```

This page lists all keys of a config. It is generated from the code and its docstrings.
[config_file.md](config_file.md) explains the grammar.

A *block* names a class or a function, and its arguments: `{type: NAME, args: {...}}`. A bare NAME is short
for `{type: NAME}`. Any value may be a reference: `${seed}` is another value of the config,
`${data:num_classes}` a value of the train dataset, `${env:DATA_DIR,data/}` a variable of the environment,
with its value if it is not set. In a file that inherits, `~key: null` removes an inherited key.
"""
_NOTES = {
    "dataset": "A block for all splits, or `{train: BLOCK, val: BLOCK, test: BLOCK}`; val and test\n"
               "may be several sets by name, `val: {clean: BLOCK, noisy: BLOCK}`, measured as\n"
               "`val/clean/loss` and so on. The program fills in `split` or `train` where they are left\n"
               "open. Any dataset may have `args.device`, whether or not it takes one.\n"
               f"{KEPT_ON}\n",
    "optimizer": "It is fused where torch offers that; `args: {fused: false}` turns it off.\n",
    "scheduler": "`T_max` and `total_steps` are the length of the run where a config leaves them open. "
                 "ReduceLROnPlateau is\n"
                 "given the monitored value; what SequentialLR has in `args.schedulers` are blocks.\n",
}


def config_reference(registries: Mapping[str, Registry], loader: type, loader_parts: tuple[str, ...]) -> str:
    """Returns the page. The arguments are those of `schema.config_schema`."""
    parts = [_INTRODUCTION, _overview()]
    for section in SECTIONS:
        if section == "data_loader":
            options = Signature(loader, loader_parts).free()
            heading, *samplers = _section(section, registries[section], "samplers")
            parts += [heading, _arguments(loader, options.values()), *samplers]
        elif section == "init":
            parts += [f"## {section}\n\n{_escaped(SECTION_TEXTS[section])}\n", *_keys_of(section)]
        elif section in registries:
            plural = dict(zip(registries, PLURALS, strict=True))[section]
            parts += _section(section, registries[section], plural)
    return "\n".join(parts)


def _overview() -> str:
    rows = [("extends", SECTION_TEXTS["extends"], "")]
    for name, about in SECTIONS.items():
        rows.append((name, _escaped(SECTION_TEXTS[name]),
                     "must be given" if name in REQUIRED else f"`{format_value(about.default)}`"))
    return "## Sections\n\n" + _table(("section", "what it is", "default"),
                                      ((f"`{name}`", *rest) for name, *rest in rows))


def _section(section: str, registry: Registry, plural: str) -> list[str]:
    """The text of a section that names things: its keys, what it can name, and the project's own things."""
    own = own_things(section, registry)
    names = [*(f"`{name}`" for name in own), *(library.label for library in registry.libraries)]
    parts = [f"## {section}\n\n{_escaped(SECTION_TEXTS[section])}\n", *_keys_of(section)]
    what = "`sampler`" if section == "data_loader" else "It"
    parts.append(f"{what} can name {', '.join(names)}. `python train.py --list {plural}` prints all names.\n")
    common = Signature(registry.expects, registry.provided).free() if section == "trainer" else {}
    if common:
        parts += ["### All trainers\n", _arguments(registry.expects, common.values())]
    for name, thing in own.items():
        parameters = settable_arguments(section, registry, thing).parameters.values()
        text = summary(thing, quote="`")
        parts += [f"### {name}\n", f"{text}\n"] if text else [f"### {name}\n"]
        if others := [parameter for parameter in parameters if parameter.name not in common]:
            parts.append(_arguments(thing, others))
    return parts


def _keys_of(section: str) -> list[str]:
    """The table of the section's own keys, if any, and the note on it."""
    is_list, parts = section == "transforms", []
    if keys := KEY_TEXTS.get(section):
        head = "list" if is_list else (
            "key of an item" if section == "init" else "key of a block, besides `type` and `args`")
        rows = ((f"`{key}`", _escaped(text)) for key, text in keys.items())
        parts.append(_table((head, "what it is"), rows))
        parts += [f"`joint` (null): {_escaped(JOINT)}\n"] if is_list else []
    return [*parts, _NOTES[section]] if section in _NOTES else parts


def _arguments(target, parameters: Iterable[Parameter]) -> str:
    rows = ((f"`{p.name}`", describe_argument(p), _default(p), argument_text(target, p.name, quote="`"))
            for p in parameters)
    return _table(("argument", "takes", "default", "what it is"), rows)


def _default(parameter: Parameter) -> str:
    return "must be given" if parameter.default is Parameter.empty else f"`{format_value(parameter.default)}`"


def _escaped(text: str) -> str:
    """Escapes plain text for Markdown."""
    return re.sub(r"([<*])", r"\\\1", text)


def _table(head: tuple[str, ...], rows: Iterable[tuple]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(cell.replace("|", r"\|") for cell in row) for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    with exit_codes():
        sys.stdout.write(config_reference(*config_sources()))
