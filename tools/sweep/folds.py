"""Predictions over all folds: each sample of train by the run that has not trained on it, and one report.

    python -m tools.sweep.folds saved/digits

sweep.py starts this at the end of a sweep with folds. It takes the runs of the best trial and writes
out_of_fold.csv and out_of_fold.json.
"""
import argparse
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from base.api import Predictor, load
from logger.console import setup_logging
from logger.run_log import SilentRun
from tools.prediction.batches import Predictions, split_predictions, write_all
from tools.prediction.files import prediction_file
from tools.report.report import Report
from tools.sweep.driver import seen_of
from tools.sweep.ledger import read_events
from tools.sweep.page.page import POOLED, write_page
from tools.sweep.plan import CONFIG, Plan, begin_of, read_plan
from tools.sweep.sampling.importance import importance
from tools.sweep.table import number_text
from tools.sweep.trials import Study, TrialRun, best_trial
from utils.config.loading import located
from utils.errors import ConfigError, exit_codes
from utils.run_files import replace_file

CSV = "out_of_fold.csv"
_OF_REPORT = ("macro_f1", "calibration_error", "r2", "mae")
log = logging.getLogger("folds")


class Pool:
    """What the runs of all folds found: a report for each seed, and one of all together.

    Args:
        seeds: of the runs, in their order; `folds`: the part of train that each has held out.
    """

    def __init__(self, seeds: list[int], folds: list[int]):
        self.runs = [*zip(seeds, folds, strict=True)]
        self.places: dict[int, list[torch.Tensor]] = {seed: [] for seed in seeds}
        self.reports: dict[int | None, Report] = {}  # None: all seeds

    def predictions(self, predictors: Iterable[Predictor]) -> Iterator[Predictions]:
        """Scores the runs, and predicts for their folds; the predictions have the columns fold and seed."""
        for (seed, fold), predictor in zip(self.runs, predictors, strict=True):
            trainer = predictor.trainer
            with located(predictor.places), closing(trainer.data), trainer.errors_explained("scoring"):
                trainer.use_run(SilentRun(bars=False))
                found = [self.reports.setdefault(key, Report(trainer.loss, predictor.classes))
                         for key in (seed, None)]
                trainer.eval_metrics.watch(lambda *batch: [report(*batch) for report in found])
                trainer.evaluate("val")
                self._take(seed, trainer.data.indices("val"))
                for ids, values, errors in split_predictions(predictor, "val", bars=False):
                    where = {"fold": np.full(len(ids), fold), "seed": np.full(len(ids), seed)}
                    yield Predictions(ids, {**where, **values}, errors)

    def _take(self, seed: int, places: torch.Tensor) -> None:
        """Takes a fold's samples. Raises ConfigError for those of another fold."""
        self.places[seed].append(places)
        all_of = torch.cat(self.places[seed])
        if len(all_of.unique()) < len(all_of):
            raise ConfigError("samples are in two folds: the data has changed since a run was trained.")

    def as_dict(self) -> dict[str, Any]:
        """Scores by seed, each over all samples; and the report of all seeds together."""
        scores = {str(seed): _scores(report) for seed, report in self.reports.items() if seed is not None}
        whole = self.reports[None].as_dict()
        if len(scores) > 1:  # a sample counts several times: no independent values
            whole.pop("standard_errors", None)
        return {"samples": max(sum(map(len, places)) for places in self.places.values()),
                "seeds": scores, "report": whole}


def _scores(report: Report) -> dict[str, float]:
    """Means over samples, and the scores of the report that are single numbers."""
    means = {name: total / count for name, (count, total, _) in report.certainty.sums.items() if count}
    content = report.as_dict()
    return {**means, **{name: content[name] for name in _OF_REPORT if name in content}}


def pool(plan: Plan, study: Study) -> Mapping[str, Any]:
    """Predicts over all folds of the best trial, and writes both files. Raises ConfigError."""
    best, repeats = best_trial(study), plan.options.repeats
    if not plan.options.folds or not best:
        raise ConfigError(f"{plan.folder}: is no sweep with folds that has a finished trial.")
    found = Pool([plan.seed + repeat.get("seed", 0) for repeat in repeats],
                 [repeat["fold"] for repeat in repeats])
    predictors = map(_load, [plan.folder] * len(best.runs), best.runs)
    first = next(predictors)
    file = prediction_file(plan.folder / CSV, first.classes)
    written = write_all(file, found.predictions(chain([first], predictors)))
    content = {"trial": best.number, "folds": plan.options.folds, **found.as_dict()}
    replace_file(plan.folder / POOLED, json.dumps(content, indent=1) + "\n")
    log.info(f"all folds: {', '.join(_means(content['seeds']))}; "
             f"{written.number:,} predictions in {file.path}")
    return content


def _load(folder: Path, run: TrialRun) -> Predictor:
    return load(folder / run.name)


def _means(seeds: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The scores, as means over seeds."""
    names = dict.fromkeys(name for scores in seeds.values() for name in scores)
    means = {name: np.mean([scores[name] for scores in seeds.values() if name in scores]) for name in names}
    return [f"{name} {number_text(mean)}" for name, mean in means.items()]


def read_sweep(folder: Path) -> tuple[Plan, Study]:
    """The plan and the study of a sweep that exists. Raises ConfigError."""
    if not (begun := begin_of(folder)):
        raise ConfigError(f"{folder}: holds no sweep. A sweep is a folder such as saved/digits_sweep.")
    args = argparse.Namespace(config=folder / CONFIG, overrides=list(begun["overrides"]), folds=None,
                              seeds=None, out=folder.parent)
    plan = replace(read_plan(args)[0], folder=folder, config=begun["config"])
    study = plan.study(read_events(folder))
    study.read(folder, plan.metric)
    return plan, study


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.sweep.folds", allow_abbrev=False,
                                     description="Predict with the runs of a sweep's best trial, each for "
                                                 "the fold that it has not trained on.")
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="the folder of a sweep with folds")
    folder = parser.parse_args().sweep
    setup_logging()
    with exit_codes():
        plan, study = read_sweep(folder)
        pool(plan, study)
        write_page(plan, study, "finished", importance(plan.options.space, seen_of(study), plan.maximize))


if __name__ == "__main__":
    main()
