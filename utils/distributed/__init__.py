"""Several processes. The only folder that imports torch.distributed. Start with collectives.py.

collectives    rank, world_size, all_reduce, ...: all of them also work with one process
environment    variables from the launcher; without torch                launch    starting processes
group          joining and leaving the process group      strategy    DDP and FSDP2, for a trainer
sharding       sharded tensors                            sync_batchnorm          BatchNorm over all processes
"""
