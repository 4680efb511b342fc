"""Checkpoints on disk: written whole or not at all, verified on load, tensors and plain values only."""
import copy
import errno
import logging
import os
import pickle
import shutil
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch

from utils.errors import ConfigError, TrainingError

FORMAT = 1
log = logging.getLogger(__name__)


class CheckpointStore:
    """The `checkpoints/` folder of a run.

    Args:
        folder: made if it is not there; half-written files of killed runs are removed from it.
        config: the resolved config, stored in every checkpoint.
    """

    def __init__(self, folder: Path, config: dict):
        self.folder, self.config = folder, config
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink()

    def save(self, state: dict, names: list[str], weights: Mapping[str, torch.Tensor], keep_last: int | None = None) -> None:
        """Writes `state` once and gives it all `names` (..., "last.pt"), in this order.

        Only then drops the oldest `epoch_NNNN.pt` beyond the newest `keep_last`; None keeps all of them.
        Raises TrainingError where the state cannot be stored, one of `weights` is not finite, or the disk refuses.
        """
        if unstorable := find_unstorable(state, "state"):
            raise TrainingError(f"{unstorable}; a checkpoint holds tensors and plain values only. Convert it in state_dict().")
        if bad := non_finite(weights):
            raise TrainingError(f"the weights of {bad} are not finite; no checkpoint is written. "
                                f"The last good one is in {self.folder}.")
        written = self.folder / f".{names[0]}.{os.getpid()}.tmp"
        try:
            write_durably({"format": FORMAT, "config": self.config, "state": on_cpu(state)}, written)
            for name in names:
                link = self.folder / f".{name}.{os.getpid()}.link.tmp"
                _link_or_copy(written, link)
                os.replace(link, self.folder / name)
        except (OSError, RuntimeError) as error:
            raise TrainingError(f"{self.folder / names[0]}: {_why_not_written(error, self.folder)}") from error
        finally:
            written.unlink(missing_ok=True)
        _sync_folder(self.folder)
        epochs = sorted(self.folder.glob("epoch_*.pt"), key=lambda file: (len(file.name), file.name))
        for old in epochs[:-keep_last] if keep_last else []:
            if old.name not in names:
                old.unlink()


def load_checkpoint(file: Path) -> dict:
    """The content of a checkpoint, on the CPU: `{"format", "config", "state"}`.

    Every record is held against its CRC-32, and unpickling is confined to tensors and plain values: a file from a
    stranger runs no code. Raises ConfigError for whatever is not a whole, sound checkpoint of this format.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if damaged := archive.testzip():
                raise ConfigError(f"{file}: damaged: the checksum of '{damaged}' does not match")
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise ConfigError(f"{file}: refused: it holds more than tensors and plain values "
                          f"({_first_line(error)})") from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError,
            AssertionError) as error:
        raise ConfigError(f"{file}: not a whole checkpoint: {_first_line(error)}") from error
    if not isinstance(content, dict) or content.keys() != {"format", "config", "state"}:
        raise ConfigError(f"{file}: not a checkpoint of this project: 'format', 'config' and 'state' are needed")
    state = content["state"]
    if not isinstance(content["config"], dict) or not isinstance(state, dict) or not {"model", "progress"} <= state.keys():
        raise ConfigError(f"{file}: not a checkpoint of this project: its config or its state is incomplete")
    if content["format"] != FORMAT:
        raise ConfigError(f"{file}: written in checkpoint format {content['format']}; this version reads {FORMAT}")
    return content


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def load_parts(parts: Mapping, state: Mapping, optional: set[str]) -> None:
    """`load_part` for all parts; those in `optional` may stand on either side alone. Raises ConfigError."""
    sides = {"the config builds": parts.keys() - state.keys(), "the checkpoint holds": state.keys() - parts.keys()}
    alone = [f"only {side} {', '.join(sorted(names - optional))}" for side, names in sides.items() if names - optional]
    if alone:
        raise ConfigError(f"the checkpoint does not fit the config: {', and '.join(alone)}")
    for name in sorted(parts.keys() & state.keys()):
        load_part(name, parts[name], state[name])


def load_part(name: str, part, state: dict, file: str = "the checkpoint") -> None:
    """`part.load_state_dict(state)`, with its error shortened to a ConfigError that names the part."""
    try:
        part.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"{file}: '{name}' does not fit what the config builds: {text[:600]}") from error


def on_cpu(value):
    """`value` with its tensors on the CPU, so that any machine can load it; what is there already is not copied."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        moved = copy.copy(value)  # of the same kind: a module's state_dict carries its version along
        for key, inner in value.items():
            moved[key] = on_cpu(inner)
        return moved
    return type(value)(map(on_cpu, value)) if type(value) in (list, tuple) else value


def write_durably(content: dict, file: Path) -> None:
    """torch.save, then fsync: when it returns, the file is on the disk."""
    with open(file, "wb") as handle:
        torch.save(content, handle)
        handle.flush()
        os.fsync(handle.fileno())


def non_finite(weights: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity. Waits for the device once."""
    floats = {name: tensor for name, tensor in weights.items() if tensor.is_floating_point()}
    if not floats:
        return None
    finite = torch.stack([torch.isfinite(tensor).all() for tensor in floats.values()]).tolist()
    return next((name for name, good in zip(floats, finite, strict=True) if not good), None)


def find_unstorable(value, where: str) -> str | None:
    """Which value inside `value` is neither a tensor nor plain, in words; None where all are."""
    if isinstance(value, (torch.Tensor, torch.dtype)) or type(value) in (type(None), bool, int, float, str):
        return None
    if type(value) in (dict, OrderedDict, Counter):
        inner = [(key, f"{where}[{key!r}]") for key in value] + [(v, f"{where}[{k!r}]") for k, v in value.items()]
    elif type(value) in (list, tuple, set, torch.Size):
        inner = [(item, f"{where}[{i}]") for i, item in enumerate(value)]
    else:
        return f"{where} is a {type(value).__module__}.{type(value).__qualname__}"
    return next(filter(None, (find_unstorable(item, name) for item, name in inner)), None)


def _why_not_written(error: BaseException, folder: Path) -> str:
    causes = [error, error.__cause__, error.__context__]  # torch's zip writer hides the OSError behind a RuntimeError
    os_error = next((cause for cause in causes if isinstance(cause, OSError)), None)
    if os_error is None:
        return f"cannot be written: {error}"
    if os_error.errno == errno.ENOSPC:
        return f"no space left: {shutil.disk_usage(folder).free / 1e6:.0f} MB are free"
    return f"cannot be written: {os_error.strerror}"


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
        with open(target, "rb") as handle:
            os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
