"""Checkpoints on disk: complete or not written, verified on load, tensors and plain values only."""
import errno
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from utils.checkpoint.archive import require_space, sync_folder, write_archive
from utils.checkpoint.loading import FINITE_WEIGHTS, FORMAT, VERSION, is_valid_checkpoint
from utils.checkpoint.sharded import SHARDS_KEY, ShardSave, remove_unreferenced, split_sharded
from utils.checkpoint.state import StateCopier, find_non_finite, find_unstorable, iter_tensors, num_bytes
from utils.distributed import collectives as dist
from utils.errors import TrainingError

log = logging.getLogger(__name__)
PATIENCE_S = 60.0  # how long saves have to fail before they end a run


class SavePolicy(NamedTuple):
    """How a CheckpointStore saves.

    `background`: a thread writes while training continues. `max_failures`: how many failures in a row end the
    run, once they have lasted for a minute: a disk that others fill may soon have space again. 1: at once.
    `keep_last`: how many `epoch_NNNN.pt` to keep, None for all.
    """

    background: bool = True
    max_failures: int = 3
    keep_last: int | None = None


class CheckpointStore:
    """The `checkpoints/` folder of a run.

    Args:
        folder: created if missing; incomplete files of killed runs are removed from it.
        config: the complete config, stored in every checkpoint.
        resumed_from: the checkpoint that the run resumes from; if it is in this folder it is never pruned.
    """

    def __init__(self, folder: Path, config: dict, resumed_from: Path | None = None):
        self.folder, self.config = folder, config
        self.num_failures, self._failure = 0, ""  # failures in a row; the message of the last one
        self._first_failed_at = self._failing_s = 0.0  # of that row: its start, its time up to the last one
        self._resumed_from = resumed_from.name if resumed_from else None
        self._last_is_valid = self._resumed_from == "last.pt" or (
            resumed_from is not None and is_valid_checkpoint(folder / "last.pt"))
        self._copies, self._policy = StateCopier(), SavePolicy()
        self._owed: dict[str, _PendingSave] = {}  # names that were not written, and what they should hold
        self._writer: threading.Thread | None = None
        self._bug: BaseException | None = None
        self._report: Callable[[Path, int, bool], None] | None = None
        self._open()

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)

    def save(self, state: dict, names: list[str], weights: Mapping[str, torch.Tensor],
             policy: SavePolicy) -> None:
        """Writes `state` once and gives it all `names` (..., "last.pt"), in this order; one save at a time.

        The old "last.pt", if it is valid, becomes "previous.pt", so damage to one file does not lose the run.
        If the disk refuses a save, it logs an error, keeps old files, and the next save adds missing names
        except "last.pt". Raises TrainingError if state cannot be stored, weights are not finite, or too many
        saves failed in a row, for too long.
        """
        if unstorable := find_unstorable(state, "state"):
            raise TrainingError(f"{unstorable}; a checkpoint holds tensors and plain values only. "
                                "Convert it in state_dict().")
        rest, shards = split_sharded(state) if dist.world_size() > 1 else (state, {})
        found = find_non_finite(weights)
        if bad := next(filter(None, dist.all_gather_object(found)), None) if shards else found:
            raise TrainingError(f"the weights of {bad} are not finite; no checkpoint is written. "
                                f"The last good one is in {self.folder}.")
        self.join()
        self.check()
        self._policy = policy
        copied = self._copies.copy({"rest": rest, "shards": shards})
        content = {"format": FORMAT, "version": VERSION, "config": self.config,
                   "state": {**copied["rest"], FINITE_WEIGHTS: list(weights)}}
        saving = _PendingSave(
            content, ShardSave(copied["shards"], self.folder, state["progress"]["step"]) if shards else None)
        self._writer = threading.Thread(target=self._write_all, args=(saving, names),
                                        name="checkpoint writer")
        self._writer.start()
        if not policy.background:
            self.join()
            self.check()

    def report_to(self, report: Callable[[Path, int, bool], None]) -> None:
        """The saving thread calls `report(file, epoch, is_best)` for each file that is safely on disk."""
        self._report = report

    def join(self) -> None:
        """Waits until the last save is on disk or has failed."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def check(self) -> None:
        """Raises errors of a background save: TrainingError after too many failures in a row."""
        if self._bug is not None:
            raise self._bug
        if self._has_failed_too_often():
            raise TrainingError(f"{self._failure} (failure {self.num_failures} in a row, which ends the "
                                f"run). What was saved before is in {self.folder}.")

    def _has_failed_too_often(self) -> bool:
        most = self._policy.max_failures
        return self.num_failures >= most and (most == 1 or self._failing_s >= PATIENCE_S)

    def finish(self) -> None:
        """Calls `join`. Raises TrainingError if the last save failed."""
        self.join()
        self.check()
        if self.num_failures:
            raise TrainingError(f"{self._failure}. What was saved before is in {self.folder}.")

    def _write_all(self, saving: "_PendingSave", names: list[str]) -> None:
        owed = {name: earlier for name, earlier in self._owed.items() if name not in names}
        try:
            # all processes wait for each other here, so it comes before what may fail on one of them
            for one in (saving, *owed.values()):
                one.complete()
            for name, earlier in owed.items():
                self._write(earlier.content, [name])
            self._write(saving.content, names)
            self.num_failures, self._owed = 0, {}
            self._prune(saving.content["state"]["progress"]["epoch"], {*names, self._resumed_from})
        except OSError as error:
            self._owed = {**owed, **{name: saving for name in names if name != "last.pt"}}
            self._copies = StateCopier()  # the old copies hold the saves that are owed
            self._note_failure()
            self._failure = f"{self.folder / names[-1]}: not saved: {_reason(error)}"
            if not self._has_failed_too_often() and dist.is_main():  # else `check` raises
                log.error("%s (failure %d in a row, %d end the run after a minute; "
                          "what was saved before stays)",
                          self._failure, self.num_failures, self._policy.max_failures)
        except BaseException as error:  # `check` raises it in the loop
            self._bug = error

    def _note_failure(self) -> None:
        now = time.monotonic()
        if self.num_failures == 0:
            self._first_failed_at = now
        self.num_failures += 1
        self._failing_s = now - self._first_failed_at

    def _write(self, content: dict, names: list[str]) -> None:
        require_space(self.folder, sum(map(num_bytes, iter_tensors(content))))
        written = self.folder / f".{names[0]}.{os.getpid()}.tmp"
        try:
            write_archive(content, written)
            if "last.pt" in names and self._last_is_valid and (self.folder / "last.pt").exists():
                _link_as(self.folder / "last.pt", "previous.pt")
            for name in names:
                _link_as(written, name)
            self._last_is_valid = self._last_is_valid or "last.pt" in names
        finally:
            written.unlink(missing_ok=True)
        sync_folder(self.folder)
        for name in names if self._report else ():
            self._report(self.folder / name, content["state"]["progress"]["epoch"], "best.pt" in names)

    def _prune(self, epoch: int, spared: set) -> None:
        """Removes the oldest epochs. Ignores epochs above `epoch`: a resume has abandoned them."""
        numbers = {file: int(file.stem[6:]) for file in self.folder.glob("epoch_*.pt")
                   if file.stem[6:].isdigit()}
        past = sorted((file for file, number in numbers.items() if number <= epoch), key=numbers.get)
        for old in past[: -self._policy.keep_last] if self._policy.keep_last else []:
            if old.name not in spared:
                try:
                    old.unlink()
                except OSError as error:
                    log.warning("%s: cannot be removed: %s", old, _reason(error))
        remove_unreferenced(self.folder, _is_running)


class _PendingSave:
    """The content to write, and its sharded tensors, if any, which all processes write together."""

    def __init__(self, content: dict, shards: ShardSave | None):
        self.content, self._shards = content, shards

    def complete(self) -> None:
        """Waits until the shards are on disk. Raises OSError on all processes alike."""
        if self._shards:
            self.content["state"][SHARDS_KEY] = self._shards.complete()
            self._shards = None


class ShardStore(CheckpointStore):
    """The CheckpointStore of a process that is not the main one. It writes only its shards, if any."""

    def _open(self) -> None:
        """Only the main process opens the folder, writes the checkpoint file and prunes."""

    def save(self, state: dict, names: list[str], weights: Mapping[str, torch.Tensor],
             policy: SavePolicy) -> None:
        if split_sharded(state)[1]:
            super().save(state, names, weights, policy)

    def _write(self, content: dict, names: list[str]) -> None: ...

    def _prune(self, epoch: int, spared: set) -> None: ...


def remove_leftovers(folder: Path) -> None:
    """Removes files that killed saves left behind. Files of a running process stay."""
    for leftover in folder.glob(".*.tmp"):
        ours = re.fullmatch(r"\..+\.pt\.(\d{1,9})(\.link)?\.tmp", leftover.name)
        if ours and (int(ours[1]) == os.getpid() or not _is_running(int(ours[1]))):
            leftover.unlink(missing_ok=True)
    remove_unreferenced(folder, _is_running)


def _is_running(process_number: int) -> bool:
    try:
        if os.name == "posix":  # elsewhere this would end the process
            os.kill(process_number, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        pass
    return True


def _link_as(file: Path, name: str) -> None:
    """Gives `file` another name in the same folder, atomically, as a hard link or else as a copy."""
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
