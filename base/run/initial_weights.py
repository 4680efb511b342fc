"""The weights that a new run begins with, from a checkpoint or from a file of another program."""
import fnmatch
import logging
import pickle
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from base.base_model import some_names
from base.run.checkpoints import evaluated_weights, open_checkpoint
from utils.checkpoint.archive import DamagedError, read_archive
from utils.config.suggestions import suggest_name
from utils.errors import ConfigError, describe_error

log = logging.getLogger(__name__)
_WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before each name


def initialize_weights(model: nn.Module, init: Sequence[Mapping] | None, init_from: Path | None) -> None:
    """Loads the weights that a new run begins with, and logs what fitted. Raises ConfigError.

    `init`: the section of the config. `init_from`: the path on the command line, in its place.
    """
    if init and init_from:
        raise ConfigError.at("init", "--init-from is given, too. Leave out one of the two.")
    for number, item in enumerate(init or ()):
        try:
            load_initial_weights(model, **{"path" if key == "from" else key: value
                                           for key, value in item.items()})
        except ConfigError as error:
            raise ConfigError.at(f"init.{number}", str(error)) from error
    if init_from:
        load_initial_weights(model, init_from)


def load_initial_weights(model: nn.Module, path: Path | str, into: str = "",
                         rename: Mapping[str, str] | None = None, skip: Sequence[str] = ()) -> str:
    """Loads the tensors of a file that fit the model, by name and shape; returns a report on all of them.

    Of our checkpoints averaged weights come before plain ones. Logs counts, by part of the model. Raises
    ConfigError if nothing fits, and for a prefix or a pattern that no name has. The arguments: see `init` in
    tools/reference/section_texts.py.
    """
    parts = dict(model.named_modules())
    if into not in parts:
        raise ConfigError(f"the model has no part '{into}'.{suggest_name(into, parts)}")
    file, found = read_weights(Path(path))
    wanted = _tensors_in(parts[into].state_dict())
    match = _match(_renamed(found, rename or {}, wanted), wanted, skip)
    if not match.loaded or (unused := {pattern for pattern in skip
                                       if not fnmatch.filter(match.skipped, pattern)}):
        what = f"'{min(unused)}' of skip is no name's pattern" if match.loaded else "no tensor fits the model"
        raise ConfigError(f"{file}: {what}. It has: {some_names(found)}; the model: {some_names(wanted)}")
    parts[into].load_state_dict(match.loaded, strict=False)
    report = match.report()
    log.info("Weights from %s%s: %s", file, into and f" into {into}", _summary(report, wanted))
    details = "\n".join(f"  {len(names):4d} {what}: {', '.join(names)}"
                        for what, names in report.items() if names)
    log.debug("%s", details)
    return details


class _Match(NamedTuple):
    """The tensors of a model, of a file without the skipped ones, and of both that fit.

    `skipped`: the skipped names.
    """

    wanted: dict[str, torch.Tensor]
    given: dict[str, torch.Tensor]
    loaded: dict[str, torch.Tensor]
    skipped: list[str]

    def report(self) -> dict[str, list[str]]:
        """The names of all tensors, by what becomes of them."""
        known, left_out = {*self.given, *self.skipped}, self.given.keys() - self.loaded.keys()
        return {
            "loaded": list(self.loaded), "skipped": self.skipped,
            "missing (keep their first values)": [name for name in self.wanted if name not in known],
            "unexpected (left out)": [name for name in self.given if name not in self.wanted],
            "mismatched (left out)": [
                f"{name} {list(self.given[name].shape)}, not {list(value.shape)}"
                for name, value in self.wanted.items() if name in left_out]}


def _match(given: Mapping[str, torch.Tensor], wanted: dict[str, torch.Tensor], skip: Sequence[str]) -> _Match:
    skipped = [name for name in {**wanted, **given}
               if any(fnmatch.fnmatch(name, pattern) for pattern in skip)]
    given = {name: value for name, value in given.items() if name not in skipped}
    loaded = {name: value for name, value in given.items()
              if name in wanted and value.shape == wanted[name].shape}
    return _Match(wanted, given, loaded, skipped)


