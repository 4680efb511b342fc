"""The training loop: epochs, the step, evaluation, logs, checkpoints, resume, early stopping."""
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from typing import Annotated, Any

import torch
from torch import nn

from base.base_data_loader import DataSplits
from base.base_metric import Metrics, Totals, as_values
from base.base_model import set_mode
from base.data.sampler import Batch
from base.metric_values import class_names
from base.nan_report import report_non_finite, warn_of_nan_means
from base.optimizers import chosen_updaters, stepped_module
from base.phases import begin_phase, require_first_phase
from base.recovery import StepSnapshot, explained
from base.run.end import progress_of
from base.trainer_options import TrainerOptions
from logger.run_log import RunLog, SilentRun
from utils.checkpoint.sharded import place_state
from utils.checkpoint.state import load_parts
from utils.checkpoint.store import SavePolicy
from utils.config.signature import FieldsOf
from utils.distributed import collectives as dist
from utils.distributed.collectives import Ballot
from utils.distributed.sharding import full_tensor, shard_model
from utils.distributed.strategy import parse_strategy
from utils.distributed.sync_batchnorm import convert_sync_batchnorm
from utils.errors import ConfigError, Interrupted, TrainingError
from utils.moved import FormerTrainerNames
from utils.random import StepSeeds, derive, seed_all
from utils.training.compile_options import parse_compile_options
from utils.training.ema import WeightAverage
from utils.training.monitor import Monitor
from utils.training.non_finite_guard import NonFinite, NonFiniteGuard
from utils.training.progress import (
    Position, ProgressBar, TimeLeft, accumulation_windows, parse_duration, parse_save_interval)
from utils.training.schedule import Schedule
from utils.training.stop_requests import StopRequest, StopRequests
from utils.training.timers import Timers
from utils.training.updater import Updater, Window

_NO_CONTEXT = nullcontext()


