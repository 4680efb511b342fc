"""`train.py --profile`: where the time of training steps goes, as a trace for TensorBoard and Perfetto."""
import logging
import os
from contextlib import contextmanager

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

from utils.distributed import collectives as dist

log = logging.getLogger(__name__)
NUM_WARM = 3  # steps before the recorded ones: the first steps of a run are slow for other reasons
NUM_SHOWN = 10


def run_tool(args, trainer) -> None:
    """Runs `--profile [STEPS]` with a trainer that is about to train."""
    profile_steps(trainer, args.profile)


def profile_steps(trainer, num_steps: int) -> None:
    """Makes the trainer record `num_steps` steps of the first epoch it trains, or all if there are fewer.

    Until then it wraps `train_epoch` and `on_step_end`, so that a run without --profile has no cost. With
    several processes, only the main one records.
    """
    if not dist.is_main():
        return
    train_epoch = trainer.train_epoch

    def profiled_epoch():
        trainer.train_epoch = train_epoch
        with recording(trainer, num_steps):
            train_epoch()

    trainer.train_epoch = profiled_epoch


@contextmanager
def recording(trainer, num_steps: int):
    """Records the trainer's steps in the block. Writes the trace after `num_steps` steps, or at its end."""
    own, num_warm = trainer.on_step_end, _num_warm(trainer, num_steps)
    first_step = trainer.position.step + num_warm + 1
    if trainer.device.type == "cpu":
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it warns on stderr that there is no GPU
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (trainer.device.type == "cuda")
    profiler = profile(activities=activities, record_shapes=True,
                       on_trace_ready=lambda p: _report(p, trainer, first_step),
                       schedule=schedule(wait=0, warmup=num_warm, active=num_steps, repeat=1))

    def on_step_end():
        own()
        profiler.step()
        if trainer.position.step >= first_step + num_steps - 1:
            end()

    def end():
        trainer.on_step_end = own
        profiler.stop()

    profiler.start()
    trainer.on_step_end = on_step_end
    try:
        yield
    finally:
        if trainer.on_step_end is on_step_end:
            if trainer.position.step < first_step:
                log.warning("--profile: the epoch ended before step %d, with which the trace was to begin",
                            first_step)
            end()


def _num_warm(trainer, num_steps: int) -> int:
    """Steps before the recorded ones: up to NUM_WARM if the epoch has as many left, else one if possible."""
    num_batches = trainer.data.num_batches("train")
    if num_batches is None:
        return NUM_WARM
    num_left = -(-(num_batches - trainer.position.batch) // trainer.accumulate)
    return min(NUM_WARM, max(num_left - num_steps, int(num_left > 1)))


def _report(profiler, trainer, first_step: int) -> None:
    """Writes the trace, and logs which operators took the most time."""
    last_step = trainer.position.step
    file = trainer.run.folder / "profile" / f"steps_{first_step}-{last_step}.pt.trace.json"
    try:
        file.parent.mkdir(exist_ok=True)
        profiler.export_chrome_trace(str(file))
        where = f"{file} (open it at https://ui.perfetto.dev, or in TensorBoard with torch-tb-profiler)"
    except (OSError, RuntimeError) as error:  # a trace that cannot be written must not end the run
        where = f"no file: {file} cannot be written: {error}"
    kind = "CUDA" if trainer.device.type == "cuda" else "CPU"
    log.info("Steps %d to %d: the operators that took the most time by themselves on the %s\n%s\n"
             "The trace lies in %s",
             first_step, last_step, kind, costliest(profiler.key_averages(), kind), where)


def costliest(averages, kind: str) -> str:
    """A table of the operators with the most time of their own on the device `kind` ("CUDA" or "CPU")."""
    def own_ms(event) -> float:
        return (event.self_device_time_total if kind == "CUDA" else event.self_cpu_time_total) / 1000

    # a kernel is an event of the device; its time counts for the operator that starts it
    events = [e for e in averages if e.device_type == DeviceType.CPU and not e.key.startswith("ProfilerStep")]
    total_ms = sum(map(own_ms, events)) or 1.0
    rows = [f"  {'operator':<44} {'ms':>10} {'share':>7} {'calls':>8}"]
    rows += [f"  {event.key[:44]:<44} {own_ms(event):10.2f} {own_ms(event) / total_ms:7.1%} {event.count:8,}"
             for event in sorted(events, key=own_ms, reverse=True)[:NUM_SHOWN]]
    return "\n".join(rows)
