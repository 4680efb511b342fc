"""What sweep.py does: check a sweep, rehearse it, run it."""
import os
import shlex
import socket
from dataclasses import replace

from tools.sweep.checks import find_faults, overrides_for
from tools.sweep.decisions import New, next_step
from tools.sweep.driver import TRAIN, Driver, arguments_of, seen_of
from tools.sweep.executors.outcome import Executor
from tools.sweep.ledger import Ledger, read_events
from tools.sweep.page.page import LivePage
from tools.sweep.plan import CONFIG, Plan, begin_of, config_text, read_plan, refuse_another_sweep
from tools.sweep.result import report_result
from tools.sweep.table import ProgressTable, in_columns
from tools.sweep.trials import Study
from utils.config.loading import Reading, located
from utils.errors import ConfigError, unwritable
from utils.git import git
from utils.run_files import replace_file

_SAMPLES, _SHOWN = 20, 20


def check(args) -> str:
    """Checks the ends of all parameters and some samples. Raises ConfigError for what is refused."""
    plan = _with_config(*read_plan(args), _SAMPLES)
    number = len(plan.options.space.parameters)
    return (f"{args.config}: the ends of {number} parameter{'s' * (number != 1)} and {_SAMPLES} samples "
            "are valid.")


def rehearse(args) -> str:
    """What would be done next, without doing it."""
    plan, begun = _known(*read_plan(args))
    study = plan.study(read_events(plan.folder))
    study.read(plan.folder, plan.metric)
    rows = [["trial", "until epoch", "runs", "values"]]
    while (step := next_step(study)) and len(rows) <= _SHOWN:
        if isinstance(step, New):
            params = plan.params(step.trial, seen_of(study))
            study.apply({"event": "new", "trial": step.trial, "params": params})
        elif hasattr(step, "level"):
            study.apply({"event": "promote", "trial": step.trial, "level": step.level})
        else:
            trial = study.trials[step.trial]
            trial.runs[step.run].start()
            if rows[-1][0] != str(step.trial):
                rows.append([str(step.trial), str(study.rungs[trial.level]), str(len(trial.runs)),
                             " ".join(overrides_for(trial.params))])
    more = "\n... and so on; later trials depend on results." if next_step(study) else ""
    command = ""
    if study.trials:
        argv = arguments_of(plan, study, study.trials[0], study.trials[0].runs[0])
        command = f"\n\nOMP_NUM_THREADS={plan.threads} {shlex.join(['python', 'train.py', *argv])}"
    begins = "resumes" if begun else "would begin"
    about = (f"{plan.folder}: {begins}; {plan.monitor}; trials: {study.planned}, runs of each: "
             f"{len(study.repeats)}, epochs: {', '.join(map(str, study.rungs))}, threads: {plan.threads}")
    return "\n".join([about, *in_columns(rows)]) + more + command


def run_sweep(args, program=TRAIN) -> int:
    """Runs a sweep to its end. Returns the exit code: 1 if all trials failed, 128 + signal after a signal.

    `program`: what is started in place of train.py.
    """
    plan, begun = _known(*read_plan(args))
    try:
        stopped, study = _run(args, plan, begun, program)
    except OSError as error:
        raise unwritable(plan.folder, error) from error
    if stopped:
        return 128 + stopped
    return 1 if all(trial.failed for trial in study.trials) else 0


def _run(args, plan: Plan, begun: bool, program) -> tuple[int | None, Study]:
    if not begun and (args.more or args.revive is not None):
        raise ConfigError(f"{plan.folder}: holds no sweep yet; --more and --revive change one.")
    plan.folder.mkdir(parents=True, exist_ok=True)
    with Ledger(plan.folder) as ledger:
        if begun := begin_of(plan.folder):  # perhaps by another process, meanwhile
            refuse_another_sweep(plan, begun)
        else:
            begin(plan, ledger)
        study = plan.study(read_events(plan.folder))
        study.read(plan.folder, plan.metric)
        for event in _changes(args, plan, study):
            study.apply(ledger.append(**event))
        views, executor = (ProgressTable(plan.monitor, args.quiet), LivePage(plan)), _executor(plan)
        try:
            stopped = Driver(plan, study, ledger, executor, views, program).run()
        finally:
            executor.close()
        report_result(plan, study, ended=not stopped)
    return stopped, study


def begin(plan: Plan, ledger: Ledger) -> None:
    """Writes what the sweep is into its folder."""
    replace_file(plan.folder / CONFIG, config_text(plan))
    ledger.append("begin", overrides=list(plan.overrides), seed=plan.seed, threads=plan.threads,
                  config=dict(plan.config), monitor=plan.monitor, git_commit=git("rev-parse", "HEAD"),
                  host=socket.gethostname(), process=os.getpid())


def _known(plan: Plan, reading: Reading) -> tuple[Plan, bool]:
    """The plan with values of the completed config, and whether the sweep exists.

    Raises ConfigError if the folder holds another one.
    """
    begun = begin_of(plan.folder)
    if not begun:
        return _with_config(plan, reading, 0), False
    refuse_another_sweep(plan, begun)
    return replace(plan, config=begun["config"]), True


def _with_config(plan: Plan, reading: Reading, samples: int) -> Plan:
    """The plan with values of the completed config. Raises ConfigError for what the check of a run finds."""
    points = plan.samples(samples) if samples else []
    overrides = [*plan.overrides, *plan.repeats()[0][1]]
    faults, config = find_faults(plan.source, overrides, plan.options.space, points)
    if faults or config is None:
        raise ConfigError("\n".join(faults))
    with located(reading.places):
        if not plan.options.monitor and not config["monitor"]:
            raise ConfigError.at("sweep.monitor", "is missing: trials are compared by it, and "
                                                  "trainer.args.monitor is null.")
        prune = plan.options.prune
        if prune and prune.min_epochs % config["eval_every"]:
            raise ConfigError.at("sweep.prune.min_epochs", f"{prune.min_epochs} is no multiple of "
                                 f"trainer.args.eval_every, {config['eval_every']}: a rung needs a value.")
    return replace(plan, config=config)


def _changes(args, plan: Plan, study: Study) -> list[dict]:
    """The events for --more and --revive."""
    found = []
    if args.more:
        if plan.grid is not None and study.planned == len(plan.grid):
            raise ConfigError(f"--more: the grid has {len(plan.grid)} points, which are all planned.")
        found.append({"event": "more", "trials": args.more})
    if args.revive is not None:
        if not 0 <= args.revive < len(study.trials):
            raise ConfigError(f"--revive: there is no trial {args.revive}. There are {len(study.trials)}, "
                              "from 0 on.")
        if study.trials[args.revive].finished:
            raise ConfigError(f"--revive: trial {args.revive} is finished.")
        found.append({"event": "revive", "trial": args.revive})
    return found


def _executor(plan: Plan) -> Executor:
    """What `run_on` names; imported here, as Ray is optional."""
    options = {key: value for key, value in plan.options.run_on.items() if key != "type"}
    if plan.options.run_on["type"] == "ray":
        from tools.sweep.executors.ray_executor import RayExecutor

        return RayExecutor(**options)
    from tools.sweep.executors.processes import Processes

    return Processes(**options)
