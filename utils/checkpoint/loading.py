"""Reading checkpoints: every file is verified, and none runs code."""
from pathlib import Path
from typing import Any

import torch

from utils.checkpoint.archive import DamagedError, read_archive
from utils.checkpoint.format_1 import upgrade
from utils.checkpoint.sharded import SHARDS_KEY, Shards
from utils.checkpoint.state import find_non_finite
from utils.distributed.environment import expected_rank
from utils.errors import ConfigError

FORMAT, VERSION = 2, "1.1.0"  # setup.cfg has the version, too
_KEYS = {1: {"format", "config", "state"}, 2: {"format", "version", "config", "state"}}
# In a file's state: the names of weights that were finite, in "model" and, as loss.NAME, in "loss".
FINITE_WEIGHTS = "finite_weights"
_NOT_OURS = "not a checkpoint of this project: "


def load_checkpoint(file: Path, whole: bool = True) -> dict:
    """Returns a checkpoint's content, on the CPU: `{"format", "version", "config", "state"}`.

    The config is complete, but for that of format 1, which has no `default_values`. Puts sharded tensors
    together. With `whole=False` the main process only verifies them, and the state holds the `Shards` to load
    them from; see `place_state`. Raises ConfigError if the file is not a complete, valid checkpoint with
    finite weights; see `read_archive`.
    """
    content, verified = _read(file)
    content = upgrade(content) if content["format"] == 1 else content
    state = content["state"]
    if SHARDS_KEY in state:
        state[SHARDS_KEY] = _shards(file, state, verified)
        if whole:
            content["state"] = state[SHARDS_KEY].full_state(state)
        elif expected_rank() == 0:
            state[SHARDS_KEY].verify()
    return content


def _read(file: Path) -> tuple[dict, list[str]]:
    """The content of the file itself, and the names of the weights that were finite when it was written."""
    try:
        content = read_archive(file)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from error
    except DamagedError as error:
        raise ConfigError(f"{file}: {error}") from error
    if fault := _content_fault(content):
        raise ConfigError(f"{file}: {fault}")
    verified = content["state"].pop(FINITE_WEIGHTS, [])
    if bad := _find_damaged(content["state"], verified):
        raise ConfigError(f"{file}: damaged: the weights of {bad} are not finite")
    return content, verified


def _content_fault(content: Any) -> str | None:
    """Why the content of a file is not that of a checkpoint which this version reads; None if it is."""
    if not isinstance(content, dict) or not {"format", "config", "state"} <= content.keys():
        return f"{_NOT_OURS}'format', 'config' and 'state' are needed"
    number, config, state = content["format"], content["config"], content["state"]
    if type(number) is int and number > FORMAT:
        return (f"written by a newer version ({content.get('version')}), in checkpoint format {number}. This "
                f"is version {VERSION}, which reads formats 1 to {FORMAT}: bring the project up to date.")
    if type(number) is not int or number not in _KEYS:
        return f"written in checkpoint format {number}; this version reads 1 to {FORMAT}"
    if not isinstance(config, dict) or not isinstance(state, dict) or not _is_config(config):
        return f"{_NOT_OURS}config and state are needed, as tables"
    if content.keys() != _KEYS[number]:
        return f"{_NOT_OURS}one of its format holds {', '.join(sorted(_KEYS[number]))}"
    return _state_fault(state)


def _is_config(value) -> bool:
    """Whether a value could stand in a config: no tensors, and tables whose keys are names or numbers."""
    if isinstance(value, dict):
        return all(isinstance(key, (str, int, float)) and _is_config(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_config, value))
    return not isinstance(value, torch.Tensor)


def _shards(file: Path, state: dict, verified: list[str]) -> Shards:
    paths = {path for name in verified for path in (
        ("model", name), ("ema", "model", name), ("loss", name.removeprefix("loss.")))}
    return Shards(file, state, paths)


def consolidate_shards(file: Path) -> dict:
    """Returns a sharded checkpoint as the content of one file. ConfigError if it is one file already."""
    content, verified = _read(file)
    state = content["state"]
    if SHARDS_KEY not in state:
        raise ConfigError(f"{file}: is whole already: all of its tensors are in this one file")
    return {**content, "state": {**_shards(file, state, verified).full_state(state),
                                 FINITE_WEIGHTS: verified}}


def _state_fault(state: dict) -> str | None:
    """Why a state is not a valid state of this project; None if it is."""
    model, progress, verified = state.get("model"), state.get("progress"), state.get(FINITE_WEIGHTS, [])
    if not isinstance(model, dict) or not isinstance(progress, dict):
        return f"{_NOT_OURS}its state is incomplete"
    counts = [progress.get("samples", 0), *(progress.get(name) for name in ("epoch", "batch", "step"))]
    if not all(type(count) is int and count >= 0 for count in counts):
        return f"{_NOT_OURS}its progress is not epoch, batch and step"
    if not isinstance(verified, list) or not all(isinstance(name, str) for name in verified):
        return f"{_NOT_OURS}the names of its weights are no list of text"
    return None


def _find_damaged(state: dict, verified: list[str]) -> str | None:
    """The name of weights that were finite when they were written, and are not; None if there are none."""
    average, loss = state.get("ema"), state.get("loss")
    loss = {f"loss.{name}": value for name, value in loss.items()} if isinstance(loss, dict) else {}
    for weights in (state["model"], loss, average.get("model") if isinstance(average, dict) else None):
        tensors = weights if isinstance(weights, dict) else {}
        if bad := find_non_finite({name: tensors[name] for name in verified
                                   if isinstance(tensors.get(name), torch.Tensor)}):
            return bad
    return None


def is_valid_checkpoint(file: Path) -> bool:
    """Whether `load_checkpoint` accepts the file."""
    try:
        return bool(load_checkpoint(file, whole=False))
    except ConfigError:
        return False


def step_of(file: Path) -> float:
    """The optimizer step of a checkpoint, read without loading tensors; infinity if it cannot be read."""
    try:
        step = torch.load(file, map_location="cpu", mmap=True, weights_only=True)["state"]["progress"]["step"]
    except Exception:  # loading the checkpoint will report the error
        return float("inf")
    return step if type(step) is int else float("inf")
