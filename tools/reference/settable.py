"""What a config may name in a section, and which arguments it may set, for the schema and the reference."""
from collections.abc import Mapping
from inspect import Parameter
from typing import NamedTuple

from base.base_data_loader import PROVIDED, DataSplits
from base.registries import KINDS
from utils.config.registry import FOLDERS, Registry, import_folder

# Arguments that the program fills in if a config does not set them, by section.
LEFT_OPEN = {"dataset": ("split", "train"), "scheduler": ("T_max", "total_steps")}
# About `args.device`: the program uses it itself if a dataset has no such argument.
KEPT_ON = "Where its arrays are kept: cpu, cuda, cuda:N or mps; by default in main memory, or in their file."


def config_sources() -> tuple[Mapping[str, Registry], type, tuple[str, ...]]:
    """(registries by section, class with the options of data_loader, options that the program fills in)."""
    return KINDS, DataSplits, PROVIDED


class ArgumentTable(NamedTuple):
    """The arguments that a config may set, the required ones, and whether others are accepted.

    `of_split`: arguments that only the block of one split may set.
    """

    parameters: dict[str, Parameter]
    required: list[str]
    open: bool
    of_split: dict[str, Parameter]


def own_things(section: str, registry: Registry) -> dict:
    """The classes and functions in the project's folders that the section may name, by name."""
    for folder in FOLDERS:
        import_folder(folder)
    things = {name: registry.get(name) for name in registry.names()}
    return {name: thing for name, thing in things.items()
            if thing.__module__.split(".")[0] in FOLDERS}


def library_things(section: str, registry: Registry) -> dict:
    """The things that libraries offer, without names that the project or an earlier library uses."""
    things: dict = {}
    for library in registry.libraries:
        for name, thing in sorted(library.members().items()):
            if name not in registry.names():
                things.setdefault(name, thing)
    return things


def settable_arguments(section: str, registry: Registry, target) -> ArgumentTable:
    """The arguments of `target` that a config may set in this section."""
    signature = registry.signature(target)
    parameters, of_split = signature.free(), {}
    if section == "dataset" and len(switches := split_arguments(registry, target)) == 1:
        # with two, the config may set one and the program the other: EMNIST
        of_split = {name: parameters.pop(name) for name in switches}
    return ArgumentTable(parameters, registry.signature(target, LEFT_OPEN.get(section, ())).required(),
                         signature.open, of_split)


def split_arguments(registry: Registry, target) -> list[str]:
    """The arguments that give a dataset its split; without one it serves in a block of one split."""
    return [name for name in LEFT_OPEN["dataset"] if name in registry.signature(target).free()]
