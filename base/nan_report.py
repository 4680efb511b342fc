"""The report on a step whose loss was not finite: what is kept, and which module it began in."""
import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch

from base.base_data_loader import DataSplits
from base.base_metric import as_values
from base.data.sampler import Batch
from base.data.streams import is_stateful
from base.weighted_losses import loss_parts
from utils.checkpoint.archive import write_archive
from utils.checkpoint.state import StateCopier, find_non_finite, find_unstorable, iter_tensors
from utils.checkpoint.store import CheckpointStore, SavePolicy
from utils.distributed import collectives as dist
from utils.distributed.sharding import is_sharded
from utils.errors import TrainingError
from utils.run_files import replace_file
from utils.training.non_finite_guard import NonFinite
from utils.training.progress import Position, accumulation_windows

log = logging.getLogger(__name__)
FOLDER = "nan_report"
ADVICE = ("The step was not made, and the last checkpoint is sound. Usual causes: a learning rate that is "
          "too high, no trainer.args.clip_norm, fp16 where bf16 would do, a logarithm of or a division by "
          "zero, NaN in the data. trainer.args.on_nan=skip leaves such steps out.")


class FailedTraining(Protocol):
    """What `report_non_finite` needs of a trainer."""

    data: DataSplits
    position: Position
    accumulate: int
    unwrapped_model: torch.nn.Module
    loss: Any
    updaters: Mapping[str, Any]
    run: Any

    def train_step(self, batch: Any) -> Mapping[str, Any]: ...
    def device_batch(self, batch: Batch) -> Any: ...
    def seed_step(self) -> None: ...
    def collect_state(self) -> dict[str, dict]: ...
    def without_steps(self, alone: bool) -> AbstractContextManager: ...


def report_non_finite(trainer: FailedTraining, error: NonFinite, batches: Sequence[Batch]) -> str:
    """Goes back to the failed step, runs it again, checks every module's output, and keeps the findings.

    `batches`: those of the step that was made last.

    `nan_report/` gets `batch.pt`, `report.json` and `checkpoint.pt`: the weights and the position before the
    step, and the buffers that the forward pass left. Resume it to see the step fail. There is no
    `checkpoint.pt` if the weights were not finite before the step. Sharded weights (strategy fsdp) are not
    kept, and the step is not run again. Returns the report as text.
    """
    trainer.position.step_back(error.num_late, trainer.accumulate)
    for updater in trainer.updaters.values():  # averaged ones would make every process look guilty
        updater.optimizer.zero_grad(set_to_none=True)
    where, sharded = trainer.position, any(map(is_sharded, trainer.unwrapped_model.parameters()))
    try:
        batches = _refetch_batches(trainer) if error.num_late else batches
        prepared = [trainer.device_batch(batch) for batch in batches]
        state, found = _look_into(trainer, prepared, sharded, error)
    except Exception as failure:  # a failure here must not hide the original error
        log.warning("the step could not be looked into: %s: %s", type(failure).__name__, failure)
        return f"{where}: {error}.\n{ADVICE}"
    findings = dist.all_gather_object((found, str(error), error.here))
    culprit = _guiltiest(findings)
    found, message, _ = findings[culprit]
    found = found or "Run again, it was finite everywhere: the step is not the same every time"
    kept = _keep(trainer, state, dist.broadcast_object(_storable(prepared), culprit),
                 {**where.state_dict(), "error": message, "found": found})
    # late errors are known to all alike
    known = len(findings) > 1 and not (sharded and error.num_late)
    who = f" (process {culprit} of {len(findings)})" if known else ""
    made = " The steps of the optimizers before it were made." if len(trainer.updaters) > 1 else ""
    return dist.broadcast_object(f"{where}: {message}{who}. {found}.{made}\n{kept}\n{ADVICE}")


def _guiltiest(findings: list[tuple[str | None, str, bool]]) -> int:
    """The process that saw the value itself, and found where it arose; else one for which either is true."""
    return max(range(len(findings)), key=lambda number: (findings[number][2], bool(findings[number][0])))


def warn_of_nan_means(split: str, first_nan: Mapping[str, int], loss: Any) -> None:
    """Logs the means of an evaluation that are NaN, each with the first batch whose value was NaN."""
    if not first_nan:
        return
    found = ", ".join(f"{split}/{name} (first in batch {number})" for name, number in first_nan.items())
    ignored = [part.ignore_index for part in loss_parts(loss).values() if hasattr(part, "ignore_index")]
    cause = (f" A loss is nan where all labels of a batch are ignored (ignore_index {ignored[0]})."
             if ignored else "")
    log.warning("nan in the evaluation: %s.%s Such a mean is never the best one.", found, cause)


