"""Several processes. The only folder that imports torch.distributed. Begin with collectives.py.

collectives    rank, world_size, all_reduce, ...: each works with one process, too
environment    what a process learns from its launcher, without torch            launch    starts processes; elastic: the agent
group          joining and leaving the process group      strategy, model_sync    DDP and FSDP2, for a trainer
sharding       sharded tensors                            sync_batchnorm          BatchNorm over all processes
"""
