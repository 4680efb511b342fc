"""Training and predicting from Python: `from base import fit, load`."""
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from base.base_data_loader import DataSplits
from base.base_trainer import BaseTrainer
from base.build import build_trainer
from base.run.data_values import enter_data_values
from base.data.fingerprint import kept_fingerprint
from base.data.sampler import Batch
from base.data.views import apply_transforms
from base.prediction.inputs import as_batch, input_reader, is_batch
from base.curves import draw_curves
from base.run.checkpoints import Checkpoint, open_checkpoint
from base.run.end import progress_of, recorded
from base.run.run_config import RunConfig, resolve_config
from base.run.setup import load_evaluated_weights, open_run, set_up_training
from base.summary import describe_parts
from logger.console import logged, setup_logging
from utils.config.blocks import SPLITS
from utils.config.loading import located, override_config, read_config
from utils.config.suggestions import suggest_name
from utils.device import pick_device
from utils.errors import ConfigError
from utils.run_folder import run_of
from utils.run_lock import RunLock

log = logging.getLogger(__name__)


class Predictor:
    """A trained model with what its inputs go through: `predictor(images)`.

    Attributes:
        model: with the weights that the run's evaluations used, in eval mode.
        config: the run's config.
        classes: the names of the classes, in the order of the outputs; None if the data had none.
        trainer: as the config builds it; `trainer.evaluate("test")` scores it.
        checkpoint: the checkpoint, with its `file` and `state`.
        places: where the values of the config were written, for `utils.config.loading.located`.
    """

    def __init__(self, checkpoint: Checkpoint, resolved: RunConfig, device: torch.device):
        self.checkpoint, self.config, self.places = checkpoint, resolved.config, resolved.places
        with located(resolved.places):
            self.trainer = trainer = build_trainer(resolved.config, device)
            load_evaluated_weights(trainer, checkpoint)
        self.model: nn.Module = trainer.unwrapped_model
        kept = kept_fingerprint(checkpoint.state, "train")
        self.classes = kept and kept.classes
        trainer.set_mode(training=False)

    def __call__(self, inputs: Any) -> dict[str, Any]:
        """What the trainer's `predict_step` makes of inputs: values `[B, ...]` by their names, on the CPU.

        `inputs`: a path, a PIL image, or a list of inputs; an array or tensor `[B, ...]` is B of them. Each
        is as the dataset gives it, and goes through the transforms of evaluation; a path is read by the
        dataset's `read_input`. Raises ConfigError for a dataset without it. Samples in mappings or tuples go
        through the `collate_fn` of the dataset's class. A mapping of tensors `[B, ...]` is a collated batch.
        """
        if isinstance(inputs, Mapping) and is_batch(inputs):
            data = {name: torch.as_tensor(value) for name, value in inputs.items()}
            size = len(next(iter(data.values())))
            return self.predict(Batch(data, size, size))
        single = isinstance(inputs, (str, Path, Mapping)) or hasattr(inputs, "getbands")
        samples = [self._to_sample(item) for item in ([inputs] if single else inputs)]
        size = self.trainer.data.eval_batch_size
        batches = [as_batch(samples[first:first + size], self.config["dataset"])
                   for first in range(0, len(samples), size)]
        parts = [self.predict(Batch(batch, size, size)) for batch in batches]
        return {name: _joined([part[name] for part in parts]) for name in (parts[0] if parts else ())}

    def _to_sample(self, item: Any) -> Any:
        if isinstance(item, (str, Path)):
            return input_reader(self.config["dataset"], self.trainer.data.transforms["eval"])(Path(item))
        item = torch.from_numpy(item) if isinstance(item, np.ndarray) else item
        return apply_transforms(item, self.trainer.data.transforms["eval"])

    def predict(self, batch: Batch) -> dict[str, Any]:
        """What `predict_step` makes of a batch, as loaders give it; tensors are on the CPU.

        Raises ConfigError if the trainer has no `predict_step`.
        """
        trainer = self.trainer
        if self.model.training:
            trainer.set_mode(training=False)
        with torch.no_grad(), trainer.errors_explained("prediction"):
            values = trainer.predict_step(trainer.device_batch(batch, training=False))
        return {name: value.detach().cpu() if isinstance(value, torch.Tensor) else value
                for name, value in values.items()}


