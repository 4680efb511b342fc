"""Sharded tensors: one archive for each process beside the checkpoint file, which holds their index."""
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from pathlib import Path

import torch

from utils.checkpoint.archive import DamagedError, read_archive, require_space, sync_folder, write_archive
from utils.checkpoint.dcp import AsyncShardSave, load_shards
from utils.checkpoint.state import find_non_finite, map_leaves, num_bytes
from utils.distributed import collectives as dist
from utils.distributed.sharding import distribute_like, is_sharded
from utils.errors import ConfigError

SHARDS_KEY = "shards"  # the key of the index in the state of a checkpoint
_NAME = re.compile(r"shards_\d{1,15}_(\d{1,10})_[0-9a-f]{1,20}")  # step, process, time


def split_sharded(state: dict) -> tuple[dict, dict[tuple, torch.Tensor]]:
    """Returns `state` with None for each sharded tensor, and these tensors by their path, a tuple of keys."""
    found: dict[tuple, torch.Tensor] = {}

    def change(value, path):
        if is_sharded(value):
            found[path] = value
        return None if is_sharded(value) else value

    return map_leaves(state, change), found


class ShardSave:
    """One save of sharded tensors, in progress. Every process makes one at the same time.

    Args:
        tensors: copies, on the CPU.
        folder: where to make the folder of this save.
        step: the number in the folder's name.
    """

    def __init__(self, tensors: Mapping[tuple, torch.Tensor], folder: Path, step: int):
        self._tensors = {"/".join(map(str, path)): tensor for path, tensor in tensors.items()}
        self._paths = dict(zip(self._tensors, tensors, strict=True))
        self._folder, self._step, self._made = folder, step, None
        self._future = self._begin()

    def complete(self) -> dict:
        """Waits until all processes have written their shards. Returns the index on the main process.

        Raises OSError on every process if the disk refuses one shard; another call tries again.
        """
        self._future = self._future or self._begin()
        try:
            index = self._future.result()
        except OSError:
            self._future = None
            if self._made:
                shutil.rmtree(self._made, ignore_errors=True)
            raise
        tensors = [{"path": list(self._paths[name]), **about} for name, about in sorted(index.items())]
        return {"folder": self._made and self._made.name, "num_files": dist.world_size(), "tensors": tensors}

    def _begin(self):
        return AsyncShardSave(self._tensors, self._make_folder, self._write)

    def _make_folder(self) -> str:
        self._made = self._folder / f"shards_{self._step:08d}_{os.getpid()}_{time.time_ns():x}"
        self._made.mkdir()
        return self._made.name

    def _write(self, name: str, number: int, tensors: list[torch.Tensor]) -> None:
        """Writes the file of this process: number `number` of the save called `name`."""
        require_space(self._folder, sum(map(num_bytes, tensors)))
        (self._folder / name).mkdir(exist_ok=True)  # a network disk may show it here only later
        write_archive({"save": name, "file": number, "tensors": tensors},
                      self._folder / name / f"{number}.pt")
        sync_folder(self._folder / name)
        sync_folder(self._folder)


class Shards:
    """The sharded tensors beside a checkpoint. Everything is validated; a mismatch raises ConfigError.

    Args:
        file: the checkpoint.
        state: its state, with the index in it.
        finite: the paths of tensors that were finite when they were saved.
    """

    def __init__(self, file: Path, state: dict, finite: set[tuple] = frozenset()):
        self.file, self.finite = file, finite
        try:
            index = state[SHARDS_KEY]
            self.folder, self.num_files = file.parent / index["folder"], index["num_files"]
            known = (_NAME.fullmatch(index["folder"])
                     and type(self.num_files) is int and 0 < self.num_files < 1_000_000)
            self.tensors = {tuple(about["path"]): about for about in index["tensors"]}
            self._chunks: dict[int, list] = {}
            for path, about in self.tensors.items():
                known = known and _is_none_at(state, path) and self._takes(path, about)
            known = known and self._is_there()
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"{file}: damaged: the index of its shards makes no sense "
                              f"({type(error).__name__})") from error
        if not known:
            raise ConfigError(f"{file}: damaged: the index of its shards makes no sense")

    def _takes(self, path: tuple, about: dict) -> bool:
        """Whether a tensor's chunks make sense and cover it; notes in which files they are."""
        size, chunks = about["size"], about["chunks"]
        numbers = [*size, *(n for offset, sizes, *where in chunks for n in (*offset, *sizes, *where))]
        if not all(type(number) is int and number >= 0 for number in numbers):
            return False
        for offset, sizes, file, number in sorted(chunks):
            if file >= self.num_files or not len(offset) == len(sizes) == len(size):
                return False
            self._chunks.setdefault(file, []).append((path, offset, sizes, number))
        return isinstance(about["dtype"], torch.dtype) and _cover(size, sorted(chunks))

    def _is_there(self) -> bool:
        """Whether the files are about as large as the index claims; tied weights are stored only once."""
        claimed = sum(math.prod(about["size"]) * about["dtype"].itemsize for about in self.tensors.values())
        files = [self.folder / f"{file}.pt" for file in self._chunks]
        if missing := next((file for file in files if not file.exists()), None):
            raise ConfigError(f"{self.file}: a part of it, {missing}, is missing")
        return claimed <= 10 * sum(file.stat().st_size for file in files)

    def verify(self) -> None:
        """Reads all shards. Raises ConfigError if one is damaged."""
        for file in range(self.num_files):
            self.read(file)

    def read(self, file: int) -> list[torch.Tensor]:
        """The tensors in a process's file. Raises ConfigError if it is damaged or contradicts the index."""
        name = self.folder / f"{file}.pt"
        try:
            content = read_archive(name)
        except OSError as error:
            raise ConfigError(f"{self.file}: a part of it, {name}, cannot be read: "
                              f"{error.strerror or error}") from error
        except DamagedError as error:
            raise ConfigError(f"{self.file}: a part of it, {name}, is {error}") from error
        fault = f"{self.file}: damaged: what is in {name} is not what the index says"
        if not isinstance(content, dict) or (
                content.get("save"), content.get("file")) != (self.folder.name, file):
            raise ConfigError(fault)
        tensors = content.get("tensors")
        for path, _, sizes, number in self._chunks.get(file, ()):
            tensor = tensors[number] if isinstance(tensors, list) and number < len(tensors) else None
            if getattr(tensor, "layout", None) != torch.strided or (
                    list(tensor.shape), tensor.dtype) != (list(sizes), self.tensors[path]["dtype"]):
                raise ConfigError(fault)
            if path in self.finite and find_non_finite({"": tensor}) is not None:
                raise ConfigError(f"{self.file}: damaged: the weights of {path[-1]} are not finite")
        return tensors

    def full_state(self, state: dict, but: Mapping[tuple, torch.Tensor] = ()) -> dict:
        """Returns `state` with all tensors put together from their shards; those in `but` are given."""
        found = dict(but)
        for file in range(self.num_files):
            chunks = [chunk for chunk in self._chunks.get(file, ()) if chunk[0] not in but]
            tensors = self.read(file) if chunks else ()
            for path, offset, sizes, number in chunks:
                if path not in found:
                    about = self.tensors[path]
                    found[path] = torch.empty(about["size"], dtype=about["dtype"])
                slices = [slice(first, first + length) for first, length in zip(offset, sizes, strict=True)]
                found[path][tuple(slices)] = tensors[number]
        rest = {name: value for name, value in state.items() if name != SHARDS_KEY}
        return map_leaves(rest, lambda value, path: found.get(path, value))

    def local_shards(self, likes: Mapping[tuple, torch.Tensor]) -> dict[tuple, torch.Tensor]:
        """Loads this process's shard of some tensors, by path, in the layout of `likes`. A collective."""
        names = {path: "/".join(map(str, path)) for path in likes}
        into = {names[path]: torch.empty_like(like, dtype=self.tensors[path]["dtype"], requires_grad=False)
                for path, like in likes.items()}
        load_shards(into, {name: self.tensors[path] for path, name in names.items()}, self.read)
        return {path: into[name] for path, name in names.items()}


