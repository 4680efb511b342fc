"""How a run begins: from a config, from a checkpoint, or from another run's weights."""
import logging
import uuid
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from base.base_trainer import BaseTrainer
from base.build import build_trainer
from base.config.complete_config import flat_config
from base.preflight.loss import Parts, require_a_mean
from base.preflight.own_trainer import require_called_methods
from base.preflight.preflight import preflight, require_monitored
from base.run.checkpoints import Checkpoint, evaluated_weights, open_checkpoint
from base.run.initial_weights import initialize_weights
from base.run.run_config import LIMIT, RunConfig, user_changes
from base.run.same_data import require_kept_data, require_same_data_everywhere
from base.run.writers import build_writers, run_info
from logger.run_log import RunLog, SilentRun
from utils.checkpoint.state import load_part
from utils.checkpoint.store import CheckpointStore, ShardStore, remove_leftovers
from utils.config.loading import Reading, place_of
from utils.config.syntax import COMMAND_LINE, dump_yaml
from utils.config.values import masked, value_at
from utils.distributed import collectives as dist
from utils.distributed.environment import launch_id
from utils.distributed.group import num_restarts
from utils.errors import ConfigError, unwritable
from utils.run_files import file_stamp, remove_links, replace_file
from utils.run_folder import (
    CHECKPOINTS, has_saved, list_runs, new_run, require_unused, run_of, run_of_launch)
from utils.run_lock import RunLock
from utils.run_record import environment, is_finished, keys_from_environment, record_start, run_id
from utils.training.schedule_length import check_lengths

log = logging.getLogger(__name__)


def checkpoint_to_resume(path: Path | None, given: Reading | None, out: Path,
                         run_name: str | None) -> Checkpoint | None:
    """The checkpoint for `--resume PATH`, "auto": the experiment's newest unfinished run. None: a new run."""
    if path is None:
        return None
    if str(path) != "auto":
        return open_checkpoint(path, ("last.pt",), whole=False)
    checkpoint = _unfinished_checkpoint(out / str(given.config.get("name")), run_name,
                                        value_at(given.config, LIMIT))
    log.info("--resume auto: %s",
             f"resumes {checkpoint.file}" if checkpoint else "no unfinished run, a new one begins")
    return checkpoint


def _unfinished_checkpoint(experiment: Path, run_name: str | None,
                           limit: int | None = None) -> Checkpoint | None:
    """With a `run_name` only that run, finished or not; else one with this `data_loader.limit`.

    Runs without valid checkpoint are logged, skipped.
    """
    for run in [experiment / run_name] if run_name else list_runs(experiment):
        if (not run_name and is_finished(run)) or not any((run / CHECKPOINTS).glob("*.pt")):
            continue
        try:
            checkpoint = open_checkpoint(run, ("last.pt",), whole=False)
        except ConfigError as error:
            log.warning("%s", error)
            continue
        if run_name or (not checkpoint.state["progress"].get("finished")
                        and value_at(checkpoint.config, LIMIT) == limit):
            return checkpoint
    return None


def broadcast_checkpoint(checkpoint: Checkpoint | None, out: Path, name: str,
                         lock: RunLock | None = None) -> Checkpoint | None:
    """The main process's `checkpoint`, for all; after a restart of the group, the newest of its run.

    Takes the `lock` of its run, and then reads it again if it was replaced meanwhile.
    """
    if (restarts := num_restarts()) and dist.is_main():
        resumed = checkpoint and run_of(checkpoint.file)
        run = run_of_launch(resumed.parent if resumed else out / name, launch_id())
        if run and has_saved(run, launch_id()):
            checkpoint = open_checkpoint(run, ("last.pt",), whole=False)
        log.warning("restart %d of the processes: %s", restarts,
                    f"they resume {checkpoint.file}" if checkpoint else "they begin anew")
    if lock and dist.is_main():
        checkpoint = _claim(checkpoint, lock, waits=restarts > 0)
    own = checkpoint and (checkpoint.file, checkpoint.state["progress"])
    chosen = dist.broadcast_object(own)
    if chosen == own:
        return checkpoint
    return chosen and open_checkpoint(chosen[0], (), whole=False)


def _claim(checkpoint: Checkpoint | None, lock: RunLock, waits: bool) -> Checkpoint | None:
    """Locks a checkpoint's run and tidies it; returns what the checkpoint then is."""
    if checkpoint is None and lock.awaited and lock.awaited.is_dir():
        lock.take(lock.awaited)
        checkpoint = _unfinished_checkpoint(lock.awaited.parent, lock.awaited.name)
    if checkpoint is None or run_of(checkpoint.file) is None:
        return checkpoint
    lock.take(run_of(checkpoint.file), waits)
    if not checkpoint.file.parent.is_symlink():
        remove_leftovers(checkpoint.file.parent)  # also of a run that is already finished
    if file_stamp(checkpoint.file) == checkpoint.stamp:
        return checkpoint
    return open_checkpoint(checkpoint.file, (), whole=False)


class TrainingSetup(NamedTuple):
    """A trainer that is ready to train, and the checkpoint at which it stands, if any.

    `first_values`: what a first batch gave, `{"train/loss": 2.3, ...}`; empty without a preflight.
    """

    trainer: BaseTrainer
    checkpoint: Checkpoint | None
    first_values: dict[str, float]


