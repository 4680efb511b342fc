"""Checkpoints: complete or not written, verified on load, tensors and plain values only. Start with store.py.

store      saving in the background, names, pruning      loading    reading and verifying
archive    the file format: torch's zip, checksummed     state      copying and inspecting nested state
sharded    tensors, with a shard on each process, with torch.distributed.checkpoint in dcp.py
"""
from utils.moved import former_names_of

__getattr__ = former_names_of(__name__)
