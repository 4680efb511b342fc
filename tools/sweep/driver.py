"""The loop of a sweep: decides, writes the decision down, starts runs, and takes in how they ended."""
import signal
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tools.sweep.checks import overrides_for
from tools.sweep.decisions import New, Promote, Start, next_step
from tools.sweep.executors.outcome import Executor, Outcome
from tools.sweep.ledger import Ledger
from tools.sweep.plan import CONFIG, Plan
from tools.sweep.sampling.seen import FINISHED, PAUSED, RUNNING, Seen
from tools.sweep.table import number_text
from tools.sweep.trials import MOST_LOST, Study, Trial, TrialRun
from utils.errors import PROJECT
from utils.run_record import records_of

_PAUSE_S = 0.02  # between two looks at the running trials
TRAIN = (str(PROJECT / "train.py"),)


class View(Protocol):
    """Shows a sweep while it runs."""

    def show(self, study: Study, event: str = "") -> None:
        """Shows how it stands; `event` is a line on what has just happened."""


def seen_of(study: Study) -> list[Seen]:
    """The trials as a sampler sees them: each once, by the mean of its runs, when all have ended."""
    found = []
    for trial in study.trials:
        state = study.state(trial)
        if state == "finished":
            epoch = max(run.epoch for run in trial.runs)
            found.append(Seen(trial.number, trial.params, FINISHED, trial.value(study.maximize), epoch))
        elif state == "paused":
            epoch = study.rungs[trial.level]
            value = trial.value(study.maximize, epoch)
            found.append(Seen(trial.number, trial.params, PAUSED, value, epoch))
        elif state != "failed":
            found.append(Seen(trial.number, trial.params, RUNNING))
    return found


def arguments_of(plan: Plan, study: Study, trial: Trial, run: TrialRun) -> list[str]:
    """The arguments of train.py for a run until its trial's rung."""
    until = [] if trial.level == len(study.rungs) - 1 else ["--until-epoch", str(study.rungs[trial.level])]
    return ["-q", "-c", str(plan.folder / CONFIG), "-r", "auto", "--run-name", run.name,
            "--out", str(plan.folder.parent), *until,
            "~sweep", *plan.overrides, *overrides_for(trial.params), *run.overrides]


class Driver:
    """Runs a sweep to its end, or to a signal.

    Args:
        study: with all events of the ledger, and what the runs' files hold.
        program: what is started in place of train.py; tests need less than torch.
    """

    def __init__(self, plan: Plan, study: Study, ledger: Ledger, executor: Executor, views: Sequence[View],
                 program: Sequence[str] = TRAIN):
        self.plan, self.study, self.ledger, self.executor, self.views = plan, study, ledger, executor, views
        self._program = program
        self._begun: dict[str, tuple[int, int]] = {}  # bytes in a run's log, and its records, before a start
        self._signal: int | None = None
        self._stopping = self._only_waits = False

    def run(self) -> int | None:
        """Returns the number of the signal that ended it; None at its own end."""
        with self._signals():
            while self._turn():
                time.sleep(_PAUSE_S)
        return self._signal

    def _turn(self) -> bool:
        """Takes in what has ended and starts what is next. Returns whether something is running."""
        for key, outcome in self.executor.poll():
            self._end(*divmod(key, len(self.study.repeats)), outcome)
            self._only_waits = False
        if self._signal and not self._stopping:
            self._stopping = True
            self.executor.stop()
        while not (self._signal or self._only_waits) and len(self.study.running) < self.executor.capacity():
            if step := next_step(self.study):
                self._do(step)
            self._only_waits = step is None
        self._show()
        return bool(self.study.running or not (self._signal or self._only_waits))

    def _do(self, step: Start | Promote | New) -> None:
        if isinstance(step, New):
            params = self.plan.params(step.trial, seen_of(self.study))
            self.study.apply(self.ledger.append("new", trial=step.trial, params=params))
        elif isinstance(step, Promote):
            self.study.apply(self.ledger.append("promote", trial=step.trial, level=step.level))
        else:
            self._start(self.study.trials[step.trial], step.run)

    def _start(self, trial: Trial, number: int) -> None:
        run, key = trial.runs[number], trial.number * len(self.study.repeats) + number
        log, folder = self._log_of(run), self.plan.folder / run.name
        self._begun[run.name] = log.stat().st_size if log.exists() else 0, len(records_of(folder))
        self.ledger.append("start", trial=trial.number, run=number, until=self.study.rungs[trial.level])
        run.start()
        env = {"OMP_NUM_THREADS": str(self.plan.threads)}
        self.executor.start(key, [*self._program, *arguments_of(self.plan, self.study, trial, run)], env, log)

    def _log_of(self, run: TrialRun) -> Path:
        return self.plan.folder / f"{run.name}.log"

    def _end(self, trial_number: int, run_number: int, outcome: Outcome) -> None:
        """Takes in how a process ended. Its code is a verdict only if it is 1 or 2; 0 says too little."""
        trial = self.study.trials[trial_number]
        run, failed = trial.runs[run_number], None
        before, lost = run.seen_at, run.lost
        run.end(self.plan.folder, self.plan.metric)
        there = run.finished or (outcome.code == 0 and self._at_rung(trial, run))
        if outcome.code in (1, 2):
            failed = ("refused: " if outcome.code == 2 else "") + self._reason(run)
        elif there and run.best(self.study.maximize) is None:
            failed = f"has no value of {self.plan.metric}"
        elif there or run.epoch > before:
            lost = 0
        elif not self._signal:
            lost += 1
            why = outcome.text or f"exit code {outcome.code}"
            failed = f"{why}, {lost} times without a new epoch" if lost >= MOST_LOST else None
        value = run.best(self.study.maximize)
        self.study.apply(self.ledger.append(
            "end", trial=trial_number, run=run_number, code=outcome.code, node=outcome.node,
            text=outcome.text, epoch=run.epoch, value=value, lost=lost, failed=failed))
        self._show(self._line(trial, run, there))

    def _show(self, event: str = "") -> None:
        for view in self.views:
            view.show(self.study, event)

    def _at_rung(self, trial: Trial, run: TrialRun) -> bool:
        return trial.level < len(self.study.rungs) - 1 and run.epoch >= self.study.rungs[trial.level]

    def _line(self, trial: Trial, run: TrialRun, there: bool) -> str:
        value = run.best(self.study.maximize)
        shown = "" if value is None else f", {self.plan.metric} {number_text(value)}"
        state = "finished" if run.finished else "paused" if there else "interrupted"
        return f"{run.name}: {run.failed and 'failed' or state} at epoch {run.epoch}{shown}" + (
            f": {run.failed}" if run.failed else "")

    def _reason(self, run: TrialRun) -> str:
        """Why a run failed: its record of this start, else the last line of its output."""
        size, number = self._begun[run.name]
        records = records_of(self.plan.folder / run.name)[number:]
        last = records[-1] if records else {}
        with self._log_of(run).open("rb") as log:
            log.seek(size)
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        reason = last.get("reason") if last.get("outcome") == "failed" else None
        return str(reason or (lines[-1].strip() if lines else "without a message"))[:300]

    @contextmanager
    def _signals(self):
        """The first signal lets the trials save and end; the second one kills them."""
        def handle(number, frame) -> None:
            if self._signal is None:
                self._signal = number
            else:
                self.executor.stop()

        names = ("SIGINT", "SIGTERM", "SIGHUP")
        before = {name: signal.signal(getattr(signal, name), handle)
                  for name in names if hasattr(signal, name)}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(getattr(signal, name), handler)
