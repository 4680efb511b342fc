"""Checkpoints of version 1.0.0, whose format was 1: what they lack, and what this version has no more."""
import logging

log = logging.getLogger(__name__)
# The defaults of 1.0.0's own keys. Its checkpoints hold only what users wrote.
DATA_LOADER = {
    "batch_size": 32, "eval_batch_size": None, "validation_split": None, "batches_per_epoch": None,
    "eval_batches": None, "shuffle": True, "drop_last": False, "num_workers": 0, "pin_memory": None,
    "timeout": 0, "prefetch_factor": None, "persistent_workers": None, "multiprocessing_context": None}
TRAINER = {
    "epochs": 10, "monitor": "min val/loss", "early_stop": None, "min_delta": 0.0, "eval_every": 1,
    "checkpoint_every": None, "save_every": None, "keep_last": None, "async_save": True,
    "max_failed_saves": 3, "log_every": 50, "log_images_every": 10, "log_weights_every": 10,
    "precision": "fp32", "accumulate": 1, "clip_norm": None, "ema": None, "compile": False,
    "channels_last": False, "matmul_precision": None, "max_time": None, "on_nan": "stop",
    "max_nan_steps": 10, "strategy": "ddp", "sync_batchnorm": False}
DEFAULTS = {**DATA_LOADER, **TRAINER}


def upgrade(content: dict) -> dict:
    """The content of a checkpoint of format 1 as one of today's format; its config has no defaults yet."""
    config, state = dict(content["config"]), dict(content["state"])
    options = config.get("data_loader") or {}
    size = options.get("batch_size", DATA_LOADER["batch_size"]) if isinstance(options, dict) else 1
    progress = state["progress"]
    seeds = state.pop("step_seeds", None) or {}
    state["progress"] = {**progress, "samples": progress["batch"] * size, "draws": seeds.get("drawn", False)}
    trainer = config.get("trainer")
    if isinstance(trainer, dict) and isinstance(trainer.get("args"), dict):
        config["trainer"] = {**trainer, "args": {key: value for key, value in trainer["args"].items()
                                                 if key != "on_oom"}}
    num_pieces = (state.pop("splitting", None) or {}).get("num_parts", 1)
    if num_pieces > 1:
        accumulate = num_pieces * (trainer or {}).get("args", {}).get("accumulate", 1)
        log.warning("this run took its batches in %d pieces (trainer.args.on_oom: split), which this version "
                    "does not: it takes them whole. If memory does not suffice, resume with "
                    "data_loader.batch_size=%d trainer.args.accumulate=%d", num_pieces,
                    max(size // num_pieces, 1), accumulate)
    return {**content, "version": "1.0.0", "config": config, "defaults": None, "state": state}
