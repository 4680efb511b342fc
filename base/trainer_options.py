"""The options of `trainer.args`: a dataclass whose fields are the schema (names, types, bounds, defaults)."""
from dataclasses import dataclass
from typing import Annotated, Literal

from utils.config.annotations import CountInt, PositiveFloat, PositiveInt, at_least, below
from utils.distributed.strategy import parse_strategy
from utils.training.compile_options import parse_compile_options
from utils.training.monitor import parse_monitor
from utils.training.progress import parse_duration, parse_save_interval


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """What a config may set under `trainer.args` for every trainer.

    A trainer with options of its own takes them in its constructor and passes the others on:
    `def __init__(self, *, penalty: float = 0.1, **kwargs): super().__init__(**kwargs)`.

    Args:
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
        max_failed_saves: how many failed saves in a row end the run, for example on a full disk, once they
            have failed for a minute; 1 ends it at once.
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
        strategy: how processes share the model: "ddp", "fsdp", or a block; see utils/distributed/strategy.py.
        sync_batchnorm: whether BatchNorm uses the whole batch of all processes, not only this process's part.
        frozen_norm: the mode of BatchNorm layers whose parameters are frozen, in training: "eval" keeps their
            running statistics, "train" updates them.
    """

    epochs: PositiveInt = 10
    monitor: Annotated[str, parse_monitor] | None = "min val/loss"
    early_stop: PositiveInt | None = None
    min_delta: Annotated[float, at_least(0)] = 0.0
    eval_every: PositiveInt = 1
    checkpoint_every: Annotated[dict, parse_save_interval] | None = None
    save_every: PositiveInt | None = None
    keep_last: PositiveInt | None = None
    async_save: bool = True
    max_failed_saves: PositiveInt = 3
    log_every: PositiveInt = 50
    log_images_every: CountInt | None = 10
    log_weights_every: CountInt | None = 10
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: PositiveInt = 1
    clip_norm: PositiveFloat | None = None
    ema: Annotated[float, at_least(0), below(1)] | None = None
    compile: Annotated[bool | str | dict, parse_compile_options] = False
    channels_last: bool = False
    matmul_precision: Literal["highest", "high", "medium"] | None = None
    max_time: Annotated[str, parse_duration] | PositiveFloat | None = None
    on_nan: Literal["stop", "skip"] = "stop"
    max_nan_steps: PositiveInt = 10
    strategy: Annotated[str | dict, parse_strategy] = "ddp"
    sync_batchnorm: bool = False
    frozen_norm: Literal["eval", "train"] = "eval"
