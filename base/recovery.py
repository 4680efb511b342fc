"""Steps that go wrong: what an error says, and how a step is undone."""
import copy
import logging
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from base.preflight.locate_error import explain_error
from base.data.bad_samples import LoadError
from base.preflight.loss import Parts
from utils.distributed.group import is_peer_failure
from utils.errors import ConfigError, FailedStep, Interrupted, TrainingError, passes_plug_in
from utils.moved import former_names_of
from utils.run_folder import CHECKPOINTS
from utils.torch_messages import is_loader_worker_death, is_out_of_memory
from utils.training.progress import Position

log = logging.getLogger(__name__)
__getattr__ = former_names_of(__name__)


class FailedTrainer(Parts, Protocol):
    """What is needed of a trainer to undo a step and to explain an error."""

    device: torch.device
    precision: str
    accumulate: int
    position: Position
    run: Any

    def own_parts(self) -> list: ...


class StepSnapshot:
    """The state before a step, except gradients and weights: buffers, metrics, a trainer's own parts."""

    def __init__(self, trainer: FailedTrainer):
        self._metrics, self._metrics_before = trainer.metrics, trainer.metrics.snapshot()
        roots = [part for part in (trainer.unwrapped_model, trainer.loss) if isinstance(part, nn.Module)]
        # by name: a module may replace a tensor by a new one
        self._buffers = [(module, name, buffer.clone()) for root in roots for module in root.modules()
                         for name, buffer in module.named_buffers(recurse=False)]
        self._own = [(part, copy.deepcopy(part.state_dict())) for part in trainer.own_parts()]

    @torch.no_grad()
    def restore(self, skipped: bool | torch.Tensor = True) -> None:
        """Restores the state. With a 0-dim bool tensor the device decides; buffers need no wait for it."""
        for module, name, before in self._buffers:
            now = getattr(module, name)
            if now.shape == before.shape:
                now.copy_(torch.where(skipped, before, now) if isinstance(skipped, torch.Tensor) else before)
            elif skipped:  # one that grows; then the host waits for a mask
                setattr(module, name, before.clone())
        if (self._own or self._metrics.objects) and bool(skipped):
            self._metrics.restore(self._metrics_before)
            for part, before in self._own:
                part.load_state_dict(copy.deepcopy(before))


def explained(trainer: FailedTrainer, error: Exception, scoring: str = "") -> Exception:
    """The error that says what went wrong in a run, where and what helps; `error` itself if that does.

    A lack of memory and a dead loader worker give a TrainingError, errors of user code a FailedStep: their
    traceback goes to run.log. `scoring`: "scoring" or "prediction", where a part that the config names gives
    a ConfigError instead.
    """
    if isinstance(error, LoadError):
        advice = f"To resume from the last checkpoint: python train.py -r {trainer.run.folder}"
        return (TrainingError(f"{trainer.position}: {error}\n{advice}") if _is_run(trainer.run.folder)
                else error)
    if isinstance(error, (ConfigError, TrainingError, Interrupted)) or is_peer_failure(error):
        return error
    if is_loader_worker_death(error):
        return TrainingError(f"{trainer.position}: {describe_worker_death(trainer, error)}")
    if is_out_of_memory(error):
        return TrainingError(f"{trainer.position}: {describe_out_of_memory(trainer)}")
    key, text = explain_error(trainer, error)
    if key is None and not passes_plug_in(error):  # the engine's own: its traceback is all there is
        return error
    known = bool(scoring and key)  # then the message says it all; a program that imports this has no run.log
    log.log(logging.DEBUG if known else logging.ERROR, "a step failed", exc_info=error,
            extra={"only_in_file": True})
    if known:
        return ConfigError.at(key, f"{scoring} failed: {text}" + (
            "\nA split without labels cannot be scored. predict.py predicts for it." * (key[:4] == "loss")))
    return FailedStep(f"{trainer.position}: {f'{key}: ' * bool(key)}{text}\n(--verbose shows the traceback)")


def describe_out_of_memory(trainer: FailedTrainer) -> str:
    """What was tried, how much memory it took, and the settings that help, in numbers."""
    data, device, folder = trainer.data, trainer.device, trainer.run.folder
    lines = [f"out of memory with batches of {data.batch_size} samples, "
             f"{data.batch_size * trainer.accumulate} to a step, in {trainer.precision}"]
    if device.type == "cuda":
        peak, total = (torch.cuda.max_memory_allocated(device),
                       torch.cuda.get_device_properties(device).total_memory)
        lines[0] += f"; at most {peak / 1e9:.1f} GB were taken of the {total / 1e9:.1f} GB of {device}"
    lines.append("What helps:")
    if data.batch_size > 1:
        # the steps keep their samples only if the new size divides the old one
        size = next(size for size in range(data.batch_size // 2, 0, -1) if data.batch_size % size == 0)
        accumulate = trainer.accumulate * data.batch_size // size
        half = f"data_loader.batch_size={size} trainer.args.accumulate={accumulate}"
        lines.append(f"  {half}  (the same samples in each step, in less memory)")
        # with these, not within an epoch
        if _is_run(folder) and not (data.drop_last or data.batches_per_epoch):
            lines.append(f"    This run can resume with it: python train.py -r {folder} {half}")
    if trainer.precision == "fp32":
        lines.append("  trainer.args.precision=bf16  (nearly halves what activations take)")
    lines += [f"  data_loader.eval_batch_size={max(data.eval_batch_size // 2, 1)}  (if it happened in "
              "evaluation)",
              "  torch.utils.checkpoint in the model  (computes activations again instead of keeping them)"]
    return "\n".join(lines)


def describe_worker_death(trainer: FailedTrainer, error: RuntimeError) -> str:
    """What torch says of a loader worker that ended, the usual causes, and the settings that help."""
    num_workers, folder = trainer.data.loader_options["num_workers"], trainer.run.folder
    fewer = f"data_loader.num_workers={num_workers // 2}"
    error = error.__cause__ if is_loader_worker_death(error.__cause__) else error  # it names the signal
    lines = [f"a loader worker ended: {str(error).splitlines()[-1].strip()}",
             "'Killed': most often the machine or the job had no memory left, and the system's out-of-memory "
             "killer ended it",
             "(dmesg, or the log of the cluster, shows that). 'Bus error', or no shared memory: /dev/shm is "
             "full or too small.",
             "What helps:",
             f"  {fewer}  (each worker has memory of its own; with 0 there are no workers, and errors show)",
             "  data_loader.prefetch_factor=1  (each worker keeps fewer batches ready)",
             "  more memory for the job, or more shared memory (docker run --shm-size=8g)",
             "  data_loader.timeout=60, or more  (if a batch took longer than that)"]
    if _is_run(folder):
        lines.append(f"The last checkpoint is {folder / CHECKPOINTS / 'last.pt'}. To resume: "
                     f"python train.py -r {folder} {fewer}")
    return "\n".join(lines)


def _is_run(folder: Path | None) -> bool:
    """Whether a folder is a run, and not one of a tool."""
    return folder is not None and (folder / "config.yaml").exists()
