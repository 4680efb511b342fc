"""Tools below the loop. They know nothing of models or data. Read config/ first, then training/.

config/       YAML and JSON with places, signatures, the registry      training/    updater, schedule, guard, monitor, timers
checkpoint/   the files of checkpoints: saving, loading, shards        distributed/ processes; alone imports torch.distributed
device, errors, git, heap, random, run_folder, signals, cli: one subject each
"""
from utils import moved

moved.install()
