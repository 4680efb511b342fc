"""Contestants side by side: each in a fresh process, by turns, with medians, ratios, one table and JSON.

A benchmark is a file with a `Comparison`: functions by name, each returns a dict of numbers. The process that a user
starts imports no torch: it starts one contestant after the other (the order rotates from round to round), reads the
numbers from the last line of its output, and sums up. A contestant that cannot run here returns `{"note": "not installed"}`.
"""
import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "torchmetrics", "numpy", "tensorboard", "tqdm", "pandas", "pytorch-lightning", "accelerate",
            "pytorch-ignite", "mmengine")
Contestant = Callable[[argparse.Namespace], Mapping[str, float]]


class Comparison:
    """What is compared, and how it is shown.

    Args:
        name: of the module in benchmarks/ that holds it.
        doc: that module's docstring: the text of --help.
        contestants: functions of the arguments that return numbers, by field. They run in processes of their own.
        fields: the fields shown, each with its heading, in this order; fields that no contestant returns are left out.
        ratios: (field, contestant, to which other): the median over the rounds of the ratio within a round.
        differences: the same for the difference.
        rounds, threads: how many by default; as many threads as there are cores.
        options: adds further arguments to the parser; they reach the contestants, too.
        launcher: what python runs the module by, such as torchrun's module and its options.
    """

    def __init__(self, name: str, doc: str, contestants: Mapping[str, Contestant], fields: Mapping[str, str],
                 ratios: Sequence[tuple[str, str, str]] = (), differences: Sequence[tuple[str, str, str]] = (), rounds: int = 5,
                 threads: int | None = None, options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
                 launcher: Callable[[argparse.Namespace], list[str]] = lambda args: []):
        self.name, self.doc, self.contestants, self.fields = name, doc, contestants, fields
        self.ratios, self.differences, self.rounds = ratios, differences, rounds
        self.threads, self.options, self.launcher = threads or os.cpu_count(), options, launcher

    def parse(self, argv: list[str]) -> argparse.Namespace:
        parser = argparse.ArgumentParser(description=self.doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--rounds", type=int, default=self.rounds, help=f"({self.rounds})")
        parser.add_argument("--threads", type=int, default=self.threads, help=f"of each process ({self.threads})")
        parser.add_argument("--contestants", type=lambda text: text.split(","), default=list(self.contestants), metavar="A,B",
                            help=f"which of {', '.join(self.contestants)}")
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every round there, too")
        parser.add_argument("--contestant", help=argparse.SUPPRESS)
        parser.add_argument("--round", type=int, default=0, help=argparse.SUPPRESS)
        self.options(parser)
        args = parser.parse_args(argv)
        if unknown := [name for name in args.contestants if name not in self.contestants]:
            parser.error(f"no contestant '{unknown[0]}'. There are: {', '.join(self.contestants)}")
        return args

    def main(self, argv: list[str] | None = None) -> dict | None:
        """What `python benchmarks/NAME.py` does: all of the comparison, or one contestant of it in this process."""
        argv = sys.argv[1:] if argv is None else argv
        args = self.parse(argv)
        if args.contestant:
            if (numbers := self.contestants[args.contestant](args)) is not None:
                print("\n" + json.dumps(numbers), flush=True)
            return None
        document = self.measure(args, argv)
        print(table(document))
        if args.json:
            args.json.write_text(json.dumps(document, indent=1) + "\n")
        return document

    def measure(self, args: argparse.Namespace, argv: list[str]) -> dict:
        """Every round, and its summary, as JSON will have it."""
        rounds = []
        for number in range(args.rounds):
            turn = number % len(args.contestants)
            order = args.contestants[turn:] + args.contestants[:turn]
            results = {name: self.run_contestant(name, args, [*argv, "--round", str(number)]) for name in order}
            rounds.append({name: results[name] for name in args.contestants})
            say(f"{self.name}: round {number + 1} of {args.rounds}")
        return {"comparison": self.name, "command": shlex.join(["python", f"benchmarks/{self.name}.py", *argv]),
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "machine": machine(args.threads),
                "versions": versions(), "fields": dict(self.fields), "rounds": rounds, "medians": medians(rounds),
                "ratios": paired(rounds, self.ratios, lambda one, other: one / other if other else None),
                "differences": paired(rounds, self.differences, lambda one, other: one - other)}

    def run_contestant(self, name: str, args: argparse.Namespace, argv: list[str]) -> dict:
        """The numbers of one contestant, from a process of its own."""
        say(f"{self.name}: {name} ...")
        threads = {variable: str(args.threads) for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, *self.launcher(args), "-m", f"benchmarks.{self.name}", *argv, "--contestant", name]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads, "PYTHONPATH": path})
        if done.returncode:
            sys.exit(f"{self.name}: {name} ended with exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def say(text: str) -> None:
    """Tells somebody at a terminal how far it has got."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def medians(rounds: list[dict]) -> dict[str, dict]:
    """Of each contestant each field's median over the rounds; text, such as a note, as it is."""
    return {name: {field: value if isinstance(value, str) else statistics.median(one[name][field] for one in rounds)
                   for field, value in rounds[0][name].items()} for name in rounds[0]}


def paired(rounds: list[dict], pairs: Sequence[tuple[str, str, str]], function: Callable) -> list[dict]:
    """For each (field, one, other) what summarizes `function` of both values of a round, over the rounds."""
    summaries = []
    for field, one, other in pairs:
        values = [function(results[one][field], results[other][field]) for results in rounds
                  if field in results.get(one, ()) and field in results.get(other, ())]
        if values and None not in values:
            summaries.append({"field": field, "of": one, "to": other, "median": statistics.median(values),
                              "min": min(values), "max": max(values), "mean": statistics.mean(values),
                              "deviation": statistics.stdev(values) if len(values) > 1 else 0.0})
    return summaries


def table(document: dict) -> str:
    """The summary as Markdown, which is legible as it is."""
    medians, fields = document["medians"], document["fields"]
    shown = [field for field in fields if any(field in values for values in medians.values())]
    rows = [[document["comparison"], *(fields[field] for field in shown)]]
    for name, values in medians.items():
        rows.append([name, *(figure(values[field]) if field in values else "-" for field in shown)])
        if "note" in values:
            rows[-1][1:2] = [values["note"]]
    widths = [max(len(row[i]) if i < len(row) else 0 for row in rows) for i in range(max(map(len, rows)))]
    rows.insert(1, ["-" * width for width in widths])
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row + [""] * len(widths), widths, strict=False)) + " |"
             for row in rows]
    for kind, sign in (("ratios", "/"), ("differences", "-")):
        lines += [f"{fields[pair['field']]}: {pair['of']} {sign} {pair['to']} = {figure(pair['median'])} "
                  f"({figure(pair['min'])} to {figure(pair['max'])}; mean {figure(pair['mean'])}, standard deviation "
                  f"{figure(pair['deviation'])})" for pair in document[kind]]
    about, rounds = document["machine"], len(document["rounds"])
    device = next((values["device"] for values in medians.values() if "device" in values), about["cpu"])
    lines.append(f"medians of {rounds} round{'s' * (rounds != 1)}; {device}, {about['threads']} threads, torch "
                 f"{document['versions'].get('torch')}, {document['date'][:10]}; {document['command']}")
    return "\n" + "\n".join(lines) + "\n"


