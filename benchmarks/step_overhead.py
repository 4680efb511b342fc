"""What the loop costs a step: the program on a model so small that nothing else counts, against the same written by hand.

    python benchmarks/step_overhead.py
    python benchmarks/step_overhead.py --steps 2000 --rounds 1 --threads 1

    bare             a linear layer from 8 numbers to 2, batches of 32 gathered from one tensor, fused Adam; nothing else
    template         the program with all it does by default and two metrics: TensorBoard, log points, a bar on a terminal
    template_quiet   the program without logs, metrics, writers and bar

Microseconds a step, over nine tenths of one long epoch: start-up, evaluation and checkpoints are left out.
"""
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import jobs  # noqa: E402
from benchmarks.harness import Comparison, minor_faults, peak_rss_mib  # noqa: E402


class StepClock:
    """Called after every step; takes the time after the first tenth and after the last."""

    def __init__(self, num_steps: int):
        self.first, self.last, self.faults = max(num_steps // 10, 1), num_steps, 0
        self.started = self.elapsed_s = None

    def __call__(self, step: int) -> None:
        if step == self.first:
            self.faults, self.started = minor_faults(), time.perf_counter()
        elif step == self.last:
            self.elapsed_s, self.faults = time.perf_counter() - self.started, minor_faults() - self.faults

    def numbers(self) -> dict[str, float]:
        num_steps = self.last - self.first
        return {"us_per_step": self.elapsed_s / num_steps * 1e6, "faults_per_step": self.faults / num_steps,
                "peak_rss_mib": peak_rss_mib()}


def bare(args) -> dict:
    clock = StepClock(args.steps)
    jobs.bare_steps(args.steps, clock)
    return clock.numbers()


def template(args) -> dict:
    clock = StepClock(args.steps)
    jobs.template_steps(args.steps, clock)
    return clock.numbers()


def template_quiet(args) -> dict:
    clock = StepClock(args.steps)
    silent = {"log_every": 10**9, "log_images_every": 0, "log_weights_every": 0}
    jobs.template_steps(args.steps, clock, "-q", metrics=[], writers=[], trainer=silent)
    return clock.numbers()


def options(parser) -> None:
    parser.add_argument("--steps", type=int, default=20_000, help="(20,000)")


COMPARISON = Comparison(
    "step_overhead", __doc__, {"bare": bare, "template": template, "template_quiet": template_quiet},
    {"us_per_step": "a step [us]", "faults_per_step": "page faults a step", "peak_rss_mib": "peak memory [MiB]"},
    differences=[("us_per_step", "template", "bare"), ("us_per_step", "template_quiet", "bare")], options=options)

if __name__ == "__main__":
    COMPARISON.main()
