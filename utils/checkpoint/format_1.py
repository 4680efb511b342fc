"""Checkpoints of version 1.0.0, whose format was 1: what they lack, and what this version has no more."""
# The defaults of 1.0.0. Its checkpoints hold only what users wrote.
DATA_LOADER = {
    "batch_size": 32, "eval_batch_size": None, "validation_split": None, "batches_per_epoch": None,
    "eval_batches": None, "limit": None, "shuffle": True, "drop_last": False, "num_workers": 0,
    "decode_threads": 0, "pin_memory": None, "timeout": 0, "prefetch_factor": None,
    "persistent_workers": None, "multiprocessing_context": None, "stream_resume": "state", "sampler": None,
    "folds": None, "fold": 0, "stratify": False, "group_by": None, "on_bad_sample": "error"}
TRAINER = {
    "epochs": 10, "monitor": "min val/loss", "early_stop": None, "min_delta": 0.0, "eval_every": 1,
    "checkpoint_every": None, "save_every": None, "keep_last": None, "async_save": True,
    "max_failed_saves": 3, "log_every": 50, "log_images_every": 10, "log_weights_every": 10,
    "precision": "fp32", "accumulate": 1, "clip_norm": None, "ema": None, "compile": False,
    "channels_last": False, "matmul_precision": None, "max_time": None, "on_nan": "stop",
    "max_nan_steps": 10, "strategy": "ddp", "sync_batchnorm": False, "frozen_norm": "train"}
# By the class or function that takes an argument, or by the section of a block's own key. A key that is
# newer than 1.0.0 has the value that gives its behaviour: a run that was begun without the key keeps it.
DEFAULTS = {"DataSplits": DATA_LOADER, "TrainerOptions": TRAINER, "optimizer": {"keep_frozen": False},
            "scheduler": {"per": "epoch"}, "transforms": {"joint": False}, "Trainer": {"unpack": False},
            "ImageFolder": {"decoder": "torchvision"}}


def upgrade(content: dict) -> dict:
    """The content of a checkpoint of format 1 with today's progress; its config stays as it was written.

    Values of any type may stand in the file.
    """
    config, state = content["config"], content["state"]
    size, seeds = _table(config, "data_loader").get("batch_size"), state.get("step_seeds")
    size, progress = size if type(size) is int else DATA_LOADER["batch_size"], state["progress"]
    draws = isinstance(seeds, dict) and seeds.get("drawn") is True
    progress = {**progress, "samples": progress["batch"] * size, "draws": draws}
    state = {name: part for name, part in state.items() if name != "step_seeds"} | {"progress": progress}
    args = _table(_table(config, "trainer"), "args")
    if "on_oom" in args:
        kept = {key: value for key, value in args.items() if key != "on_oom"}
        config = {**config, "trainer": {**config["trainer"], "args": kept}}
    return {**content, "version": "1.0.0", "config": config, "state": state}


def _table(config: dict, key: str) -> dict:
    value = config.get(key)
    return value if isinstance(value, dict) else {}
