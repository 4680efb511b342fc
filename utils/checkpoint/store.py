"""Checkpoints on disk: written whole or not at all, verified on load, tensors and plain values only."""
import errno
import logging
import os
import re
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from utils import dist
from utils.archive import DamagedError, read_archive, require_space, sync_folder, write_archive
from utils.errors import ConfigError, TrainingError
from utils.launch import expected_rank
from utils.shards import KEY, PartsSave, Shards, remove_unreferenced, take_out
from utils.state import Copies, find_unstorable, non_finite, num_bytes, tensors_in

FORMAT = 1
_VERIFIED = "finite_weights"  # in a file's state: the names in "model" and, as loss.NAME, in "loss" that were finite
log = logging.getLogger(__name__)


class SavePolicy(NamedTuple):
    """How a CheckpointStore saves.

    `background`: a thread writes, while training goes on. `max_failures`: how many saves in a row may fail. `keep_last`:
    how many `epoch_NNNN.pt` to keep, None for all.
    """

    background: bool = True
    max_failures: int = 3
    keep_last: int | None = None


class CheckpointStore:
    """The `checkpoints/` folder of a run.

    Args:
        folder: made if it is not there; half-written files of killed runs are removed from it.
        config: the resolved config, stored in every checkpoint.
        resumed_from: the checkpoint that the run goes on from; if it lies here it is never pruned.
    """

    def __init__(self, folder: Path, config: dict, resumed_from: Path | None = None):
        self.folder, self.config = folder, config
        self.num_failures, self._failure = 0, ""  # in a row, and what the last one was
        self._resumed_from = resumed_from.name if resumed_from else None
        self._last_is_sound = self._resumed_from == "last.pt" or (resumed_from is not None and is_sound(folder / "last.pt"))
        self._copies, self._owed, self._policy = Copies(), {}, SavePolicy()
        self._writer: threading.Thread | None = None
        self._bug: BaseException | None = None
        self._open()

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)

    def save(self, state: dict, names: list[str], weights: Mapping[str, torch.Tensor], policy: SavePolicy) -> None:
        """Writes `state` once and gives it all `names` (..., "last.pt"), in this order; one save at a time.

        What was "last.pt" becomes "previous.pt": no damage to one file costs the run. A save that the disk refuses is an
        error in the log: what was saved before stays, and names but "last.pt" are made up for with the next save. Raises
        TrainingError where the state cannot be stored, one of `weights` is not finite, or too many saves in a row failed.
        """
        if unstorable := find_unstorable(state, "state"):
            raise TrainingError(f"{unstorable}; a checkpoint holds tensors and plain values only. Convert it in state_dict().")
        rest, parts = take_out(state)
        if bad := _non_finite_anywhere(weights) if parts else non_finite(weights):
            raise TrainingError(f"the weights of {bad} are not finite; no checkpoint is written. "
                                f"The last good one is in {self.folder}.")
        self.join()
        self.check()
        self._policy = policy
        copied = self._copies.of({"rest": rest, "parts": parts})
        content = {"format": FORMAT, "config": self.config, "state": {**copied["rest"], _VERIFIED: list(weights)}}
        saving = _Saving(content, PartsSave(copied["parts"], self.folder, state["progress"]["step"]) if parts else None)
        self._writer = threading.Thread(target=self._write_all, args=(saving, names), name="checkpoint writer")
        self._writer.start()
        if not policy.background:
            self.join()
            self.check()

    def join(self) -> None:
        """Until what was saved is on the disk, or has failed to get there."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def check(self) -> None:
        """Raises what a save in the background ran into: TrainingError after too many failures in a row."""
        if self._bug is not None:
            raise self._bug
        if self.num_failures >= self._policy.max_failures:
            raise TrainingError(f"{self._failure} (failure {self.num_failures} in a row, which ends the run). "
                                f"What was saved before is in {self.folder}.")

    def finish(self) -> None:
        """`join`; raises TrainingError where the last save failed."""
        self.join()
        self.check()
        if self.num_failures:
            raise TrainingError(f"{self._failure}. What was saved before is in {self.folder}.")

    def _write_all(self, saving: "_Saving", names: list[str]) -> None:
        owed = {name: earlier for name, earlier in self._owed.items() if name not in names}
        try:
            for one in (saving, *owed.values()):  # a matter of all processes: before anything that can fail here alone
                one.complete()
            for name, earlier in owed.items():
                self._write(earlier.content, [name])
            self._write(saving.content, names)
            self.num_failures, self._owed = 0, {}
            self._prune(saving.content["state"]["progress"]["epoch"], {*names, self._resumed_from})
        except OSError as error:
            self._owed = {**owed, **{name: saving for name in names if name != "last.pt"}}
            self._copies = Copies()  # the old ones hold what is owed
            self.num_failures += 1
            self._failure = f"{self.folder / names[-1]}: not saved: {_reason(error)}"
            if self.num_failures < self._policy.max_failures and dist.is_main():  # else `check` says it
                log.error("%s (failure %d in a row, %d end the run; what was saved before stays)",
                          self._failure, self.num_failures, self._policy.max_failures)
        except BaseException as error:  # surfaces in the loop
            self._bug = error

    def _write(self, content: dict, names: list[str]) -> None:
        require_space(self.folder, sum(map(num_bytes, tensors_in(content))))
        written = self.folder / f".{names[0]}.{os.getpid()}.tmp"
        try:
            write_archive(content, written)
            if "last.pt" in names and self._last_is_sound and (self.folder / "last.pt").exists():
                _give_name(self.folder / "last.pt", "previous.pt")
            for name in names:
                _give_name(written, name)
            self._last_is_sound = self._last_is_sound or "last.pt" in names
        finally:
            written.unlink(missing_ok=True)
        sync_folder(self.folder)

    def _prune(self, epoch: int, spared: set) -> None:
        """Drops the oldest epochs; those above `epoch`, of a future that was abandoned by a resume, do not count."""
        numbers = {file: int(file.stem[6:]) for file in self.folder.glob("epoch_*.pt") if file.stem[6:].isdigit()}
        past = sorted((file for file, number in numbers.items() if number <= epoch), key=numbers.get)
        for old in past[: -self._policy.keep_last] if self._policy.keep_last else []:
            if old.name not in spared:
                try:
                    old.unlink()
                except OSError as error:
                    log.warning("%s: cannot be removed: %s", old, _reason(error))
        remove_unreferenced(self.folder, _is_running)


class _Saving:
    """What is to be written; parts of it, maybe, by all processes together."""

    def __init__(self, content: dict, parts: PartsSave | None):
        self.content, self._parts = content, parts

    def complete(self) -> None:
        """Until the parts are on the disk; raises OSError on all processes alike."""
        if self._parts:
            self.content["state"][KEY] = self._parts.complete()
            self._parts = None


class PartsStore(CheckpointStore):
    """The CheckpointStore of a process that is not the main one: writes its part of tensors that are in parts, or nothing."""

    def _open(self) -> None:
        """The main process does it, and what follows."""

    def save(self, state: dict, names: list[str], weights: Mapping[str, torch.Tensor], policy: SavePolicy) -> None:
        if take_out(state)[1]:
            super().save(state, names, weights, policy)

    def _write(self, content: dict, names: list[str]) -> None: ...

    def _prune(self, epoch: int, spared: set) -> None: ...


def _non_finite_anywhere(weights: Mapping[str, torch.Tensor]) -> str | None:
    """`non_finite` of what any process holds; the same on all."""
    return next(filter(None, dist.all_gather_object(non_finite(weights))), None)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed saves left behind; what a process that is running has under way stays."""
    for leftover in folder.glob(".*.tmp"):
        ours = re.fullmatch(r"\..+\.pt\.(\d{1,9})(\.link)?\.tmp", leftover.name)
        if ours and (int(ours[1]) == os.getpid() or not _is_running(int(ours[1]))):
            leftover.unlink(missing_ok=True)
    remove_unreferenced(folder, _is_running)


