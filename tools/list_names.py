"""`train.py --list [KIND]`: everything that a config can name."""
from base.registries import KINDS
from tools.reference.docstrings import summary
from utils.cli import KINDS as PLURALS
from utils.config.registry import Registry, import_folder


def run_tool(args, reading=None) -> str:
    """The text that `--list [KIND]` prints: without a kind, all kinds and how many names they have."""
    return count_names() if args.list == "kinds" else list_names(args.list)


def count_names() -> str:
    """The kinds with the number of names that the project and each library have."""
    lines = [f"  {plural:<10}  {len(registry.names())} of this project"
             + "".join(f", {library.label} ({len(library.members())})" for library in registry.libraries)
             for plural, registry in zip(PLURALS, KINDS.values(), strict=True)]
    folders = {registry.folder for registry in KINDS.values()}
    broken = {file: why for folder in sorted(folders) for file, why in import_folder(folder).items()}
    return "\n".join(["What a config can name. --list KIND prints the names, --list all prints those of all:",
                      *lines, *(f"  {file} could not be imported: {why}" for file, why in broken.items())])


def list_names(plural: str) -> str:
    """All names, or those of one kind ("models"), each with a one-line summary, the project's own first."""
    chosen = dict(zip(PLURALS, KINDS.values(), strict=True))
    return "\n\n".join(_list_kind(name, registry) for name, registry in chosen.items()
                       if plural in ("all", name))


def _list_kind(plural: str, registry: Registry) -> str:
    groups = {f"{plural} of this project, in {registry.folder}/":
              {name: registry.get(name) for name in registry.names()}}
    groups |= {f"{plural}: {library.label}": library.members() for library in registry.libraries}
    lines = []
    for title, members in groups.items():
        width = max(map(len, members), default=0)
        lines.append(f"{title}:{'' if members else ' none'}")
        lines += [f"  {name:<{width}}  {_short(summary(thing))}".rstrip() for name, thing in members.items()]
    lines += [f"  {file} could not be imported: {why}"
              for file, why in import_folder(registry.folder).items()]
    return "\n".join(lines)


def _short(text: str, most: int = 100) -> str:
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " ..."
