"""Tools below the loop, independent of models and data. Read config/ first, then training/.

config/       YAML and JSON with places, signatures, registry     training/     updater, schedule, guard
checkpoint/   files of checkpoints: saving, loading, shards       distributed/  processes, torch.distributed
device, errors, git, heap, random, run_files, run_folder, run_lock, signals, torch_messages, cli:
    one subject each
"""
from utils import moved

moved.install()
