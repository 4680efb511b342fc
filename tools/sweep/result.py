"""What a sweep leaves at its end: the ranking and best.yaml."""
import shlex
import statistics
from datetime import datetime

from tools.sweep.driver import seen_of
from tools.sweep.importance import importance
from tools.sweep.plan import CONFIG, Plan
from tools.sweep.table import ranking
from tools.sweep.trials import Study, Trial, ranked
from utils.cli import print_answer
from utils.config.loading import read_config
from utils.config.syntax import dump_yaml
from utils.config.values import set_value, value_at, written_config
from utils.git import git
from utils.run_files import replace_file

BEST = "best.yaml"


def best_trial(study: Study) -> Trial | None:
    """The finished trial with the best mean; of equal ones the first."""
    finished = ranked((trial for trial in study.trials if trial.finished), study.maximize)
    return finished[0][1] if finished else None


def report_result(plan: Plan, study: Study, ended: bool) -> None:
    """Prints the ranking. At the end of a sweep also writes best.yaml."""
    print_answer("\n".join(ranking(study, plan.monitor, ended)))
    if parts := importance(plan.options.space, seen_of(study), plan.maximize):
        print_answer("\nimportance: " + ", ".join(f"{key} {part:.0%}" for key, part in parts.items()))
    best = best_trial(study)
    if not ended:
        print_answer("\nstopped. The same command resumes the sweep.")
    elif best:
        replace_file(plan.folder / BEST, best_config(plan, study, best), errors="backslashreplace")
        print_answer(f"\nbest: trial {best.number}; its config: {plan.folder / BEST}")


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
