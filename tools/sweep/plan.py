"""What a sweep is asked to do, from its config and the command line; and whether its folder holds that."""
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tools.sweep.checks import with_references
from tools.sweep.ledger import read_events
from tools.sweep.sampling.samplers import check_sampler, suggest
from tools.sweep.sampling.seen import Seen
from tools.sweep.section import DEFAULTS, SweepOptions, read_section
from tools.sweep.trials import Study
from utils.config.loading import Reading, located, raise_faults, read_config
from utils.config.syntax import dump_yaml, format_value, parse_yaml
from utils.config.values import differences, value_at
from utils.errors import ConfigError
from utils.training.monitor import parse_monitor

CONFIG, BEST = "sweep.yaml", "best.yaml"
_FREE = ("sweep.trials", "sweep.run_on", "sweep.threads_per_trial")  # may change in a sweep that exists


@dataclass(frozen=True)
class Plan:
    """A sweep: what its trials are started with, and what decides about them.

    Args:
        source: the config file that was named.
        folder: saved/<name>, which holds the folders of the trials.
        options: the section `sweep`.
        document: the content of sweep.yaml: the config with its references, and the complete section.
        overrides: those of the command line, for every trial.
        seed: of the config; the sampler is seeded by it, and repeats count from it.
        threads: of each trial.
        splits_validation: whether the config sets data_loader.validation_split, which folds replace.
        config: values of the completed config: epochs, monitor, eval_every; {} before they are known.
    """

    source: Path
    folder: Path
    options: SweepOptions
    document: Mapping[str, Any]
    overrides: Sequence[str]
    seed: int
    threads: int
    splits_validation: bool
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def monitor(self) -> str:
        """Such as "max val/accuracy"."""
        return self.options.monitor or self.config.get("monitor") or "min val/loss"

    @property
    def metric(self) -> str:
        """The name of the monitored value in metrics.jsonl."""
        return parse_monitor(self.monitor)[1]

    @property
    def maximize(self) -> bool:
        """Whether large values are good ones."""
        return parse_monitor(self.monitor)[0] == "max"

    @cached_property
    def grid(self) -> list[dict[str, Any]] | None:
        """The points of a grid; None for another sampler."""
        return self.options.space.grid() if self.options.sampler == "grid" else None

    def params(self, number: int, seen: Sequence[Seen]) -> dict[str, Any]:
        """The values that the sampler chooses for a trial. A function of its arguments."""
        if self.grid is not None:
            return self.grid[number]
        return suggest(self.options.sampler, self.options.space, seen, number, self.seed, self.maximize)

    def samples(self, number: int) -> list[dict[str, Any]]:
        """The values of trials, as chosen without results; of a grid, spread over it."""
        if self.grid is not None:
            return self.grid[::max(len(self.grid) // number, 1)][:number]
        return [self.params(i, []) for i in range(number)]

    def repeats(self) -> list[tuple[str, list[str]]]:
        """The suffix of the folder and the overrides of each run of a trial."""
        found = []
        for repeat in self.options.repeats:
            suffix, overrides = "", []
            if "seed" in repeat:
                seed = self.seed + repeat["seed"]
                suffix, overrides = f"_seed{seed}", [f"seed={seed}"]
            if "fold" in repeat:
                suffix += f"_fold{repeat['fold']}"
                overrides += ["~data_loader.validation_split"] * self.splits_validation
                overrides += [f"data_loader.folds={self.options.folds}", f"data_loader.fold={repeat['fold']}"]
            found.append((suffix, overrides))
        return found

    def study(self, events: Sequence[Mapping[str, Any]] = ()) -> Study:
        """The study after the events of a ledger."""
        most = math.inf if self.grid is None else len(self.grid)
        planned = min(self.options.trials or most, most)
        factor = self.options.prune.factor if self.options.prune else 1
        rungs = self.options.rungs(self.config["epochs"])
        study = Study(rungs, factor, planned, self.maximize, self.repeats(), most=most)
        for event in events:
            study.apply(event)
        return study


def read_plan(args) -> tuple[Plan, Reading]:
    """The plan of a command line (config, overrides, folds, seeds, out), and the reading of its config.

    Raises ConfigError for all faults of the section `sweep`, each with its place.
    """
    ours = [text for text in args.overrides
            if text.removeprefix("~").partition("=")[0].split(".")[0] == "sweep"]
    others = [text for text in args.overrides if text not in ours]
    reading = read_config(args.config, args.overrides)
    raise_faults(reading)
    section, name = _section(args, reading.config), reading.config.get("name")
    if not isinstance(name, str):
        raise ConfigError(f"{args.config}: name: is missing. Trials are kept in saved/<name>/.")
    with located(reading.places):
        options = read_section(section)
        _check_sampler(options)
    threads = (options.threads_per_trial or _threads_in(args.out / name) or _threads_of_shell()
               or _share_of_cores(options))
    written = {key: value for key, value in section.items() if value is not None}
    document = {**read_config(args.config, ours).unresolved,
                "sweep": {**DEFAULTS, **written, "threads_per_trial": threads}}
    seed = reading.config.get("seed")
    splits = value_at(reading.config, "data_loader.validation_split") is not None
    return Plan(args.config, args.out / name, options, document, others,
                seed if isinstance(seed, int) else 0, threads, splits), reading


def _section(args, config: Mapping) -> Any:
    """The section `sweep`, with --folds and --seeds. Raises ConfigError if there is nothing of all that."""
    section = config.get("sweep")
    short = {key: value for key, value in (("folds", args.folds), ("seeds", args.seeds)) if value}
    if section is None and not short:
        raise ConfigError(f"{args.config}: has no section sweep, with parameters to try (docs/sweep.md). To "
                          "repeat a single config: --seeds 3, --folds 5.")
    if section is None:
        return {"repeat": short}
    if not short or not isinstance(section, dict):
        return section
    repeat = section.get("repeat") or {}
    return {**section, "repeat": {**repeat, **short} if isinstance(repeat, dict) else repeat}


def _check_sampler(options: SweepOptions) -> None:
    check_sampler(options.sampler, options.space)
    if options.sampler != "grid" and options.trials is None:
        raise ConfigError.at("sweep.trials", "is missing. Only a grid has an end of its own.")


def _share_of_cores(options: SweepOptions) -> int:
    if options.run_on["type"] == "ray":
        return options.run_on.get("cpus_per_trial", 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // options.run_on.get("parallel", 1), 1)


def _threads_of_shell() -> int | None:
    """OMP_NUM_THREADS; None if it is not set, or not one number."""
    text = os.environ.get("OMP_NUM_THREADS", "").strip()
    return int(text) or None if text.isascii() and text.isdigit() else None


def _threads_in(folder: Path) -> int | None:
    """The threads that a sweep has recorded: its bits depend on them."""
    begun = begin_of(folder)
    return begun and begun["threads"]


def begin_of(folder: Path) -> Mapping[str, Any] | None:
    """The first event of a ledger, with what the sweep began with; None for a new sweep."""
    return next(iter(read_events(folder)), None)


def config_text(plan: Plan) -> str:
    """The content of sweep.yaml, with its references as they were written."""
    first = ("# The config of a sweep, as it was when the sweep began. python sweep.py wrote it.\n"
             "# Every trial is train.py -c THIS '~sweep' with overrides; ledger.jsonl holds them.\n")
    return first + dump_yaml(with_references(plan.document))


def refuse_another_sweep(plan: Plan, begun: Mapping[str, Any]) -> None:
    """Raises ConfigError, with the differences, if the plan's folder holds a sweep of another config."""
    file = plan.folder / CONFIG
    try:
        there = parse_yaml(file.read_text(encoding="utf-8"), str(file)).value
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    now = parse_yaml(config_text(plan), CONFIG).value
    changed = {key: values for key, values in differences(there, now).items()
               if not any(key == free or key.startswith(f"{free}.") for free in _FREE)}
    if list(begun["overrides"]) != list(plan.overrides):
        changed["overrides"] = (" ".join(begun["overrides"]), " ".join(plan.overrides))
    if plan.threads != begun["threads"]:
        changed["sweep.threads_per_trial"] = (begun["threads"], plan.threads)
    if changed:
        rows = [f"  {key}: {format_value(old)} -> {format_value(new)}"
                for key, (old, new) in changed.items()]
        raise ConfigError("\n".join([f"{plan.folder}: holds another sweep. Give this one another name "
                                     "(name=NAME), or undo these changes:", *rows]))
