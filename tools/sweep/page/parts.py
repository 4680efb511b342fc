"""The parts of a sweep's page: how it stands, the ranking, pictures, failures, folds, how to repeat it."""
import math
import shlex
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tools.report.page.markup import block, cards, folded, matrix, number, table, text
from tools.report.page.points import Curve, thinned
from tools.sweep.page import plots
from tools.sweep.plan import BEST, CONFIG, Plan
from tools.sweep.space import Parameter
from tools.sweep.table import column_names, expected_epochs, in_order, trained_epochs
from tools.sweep.trials import Study, Trial, best_trial, ranked
from utils.config.loading import read_text
from utils.config.syntax import dump_yaml, format_value, parse_yaml
from utils.config.values import mask_tree
from utils.run_record import keys_from_environment

_ROWS, _DOTS, _SLICES, _AXES, _LINES, _POINTS = 300, 4000, 24, 10, 120, 80
_COUNTED = 20  # classes with counts


@dataclass(frozen=True)
class Material:
    """What the parts are made of.

    `state`: `running`, `finished` or `stopped`. `importance`: by key; {} if unknown. `pooled`: of
    out_of_fold.json. `detail`: how much to show, from 1 to 0.
    """

    plan: Plan
    study: Study
    state: str
    importance: Mapping[str, float]
    pooled: Mapping[str, Any]
    detail: float = 1.0

    def state_of(self, trial: Trial) -> str:
        """Of a trial; a paused one will not be promoted after the end."""
        state = self.study.state(trial)
        return "pruned" if state == "paused" and self.state == "finished" else state

    def most(self, number: int) -> int:
        """How many of something to show at this detail."""
        return max(round(number * self.detail), 2)

    @property
    def parameters(self) -> list[Parameter]:
        """The most important first."""
        found = self.plan.options.space.parameters
        return sorted(found, key=lambda one: -self.importance.get(one.key, 0.0))

    def dots(self, pictures: int) -> list[plots.Dot]:
        """The trials with finite values, best first; of many as many as have room in some pictures."""
        found = [(value, trial) for value, trial in ranked(self.study.trials, self.study.maximize)
                 if math.isfinite(value) and not trial.failed]
        best = best_trial(self.study)
        found.sort(key=lambda item: item[1] is not best)
        last, every = max(len(found) - 1, 1), -(-len(found) // self.most(_DOTS // max(pictures, 1)))
        return [plots.Dot(trial.number, trial.params, value, 1 - place / last, trial.finished)
                for place, (value, trial) in enumerate(found) if place % every == 0]


def head(material: Material) -> str:
    """Which sweep it is, and how it stands."""
    plan, study, best = material.plan, material.study, best_trial(material.study)
    states = [material.state_of(trial) for trial in study.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    full = study.planned * len(study.repeats) * study.rungs[-1]
    about = f"about {expected_epochs(study)} expected; " * (material.state != "finished")
    shown = [(f"best {plan.metric}", number(best.value(study.maximize)) if best else "none yet",
              f"trial {best.number}, {plan.monitor}" if best else plan.monitor),
             ("trials", f"{len(study.trials)} of {study.planned}", counts),
             ("epochs", trained_epochs(study), f"{about}{full} without pruning" if len(study.rungs) > 1
              else f"of {full}")]
    if len(study.repeats) > 1:
        shown.append(("runs of each trial", len(study.repeats), "the mean counts"))
    shown.append(("threads of each run", plan.threads, "the bits depend on it"))
    return (f"<h1>{text(plan.folder.absolute().name)}: a sweep</h1>\n"
            f'<p><span class="state {material.state}">{material.state}</span></p>\n{cards(shown)}')


def ranking(material: Material) -> str:
    """All trials, the best first."""
    study, plan, most = material.study, material.plan, material.most(_ROWS)
    names, repeated, trials = column_names(study), len(study.repeats) > 1, in_order(study)
    rows = []
    for place, trial in enumerate(trials[:most], 1):
        values = trial.values(study.maximize)
        spread = [statistics.stdev(values) if len(values) > 1 else None, len(values)] if repeated else []
        rows.append([place if trial.finished else "", trial.number,
                     statistics.fmean(values) if values else None, *spread, material.state_of(trial),
                     trial.epoch,
                     *(_cell(trial.params[key]) if key in trial.params else None for key in names)])
    columns = ["rank", "trial", plan.metric, *(["deviation", "n"] if repeated else []), "state", "epoch",
               *names.values()]
    more = f"<p>{len(trials) - most} more are in the ledger.</p>" if len(trials) > most else ""
    if not rows:
        return "<p>No trial yet.</p>"
    return table(f"Trials by {plan.monitor}", columns, rows, wraps=False) + more + _runs_of_best(material)


def _runs_of_best(material: Material) -> str:
    """The values of each seed and fold."""
    best, study = best_trial(material.study), material.study
    if not best or len(best.runs) < 2:
        return ""
    about = f"The runs of trial {best.number}"
    rows = [(run.name, " ".join(run.overrides), run.epoch, run.best(study.maximize)) for run in best.runs]
    return folded(about, table(about, ["run", "with", "epochs", material.plan.metric], rows))


def _cell(value: Any) -> Any:
    return value if type(value) in (int, float) else format_value(value)


def tried(material: Material) -> str:
    """What differs between the trials."""
    rows, parts = [], material.importance
    for one in material.plan.options.space.parameters:
        if one.values is not None:
            what = ", ".join(map(format_value, one.values))
        else:
            what = f"{format_value(one.low)} to {format_value(one.high)}" + (
                ", logarithmic" * one.log + (f", in steps of {format_value(one.step)}" if one.step else ""))
        when = ", ".join(f"{key}: {format_value(value)}" for key, value in one.when.items())
        rows.append((one.key, what, when, *([f"{parts.get(one.key, 0.0):.0%}"] if parts else [])))
    note = ('<p class="soft">The importance of a parameter is its part of what tells the best trials from '
            "the others (PED-ANOVA, Watanabe et al. 2023). Of fewer than 40 trials it is rough, most of all "
            "for parameters with a condition.</p>" if parts else "")
    columns = ["key", "values", "when", *(["importance"] if parts else [])]
    return table("Parameters", columns, rows) + note if rows else ""


def pictures(material: Material) -> str:
    """The best so far, a slice for each parameter, and all of them in one."""
    study, names, all_of = material.study, column_names(material.study), material.parameters
    dots = material.dots(min(len(all_of), _SLICES) + 2)
    if len(dots) < 2:
        return ""
    shown = (plots.best_so_far(dots, study.maximize, len(study.trials))
             + plots.slices(dots, all_of[:_SLICES], names))
    found = f'<div class="charts">{shown}</div>'
    if len(all_of) > 1:
        found += "<h3>All parameters</h3>" + plots.parallel(dots[:material.most(300)], all_of[:_AXES], names,
                                                            material.plan.metric)
    left_out = len(all_of) - _AXES
    return found + (f'<p class="soft">{left_out} more parameters are not drawn here.</p>' if left_out > 0
                    else "")


def curves(material: Material) -> str:
    """The monitored value by epoch, of the best runs and some of the others."""
    study = material.study
    sign = -1 if study.maximize else 1
    runs = [run for trial in in_order(study)
            for run in sorted(trial.runs, key=lambda run: sign * (run.best(study.maximize) or 0.0))]
    every, lines = -(-len(runs) // material.most(_LINES)), []
    for place, run in enumerate(runs):
        points = [(epoch, value) for epoch, value in run.curve if math.isfinite(value)]
        if points and place % every == 0:
            thin = thinned(Curve(*map(list, zip(*points))), material.most(_POINTS))
            lines.append((f"{run.name}: {number(run.best(study.maximize))}",
                          1 - place / max(len(runs) - 1, 1), thin))
    note = f'<p class="soft">One of {every} runs is drawn.</p>' if every > 1 else ""
    return plots.learning_curves(lines, material.plan.metric, study.maximize) + note if lines else ""


def failures(material: Material) -> str:
    """Why trials failed."""
    failed = [trial for trial in material.study.trials if trial.failed]
    rows = [(trial.number, plots.shown_values(trial.params), trial.failed)
            for trial in failed[:material.most(_ROWS)]]
    return table(f"{len(failed)} trials failed", ["trial", "values", "reason"], rows) if rows else ""


def _means(of_seeds: Iterable[dict[str, float]]) -> list[tuple]:
    """The name of each score, its mean over seeds, its deviation, and how many seeds have it."""
    values: dict[str, list[float]] = {}
    for scores in of_seeds:
        for name, value in scores.items():
            values.setdefault(name, []).append(value)
    return [(name, statistics.fmean(own), statistics.stdev(own) if len(own) > 1 else None, len(own))
            for name, own in values.items()]


def folds(material: Material) -> str:
    """One report over all folds, of predictions for samples that a run has not trained on."""
    pooled, best = material.pooled, best_trial(material.study)
    if not best or pooled.get("trial") != best.number:  # there are none, or of a trial that was the best one
        return ""
    seeds, about = pooled["seeds"], (
        f"Trial {pooled['trial']}: {pooled['samples']} samples, each predicted by the run that did not train "
        "on it, at that run's best epoch. out_of_fold.csv holds the predictions. The epoch was chosen on the "
        "same samples, so the scores are a little too good.")
    parts = [f'<p class="soft">{text(about)}</p>',
             table("Scores over all folds", ["score", "mean", "deviation", "seeds"], _means(seeds.values()),
                   wraps=False)]
    report = pooled["report"]
    of_seeds = f", {len(seeds)} seeds together: each sample counts {len(seeds)} times" * (len(seeds) > 1)
    if classes := report.get("classes", {}):
        rows = [(name, *(row[key] for key in ("precision", "recall", "f1", "support")))
                for name, row in classes.items()]
        if len(rows) > 30:
            rows = sorted(rows, key=lambda row: row[3])[:30]
        parts.append(table(f"Classes{of_seeds}", ["class", "precision", "recall", "F1", "support"], rows,
                           wraps=False))
    if 0 < len(values := report.get("confusion", [])) <= _COUNTED:
        shares = [[value / max(sum(row), 1) for value in row] for row in values]
        parts.append(matrix(f"Confusion{of_seeds}", [*classes], zip(shares, values)))
    return "".join(parts)


def repeat(material: Material) -> str:
    """The command and the best config. Values of environment variables are masked."""
    plan, study = material.plan, material.study
    file, best = plan.folder / BEST, best_trial(study)
    parts = [block(shlex.join(["python", "sweep.py", "-c", str(plan.folder / CONFIG), "--out",
                               str(plan.folder.parent), *plan.overrides]))]
    if best and file.is_file():
        shown, hidden = read_text(file), keys_from_environment(plan.folder / best.runs[0].name)
        if hidden:
            notes = "".join(f"{line}\n" for line in shown.splitlines() if line.startswith("#"))
            shown = notes + dump_yaml(mask_tree(parse_yaml(shown, str(file)).value, hidden))
        parts.append(f"<h3>{BEST}</h3>{block(shown)}")
    return "".join(parts)
