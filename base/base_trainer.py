"""The training loop: epochs, evaluation, logs, checkpoints, resume, early stopping."""
from collections.abc import Callable, Mapping
from contextlib import closing, contextmanager, nullcontext
from typing import Annotated, Any, Literal

import torch
from torch import nn

from base.base_data_loader import DataSplits
from base.base_metric import Metrics, Totals, as_values
from base.recovery import Splitting, errors_explained, evaluate_batch, make_step
from logger.run_log import RunLog, SilentRun
from utils.checkpoint.sharded import place_state
from utils.checkpoint.state import load_parts
from utils.checkpoint.store import SavePolicy
from utils.config.annotations import CountInt, PositiveFloat, PositiveInt, at_least, below
from utils.config.suggestions import suggest_name
from utils.distributed import collectives as dist
from utils.distributed.collectives import Ballot
from utils.distributed.model_sync import average_gradients, broadcast_buffers, shard_model
from utils.distributed.sharding import full_tensor
from utils.distributed.strategy import parse_strategy
from utils.distributed.sync_batchnorm import convert_sync_batchnorm
from utils.errors import ConfigError
from utils.moved import FormerTrainerNames
from utils.random import StepSeeds, derive, seed_all
from utils.training.compile_options import parse_compile_options
from utils.training.ema import WeightAverage
from utils.training.monitor import Monitor, parse_monitor
from utils.training.non_finite_guard import NonFiniteGuard
from utils.training.progress import (
    Position,
    ProgressBar,
    accumulation_windows,
    parse_duration,
    parse_save_interval,
)
from utils.training.schedule import Schedule
from utils.training.stop_requests import StopRequest, poll_requests, stop_if_requested
from utils.training.timers import Timers
from utils.training.updater import Updater, Window