def set_up_training(config: dict, checkpoint: Checkpoint | None, device: torch.device, out: Path,
                    init_from: Path | None = None, check: bool = True, lock: RunLock | None = None,
                    train_dataset: Dataset | None = None) -> TrainingSetup:
    """Builds what a config describes, up to the state of the checkpoint or of other first weights.

    The optimizers are built when the model has its initial weights; the preflight comes before the state of
    the checkpoint, which it would change. Without `check` there is neither. `lock`: taken for the run that
    is resumed. `train_dataset`: if it is built. Raises ConfigError for what cannot be built and for a step
    that fails. All processes call it.
    """
    checkpoint = broadcast_checkpoint(checkpoint, out, config["name"], lock)
    trainer = build_trainer(config, device, splits=("train", "val"), train_dataset=train_dataset)
    if not checkpoint:
        initialize_weights(trainer.unwrapped_model, config["init"], init_from)
    require_a_mean(trainer.loss, trainer.accumulate, resumed=checkpoint is not None)
    require_called_methods(type(trainer), resumed=checkpoint is not None)
    trainer.prepare_training()
    if not check:
        return TrainingSetup(trainer, checkpoint, {})
    require_same_data_everywhere(trainer.data)
    if checkpoint:
        require_kept_data(trainer.data, checkpoint.state, checkpoint.file)
    with trainer.errors_explained():
        first_values = preflight(trainer, config, resumed=checkpoint is not None)
    schedules = [updater.schedule for updater in trainer.updaters.values()]
    check_lengths(schedules, trainer.monitor is not None and trainer.monitor.patience is not None,
                  resumed=checkpoint is not None)
    if trainer.monitor:
        require_monitored(trainer.monitor, first_values, has_val=bool(trainer.data.sets("val")))
    if checkpoint:
        trainer.resume(checkpoint.state)
    return TrainingSetup(trainer, checkpoint, first_values)


def open_run(resolved: RunConfig, checkpoint: Checkpoint | None, device: torch.device, out: Path,
             run_name: str | None, bars: bool, lock: RunLock | None = None) -> RunLog | SilentRun:
    """The run's folder, new or reopened, with config, environment and writers; only rank 0 writes there.

    Metrics and curves are cut off at the checkpoint's position.
    """
    config = resolved.complete
    restarted = num_restarts() > 0
    if not dist.is_main():
        folder = dist.broadcast_object()
        store = ShardStore(folder / CHECKPOINTS, config)
        return SilentRun(folder, bars=False, store=store)
    folder = checkpoint and run_of(checkpoint.file)
    if folder is None and restarted:
        folder = run_of_launch(out / config["name"], launch_id())
    try:
        # takes a moment, so before the folder is made: a folder without this record should not be seen
        start = environment(str(device))
        is_new = folder is None
        limit = value_at(config, LIMIT)
        folder = folder or new_run(out, config["name"], run_name, f"-limit{limit}" if limit else "")
        if lock:
            lock.take(folder, waits=restarted)
        if is_new:
            require_unused(folder)  # another process may have had it meanwhile
        remove_links(folder)
        record_start(folder, {**start, "run_id": run_id(folder) or uuid.uuid4().hex,
                              "from_environment": sorted(resolved.reading.from_environment),
                              **_origins(resolved),
                              "locked": bool(lock and lock.holds),
                              "last_checkpoint": file_stamp(folder / CHECKPOINTS / "last.pt")})
        run = _open_run(folder, resolved, checkpoint, bars)
        dist.broadcast_object(folder)
        return run
    except OSError as error:
        raise unwritable(folder or out, error) from error


def _origins(resolved: RunConfig) -> dict[str, list[str]]:
    """The keys of the flat config that stand in no file."""
    written, places = flat_config(resolved.reading.config), resolved.reading.places
    return {"from_command_line": [key for key in written
                                  if place_of(places, key.split(".")).source == COMMAND_LINE],
            "not_written": [key for key in flat_config(resolved.config) if key not in written]}


def _open_run(folder: Path, resolved: RunConfig, checkpoint: Checkpoint | None, bars: bool) -> RunLog:
    config = resolved.complete
    start_step = checkpoint.state["progress"]["step"] if checkpoint and run_of(checkpoint.file) else None
    resumed = start_step is not None
    info = run_info(folder, resolved.config, start_step, resumed)
    writers = build_writers(resolved.config["writers"], info)
    resumed_from = checkpoint.file if checkpoint and run_of(checkpoint.file) == folder else None
    store = CheckpointStore(folder / CHECKPOINTS, config, resumed_from)
    hidden = keys_from_environment(folder)
    shown = flat_config(resolved.config, hidden)
    run = RunLog(folder, store, writers, bars, resumed, config=shown)
    # as a whole: a full disk must not cost a resumed run its config
    replace_file(folder / "config.yaml", dump_yaml(config))
    if not resumed:
        run.hparams(shown)
        return run
    run.metrics_file.load_state_dict(checkpoint.state["metrics_file"])
    changed = {key: new for key, (_, new) in user_changes(checkpoint.config, config).items()}
    run.hparams(shown, masked(changed, hidden))
    run.event("resumed", f"{checkpoint.file.name}, step {start_step}")
    return run


def load_evaluated_weights(trainer: Parts, checkpoint: Checkpoint) -> None:
    """Loads the weights that the run's evaluations used, including those of the loss."""
    load_part("model", trainer.unwrapped_model, evaluated_weights(checkpoint.state), str(checkpoint.file))
    if "loss" in trainer.state and "loss" in checkpoint.state:
        load_part("loss", trainer.loss, checkpoint.state["loss"], str(checkpoint.file))
