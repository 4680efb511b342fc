"""What a sweep leaves at its end: the ranking, best.yaml, predictions over all folds, and report.html."""
import os
import shlex
import statistics
import time
from datetime import datetime

from tools.runs.reading import read_json
from tools.sweep.driver import seen_of
from tools.sweep.executors.processes import Processes
from tools.sweep.page.page import POOLED, write_page
from tools.sweep.plan import BEST, CONFIG, Plan
from tools.sweep.sampling.importance import importance
from tools.sweep.table import ranking
from tools.sweep.trials import Study, Trial, best_trial
from utils.cli import print_answer
from utils.config.loading import read_config
from utils.config.syntax import dump_yaml
from utils.config.values import set_value, value_at, written_config
from utils.errors import PROJECT
from utils.git import git
from utils.run_files import replace_file

_PAUSE_S = 0.1  # between two looks at the process


def report_result(plan: Plan, study: Study, ended: bool) -> None:
    """Prints the ranking and writes report.html. At the end also writes what is of the best trial."""
    print_answer("\n".join(ranking(study, plan.monitor, ended)))
    parts = importance(plan.options.space, seen_of(study), plan.maximize)
    if parts:
        print_answer("\nimportance: " + ", ".join(f"{key} {part:.0%}" for key, part in parts.items()))
    best = best_trial(study)
    if not ended:
        print_answer("\nstopped. The same command resumes the sweep.")
    elif best:
        replace_file(plan.folder / BEST, best_config(plan, study, best), errors="backslashreplace")
        print_answer(f"\nbest: trial {best.number}; its config: {plan.folder / BEST}")
        if plan.options.folds:
            print_answer(_over_folds(plan, best))
    print_answer(f"report: {write_page(plan, study, 'finished' if ended else 'stopped', parts)}")


def _over_folds(plan: Plan, best: Trial) -> str:
    """Predicts with the runs of the best trial, in a process that loads torch; what came of it, in a line."""
    weights = [plan.folder / run.name / "checkpoints" / "best.pt" for run in best.runs]
    there, log = plan.folder / POOLED, plan.folder / "folds.log"
    if not all(file.is_file() for file in weights):
        return "all folds: no predictions, as runs have no best.pt"
    if read_json(plan.folder / POOLED).get("trial") == best.number and there.stat().st_mtime > max(
            file.stat().st_mtime for file in weights):
        return f"all folds: {there}"
    paths = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    env, executor = {"OMP_NUM_THREADS": str(plan.threads), "PYTHONPATH": paths}, Processes()
    try:
        executor.start(0, ["-m", "tools.sweep.folds", str(plan.folder)], env, log)
        while not (ended := executor.poll()):
            time.sleep(_PAUSE_S)
    finally:
        executor.close()
    if ended[0][1].code != 0:
        return f"all folds: no predictions; the reason is in {log}"
    return next(line for line in reversed(log.read_text(errors="replace").splitlines())
                if line.startswith("all folds: "))


def best_config(plan: Plan, study: Study, trial: Trial) -> str:
    """The config of a trial's first run, without what repeats set, and how it came about in comments."""
    run = trial.runs[0]
    config = written_config(read_config(plan.folder / run.name / "config.yaml").config)
    for override in run.overrides:
        config = _restored(config, override.partition("=")[0].removeprefix("~"), plan)
    values = trial.values(study.maximize)
    spread = f" +- {statistics.stdev(values):.5g} (n = {len(values)})" if len(values) > 1 else ""
    command = shlex.join(["python", "train.py", "-c", str(plan.folder / BEST), *run.overrides])
    mean = f"{statistics.fmean(values):.6g}{spread}"
    notes = [f"{plan.monitor}: {mean}, the best of {len(study.trials)} trials of the sweep {plan.folder}",
             f"trial {trial.number}, in {plan.folder / run.name}; written {datetime.now():%Y-%m-%d %H:%M}, "
             f"commit {git('rev-parse', '--short', 'HEAD') or 'unknown'}",
             f"threads: {plan.threads}. For the same bits: OMP_NUM_THREADS={plan.threads} {command}"]
    return "".join(f"# {note}\n" for note in notes) + dump_yaml(config)


def _restored(config: dict, key: str, plan: Plan) -> dict:
    """The config with the value that a key has without the repeats."""
    path = tuple(key.split("."))
    original = value_at(read_config(plan.folder / CONFIG, plan.overrides).config, key)
    above = dict(value_at(config, path[:-1], {})) if path[:-1] else dict(config)
    if original is None:
        above.pop(path[-1], None)
    else:
        above[path[-1]] = original
    return set_value(config, path[:-1], above)