class BaseTrainer(FormerTrainerNames):
    """Runs the epochs; a subclass defines what happens to one batch.

    An object that must survive a restart has `state_dict` and `load_state_dict` and is in `self.state`; that
    dict is the checkpoint. All randomness within a step follows from (seed, step), so a resumed run repeats
    nothing and skips nothing.

    Args:
        model, data, optimizers, schedulers, loss, metrics, seed, device: the parts, as `base/build.py` makes
            them.
        epochs: how many to train in all.
        monitor: the value that decides the best epoch: "min val/loss", "max val/accuracy", or null for none.
        early_stop: evaluations without improvement of the monitor after which training ends.
        min_delta: by how much the monitored value has to be better to count as an improvement.
        eval_every: epochs between evaluations on val.
        checkpoint_every: how often `last.pt` is written, `{"epochs": 1, "steps": 500, "minutes": 10}` or some
            of these; also when training ends or the monitor improves. By default after every epoch.
        save_every: epochs between `epoch_NNNN.pt` files, kept besides `last.pt` and `best.pt`.
        keep_last: how many `epoch_NNNN.pt` files to keep; by default all.
        async_save: whether to write checkpoints in the background; training only waits for a copy of the
            state.
        max_failed_saves: how many saves in a row may fail, for example on a full disk, before the run ends.
        log_every: steps between log points.
        log_images_every: epochs between grids of input images; 0 for none.
        log_weights_every: epochs between histograms of the weights; 0 for none.
        precision: fp32, bf16 or fp16 (with loss scaling); the weights themselves stay fp32.
        accumulate: batches per optimizer step; their gradients are averaged over samples.
        clip_norm: the largest norm of the gradient.
        ema: decay of a moving average of the weights; evaluation uses the average.
        compile: whether to run the model through torch.compile: true, its mode ("reduce-overhead" uses CUDA
            graphs), or a block `{mode: ..., dynamic: ..., fullgraph: ...}`.
        channels_last: whether images and convolutions use the memory format channels_last.
        matmul_precision: precision inside float32 matrix products: "high" allows TF32 where available,
            "medium" bfloat16, "highest" neither; by default it is not changed.
        max_time: time limit for this start, in seconds or as "h:mm:ss"; training then saves and ends.
        on_nan: what to do if a loss is not finite: "stop", or "skip" the step.
        max_nan_steps: how many steps in a row "skip" may leave out.
        on_oom: what to do if memory is too small for a batch: "stop", or "split" it from then on.
        strategy: how processes share the model: "ddp", "fsdp", or a block; see utils/distributed/strategy.py.
        sync_batchnorm: whether BatchNorm uses the whole batch of all processes, not only this process's part.
    """

    def __init__(self, *, model: nn.Module, data: DataSplits, optimizers: Mapping[str, Callable],
                 schedulers: Mapping[str, list], loss: Callable | None = None,
                 metrics: Mapping[str, Callable] = (), seed: int = 0,
                 device: torch.device = torch.device("cpu"),
                 epochs: PositiveInt = 10, monitor: Annotated[str, parse_monitor] | None = "min val/loss",
                 early_stop: PositiveInt | None = None, min_delta: Annotated[float, at_least(0)] = 0.0,
                 eval_every: PositiveInt = 1,
                 checkpoint_every: Annotated[dict, parse_save_interval] | None = None,
                 save_every: PositiveInt | None = None, keep_last: PositiveInt | None = None,
                 async_save: bool = True, max_failed_saves: PositiveInt = 3, log_every: PositiveInt = 50,
                 log_images_every: CountInt | None = 10, log_weights_every: CountInt | None = 10,
                 precision: Literal["fp32", "bf16", "fp16"] = "fp32", accumulate: PositiveInt = 1,
                 clip_norm: PositiveFloat | None = None,
                 ema: Annotated[float, at_least(0), below(1)] | None = None,
                 compile: Annotated[bool | str | dict, parse_compile_options] = False,
                 channels_last: bool = False,
                 matmul_precision: Literal["highest", "high", "medium"] | None = None,
                 max_time: Annotated[str, parse_duration] | PositiveFloat | None = None,
                 on_nan: Literal["stop", "skip"] = "stop", max_nan_steps: PositiveInt = 10,
                 on_oom: Literal["stop", "split"] = "stop",
                 strategy: Annotated[str | dict, parse_strategy] = "ddp", sync_batchnorm: bool = False):
        model = convert_sync_batchnorm(model) if sync_batchnorm and dist.world_size() > 1 else model
        self.unwrapped_model, self.data, self.loss, self.seed, self.device = model, data, loss, seed, device
        self.optimizers, self.schedulers = optimizers, schedulers
        self.epochs, self.eval_every, self.save_every, self.log_every = (
            epochs, eval_every, save_every, log_every)
        self.log_images_every, self.log_weights_every = log_images_every, log_weights_every
        self.precision, self.accumulate, self.clip_norm = precision, accumulate, clip_norm
        self.compile, self.channels_last = parse_compile_options(compile), channels_last
        if matmul_precision:
            torch.set_float32_matmul_precision(matmul_precision)
        self.position, self.totals = Position(), Totals()
        self.metrics, self.eval_metrics = Metrics(metrics, device), Metrics(metrics, device)
        self.monitor = Monitor(monitor, early_stop, min_delta) if monitor else None
        self.save_interval = parse_save_interval(checkpoint_every or {"epochs": 1})
        self.save_policy = SavePolicy(async_save, max_failed_saves, keep_last)
        self.guard = NonFiniteGuard(max_nan_steps if on_nan == "skip" else 0)
        self.splitting = Splitting(enabled=on_oom == "split")
        self.strategy = parse_strategy(strategy)
        self.ema_decay = ema
        self.ema: WeightAverage | None = None
        self.updaters: dict[str, Updater] = {}
        self.run: RunLog | SilentRun = SilentRun()  # until `train` gets one
        self.stop_request, self.in_preflight = StopRequest(parse_duration(max_time)), False
        self.window, self.shown_input, self.unsaved, self.timers = Window(), None, False, Timers()
        # which parts draw random numbers may then differ between processes: all are seeded for every step
        several = dist.world_size() > 1
        self.step_seeds = StepSeeds(derive(seed, "step", dist.rank()), device, drawn=several)
        self.model = self.prepare_model(model)
        self.state = {"model": model, "progress": self.position, "totals": self.totals,
                      "train_metrics": self.metrics, "step_seeds": self.step_seeds}
        if self.monitor:
            self.state["monitor"] = self.monitor
        if isinstance(loss, nn.Module) and loss.state_dict():
            self.state["loss"] = loss
        self.state |= {"splitting": self.splitting} if self.splitting.enabled else {}
        self.state |= {"guard": self.guard} if self.guard.tolerated else {}

    # -- what a subclass defines -----------------------------------------------------------------------------

    def train_step(self, batch: Any) -> Mapping[str, Any]:
        """One batch, on the device: forward, loss, `self.update(loss)`. Returns values, 0-dim or `[B]`."""
        raise NotImplementedError

    def eval_step(self, batch: Any) -> Mapping[str, Any]:
        """One evaluation batch, no gradients; `self.model` is in eval mode, with the averaged weights."""
        raise NotImplementedError

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """The model on the device, with the parameters of `self.unwrapped_model`; becomes `self.model`."""
        model.to(self.device)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        # compiled in place, so that the names in checkpoints stay as they are
        for name in self.optimizers if self.compile is not None else ():
            (model if name == "optimizer" else model.get_submodule(name)).compile(**self.compile)
        return model

    def build_updaters(self) -> dict[str, Updater]:
        """One Updater per optimizer of the config; a named optimizer steps the submodule of that name."""
        return {name: self.build_updater(name) for name in self.optimizers}

    def on_train_start(self) -> None:
        """Called before the first step of every start, also after a resume.

        Create what the steps need, and what goes into `self.state`, in `__init__`: the preflight comes first.
        """

    def on_step_end(self) -> None:
        """Called after every optimizer step."""

    def on_epoch_end(self) -> None:
        """Called after the epoch's evaluation, before its checkpoint is written."""

    def on_train_end(self) -> None:
        """Called when the last epoch is done."""

    # -- what a subclass calls -------------------------------------------------------------------------------

    def update(self, loss: torch.Tensor, name: str = "optimizer") -> None:
        """Runs backward; at the end of the accumulation window also the step of the optimizer `name`."""
        if name not in self.updaters:
            raise ConfigError.at("optimizer",
                                 f"this trainer updates '{name}'; the config has {', '.join(self.updaters)}")
        if self.in_preflight:  # no optimizer step, so that nothing has to be undone
            self.updaters[name].preflight(loss)
        else:
            self.updaters[name].update(loss, self.window)

    def autocast(self):
        """The context for forward passes and losses, as set by `precision`."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bf16" else torch.float16)

    def build_updater(self, name: str) -> Updater:
        own = self.loss.parameters() if name == "optimizer" and isinstance(self.loss, nn.Module) else ()
        # a loss may have parameters to train, too
        optimizer = self.optimizers[name](self.stepped(self.unwrapped_model, name), list(own))
        num_batches = self.data.num_batches("train")
        steps_per_epoch = num_batches and -(-num_batches // self.accumulate)
        schedule = Schedule(optimizer, self.schedulers.get(name, ()), self.epochs, steps_per_epoch)
        scaler = torch.amp.GradScaler(self.device.type,
                                      enabled=self.precision == "fp16" or self.strategy.in_fp16)
        return Updater(optimizer, schedule, scaler, self.clip_norm, exclusive=len(self.optimizers) > 1)

    def stepped(self, model: nn.Module, name: str) -> nn.Module:
        """The part of `model` that the optimizer called `name` steps: all, or the submodule of that name."""
        parts = {"optimizer": model, **dict(model.named_modules())}
        if name not in parts:
            raise ConfigError.at(f"optimizer.{name}",
                                 f"the model has no part '{name}'.{suggest_name(name, parts)}")
        return parts[name]

    # -- the loop --------------------------------------------------------------------------------------------

    def prepare_training(self) -> None:
        """Builds the optimizers and all else that only training needs. Call once, after initial weights."""
        if self.ema_decay is not None:
            with errors_explained(self):  # a second model may not fit into memory
                self.ema = WeightAverage(self.unwrapped_model, self.ema_decay)
        shard_model(self)
        self.updaters = self.build_updaters()
        for updater in self.updaters.values():
            updater.guard = self.guard
        self.state |= {"optimizer" if name == "optimizer" else f"optimizer_{name}": u
                       for name, u in self.updaters.items()}
        self.state |= self.data.to_checkpoint()
        if self.ema:
            self.state["ema"] = self.ema
        if self.strategy.shards:  # fsdp always shares gradients, even in the preflight
            average_gradients(self)

    def train(self, run: RunLog) -> None:
        """Trains from the current state to the last epoch and saves checkpoints into `run`.

        Raises Interrupted after a signal, TrainingError if it cannot continue; the checkpoint stays valid.
        """
        self.run = run
        self.state |= run.to_checkpoint()
        with self.stop_request.listening(), run:
            # a folder that cannot be written to shows now, not after an epoch
            self.save("last.pt", policy=SavePolicy(background=False, max_failures=1))
            stop_if_requested(self, poll_requests(self), budget=False)
            self.seed_for("start", self.position.step)
            self.on_train_start()
            self.timers.start()
            with closing(self.data), errors_explained(self):
                while not self.finished:
                    self.train_epoch()
                    self.finish_epoch()
                run.store.finish()
            self.on_train_end()

    @property
    def finished(self) -> bool:
        exhausted = self.monitor is not None and self.monitor.exhausted and self.position.batch == 0
        return self.position.epoch >= self.epochs or exhausted

    def train_epoch(self) -> None:
        """Trains the current epoch from its next batch to its last."""
        position, num_batches = self.position, self.data.num_batches("train")
        self.set_mode(training=True)
        self.run.start_epoch()
        self.shown_input = None  # later the epoch's first batch, as the network gets it
        bar = ProgressBar(f"epoch {position.epoch + 1}/{self.epochs}", num_batches, position.batch,
                          self.bar_note, self.run.bars)
        with closing(bar), Ballot() as ballot:
            for window in accumulation_windows(self.data.batches("train", position.epoch, position.batch),
                                               self.accumulate):
                self.timers.record("data wait")
                self.train_window(window)
                position.advance(len(window))
                self.unsaved = True
                self.on_step_end()
                bar.update(len(window))
                self.timers.record("compute")
                if position.step % self.log_every == 0 and position.batch != num_batches:
                    self.log_step()
                requests = poll_requests(self, ballot)
                if position.batch != num_batches and self.save_interval.due(position.step, requests.to_save):
                    self.save("last.pt")
                stop_if_requested(self, requests)

    def train_window(self, window: list[tuple[int, Any]]) -> None:
        """Makes one optimizer step, and updates the totals and the averaged weights."""
        broadcast_buffers(self)
        values, skipped = make_step(self, window)
        for named, count in values:
            self.totals.add(named, count, skipped)
        self.run.num_seen += sum([count.total for count, _ in window])
        if self.ema and skipped is not True:
            self.ema.update()

    def run_window(self, window: list[tuple[int, Any]]) -> list[tuple[Mapping[str, Any], int]]:
        """Forward, backward, update; a batch's weight is its fraction of samples. Returns (values, samples).

        Gradients become the mean over processes, hence the factor: a process's weight is its fraction, too.
        """
        num_samples = sum([count.total for count, _ in window]) / dist.world_size()
        measured = (self.position.step + 1) % self.log_every == 0
        values = []
        for number, (count, batch) in enumerate(window, 1):
            self.window = Window(count / num_samples, number == len(window), measured)
            batch = self.data.prepare(batch, self.device, self.channels_last, count.chosen)
            if self.shown_input is None:
                self.shown_input = batch
            self.metrics.padding = count == 0
            values.append((as_values(self.train_step(batch)), count))
        return values

    def finish_epoch(self) -> None:
        """Evaluates, updates the monitor and the schedules, logs, saves."""
        self.guard.check()
        epoch = self.position.epoch + 1
        values = {f"train/{name}": value
                  for name, value in (self.totals.means() | self.metrics.compute()).items()}
        self.timers.record("compute")
        if self.data.dataset("val") is not None and epoch % self.eval_every == 0:
            values |= self.evaluate("val")
        values |= self.learning_rates()
        monitored = values.get(self.monitor.name) if self.monitor else None
        improved = monitored is not None and self.monitor.update(monitored, epoch)
        for updater in self.updaters.values():
            updater.schedule.epoch(monitored)
        self.position.next_epoch()
        self.unsaved = True
        self.totals.reset()
        self.metrics.reset()
        self.run.epoch(values, epoch, self.epochs, self.position.step, improved, self.timers.recent())
        self.log_pictures(epoch)
        self.timers.record("logging")
        self.seed_for("epoch end", epoch)
        self.on_epoch_end()
        self.timers.record("other")
        names = [f"epoch_{epoch:04d}.pt"] if self.save_every and epoch % self.save_every == 0 else []
        names += ["best.pt"] * improved
        requests = poll_requests(self)
        if names or self.finished or self.save_interval.due(self.position.step, requests.to_save, epoch):
            self.save(*names, "last.pt")  # after all else: a run killed before it repeats this epoch's end
        if not self.finished:
            stop_if_requested(self, requests)

    def evaluate(self, split: str) -> dict[str, float]:
        """Averages over a split's samples, as `{"val/loss": 0.1, ...}`. Training state does not change."""
        totals = Totals()
        bar = ProgressBar(split, self.data.num_batches(split, training=False), shown=self.run.bars)
        with closing(bar), self.evaluating(), Ballot() as ballot:
            for number, (count, batch) in enumerate(self.data.batches(split, training=False)):
                self.timers.record("data wait")
                for values, num_samples in evaluate_batch(self, number, (count, batch)):
                    totals.add(values, num_samples)
                self.timers.record("evaluation")
                bar.update(1)
                stop_if_requested(self, poll_requests(self, ballot), budget=False)
            values = totals.means() | self.metrics.compute()
        self.timers.record("evaluation")
        return {f"{split}/{name}": value for name, value in values.items()}

    @contextmanager
    def evaluating(self):
        """Inside: no gradients, fresh `self.metrics`, `self.model` in eval mode (the averaged one if any)."""
        before = self.model, self.metrics
        self.model = self.ema.model if self.ema else self.model
        self.metrics = self.eval_metrics
        self.metrics.reset()
        broadcast_buffers(self)
        self.set_mode(training=False)
        try:
            with torch.no_grad():
                yield
        finally:
            self.model, self.metrics = before
            self.set_mode(training=True)

    def set_mode(self, training: bool) -> None:
        """Sets training or evaluation mode for the model, and for a loss that is a module."""
        self.model.train(training)
        if isinstance(self.loss, nn.Module):
            self.loss.train(training)

    # -- state -----------------------------------------------------------------------------------------------

    def save(self, *names: str, policy: SavePolicy | None = None) -> None:
        """Writes the state as checkpoints of these names. Raises NonFinite if an earlier step was masked."""
        self.guard.check()
        self.timers.record("compute")
        self.position.finished = self.finished
        state = {name: part.state_dict() for name, part in self.state.items()}
        weights = {name: weight for name, weight in self.unwrapped_model.named_parameters()
                   if weight.requires_grad}
        if isinstance(self.loss, nn.Module):
            weights |= {f"loss.{name}": weight for name, weight in self.loss.named_parameters()}
        self.run.store.save(state, list(names), weights, policy or self.save_policy)
        dist.wait_for_main()  # it may have had to wait for the disk
        if "last.pt" in names:
            self.save_interval.saved()
            self.unsaved = False
        self.timers.record("saving")

    def resume(self, state: Mapping[str, Any]) -> None:
        """Loads a checkpoint's state. Raises ConfigError if it does not fit what the config builds."""
        # these parts depend on the config, the data and the run
        optional = {"monitor", "splitting", "guard", "stream", "metrics_file", "step_seeds"}
        load_parts(self.state, place_state(state, self.state), optional)

    def seed_for(self, purpose: str, number: int) -> None:
        """Makes all further randomness a function of the run's seed, `purpose`, `number` and the rank."""
        seed_all(derive(self.seed, purpose, number, dist.rank()), self.device)

    # -- the log, the clock, signals, and non-finite numbers -------------------------------------------------

    def log_step(self) -> None:
        """A log point: reads the totals from the device, once, and logs them; earlier failures are raised."""
        self.guard.check()
        self.run.store.check()
        values = {f"step/{name}": value for name, value in self.totals.recent().items()}
        norms = {name: updater.grad_norm for name, updater in self.updaters.items()
                 if updater.grad_norm is not None}
        values |= {f"grad_norm/{name}": norm.item() for name, norm in norms.items()} | self.learning_rates()
        self.timers.record("compute")
        self.run.step(values, self.position.epoch + 1, self.position.step)
        self.timers.record("logging")

    def log_pictures(self, epoch: int) -> None:
        """Logs the input images and the weights, if they are due after `epoch` epochs."""
        if self.log_images_every and (epoch - 1) % self.log_images_every == 0:
            self.run.images("train/input", self.shown_input, self.position.step)
        if self.log_weights_every and (epoch - 1) % self.log_weights_every == 0:
            # one by one: weights may be sharded because all together do not fit into memory
            for name, weight in self.unwrapped_model.named_parameters():
                if weight.requires_grad:
                    self.run.histograms({f"weights/{name}": full_tensor(weight.detach())}, self.position.step)

    def learning_rates(self) -> dict[str, float]:
        return {f"lr/{name}": updater.lr for name, updater in self.updaters.items()}

    def bar_note(self) -> str:
        loss = self.totals.estimate("loss")
        return "" if loss is None else f"loss {loss:.4f}"
