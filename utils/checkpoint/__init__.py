"""Checkpoints: complete or not written, verified on load, tensors and plain values only. Start with store.py.

store      saving in the background, names, pruning      loading    reading and verifying
archive    the file format: torch's zip, checksummed     state      copying and inspecting nested state
sharded    tensors of which each process holds a shard, with torch.distributed.checkpoint in dcp.py
"""
from utils.moved import find_in_package


def __getattr__(name: str):
    """Finds names that the module of this name had in earlier versions."""
    return find_in_package(__name__, name)