def figure(value: float) -> str:
    """Three digits that count, without an exponent; whole numbers and text as they are."""
    if isinstance(value, (str, int)):
        return value if isinstance(value, str) else f"{value:,}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def machine(threads: int) -> dict:
    """What it ran on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"cpu": name, "cores": os.cpu_count(), "threads": threads, "system": platform.platform()}


def versions() -> dict[str, str]:
    """Of python and of what is installed of the packages that matter."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def installed(*packages: str) -> bool:
    """Whether all of these distributions are there."""
    return set(packages) <= versions().keys()


def peak_rss_mib() -> float:
    """The most memory this process ever had. `ru_maxrss` may be what the parent had, at the moment of the fork."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        unit = 2**20 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def rss_mib() -> float:
    """The memory this process has now. Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def minor_faults() -> int:
    """Pages that the system has had to hand to this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


class Clock:
    """When epochs end; the processor's time and the pages handed out by then. Make it when the first epoch begins."""

    def __init__(self):
        self.times, self.processor_times, self.faults = [], [], []
        self.mark()

    def mark(self) -> None:
        self.times.append(time.perf_counter())
        self.processor_times.append(time.process_time())
        self.faults.append(minor_faults())

    def numbers(self, num_steps: int) -> dict[str, float]:
        """Seconds of the first epoch and the median of the others, of `num_steps` steps each; with what memory took."""
        epochs_s, processor_s, faults = ([after - before for before, after in zip(values, values[1:], strict=False)]
                                         for values in (self.times, self.processor_times, self.faults))
        later = slice(1, None) if len(epochs_s) > 1 else slice(None)
        return {"first_epoch_s": epochs_s[0], "epoch_s": statistics.median(epochs_s[later]),
                "processor_s": statistics.median(processor_s[later]),
                "faults_per_step": statistics.mean(faults[later]) / num_steps, "peak_rss_mib": peak_rss_mib()}
