"""Finds classes by name: first in the project's folders, then in the libraries of the kind, nowhere else."""
import functools
import importlib
import logging
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

from utils.config.annotations import describe_value, nested_blocks
from utils.config.blocks import args_of, as_block
from utils.config.signature import Signature, UnknownKey
from utils.config.suggestions import suggest_name
from utils.config.syntax import format_value
from utils.errors import PROJECT, ConfigError, Fault, WrongValue, describe_error, is_ours
from utils.torch_messages import argument_named_by

log = logging.getLogger(__name__)
FOLDERS = ("model", "data_loader", "trainer", "logger")  # a file in any of them may register all kinds
_failed: dict[str, tuple[list, dict[str, str]]] = {}  # by folder: the times of its files; failed files
_CALLED_TYPE = ("_target_", "class_path", "class", "target", "name")  # the names of `type` in other projects


class Library:
    """The named members of an installed library, imported on first use.

    `label` is its name in messages (`any torchvision model`). `load` returns a dict from name to member.
    """

    def __init__(self, label: str, load: Callable[[], dict]):
        self.label = label
        self.members = functools.cache(load)


class Registry:
    """Everything of one kind that a config can name.

    Args:
        kind: the name of the kind in messages ("model").
        folder: the project folder whose files are imported on the first look-up ("model").
        expects: the class that a built object must be an instance of; None if any callable is allowed.
        or_has: methods of an object that need not be of this class.
        provided: parameters that the program fills in itself (an optimizer's `params`).
        inputs: for kinds where a plain function *is* the object (a loss, a metric, a transform): the number
            of leading arguments of each call. The config's args fill the others.
        nests: whether arguments that are modules or other callables may be blocks of this kind.
        libraries: where to look after the project's own folder.
    """

    _all: ClassVar[list["Registry"]] = []  # to tell that a name is of another kind

    def __init__(self, kind: str, folder: str, *, expects: type | None = None, provided: Iterable[str] = (),
                 inputs: int | None = None, nests: bool = False, libraries: Iterable[Library] = (),
                 or_has: tuple[str, ...] = ()):
        self.kind, self.folder, self.expects, self.or_has = kind, folder, expects, or_has
        self.one = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
        self.provided, self.libraries = tuple(provided), tuple(libraries)
        self.inputs, self.nests = inputs, nests
        self._own: dict[str, object] = {}
        self._all.append(self)
        self._twice: dict[str, str] = {}

    def register(self, thing=None):
        """Decorator for a class or a function. Its `__name__` becomes its name in configs."""
        if not callable(thing) or not hasattr(thing, "__name__"):
            raise TypeError(f"register takes a class or a function, without parentheses; this is {thing!r}")
        other = self._own.setdefault(thing.__name__, thing)
        if (other.__module__, other.__qualname__) != (thing.__module__, thing.__qualname__):
            self._twice[thing.__name__] = f"{_file(other)} and {_file(thing)}"
        self._own[thing.__name__] = thing
        return thing

    def names(self) -> list[str]:
        """The project's own names of this kind."""
        import_folder(self.folder)
        return sorted(self._own)

    def get(self, name: str):
        """Returns the class or function `name`. Otherwise raises ConfigError with the nearest name."""
        errors = import_folder(self.folder)
        if name in self._own:
            return self._if_importable(name, errors)
        for library in self.libraries:
            if name in library.members():
                return library.members()[name]
        for folder in FOLDERS:
            errors = {**errors, **import_folder(folder)}
        if name in self._own:
            return self._if_importable(name, errors)
        known = self._known()
        broken = "".join(f"\n    {file} could not be imported: {why}" for file, why in errors.items())
        meant = next((f" Write '{word}' alone; arguments go under args."
                      for word in reversed(re.findall(r"\w+", name))
                      if word in known), suggest_name(name, known))
        meant = self._unregistered(name, errors) or meant
        meant = meant or (" A path is an argument of what reads it." if "/" in name else "")
        raise ConfigError(f"no {self.kind} {name!r}.{meant} There are: {self.describe_options()}.{broken}")

    def _unregistered(self, name: str, errors: Iterable[str]) -> str:
        """A hint if the project has a class or function of that name that is not registered as this kind."""
        register = re.sub(r"(ss)?$", lambda end: "sses" if end[0] else "s", self.kind, count=1).upper()
        other = next((other for other in self._all if name in other._own), None)
        if other:
            return (f" {_file(other._own[name])} has it as {other.one}. {self.one.capitalize()} stands under "
                    f"@{register}.register.")
        defined = re.compile(rf"^(@{register}\.register\s+)?(class|def) {re.escape(name)}\b", re.MULTILINE)
        for file in sorted((PROJECT / self.folder).glob("*.py")):
            if found := defined.search(file.read_text(encoding="utf-8", errors="ignore")):
                shown = str(file.relative_to(PROJECT))
                why = ("has it, but could not be imported" if shown in errors else "has it since it was "
                       "imported: reload it" if found[1] else f"has it, but not under @{register}.register")
                return f" {shown} {why}."
        return ""

    def _known(self) -> list[str]:
        return [*self.names(), *(member for library in self.libraries for member in library.members())]

    def describe_options(self) -> str:
        """The project's own names, and the labels of the libraries."""
        return ", ".join([*self.names(), *(library.label for library in self.libraries)])

    def _if_importable(self, name: str, errors: dict[str, str]):
        """The project's own `name`. Raises ConfigError if two files claim it or its import failed."""
        if name in self._twice:
            raise ConfigError(f"two {self.kind}s are called '{name}': in {self._twice[name]}. "
                              "Rename one of them.")
        if why := errors.get(_file(self._own[name])):
            raise ConfigError(f"{_file(self._own[name])} could not be imported: {why}")
        return self._own[name]

    def faults(self, block, path: tuple, provided: Iterable[str] = (),
               keys: Iterable[str] = ()) -> list[Fault]:
        """What is wrong with a `{type, args}` block (or a bare name) at `path`. Builds nothing.

        `provided`: what the program adds to `args` if it is missing. `keys`: others that the block may have.
        """
        if not isinstance(block, (dict, str)):
            wrong = f"{self.one} is NAME or {{type: NAME, args: {{...}}}}, not {format_value(block)}"
            return [Fault(path, wrong)]
        block = as_block(block)
        if not isinstance(block.get("type"), str):
            return [self._untyped(block, path)]
        args, allowed = {} if block.get("args") is None else block["args"], ("type", "args", *keys)
        beside = {key: value for key, value in block.items() if key not in allowed}
        try:
            signature = self.signature(self.get(block["type"]))
        except ConfigError as error:
            if block["type"].lower() in ("none", "off"):
                return [Fault(path, f"'{block['type']}' is text. For no {self.kind} write null, or no key.")]
            return [WrongValue((*path, "type"), str(error)),
                    *self._unknown_key_faults(beside, path, allowed, {})]
        faults = self._unknown_key_faults(beside, path, allowed, signature.parameters)
        if not isinstance(args, dict):
            wrong = f"a table of arguments is needed, not {format_value(args)}"
            return [*faults, WrongValue((*path, "args"), wrong)]
        found = signature.faults(args, {*beside, *provided})
        if _takes_none(args, found):
            given = ", ".join(map(str, args))
            faults.insert(0, Fault((*path, "type"), f"{block['type']} takes none of the arguments that are "
                                                    f"given: {given}. Is it the type that is meant?"))
        faults += [fault.below((*path, "args")) for fault in found]
        return faults + [fault for inner, value in self.inner_blocks(block)
                         for fault in self.faults(value, (*path, *inner))]

    def inner_blocks(self, block) -> list[tuple[tuple, Any]]:
        """(path, block) of the blocks among the arguments of a block; none where nothing has its name."""
        args = args_of(block) if self.nests else {}
        signature = self.signature_of(block["type"]) if args and "type" in block else None
        parameters = signature.free() if signature else {}
        return [(("args", name, *inner), found) for name in parameters if name in args
                for inner, found in nested_blocks(args[name], parameters[name])]

    def _untyped(self, block: dict, path: tuple) -> Fault:
        """What is wrong with a table that has no valid `type`."""
        missing = f"'type' is missing: the name of {self.one}."
        if block.get("type") is not None:
            return WrongValue((*path, "type"), f"{describe_value(block['type'])}; a name is needed. "
                                               f"There are: {self.describe_options()}.")
        for key, value in block.items():
            if key in _CALLED_TYPE and "type" not in block:
                return WrongValue((*path, key), f"{missing} It is not called {key!r} here: "
                                                f"type: {str(value).split('.')[-1]}")
            if len(block) == 1 and isinstance(value, (dict, type(None))) and key in self._known():
                return Fault((*path, key), f"{missing} Write {{type: {key}, args: {{...}}}}.")
        return Fault(path, f"{missing} There are: {self.describe_options()}.")

    def _unknown_key_faults(self, beside: dict, path: tuple, allowed: tuple,
                            parameters: Iterable[str]) -> list[Fault]:
        """The faults of keys that the block must not have."""
        return [Fault((*path, key), f"'{key}' is an argument. Write it under args: args: {{{key}: ...}}")
                if key in parameters else
                UnknownKey.of((*path, key), f"there is no key {key!r} for {self.one}.", allowed,
                              f"Keys: {', '.join(allowed)}.") for key in beside]

    def signature(self, target, provided: Iterable[str] = ()) -> Signature:
        """The arguments that a config may pass to `target`."""
        if self.inputs is not None and not isinstance(target, type):
            return Signature(target, self.inputs)
        return Signature(target, {*self.provided, *provided})

    def signature_of(self, name: Any) -> Signature | None:
        """The arguments of what has this name; None if nothing has."""
        try:
            return self.signature(self.get(name)) if isinstance(name, str) else None
        except ConfigError:
            return None

    def build(self, block, where: str, **provided):
        """Builds what a block names. `provided`: arguments from the program. `where`: the block's section."""
        block = as_block(block)
        target = self.get(block["type"])
        args = _own_copy(block.get("args") or {})  # what is built may change it
        for (_, *above, key), inner in self.inner_blocks(block):
            holder = args[above[0]] if above else args
            holder[key] = self.build(inner, ".".join(map(str, (where, "args", *above, key))))
        try:
            args = self.signature(target, provided).convert(args)
            if self.inputs is not None and not isinstance(target, type):
                return functools.partial(target, **args) if args else target
            thing = target(**provided, **args)
        except ConfigError:
            raise
        except Exception as error:
            argument = argument_named_by(error, args)
            raise ConfigError.at(f"{where}.args.{argument}" if argument else where,
                                 f"{block['type']} could not be built: {describe_error(error)}") from error
        if not self._is_expected(thing):
            raise ConfigError.at(where, f"{block['type']} gives a {type(thing).__name__}; {self.one} is a "
                                        f"{self.expects.__module__}.{self.expects.__qualname__}")
        return thing

    def _is_expected(self, thing: object) -> bool:
        """Whether a built object is of the class of this kind, or has the methods of one."""
        if self.expects is None or isinstance(thing, self.expects):
            return True
        return bool(self.or_has) and all(hasattr(type(thing), method) for method in self.or_has)