def _refetch_batches(trainer: FailedTraining) -> list[Batch]:
    position = trainer.position
    if is_stateful(trainer.data.dataset("train")):
        raise RuntimeError("the stream has moved on; with trainer.args.log_every=1 it is inspected in time")
    return next(accumulation_windows(trainer.data.batches("train", position.epoch, position.batch),
                                     trainer.accumulate))


def _look_into(trainer: FailedTraining, prepared: list, sharded: bool,
               error: NonFinite) -> tuple[dict | None, str | None]:
    """The state to keep, and what this process finds out about the step on the `prepared` batches."""
    if sharded:
        return None, error.here and ("Of weights in parts (strategy fsdp) none are kept, and the step is not "
                                     "run again. To look closer, resume in one process: python train.py -r "
                                     f"{trainer.run.folder}")
    if bad := find_non_finite(dict(trainer.unwrapped_model.named_parameters())):
        return None, (f"The weights of {bad} are not finite: a step before made them so, with a gradient "
                      "that was not, which is looked at at log points and wherever clip_norm is set")
    state = StateCopier().copy(trainer.collect_state())
    return state, _find_origin(trainer, prepared)


def _keep(trainer: FailedTraining, state: dict | None, batch: dict, report: dict) -> str:
    """Writes what was found into the run's folder. Returns a sentence on it."""
    folder = trainer.run.folder / FOLDER
    if dist.is_main():
        try:
            store = CheckpointStore(folder, trainer.run.store.config)
            if state:
                store.save(state, ["checkpoint.pt"], {}, SavePolicy(background=False, max_failures=1))
            (folder / "batch.pt").unlink(missing_ok=True)  # perhaps a link
            write_archive(batch, folder / "batch.pt")
            replace_file(folder / "report.json", json.dumps(report, indent=2) + "\n")
        except (OSError, TrainingError) as failure:
            return f"Nothing could be kept of it: {failure}"
    return f"Kept in {folder}: the batch{', the weights' if state else ''} and where they stood."


def _storable(window: list) -> dict:
    """A copy of a step's batches, or, if they cannot be stored, of the tensors in them."""
    content = {"batches": window}
    return StateCopier().copy({"tensors": list(iter_tensors(window))}
                              if find_unstorable(content, "batch") else content)


def _find_origin(trainer: FailedTraining, prepared: list) -> str | None:
    """A sentence on where the first non-finite value arose; None if all are finite. All processes call it."""
    modules = {"the model": trainer.unwrapped_model, **dict(trainer.unwrapped_model.named_modules())}
    if isinstance(trainer.loss, torch.nn.Module):
        modules |= {f"loss {name}".strip(): module for name, module in trainer.loss.named_modules()}
    modules.pop("", None)
    found = [f"The batch itself holds values that are not finite (number {number} of the step, after batch "
             "transforms)" for number, batch in enumerate(prepared)
             if not all(map(_is_finite, iter_tensors(batch)))]
    with (trainer.without_steps(alone=True), _outputs_watched(modules, found),
          torch.compiler.set_stance("force_eager")):
        trainer.seed_step()
        for batch in prepared:
            values = as_values(trainer.train_step(batch))
            bad = [name for name, value in values.items() if not _is_finite(torch.as_tensor(value))]
            if bad:
                found.append("Every module's output is finite; it begins in the loss function, or after it: "
                             f"'{bad[0]}' is not finite")
    bad = [name for name, p in trainer.unwrapped_model.named_parameters()
           if p.grad is not None and not _is_finite(p.grad)]
    if bad:
        found.append(f"Every module's output is finite; it is in the gradients, of {bad[-1]} last (backward "
                     "reached it first)")
    return next(iter(found), None)


@contextmanager
def _outputs_watched(modules: dict[str, torch.nn.Module], found: list[str]):
    """Inside, forward passes add to `found` a sentence on the first module with a non-finite output."""

    def watch(name: str, module: torch.nn.Module):
        def look(_, inputs, output):
            if not found and any(not _is_finite(tensor) for tensor in iter_tensors(output)):
                found.append(f"The first module whose output is not finite: {name} "
                             f"({type(module).__name__}); {_describe_inputs(inputs)}")
        return module.register_forward_hook(look)

    handles = [watch(name, module) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _describe_inputs(inputs) -> str:
    largest = max((tensor.detach().abs().max().item() for tensor in iter_tensors(inputs) if tensor.numel()),
                  default=0.0)
    if math.isfinite(largest):
        return f"the largest of its inputs is {largest:.3g}"
    return "its inputs are not finite already: it happened in the code between the modules"


def _is_finite(value: torch.Tensor) -> bool:
    return bool(torch.isfinite(value).all())
