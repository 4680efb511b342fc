"""Hints for unknown config keys: the right place of a misplaced key, or the name that this program uses."""
from collections.abc import Mapping
from dataclasses import replace

from base.base_data_loader import PROVIDED, DataSplits
from base.registries import MODELS, OPTIMIZERS, TRAINERS
from utils.config.blocks import as_block
from utils.config.sections import SECTIONS
from utils.config.signature import Signature, UnknownKey
from utils.errors import Fault


def _by_word(table: dict[str, str]) -> dict[str, str]:
    """Splits the keys of a table: `{"arch net": "model"}` becomes `{"arch": "model", "net": "model"}`."""
    return {word: text for words, text in table.items() for word in words.split()}


# Names of sections in other programs, and the names here.
OTHER_NAMES = _by_word({
    "arch architecture network net": "model", "criterion loss_fn": "loss", "lr_scheduler": "scheduler",
    "optim": "optimizer", "dataloader": "data_loader", "datasets data": "dataset", "random_seed": "seed",
    "experiment experiment_name": "name", "logger loggers": "writers",
    "_base_ include inherits defaults": "extends", "transform augmentation augmentations": "transforms"})
_RESUME = "A run is resumed on the command line: -r saved/NAME."
# Hints for other unknown keys: by their path, or by their name at any place.
_HINTS = _by_word({
    "data_loader.type": "The loader is always the same; options stand under data_loader, data are 'dataset'.",
    "data_loader.args": "Its options stand directly under it: data_loader: {batch_size: 32}.",
    "dataset.validation dataset.valid": "It is called 'val' here.",
    "train val validation test": "One dataset gives all splits, by data_loader.validation_split too, or each "
    "split has a block: dataset: {train: BLOCK, val: BLOCK}. Transforms differ: transforms.train, .eval.",
    "transforms.test transforms.val": "eval is for val and test.",
    "n_gpu num_gpus gpus gpu device devices accelerator cuda distributed":
        "It is about the machine, not the experiment: --device cuda; for several GPUs --distributed.",
    "amp use_amp fp16 bf16 mixed_precision": "Write it as trainer.args.precision: bf16, or fp16.",
    "max_steps num_steps max_iters total_steps": "The length is trainer.args.epochs, of "
    "data_loader.batches_per_epoch batches; --steps N on the command line ends a start.",
    "warmup warmup_epochs warmup_steps": "It is a scheduler: LinearLR, and another one, in a SequentialLR.",
    "save_dir output_dir out_dir log_dir default_root_dir": "It is named on the command line: --out DIR.",
    "verbosity verbose": "The command line sets how much is logged: --quiet, --verbose.",
    "callbacks": "Early stopping and checkpoints are trainer.args (early_stop, save_every, ...); else "
                 "override a trainer's on_step_end or on_epoch_end.",
    "trainer.args.on_oom": "Batches are not split any more: where memory does not suffice, halve "
                           "data_loader.batch_size and double trainer.args.accumulate; a run may resume so.",
    "trainer.args.logger trainer.args.loggers": "Write it as writers: [TensorBoard], or CSV, WandB, MLflow.",
    "val_check_interval": "Evaluation comes after whole epochs: trainer.args.eval_every; an epoch has "
                          "data_loader.batches_per_epoch batches.",
    "fast_dev_run": "It is an option of the command line: --check, or --steps N.",
    "deterministic": "All randomness follows from 'seed'. For kernels of CUDA, call "
                     "torch.use_deterministic_algorithms(True) in a file of yours.",
    "overfit_batches": "Write it as data_loader.limit, in samples.",
    "tensorboard": "That is a writer: writers: [TensorBoard].", "resume": _RESUME,
    "checkpoint ckpt weights": f"{_RESUME} The first weights are init: [{{from: FILE}}].",
    "extends": "It stands in a config file.", "scheduler.interval": "It is called 'per' here: per: step.",
    "pretrained": "torchvision's models take the name of their weights: args: {weights: DEFAULT}.",
})
_ARGUMENTS = _by_word({
    "max_epochs num_epochs n_epochs num_train_epochs": "epochs", "learning_rate": "lr",
    "patience early_stopping": "early_stop", "log_interval logging_steps log_every_n_steps": "log_every",
    "gradient_clip_val gradient_clipping grad_clip clip_grad clip_grad_norm max_grad_norm": "clip_norm",
    "accumulate_grad_batches gradient_accumulation gradient_accumulation_steps accumulation_steps grad_accum":
        "accumulate", "save_period save_interval": "save_every", "ema_decay use_ema": "ema",
    "eval_interval val_interval check_val_every_n_epoch": "eval_every",
    "limit_train_batches": "batches_per_epoch", "limit_val_batches limit_test_batches": "eval_batches",
    "bs train_batch_size": "batch_size", "val_batch_size test_batch_size": "eval_batch_size",
    "workers n_workers": "num_workers"})


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
    homes = {}
    for section, registry in (("model", MODELS), ("optimizer", OPTIMIZERS), ("trainer", TRAINERS)):
        signature = registry.signature_of(as_block(config[section]).get("type"))
        homes |= {name: f"{section}.args.{name}" for name in signature.free()} if signature else {}
    homes |= {name: f"data_loader.{name}" for name in Signature(DataSplits, PROVIDED).free()}
    return homes | {name: name for name in SECTIONS}
