"""Hints for unknown config keys: the right place of a misplaced key, or the name that this program uses."""
from collections.abc import Mapping
from dataclasses import replace

from base.base_data_loader import PROVIDED, DataSplits
from base.registries import MODELS, OPTIMIZERS, TRAINERS
from utils.config.blocks import as_block
from utils.config.registry import Registry
from utils.config.sections import SECTIONS
from utils.config.signature import Signature, UnknownKey
from utils.errors import Fault

# Names of sections in other programs, and the names here.
OTHER_NAMES = {"arch": "model", "architecture": "model", "network": "model", "net": "model",
               "criterion": "loss", "loss_fn": "loss", "lr_scheduler": "scheduler", "optim": "optimizer",
               "dataloader": "data_loader", "datasets": "dataset", "data": "dataset", "experiment": "name",
               "experiment_name": "name", "logger": "writers", "loggers": "writers", "_base_": "extends",
               "include": "extends", "inherits": "extends", "defaults": "extends", "random_seed": "seed",
               **dict.fromkeys(("transform", "augmentation", "augmentations", "preprocessing"),
                               "transforms")}
_ON_COMMAND_LINE = ("It is about the machine, not the experiment: --device cuda; for several GPUs "
                    "--distributed.")
_OUT = "The folder is named on the command line: --out DIR."
_LOG = "The command line says how much is told: --quiet, --verbose."
_SPLITS = ("One dataset gives all splits, by data_loader.validation_split, too, or each split has a block: "
           "dataset: {train: BLOCK, val: BLOCK}. What else differs is transforms.train and transforms.eval.")
# Hints for other unknown keys: by their path, or by their name at any place.
_HINTS = {
    "data_loader.type": "The loader is always the same, and its options stand under data_loader; the data "
                        "are 'dataset'.",
    "data_loader.args": "Its options stand directly under it: data_loader: {batch_size: 32}.",
    "dataset.validation": "It is called 'val' here.", "dataset.valid": "It is called 'val' here.",
    "train": _SPLITS, "val": _SPLITS, "validation": _SPLITS, "test": _SPLITS,
    "transforms.test": "eval is for val and test.", "transforms.val": "eval is for val and test.",
    **dict.fromkeys(("n_gpu", "num_gpus", "gpus", "gpu", "device", "devices", "accelerator", "cuda",
                     "distributed"), _ON_COMMAND_LINE),
    **dict.fromkeys(("amp", "use_amp", "fp16", "bf16", "mixed_precision"),
                    "Write it as trainer.args.precision: bf16, or fp16."),
    **dict.fromkeys(("max_steps", "num_steps", "max_iters", "total_steps", "iterations"),
                    "The length is trainer.args.epochs; data_loader.batches_per_epoch cuts an epoch, and "
                    "--steps N on the command line ends a start."),
    **dict.fromkeys(("warmup", "warmup_epochs", "warmup_steps"), "A warm-up is a scheduler: LinearLR, and "
                    "then another one, in a SequentialLR."),
    **dict.fromkeys(("checkpoint", "ckpt", "weights", "init_from"),
                    "A run is resumed on the command line: -r saved/NAME; first weights are init: "
                    "[{from: FILE}]."),
    "scheduler.interval": "It is called 'per' here: per: step.",
    "test_split": "A split for tests is a dataset of its own: dataset: {train: BLOCK, test: BLOCK}.",
    "wandb": "That is a writer: a plug-in under @WRITERS.register, named in 'writers'.",
    **dict.fromkeys(("save_dir", "output_dir", "out_dir", "log_dir", "default_root_dir"), _OUT),
    **dict.fromkeys(("verbosity", "verbose"), _LOG),
    "callbacks": "Early stopping and checkpoints are trainer.args (early_stop, save_every, ...); else "
                 "override a trainer's on_step_end or on_epoch_end.",
    "trainer.args.on_oom": "Batches are not split any more: where memory does not suffice, halve "
                           "data_loader.batch_size and double trainer.args.accumulate; a run may go on so.",
    "tensorboard": "That is a writer: writers: [TensorBoard].",
    "resume": "A run is resumed on the command line: -r saved/NAME.",
    "pretrained": "torchvision's models take the name of their weights: args: {weights: DEFAULT}.",
}
_ARGUMENTS = {other: name for name, others in {
    "epochs": "max_epochs num_epochs n_epochs num_train_epochs",
    "early_stop": "patience early_stopping early_stopping_patience",
    "clip_norm": "gradient_clip_val gradient_clipping grad_clip clip_grad clip_grad_norm max_grad_norm",
    "accumulate": "accumulate_grad_batches gradient_accumulation gradient_accumulation_steps "
                  "accumulation_steps grad_accum",
    "save_every": "save_period save_interval", "log_every": "log_interval logging_steps",
    "eval_every": "eval_interval val_interval", "ema": "ema_decay use_ema", "lr": "learning_rate",
    "batch_size": "bs train_batch_size", "eval_batch_size": "val_batch_size test_batch_size",
    "batches_per_epoch": "limit_train_batches steps_per_epoch", "num_workers": "workers n_workers",
}.items() for other in others.split()}


def add_key_hints(faults: list[Fault], config: Mapping) -> list[Fault]:
    """The faults, with hints for unknown keys; without "is missing" for a section that is only misnamed."""
    homes = _homes(config)
    misnamed = {(OTHER_NAMES[key],) for key in config
                if key in OTHER_NAMES and config.get(OTHER_NAMES[key]) is None}
    return [_with_hint(fault, homes) if isinstance(fault, UnknownKey) else fault
            for fault in faults if fault.path not in misnamed]


def _with_hint(fault: UnknownKey, homes: dict[str, str]) -> UnknownKey:
    *above, key = map(str, fault.path)
    home = homes.get(_ARGUMENTS.get(key, key))
    hint = _HINTS.get(fault.key) or _HINTS.get(key)
    if not above and "." in key:
        hint = "Dots are for the command line; in a file each part is a key below the one before."
    if not hint and (fault.key in OTHER_NAMES or OTHER_NAMES.get(key) == "transforms"):
        hint = f"It is called '{OTHER_NAMES[key]}' here."
    misspelt = home and above == home.split(".")[:-1] and fault.suggested
    if not hint and home and not misspelt:
        hint = f"Write it as {home}."
    return replace(fault, message=f"{fault.what} {hint}") if hint else fault


def _homes(config: Mapping) -> dict[str, str]:
    """The full path of every key that this config could have, by the last part of the path."""
    options = Signature(DataSplits, PROVIDED)
    return {**_arguments(MODELS, config, "model"), **_arguments(OPTIMIZERS, config, "optimizer"),
            **_arguments(TRAINERS, config, "trainer"),
            **{name: f"data_loader.{name}" for name in options.free()}, **{name: name for name in SECTIONS}}


def _arguments(registry: Registry, config: Mapping, section: str) -> dict[str, str]:
    signature = registry.signature_of(as_block(config[section]).get("type"))
    free = signature.free() if signature else ()
    return {argument: f"{section}.args.{argument}" for argument in free}