def _cover(size: list[int], chunks: Iterable[tuple]) -> bool:
    """Whether chunks, in order, are slices of a tensor along one dimension, without gap or overlap."""
    chunks = [(offset, sizes) for offset, sizes, *_ in chunks if math.prod(sizes)]
    cut = {dim for offset, sizes in chunks for dim, whole in enumerate(size)
           if (offset[dim], sizes[dim]) != (0, whole)}
    if not cut:  # each chunk is the whole tensor
        return len(chunks) == (math.prod(size) > 0)
    dim = min(cut)
    ends = [0, *accumulate(sizes[dim] for _, sizes in chunks)]
    return len(cut) == 1 and ends == [*(offset[dim] for offset, _ in chunks), size[dim]]


def _is_none_at(value, path: tuple) -> bool:
    for key in path:
        value = value[key]
    return value is None


def place_state(state: dict, parts: Mapping) -> dict:
    """Returns a checkpoint's state in the layout of `parts`: full tensors, or shards (then a collective).

    It also works the other way: tensors from one file are sharded over the processes.
    """
    shards: Shards | None = state.get(SHARDS_KEY)
    if dist.world_size() == 1:
        return shards.full_state(state) if shards else state
    _, held = split_sharded({name: part.state_dict() for name, part in parts.items()})

    def like(path: tuple, size) -> torch.Tensor | None:
        tensor = held.get(path)
        if tensor is None and path[1:3] == ("optimizer", "state"):  # not there yet: laid out as its parameter
            parameters = getattr(parts.get(path[0]), "parameters", ())
            tensor = dict(enumerate(parameters)).get(path[3]) if len(path) > 3 else None
        return tensor if is_sharded(tensor) and list(tensor.shape) == list(size) else None

    if shards:
        likes = {path: like(path, about["size"]) for path, about in shards.tensors.items()}
        likes = {path: tensor for path, tensor in likes.items() if tensor is not None}
        return shards.full_state(state, shards.local_shards(likes) if likes else {})

    def change(value, path):
        model = like(path, value.shape) if isinstance(value, torch.Tensor) and not is_sharded(value) else None
        return value if model is None else distribute_like(value, model)

    return map_leaves(state, change)


def remove_unreferenced(folder: Path, is_running: Callable[[int], bool]) -> None:
    """Removes shards that no checkpoint in `folder` refers to, except those of other running processes."""
    made = [(shards, _NAME.fullmatch(shards.name)) for shards in folder.glob("shards_*")
            if not shards.is_symlink()]
    if not made:
        return
    try:
        kept = {_shard_folder_of(file) for file in folder.glob("*.pt")}
    except Exception:  # an unreadable checkpoint may refer to any of them
        return
    for shards, ours in made:
        if ours and shards.name not in kept and (int(ours[1]) == os.getpid() or not is_running(int(ours[1]))):
            shutil.rmtree(shards, ignore_errors=True)


def _shard_folder_of(file: Path) -> str | None:
    """The name of a checkpoint's shard folder, read without loading tensors; raises if it cannot be read."""
    return torch.load(file, map_location="cpu", mmap=True, weights_only=True)["state"].get(
        SHARDS_KEY, {}).get("folder")
