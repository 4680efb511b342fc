"""Saves and loads sharded tensors with torch.distributed.checkpoint, in files of the caller's own format.

Its own files are pickles, which can run code from their author. Here its planners assign the shards, its
collectives synchronize the processes, and the caller writes and reads lists of tensors.
"""
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch

from utils.distributed.sharding import background_group, distributed_checkpoint


class AsyncShardSave:
    """Saves DTensors in the background. The constructor is a collective.

    Args:
        tensors: on the CPU; they must not change during the save.
        begin: called by the main process; its result is passed to `write`.
        write: `write(begun, rank, shards)`, called by each process, stores the shards of this process.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], begin: Callable[[], str],
                 write: Callable[[str, int, list[torch.Tensor]], None]):
        dcp = distributed_checkpoint()

        class Stager(dcp.staging.AsyncStager):  # the tensors are copies already
            should_synchronize_after_execute = False

            def stage(self, state_dict):
                return state_dict

        self._writer = _storage_writer(dcp, begin, write)
        self._future = dcp.async_save(dict(tensors), storage_writer=self._writer,
                                      process_group=background_group(), async_stager=Stager())

    def result(self) -> dict:
        """Waits for all processes. Raises the error of any of them. The main process gets the index:

        `{name: {"dtype", "size", "chunks": [[offset, sizes, rank, number], ...]}}`, `number` within a rank.
        """
        with _failure_of_any():
            self._future.result()
        return self._writer.index


def load_shards(tensors: Mapping[str, torch.Tensor], index: Mapping[str, dict],
                read: Callable[[int], list[torch.Tensor]]) -> None:
    """Fills DTensors with shards saved by any number of processes. A collective; raises errors of any rank.

    `index` is the result of `AsyncShardSave`. `read(rank)` returns the shards that this rank wrote.
    """
    dcp = distributed_checkpoint()
    with _failure_of_any():
        dcp.load(dict(tensors), storage_reader=_storage_reader(dcp, index, read))


@contextmanager
def _failure_of_any() -> Iterator[None]:
    """Context: raises one of the errors that the processes have exchanged, OSError (a full disk) last."""
    try:
        yield
    except distributed_checkpoint().api.CheckpointException as failed:
        errors = [error for _, (error, _) in sorted(failed.failures.items())]
        raise next((error for error in errors if not isinstance(error, OSError)), errors[0]) from failed


class _Storage:
    """What readers and writers need not do, or do alike."""

    def reset(self, checkpoint_id=None): ...

    def prepare_local_plan(self, plan):
        return plan

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id):
        return True


def _storage_writer(dcp, begin: Callable, write: Callable):
    class Writer(_Storage, dcp.StorageWriter):
        def __init__(self):
            self.index = {}

        def set_up_storage_writer(self, is_coordinator, *args, **kwargs): ...

        def prepare_global_plan(self, plans):
            begun = begin()
            return [replace(plan, storage_data=(begun, number)) for number, plan in enumerate(plans)]

        def write_data(self, plan, planner):
            begun, number = plan.storage_data
            write(begun, number, [planner.resolve_data(item).detach() for item in plan.items])
            return _done([dcp.storage.WriteResult(item.index, 0, (number, place))
                          for place, item in enumerate(plan.items)])

        def finish(self, metadata, results):
            where = {(r.index.fqn, r.index.offset): r.storage_data
                     for of_process in results for r in of_process}
            for name, about in metadata.state_dict_metadata.items():
                chunks = [[list(chunk.offsets), list(chunk.sizes), *where[name, chunk.offsets]]
                          for chunk in about.chunks if (name, chunk.offsets) in where]
                self.index[name] = {"dtype": about.properties.dtype, "size": list(about.size),
                                    "chunks": chunks}

    return Writer()


def _storage_reader(dcp, index: Mapping[str, dict], read: Callable):
    class Reader(_Storage, dcp.StorageReader):
        def read_metadata(self, *args, **kwargs):
            return dcp.Metadata({name: _metadata(dcp.metadata, about) for name, about in index.items()})

        def set_up_storage_reader(self, metadata, is_coordinator, *args, **kwargs): ...

        def prepare_global_plan(self, plans):
            return plans

        def read_data(self, plan, planner):
            _read_items(plan.items, planner, index, read)
            return _done(None)

    return Reader()


def _read_items(items, planner, index: Mapping[str, dict], read: Callable) -> None:
    places = {(name, tuple(offset)): place
              for name, about in index.items() for offset, _, *place in about["chunks"]}
    wanted: dict[int, list] = {}
    for item in items:
        rank, number = places[item.storage_index.fqn, tuple(item.storage_index.offset)]
        wanted.setdefault(rank, []).append((number, item))
    for rank, some in wanted.items():
        shards = read(rank)
        for number, item in some:
            slices = [slice(o, o + n) for o, n in zip(item.storage_offsets, item.lengths, strict=True)]
            target = planner.resolve_tensor(item).detach()
            planner.commit_tensor(item, target.copy_(shards[number][tuple(slices)]))


def _metadata(kinds, about: Mapping):
    chunks = [kinds.ChunkStorageMetadata(torch.Size(offset), torch.Size(sizes))
              for offset, sizes, *_ in about["chunks"]]
    return kinds.TensorStorageMetadata(kinds.TensorProperties(about["dtype"]), torch.Size(about["size"]),
                                       chunks)


def _done(value) -> torch.futures.Future:
    future = torch.futures.Future()
    future.set_result(value)
    return future
