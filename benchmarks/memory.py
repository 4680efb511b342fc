"""Whether memory grows with the steps: the program and a loop written by hand on the trivial model of step_overhead.py.

    python benchmarks/memory.py
    python benchmarks/memory.py --steps 2000 --rounds 1 --threads 1

Resident memory after a tenth, a half and all of the steps of one long epoch, and the growth from the first to the last of
these. The peak in an epoch of MNIST stands in the table of mnist_epoch.py.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import jobs  # noqa: E402
from benchmarks.harness import Comparison, peak_rss_mib, rss_mib  # noqa: E402


class MemoryMarks:
    """Called after every step; looks at the memory of the process after a tenth, a half and all of them."""

    def __init__(self, num_steps: int):
        self.when = {num_steps // 10: "tenth_mib", num_steps // 2: "half_mib", num_steps: "all_mib"}
        self.seen: dict[str, float] = {}

    def __call__(self, step: int) -> None:
        if step in self.when:
            self.seen[self.when[step]] = rss_mib()

    def numbers(self) -> dict[str, float]:
        return {**self.seen, "growth_mib": self.seen["all_mib"] - self.seen["tenth_mib"], "peak_rss_mib": peak_rss_mib()}


def bare(args) -> dict:
    marks = MemoryMarks(args.steps)
    jobs.bare_steps(args.steps, marks)
    return marks.numbers()


def template(args) -> dict:
    marks = MemoryMarks(args.steps)
    jobs.template_steps(args.steps, marks)
    return marks.numbers()


def options(parser) -> None:
    parser.add_argument("--steps", type=int, default=20_000, help="(20,000)")


COMPARISON = Comparison(
    "memory", __doc__, {"bare": bare, "template": template},
    {"tenth_mib": "after a tenth [MiB]", "half_mib": "after half [MiB]", "all_mib": "after all [MiB]",
     "growth_mib": "growth [MiB]", "peak_rss_mib": "peak [MiB]"},
    differences=[("all_mib", "template", "bare")], rounds=3, options=options)

if __name__ == "__main__":
    COMPARISON.main()