def load(path: str | Path, overrides: Sequence[str] = (),
         device: str | torch.device | None = None) -> Predictor:
    """The model of a checkpoint, a run (its best one) or an experiment (its newest run), ready to predict.

    Reads no data. `overrides` change the config, such as "dataset.args.root=NEW". Raises ConfigError.
    """
    checkpoint = open_checkpoint(Path(path), ("best.pt", "last.pt"))
    resolved = resolve_config(None, checkpoint, list(overrides))
    chosen = device if isinstance(device, torch.device) else pick_device(device)
    return Predictor(checkpoint, resolved, chosen)


@dataclass
class FitResult:
    """A run that has ended. In a notebook it shows its curves.

    Args:
        run: its folder.
        best: `{"name": "val/loss", "value": 0.1, "epoch": 3}`; None without a monitor.
        history: the values of each epoch by their names, `{"epoch": [1, 2], "train/loss": [0.9, 0.5], ...}`;
            None where an epoch lacks one.
        trainer: as training left it.
    """

    run: Path
    best: dict[str, Any] | None
    history: dict[str, list]
    trainer: BaseTrainer

    def _repr_html_(self) -> str:
        return draw_curves(self.history)


def fit(config: str | Path | dict, overrides: Sequence[str] = (), *, resume: str | Path | None = None,
        out: str | Path = "saved", run_name: str | None = None, device: str | None = None,
        init_from: str | Path | None = None) -> FitResult:
    """Trains as `train.py -c CONFIG` does, in this process.

    Args:
        config: a file, or its content as a dict.
        overrides: such as "trainer.args.epochs=3".
        resume: a checkpoint or run to continue, as with `-r`.
        out, run_name, device, init_from: as on the command line.

    Messages go to the console, unless the program has set up `logging` itself, and to run.log. Raises
    ConfigError for a mistake, TrainingError if training fails, Interrupted after a signal.
    """
    if not logging.getLogger().handlers:
        setup_logging()
    given = (override_config(config, "config", overrides) if isinstance(config, dict)
             else read_config(config, overrides))
    chosen, out = pick_device(device), Path(out)
    checkpoint = open_checkpoint(Path(resume), ("last.pt",), whole=False) if resume else None
    resolved = resolve_config(given, checkpoint, list(overrides))
    with located(resolved.places), RunLock() as lock:
        resolved, train_dataset = enter_data_values(resolved, checkpoint, chosen)
        setup = set_up_training(resolved.config, checkpoint, chosen, out, init_from and Path(init_from),
                                lock=lock, train_dataset=train_dataset)
        trainer, checkpoint = setup.trainer, setup.checkpoint
        if checkpoint and trainer.finished:
            run_folder = run_of(checkpoint.file) or checkpoint.file.parent
        else:
            run = open_run(resolved, checkpoint, chosen, out, run_name, bars=True, lock=lock)
            with logged(run.folder), recorded(trainer, run):
                log.info(describe_parts(trainer))
                trainer.train(run)
            run_folder = run.folder
    return FitResult(run_folder, progress_of(trainer)["best"], read_history(run_folder), trainer)


def read_history(run: Path) -> dict[str, list]:
    """The values of each epoch in a run's metrics.jsonl, by their names."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    epochs = [line for line in lines if any(name.startswith("train/") for name in line)]
    names = dict.fromkeys(name for line in epochs for name in line)
    return {name: [line.get(name) for line in epochs] for name in names}


def _joined(parts: list) -> Any:
    """The values of all batches in one."""
    if isinstance(parts[0], torch.Tensor):
        return torch.cat(parts)
    return [item for part in parts for item in part]


def splits_named(data: DataSplits, name: str) -> list[str]:
    """The splits and sets that a name means: those of `name`, or of val and test for "all".

    `name` is a split, or a set (`clean`, `val/clean`). Raises ConfigError if there is none, or more than one.
    """
    if name in SPLITS:
        found = data.sets(name)
    elif name == "all":
        found = [*data.sets("val"), *data.sets("test")]
    else:
        found = [part for parts in data.evaluation_sets.values() for part in parts
                 if name in (part, part.partition("/")[2])]
        if len(found) > 1:
            raise ConfigError(f"--split {name}: there are several: {', '.join(found)}. Write one of them.")
    if not found:
        known = [part for split in SPLITS if split != name
                 for part in data.evaluation_sets.get(split, [split])]
        short = [part.rpartition("/")[2] for part in known if name not in SPLITS]
        raise ConfigError(f"--split {name}: the dataset has no such split.{suggest_name(name, short)} "
                          f"There may be: {', '.join([*known, 'all'])}.")
    return found