def _takes_none(args: dict, faults: Iterable[Fault]) -> bool:
    """Whether several arguments are given, and all of them are unknown: another type may be meant."""
    unknown = {key for fault in faults if isinstance(fault, UnknownKey) for key in fault.path[:1]}
    return len(args) > 1 and unknown == args.keys()


def _own_copy(value):
    """A copy of the tables and lists in a config's value."""
    if isinstance(value, dict):
        return {key: _own_copy(item) for key, item in value.items()}
    return [_own_copy(item) for item in value] if isinstance(value, list) else value


def import_folder(folder: str) -> dict[str, str]:
    """Imports the files of a project folder that are not imported yet. Returns the files that failed, with
    their errors. They are tried again once a file of the folder is new or was changed."""
    stamp = [(file, file.stat().st_mtime_ns) for file in sorted((PROJECT / folder).glob("*.py"))]
    package = folder.replace("/", ".")
    missing = [module for module in pkgutil.iter_modules([str(PROJECT / folder)])
               if f"{package}.{module.name}" not in sys.modules]
    before, errors = _failed.get(folder, (None, {}))
    if stamp == before or not missing:
        return errors if missing else {}
    importlib.invalidate_caches()
    errors = {}
    for module in missing:
        try:
            importlib.import_module(f"{package}.{module.name}")
        except (Exception, SystemExit) as error:
            file = f"{folder}/{module.name}" + ("/__init__.py" if module.ispkg else ".py")
            errors[file] = describe_error(error)
            log.debug("%s could not be imported", file, exc_info=True)
    _failed[folder] = stamp, errors
    return errors


def defined_in(folder: str, kind: type) -> dict[str, type]:
    """The subclasses of `kind` in the files of a project folder, by name; none if there is no such folder."""
    import_folder(folder)
    return {cls.__name__: cls for cls in kind.__subclasses__()
            if cls.__module__.startswith(folder.replace("/", ".") + ".")}


def _file(thing) -> str:
    """`model/lenet.py`, or the name of the module if it is not in the project."""
    stem = thing.__module__.replace(".", "/")  # a module whose import failed is not in sys.modules
    guesses = [PROJECT / f"{stem}.py", PROJECT / stem / "__init__.py"]
    file = (getattr(sys.modules.get(thing.__module__), "__file__", None)
            or next(filter(Path.is_file, guesses), None))
    return str(Path(file).relative_to(PROJECT)) if file and is_ours(str(file)) else thing.__module__