class BaseTrainer(FormerTrainerNames):
    """Runs the epochs; a subclass defines what happens to one batch.

    An object that must survive a restart has `state_dict` and `load_state_dict` and is in `self.state`; that
    dict is the checkpoint. All randomness within a step follows from (seed, step), so a resumed run repeats
    nothing and skips nothing.

    Args:
        model, data, optimizers, schedulers, loss, metrics, seed, device: the parts, as `base/build.py` makes
            them.
        options: the fields of TrainerOptions, as they stand in `trainer.args`.
    """

    epoch = property(lambda self: vars(self).get("epoch", self.position.epoch),  # those completed
                     lambda self, own: vars(self).update(epoch=own))  # a subclass may set its own
    step = property(lambda self: vars(self).get("step", self.position.step),  # of the optimizer
                    lambda self, own: vars(self).update(step=own))

    def __init__(self, *, model: nn.Module, data: DataSplits, optimizers: Mapping[str, Callable],
                 schedulers: Mapping[str, list], loss: Callable | None = None,
                 metrics: Mapping[str, Callable] = (), seed: int = 0,
                 device: torch.device = torch.device("cpu"),
                 **options: Annotated[Any, FieldsOf(TrainerOptions)]):
        self._num_processes = dist.world_size()
        self._read_options(TrainerOptions(**options))
        if self.trainer_options.sync_batchnorm and self._num_processes > 1:
            model = convert_sync_batchnorm(model)
        self.unwrapped_model, self.data, self.loss, self.seed, self.device = model, data, loss, seed, device
        self.optimizers, self.schedulers = optimizers, schedulers
        self.position, self.totals, self.timers = Position(data.batch_size), Totals(), Timers()
        self.metrics, self.eval_metrics = Metrics(metrics, device), Metrics(metrics, device)
        self.updaters: dict[str, Updater] = {}
        self.ema: WeightAverage | None = None
        self.run: RunLog | SilentRun = SilentRun()  # until `train` gets one
        self._step_batches: Sequence[Batch] = ()  # of the current step
        self.window = Window()  # where the current batch stands among them
        self._split_to_show: str | None = None  # whose predictions are due
        self.shown_input: Any = None  # the first batch of the epoch in this start, as the network gets it
        self._num_samples_seen = 0  # samples since the last log point
        self.unsaved, self._step_profiler, self._time_left = False, None, TimeLeft()
        self.in_preflight, self._backward_alone = False, False
        # with several processes every generator is seeded in every step: which of them draw may differ
        self._step_seeds = StepSeeds(derive(seed, "step", dist.rank()), device, drawn=self._num_processes > 1)
        self.model = self.prepare_model(model)
        self.state = {"model": model, "progress": self.position, "totals": self.totals,
                      "train_metrics": self.metrics}
        self.state |= {"monitor": self.monitor} if self.monitor else {}
        self.state |= {"loss": loss} if isinstance(loss, nn.Module) and loss.state_dict() else {}
        self.state |= {"guard": self.guard} if self.guard.tolerated else {}

    def _read_options(self, options: TrainerOptions) -> None:
        self.trainer_options = options
        self.epochs, self.eval_every, self.save_every = options.epochs, options.eval_every, options.save_every
        self.log_every, self.log_images_every, self.log_weights_every = (
            options.log_every, options.log_images_every, options.log_weights_every)
        self.precision, self.accumulate, self.clip_norm, self.ema_decay = (
            options.precision, options.accumulate, options.clip_norm, options.ema)
        self.channels_last, self.strategy = options.channels_last, parse_strategy(options.strategy)
        self.compile = parse_compile_options(options.compile)
        self.monitor = (Monitor(options.monitor, options.early_stop, options.min_delta) if options.monitor
                        else None)
        self.save_interval = parse_save_interval(options.checkpoint_every or {"epochs": 1})
        self.save_policy = SavePolicy(options.async_save, options.max_failed_saves, options.keep_last)
        self.guard = NonFiniteGuard(options.max_nan_steps if options.on_nan == "skip" else 0,
                                    shared=self._num_processes > 1)
        self.stop_request = StopRequest(parse_duration(options.max_time))
        if options.matmul_precision:
            torch.set_float32_matmul_precision(options.matmul_precision)

    # -- what a subclass defines -----------------------------------------------------------------------------

    def train_step(self, batch: Any) -> Mapping[str, Any]:
        """One batch, on the device: forward, loss, `self.update(loss)`. Returns values, 0-dim or `[B]`."""
        raise NotImplementedError

    def eval_step(self, batch: Any) -> Mapping[str, Any]:
        """One evaluation batch, no gradients; `self.model` is in eval mode, with averaged weights if any."""
        raise NotImplementedError

    def predict_step(self, batch: Any) -> Mapping[str, Any]:
        """A batch as `eval_step` has it; its targets may be None. Returns predictions `[B, ...]` by name."""
        raise ConfigError.at("trainer", f"{type(self).__name__} has no predict_step(batch), which returns "
                                        "predictions [B, ...] by their names")

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """The model on the device, with the parameters of `self.unwrapped_model`; becomes `self.model`."""
        model.to(self.device)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        # compiled in place, so that the names in checkpoints stay as they are
        for name in self.optimizers if self.compile is not None else ():
            self.stepped(model, name).compile(**self.compile)
        return model

    def build_updaters(self) -> dict[str, Updater]:
        """One Updater per optimizer of the config; a named optimizer steps the submodule of that name."""
        return {name: self.build_updater(name) for name in self.optimizers}

    def on_train_start(self) -> None:
        """Called before the first step of every start, also after a resume.

        Create what the steps need, and what goes into `self.state`, in `__init__`: the preflight comes first.
        """

    def on_epoch_start(self) -> None:
        """Called before the first batch of an epoch, and once more in an epoch within which a run resumes."""

    def on_step_end(self) -> None:
        """Called after every optimizer step, also one that was left out because of a NaN."""

    def on_epoch_end(self) -> None:
        """Called after the epoch's evaluation, before its checkpoint is written."""

    def on_train_end(self) -> None:
        """Called when training is done, after the last save."""

    # -- what a subclass calls -------------------------------------------------------------------------------

    def update(self, loss: torch.Tensor, name: str = "optimizer", *others: str) -> None:
        """Runs backward; at the end of the accumulation window also the steps of the optimizers named.

        Several that step on one loss are named in one call. "optimizer" is all that a config has by pattern.
        """
        first, *beside = chosen_updaters(self.updaters, self.optimizers, (name, *others))
        if self.in_preflight:  # no optimizer step, so that nothing has to be undone
            first.preflight(loss, self._backward_alone, beside)
        else:
            first.update(loss, self.window, beside)

    def autocast(self):
        """The context for forward passes and losses, as set by `precision`."""
        if self.precision == "fp32":
            return _NO_CONTEXT
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bf16" else torch.float16)

    def build_updater(self, name: str) -> Updater:
        """The Updater of the optimizer called `name` in the config."""
        of_loss = {}
        if name == getattr(self.optimizers, "rest", "optimizer") and isinstance(self.loss, nn.Module):
            of_loss = dict(self.loss.named_parameters(prefix="loss"))
        optimizer = self.optimizers[name](self.stepped(self.unwrapped_model, name), list(of_loss.values()))
        schedulers = self.schedulers.get(name, ())
        # without schedulers there is no need to plan all epochs
        steps_per_epoch = self.data.steps_per_epoch(self.accumulate, self.epochs if schedulers else 1)
        schedule = Schedule(optimizer, schedulers, self.epochs, steps_per_epoch)
        scaler = torch.amp.GradScaler(self.device.type,
                                      enabled=self.precision == "fp16" or self.strategy.in_fp16)
        return Updater(optimizer, schedule, scaler, self.clip_norm, exclusive=len(self.optimizers) > 1,
                       guard=self.guard, share=self.strategy.gradients if self._num_processes > 1 else None,
                       names={**dict(self.unwrapped_model.named_parameters()), **of_loss})

    def stepped(self, model: nn.Module, name: str) -> nn.Module:
        """The part of `model` that the optimizer called `name` steps: all, or the submodule of that name."""
        return stepped_module(model, self.optimizers, name)

    # -- the loop --------------------------------------------------------------------------------------------

    def prepare_training(self) -> None:
        """Builds the optimizers, and what else only training needs. Call once, after weights were loaded."""
        if self.ema_decay is not None:
            with self.errors_explained():  # a second model may not fit into memory
                self.ema = WeightAverage(self.unwrapped_model, self.ema_decay)
        if self.strategy.shards:
            shard_model(self)
        self.updaters = self.build_updaters()
        for name, updater in self.updaters.items():
            # a subclass may have made it without these
            updater.join(self.guard, self.strategy.gradients if self._num_processes > 1 else None)
            self.state["optimizer" if name == "optimizer" else f"optimizer_{name}"] = updater
        require_first_phase(self.updaters)
        self.state |= self.data.to_checkpoint()
        if self.ema:
            self.state["ema"] = self.ema

    def train(self, run: RunLog, last_step: int | None = None, profiler: Any = None,
              last_epoch: int | None = None) -> None:
        """Trains from the current state to the end, `last_step` or `last_epoch`; saves it all into `run`.

        `profiler`: a context for the steps of each epoch; its `step()` is called after each of them. Raises
        Interrupted (see `stop_if_requested`), and TrainingError if training cannot continue; the checkpoint
        stays valid.
        """
        self.use_run(run)
        self.state |= run.to_checkpoint()
        self._step_profiler = profiler
        with self.stop_request.listening(last_step, last_epoch), run:
            # a folder that cannot be written to shows now, not after an epoch
            self.save("last.pt", policy=SavePolicy(background=False, max_failures=1))
            self.stop_if_requested(self.poll_requests(dist.agree), time_limit=False)
            self.seed_for("start", self.position.step)
            with self.errors_explained():
                self.on_train_start()
            self.timers.start()
            with closing(self.data), self.errors_explained():
                while not self.finished:
                    self.train_epoch()
                    self.finish_epoch()
                if self.monitor and self.monitor.exhausted:
                    run.event("early_stop", f"best: {self.monitor}")
                run.store.finish()
                self.on_train_end()

    def use_run(self, run: RunLog | SilentRun) -> None:
        """Logs and saves go into `run` from here on."""
        self.run = run

    @property
    def finished(self) -> bool:
        exhausted = self.monitor is not None and self.monitor.exhausted and self.position.batch == 0
        return self.position.epoch >= self.epochs or exhausted

    def train_epoch(self) -> None:
        """Trains the current epoch from its next batch to its last."""
        position, num_batches = self.position, self.data.num_batches("train", epoch=self.position.epoch)
        begin_phase(self.updaters, position.epoch)
        self.seed_for("epoch start", position.epoch)
        self.on_epoch_start()
        self.set_mode(training=True)
        self.run.start_epoch()
        self.shown_input, self._num_samples_seen = None, 0
        bar = ProgressBar(f"epoch {position.epoch + 1}/{self.epochs}", num_batches, position.batch,
                          self.bar_note, self.run.bars)
        with closing(bar), Ballot() as ballot, self._step_profiler or nullcontext():
            for batches in accumulation_windows(self.data.batches("train", position.epoch, position.batch),
                                                self.accumulate):
                self.timers.record("data wait")
                bar.update(len(batches))
                if not self.optimizer_step(batches):
                    continue
                self.on_step_end()
                if self._step_profiler:
                    self._step_profiler.step()
                self.timers.record("compute")
                within_epoch = position.batch != num_batches
                if within_epoch and position.step % self.log_every == 0:
                    self.log_step()
                requests = self.poll_requests(ballot)
                if within_epoch and self.save_interval.due(position.step, requests.to_save):
                    self.save("last.pt")
                self.stop_if_requested(requests)

    def optimizer_step(self, batches: Sequence[Batch]) -> bool:
        """One optimizer step on the batches of an accumulation window. Returns False if they hold no sample.

        The gradient is the mean over the samples of all batches and processes: each batch's loss counts by
        its part of the samples, times the number of processes, over which gradients are averaged.
        """
        position, self._step_batches = self.position, batches
        if not (num_samples := self.data.num_in_step(batches)):
            position.pass_over(len(batches))
            return False
        if self._num_processes > 1:
            dist.broadcast_buffers([self.model, self.loss])
        before = StepSnapshot(self) if self.guard.tolerated else None
        self._step_seeds.begin(position.step)
        values = []
        for number, batch in enumerate(batches, 1):
            self.window = Window(weight=batch.num_samples / (num_samples / self._num_processes),
                                 final=number == len(batches),
                                 measured=(position.step + 1) % self.log_every == 0)
            inputs = self.device_batch(batch)
            if self.shown_input is None:
                self.shown_input = inputs
            values.append(as_values(self.train_step(inputs)))  # calls `update`: backward, and the step
        self._step_seeds.end(position.step)
        # whether a value was not finite; on an accelerator a mask. False if `on_nan` is stop: that has raised
        skipped = self.guard.end_step()
        if before and skipped is not False:
            before.restore(skipped)
        for named, batch in zip(values, batches, strict=True):
            self.totals.add(named, batch.num_samples, skipped)
        if self.ema and skipped is not True:  # under a mask the weights are as before
            self.ema.update()
        self._num_samples_seen += num_samples
        position.advance(len(batches))
        self.unsaved = True
        return True

    def device_batch(self, batch: Batch, training: bool = True) -> Any:
        """A loaded batch as the model gets it: on the device, after batch transforms. Metrics begin it."""
        self.metrics.begin_batch(batch.num_samples)
        return self.data.prepare(batch.data, self.device, self.channels_last,
                                 batch.chosen if training else None)

    def finish_epoch(self) -> None:
        """Evaluates, updates the monitor and the schedules, logs, saves."""
        self.guard.check()
        epoch = self.position.epoch + 1
        values = self.totals.means() | self.metrics.compute(self.data.dataset("train"))
        values = {f"train/{name}": value for name, value in values.items()}
        self.run.arrays("train", self.metrics.arrays, epoch, self.position.step, self.metrics.classes)
        self.timers.record("compute")
        scores: dict[str, float] = {}
        if epoch % self.eval_every == 0:
            for split in self.data.sets("val"):
                scores |= self.evaluate(split)
                self.run.arrays(split, self.eval_metrics.arrays, epoch, self.position.step,
                                self.eval_metrics.classes)
        values |= scores | self.learning_rates()
        monitored = self.monitor.value_in(values) if self.monitor else None
        improved = monitored is not None and self.monitor.update(monitored, epoch)
        for updater in self.updaters.values():
            updater.schedule.epoch(monitored)
        self.position.next_epoch()
        self.unsaved = True
        self.totals.reset()
        self.metrics.reset()
        self.run.epoch(values, epoch, self.epochs, self.position.step, improved, self.timers.recent(),
                       self.data.sets("val"))
        if scores:
            self.run.summarize(progress_of(self), scores)
        self.log_pictures(epoch)
        self.timers.record("logging")
        self.seed_for("epoch end", epoch)
        self.on_epoch_end()
        self.timers.record("other")
        names = [f"epoch_{epoch:04d}.pt"] if self.save_every and epoch % self.save_every == 0 else []
        names += ["best.pt"] if improved else []
        requests = self.poll_requests(dist.agree)
        if names or self.finished or self.save_interval.due(self.position.step, requests.to_save, epoch):
            self.save(*names, "last.pt")  # last: a run that is killed before this repeats the epoch's end
        if not self.finished:
            self.stop_if_requested(requests, ended_epoch=epoch)

    def evaluate(self, split: str) -> dict[str, float]:
        """Averages over the samples of a split or of one of its sets, as `{"val/loss": 0.1, ...}`.

        Training state does not change.
        """
        totals = Totals()
        self._split_to_show = split if self._images_due(self.position.epoch) else None
        bar = ProgressBar(split, self.data.num_batches(split, training=False), shown=self.run.bars)
        with closing(bar), self.evaluating(), Ballot() as ballot:
            for number, batch in enumerate(self.data.batches(split, training=False)):
                self.timers.record("data wait")
                totals.add(self.eval_values(number, batch), batch.num_samples)
                self.timers.record("evaluation")
                bar.update(1)
                self.stop_if_requested(self.poll_requests(ballot), time_limit=False)
            values = totals.means() | self.metrics.compute(self.data.dataset(split))
        warn_of_nan_means(split, totals.first_nan, self.loss)
        self.timers.record("evaluation")
        return {f"{split}/{name}": value for name, value in values.items()}

    def eval_values(self, number: int, batch: Batch) -> Mapping[str, Any]:
        """The values of `eval_step` on batch `number`. Call it while `evaluating()`."""
        self.seed_for("eval", number)
        return as_values(self.eval_step(self.device_batch(batch, training=False)))

    @contextmanager
    def evaluating(self):
        """Inside: no gradients, fresh `self.metrics`, `self.model` in eval mode (the averaged one if any)."""
        before = self.model, self.metrics
        self.model = self.ema.model if self.ema else self.model
        self.metrics = self.eval_metrics
        self.metrics.reset()
        if self._num_processes > 1:
            dist.broadcast_buffers([self.model, self.loss])
        self.set_mode(training=False)
        try:
            with torch.no_grad():
                yield
        finally:
            self.model, self.metrics = before
            self.set_mode(training=True)

    @contextmanager
    def without_steps(self, alone: bool = False):
        """Inside, in training mode, `update` only runs backward; `alone`: without the other processes."""
        self.set_mode(training=True)
        self.in_preflight, self._backward_alone = True, alone
        try:
            yield
        finally:
            self.in_preflight, self._backward_alone = False, False

    def forget_step(self) -> None:
        """Forgets a step that was not completed: its batches, its values, what the guard saw."""
        self._step_batches, self.shown_input = (), None
        self.totals.reset()
        self.metrics.reset()
        self.guard.abandon_step()

    def set_mode(self, training: bool) -> None:
        """Sets training or evaluation mode for the model, and for a loss that is a module."""
        for module in (self.model, self.loss):
            if isinstance(module, nn.Module):
                set_mode(module, training, self.trainer_options.frozen_norm)

    # -- what ends training early ----------------------------------------------------------------------------

    @contextmanager
    def errors_explained(self, scoring: str = ""):
        """Turns what goes wrong in a step into an error that helps; see `explained`."""
        try:
            yield
        except NonFinite as error:
            raise TrainingError(report_non_finite(self, error, self._step_batches)) from error
        except Exception as error:
            if (better := explained(self, error, scoring)) is error:
                raise
            raise better from error

    def poll_requests(self, agree: Callable) -> StopRequests:
        """What any process asks for: to end (a signal, `max_time`), to save.

        `agree`: `dist.agree`, or in a loop a Ballot, which does not wait and answers some steps later.
        """
        own = self.stop_request.poll(self.save_interval.time_is_up)
        return StopRequests(*agree(*own)) if self._num_processes > 1 else own

    def stop_if_requested(self, requests: StopRequests, time_limit: bool = True,
                          ended_epoch: int = 0) -> None:
        """Saves, raises Interrupted: see `StopRequest.reason`."""
        why = self.stop_request.reason(requests, self.position.step, time_limit, ended_epoch)
        if why is None:
            return
        self.run.store.join()  # whether that save failed decides whether another one is needed
        dist.wait_for_main()
        if any(dist.agree(self.unsaved or self.run.store.num_failures > 0)):
            self.save("last.pt")
        self.run.store.finish()
        raise Interrupted(f"{why}: saved at {self.position}. To resume: python train.py -r {self.run.folder}",
                          self.stop_request.signal_number, why)

    # -- state -----------------------------------------------------------------------------------------------

    def save(self, *names: str, policy: SavePolicy | None = None) -> None:
        """Writes the state as checkpoints of these names. Raises NonFinite as `guard.check` does."""
        self.guard.check()
        self.timers.record("compute")
        state = self.collect_state()
        weights = {name: weight for name, weight in self.unwrapped_model.named_parameters()
                   if weight.requires_grad}
        if isinstance(self.loss, nn.Module):
            weights |= {f"loss.{name}": weight for name, weight in self.loss.named_parameters()}
        self.run.store.save(state, list(names), weights, policy or self.save_policy)
        dist.wait_for_main()  # the main process may have waited for the disk
        if "last.pt" in names:
            self.save_interval.saved()
            self.unsaved = False
        self.timers.record("saving")

    def collect_state(self) -> dict[str, dict]:
        """The states of all parts, as a checkpoint holds them."""
        state = {name: part.state_dict() for name, part in self.state.items()}
        state["progress"] |= {"finished": self.finished, "draws": self._step_seeds.drawn}
        return state

    def own_parts(self) -> list:
        """The parts in `self.state` that are not the engine's: a step that is left out undoes them."""
        engine = [self.unwrapped_model, self.loss, self.position, self.totals, self.metrics, self.monitor,
                  self.guard, self.ema, self.data.place, self.data.fingerprint, self.data.skipped_samples,
                  *self.updaters.values()]
        return [part for name, part in self.state.items()
                if name != "metrics_file" and not any(part is known for known in engine)]

    def resume(self, state: Mapping[str, Any]) -> None:
        """Loads a checkpoint's state. Raises ConfigError if it does not fit what the config builds."""
        # these parts may be missing on one side: they depend on the config, the data, the run, the version
        optional = {"monitor", "guard", "stream", "metrics_file", "splitting", "data_fingerprint",
                    "skipped_samples"}
        load_parts(self.state, place_state(state, self.state), optional)
        draws = self._step_seeds.drawn or state["progress"].get("draws", False)
        self._step_seeds = StepSeeds(self._step_seeds.seed, self.device, draws)

    def seed_step(self) -> None:
        """Makes all randomness of the next step a function of the run's seed, the step and the rank."""
        self._step_seeds.begin(self.position.step)

    def seed_for(self, purpose: str, number: int) -> None:
        """Makes all further randomness a function of the run's seed, `purpose`, `number` and the rank."""
        seed_all(derive(self.seed, purpose, number, dist.rank()), self.device)

    # -- the log ---------------------------------------------------------------------------------------------

    def log_step(self) -> None:
        """A log point: reads the totals from the device, once, and logs them; raises earlier failures."""
        self.guard.check()
        self.run.store.check()
        values = {f"step/{name}": value for name, value in self.totals.recent().items()}
        norms = {name: updater.grad_norm for name, updater in self.updaters.items()
                 if updater.grad_norm is not None}
        values |= {f"grad_norm/{name}": norm.item() for name, norm in norms.items()} | self.learning_rates()
        self.timers.record("compute")
        self.run.step(values, self.position.epoch + 1, self.position.step, self._num_samples_seen)
        self._num_samples_seen = 0
        self.timers.record("logging")

    def log_pictures(self, epoch: int) -> None:
        """Logs the input images and the weights, if they are due after `epoch` epochs."""
        if self._images_due(epoch - 1):
            self.run.images("train/input", self.shown_input, self.position.step, classes=self.metrics.classes)
        if self.log_weights_every and (epoch - 1) % self.log_weights_every == 0:
            # one by one: weights may be sharded because all together do not fit into memory
            for name, weight in self.unwrapped_model.named_parameters():
                if weight.requires_grad:
                    self.run.histograms({f"weights/{name}": full_tensor(weight.detach())}, self.position.step)

    def log_predictions(self, batch: Any, targets: Any, outputs: Any) -> None:
        """Call it in `eval_step`: logs the first batch of an evaluation whose images are due."""
        if self._split_to_show is not None:
            classes = class_names(self.data.dataset(self._split_to_show))
            self.run.images(f"{self._split_to_show}/prediction", batch, self.position.step, targets, outputs,
                            classes)
            self._split_to_show = None

    def _images_due(self, epochs_before: int) -> bool:
        return bool(self.log_images_every) and epochs_before % self.log_images_every == 0

    def learning_rates(self) -> dict[str, float]:
        return {f"lr/{group}": rate for name, updater in self.updaters.items()
                for group, rate in updater.rates(name).items()}

    def bar_note(self) -> str:
        """The text at the end of the bar: the loss so far, and how long the whole run will still take."""
        at, loss = self.position, self.totals.estimate("loss")
        loss = None if loss is None else f"{loss:.4f}"
        num_batches = self.data.num_batches("train", epoch=at.epoch)
        done = at.epoch + (at.batch / num_batches if num_batches else 0)
        left = self._time_left.describe(done, self.epochs)
        parts = {f"loss {loss}": loss is not None, f"run {left} left": left}
        return ", ".join(text for text, known in parts.items() if known)