def _tensors_in(table: Mapping) -> dict[str, torch.Tensor]:
    return {name: value for name, value in table.items()
            if isinstance(name, str) and isinstance(value, torch.Tensor)}


def _summary(report: Mapping[str, list[str]], wanted: Mapping) -> str:
    """How much was loaded, by part of the model, and counts of the others; names where the shapes differ."""
    loaded, there = (Counter(name.split(".")[0] for name in names) for names in (report["loaded"], wanted))
    parts = ", ".join(f"{part} {loaded[part]} of {number}" for part, number in there.items())
    lines = [f"{len(report['loaded'])} of {len(wanted)} tensors ({parts})"]
    for what, names in report.items():
        shown = f": {', '.join(names)}" if what.startswith("mismatched") else ""
        if names and what != "loaded":
            lines.append(f"  {len(names)} {what}{shown}")
    return "\n".join(lines)


def _renamed(found: Mapping, rename: Mapping[str, str], wanted: Mapping) -> dict[str, torch.Tensor]:
    """The tensors by their names in the model: without the prefixes of wrappers, and renamed."""
    given: dict[str, torch.Tensor] = {}
    used = set()
    for name, value in found.items():
        while name.startswith(_WRAPPERS) and name not in wanted and not name.startswith(tuple(rename)):
            name = name.partition(".")[2]
        old = next(filter(name.startswith, rename), "")
        used.add(old)
        name = rename.get(old, "") + name.removeprefix(old)
        if name in given:
            raise ConfigError(f"rename gives two tensors the name '{name}'")
        given[name] = value
    if unused := rename.keys() - used:
        raise ConfigError(f"no name begins with '{min(unused)}'. There are: {some_names(found)}")
    return given


def read_weights(path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """The file that a path means, and its tensors by name. No file runs code.

    It is one of our checkpoints, a run or an experiment, or a file of tensors: a state_dict, also under
    "state_dict" or "model", or .safetensors. Raises ConfigError for anything else.
    """
    content = _read_file(path) if path.is_file() else None
    if content is None or isinstance(content, dict) and {"format", "config", "state"} <= content.keys():
        checkpoint = open_checkpoint(path, ("best.pt", "last.pt"))
        return checkpoint.file, evaluated_weights(checkpoint.state)
    for key in ("state_dict", "model"):
        inner = content.get(key) if isinstance(content, dict) else None
        content = inner if isinstance(inner, dict) else content
    tensors = _tensors_in(content) if isinstance(content, dict) else {}
    if not tensors:
        names = ", ".join(map(str, content)) if isinstance(content, dict) else ""
        there = names or f"a {type(content).__name__}"
        raise ConfigError(f"{path}: holds {there[:200]}; a state_dict is needed, the tensors by their names, "
                          "or one under 'state_dict' or 'model'")
    return path, tensors


def _read_file(file: Path) -> Any:
    """The content of a file of tensors and plain values. Raises ConfigError."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file  # a library that other files do not need

            return load_file(file)
        return (read_archive(file) if zipfile.is_zipfile(file)
                else torch.load(file, map_location="cpu", weights_only=True))  # of torch before 1.6
    except ImportError as error:
        raise ConfigError(f"{file}: reading it needs a library: pip install safetensors") from error
    except Exception as error:  # random bytes can raise anything in an unpickler
        if isinstance(error, DamagedError) and not isinstance(error.__cause__, pickle.UnpicklingError):
            open_checkpoint(file, ())  # its error names a sound one beside it
        if isinstance(error.__cause__ or error, pickle.UnpicklingError):
            raise ConfigError(f"{file}: refused: holds more than tensors and plain values, or is no file of "
                              "torch.save. Where it is from, write the weights alone: "
                              "torch.save(model.state_dict(), FILE); see docs/migrate.md") from error
        raise ConfigError(f"{file}: is damaged, or no file of weights: {describe_error(error)}") from error