def _is_running(process_number: int) -> bool:
    try:
        if os.name == "posix":  # elsewhere this would end it
            os.kill(process_number, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True


def _give_name(file: Path, name: str) -> None:
    """Another name in the same folder for what is in `file`, from one moment to the next; a link, or else a copy."""
    link = file.parent / f".{name}.{os.getpid()}.link.tmp"
    link.unlink(missing_ok=True)
    try:
        try:
            os.link(file, link)
        except OSError:  # a file system without hard links
            shutil.copyfile(file, link)
            with open(link, "rb") as handle:
                os.fsync(handle.fileno())
        os.replace(link, file.parent / name)
    finally:
        link.unlink(missing_ok=True)


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"no space left on the disk: {error.strerror}"
    return error.strerror or str(error)


def load_checkpoint(file: Path, whole: bool = True) -> dict:
    """The content of a checkpoint, on the CPU: `{"format", "config", "state"}`.

    Tensors that lie beside it in parts are put together. Without `whole` they are only looked at, by the main process, and
    the state holds the `Shards` to get them from; see `placed`. Raises ConfigError for whatever is not a whole, sound
    checkpoint of this format with finite weights; see `read_archive`.
    """
    content, verified = _read(file)
    state = content["state"]
    if KEY in state:
        state[KEY] = _shards(file, state, verified)
        if whole:
            content["state"] = state[KEY].whole(state)
        elif expected_rank() == 0:
            state[KEY].verify()
    return content


def _read(file: Path) -> tuple[dict, list[str]]:
    """What is in the file itself, and the names of the weights that were finite when it was written."""
    try:
        content = read_archive(file)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from error
    except DamagedError as error:
        raise ConfigError(f"{file}: {error}") from error
    if not isinstance(content, dict) or content.keys() != {"format", "config", "state"}:
        raise ConfigError(f"{file}: not a checkpoint of this project: 'format', 'config' and 'state' are needed")
    if type(content["format"]) is not int or content["format"] != FORMAT:
        raise ConfigError(f"{file}: written in checkpoint format {content['format']}; this version reads {FORMAT}")
    config, state = content["config"], content["state"]
    if not isinstance(config, dict) or not isinstance(state, dict) or any(True for _ in tensors_in(config)):
        raise ConfigError(f"{file}: not a checkpoint of this project: config and state are needed, as tables")
    verified = state.get(_VERIFIED, [])
    if fault := _state_fault(state):
        raise ConfigError(f"{file}: {fault}")
    return content, verified


def _shards(file: Path, state: dict, verified: list[str]) -> Shards:
    return Shards(file, state, {path for name in verified for path in _paths_of(name)})


def _paths_of(name: str) -> list[tuple]:
    """Where in a state a weight stands that is called `name` among the verified ones."""
    return [("model", name), ("ema", "model", name), ("loss", name.removeprefix("loss."))]


def put_together(file: Path) -> dict:
    """The content of the ordinary file for a checkpoint whose tensors lie in parts; ConfigError where it is one already."""
    content, verified = _read(file)
    state = content["state"]
    if KEY not in state:
        raise ConfigError(f"{file}: is whole already: all of its tensors are in this one file")
    return {**content, "state": {**_shards(file, state, verified).whole(state), _VERIFIED: verified}}


def _state_fault(state: dict) -> str | None:
    """What keeps a state from being one of this project; None where nothing does."""
    model, progress = state.get("model"), state.get("progress")
    if not isinstance(model, dict) or not isinstance(progress, dict):
        return "not a checkpoint of this project: its state is incomplete"
    if not all(type(progress.get(name)) is int and progress[name] >= 0 for name in ("epoch", "batch", "step")):
        return "not a checkpoint of this project: its progress is not epoch, batch and step"
    verified, average = state.pop(_VERIFIED, []), state.get("ema")
    if not isinstance(verified, list) or not all(isinstance(name, str) for name in verified):
        return "not a checkpoint of this project: the names of its weights are no list of text"
    loss = {f"loss.{name}": value for name, value in state["loss"].items()} if isinstance(state.get("loss"), dict) else {}
    for weights in (model, loss, average.get("model") if isinstance(average, dict) else None):
        tensors = weights if isinstance(weights, dict) else {}
        if bad := non_finite({name: tensors[name] for name in verified if isinstance(tensors.get(name), torch.Tensor)}):
            return f"damaged: the weights of {bad} are not finite"
    return None


def is_sound(file: Path) -> bool:
    """Whether `load_checkpoint` takes it."""
    try:
        return bool(load_checkpoint(file, whole=False))
    except ConfigError:
        return False


def step_of(file: Path) -> float:
    """The optimizer step that a checkpoint was written at, at a glance; infinity where it cannot be read."""
    try:
        step = torch.load(file, map_location="cpu", mmap=True, weights_only=True)["state"]["progress"]["step"]
    except Exception:  # whatever is wrong with it will show when it is loaded
        return float("inf")
    return step if type(step) is int else float("inf")
