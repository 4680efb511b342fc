"""Score a checkpoint on a split of its dataset, or on all of val and test.

    python test.py -r saved/digits_lenet
    python test.py -r saved/digits_lenet/2026-01-31_12-00-00/checkpoints/last.pt --split val
    python test.py -r saved/digits_lenet --split all
    python test.py -r saved/digits_lenet --predictions predictions.csv
"""
import gc
import json
import logging
from contextlib import closing
from pathlib import Path

from utils.cli import log_level, print_answer, test_arguments
from utils.config.loading import located
from utils.distributed.environment import before_group, expected_rank
from utils.errors import PROJECT, ConfigError, exit_codes
from utils.run_files import replace_file

log = logging.getLogger("test")


def main(args) -> None:
    from base.api import load, splits_named
    from base.run.same_data import report_scored_data
    from base.run.writers import send_scores
    from base.summary import describe_scores
    from logger.arrays_file import write_arrays
    from logger.console import setup_logging
    from logger.run_log import SilentRun
    from utils.device import pick_device
    from utils.heap import keep_heap
    from utils.run_folder import run_of

    setup_logging(log_level(args), expected_rank())
    if not args.release_heap:
        keep_heap()
    with before_group(joins=False):
        predictor = load(args.resume, args.overrides, pick_device(args.device))
    gc.enable()
    trainer, checkpoint = predictor.trainer, predictor.checkpoint
    folder, values, scores, reports = run_of(checkpoint.file) or checkpoint.file.parent, {}, {}, {}
    progress = checkpoint.state["progress"]
    trainer.use_run(SilentRun(bars=not args.quiet))
    with located(predictor.places), closing(trainer.data), trainer.errors_explained("scoring"):
        splits = splits_named(trainer.data, args.split)
        file = file_for(args.predictions, splits, predictor)
        for split in splits:
            report_scored_data(trainer.data, checkpoint.state, split)
        for split in splits:
            reports[split] = watch(trainer, predictor.classes)
            scores[split] = trainer.evaluate(split)
            values |= scores[split]
            write_arrays(folder, split, trainer.eval_metrics.arrays, progress["epoch"])

    about = {"checkpoint": checkpoint.file.name, "epoch": progress["epoch"], "step": progress["step"]}
    told = f"{checkpoint.file}, epoch {progress['epoch']}, {describe_scores(trainer.data, splits, values)}"
    (print_answer if args.quiet else log.info)(told)
    keep(folder, about, values, {split: report for split, report in reports.items() if report}, trainer.data)
    send_scores(folder, predictor.config, scores, args.writers)
    if file:
        write_predictions(file, predictor, splits[0], not args.quiet)


def keep(folder: Path, about: dict, values: dict, reports: dict, data) -> None:
    """Writes test.json and the pictures of the reports."""
    found = {split: report.as_dict() for split, report in reports.items() if report.as_dict()}
    try:
        keep_scores(folder / "test.json", about, values, found)
        written = [folder / "test.json"]
        for split in found:
            log.info(f"{split} split:\n{reports[split].table()}")
            written += reports[split].draw(folder, split, data.sample_reader(split))
        log.info(f"written to {', '.join(map(str, written))}")
    except OSError as error:
        log.warning(f"{folder}: cannot be written: {error.strerror}")


def watch(trainer, classes):
    """A report that sees what the trainer's metrics see; None in a project without tools/report/."""
    if not (PROJECT / "tools" / "report").is_dir():
        return None
    from tools.report.report import Report

    report = Report(trainer.loss, classes)
    trainer.eval_metrics.watch(report)
    return report


def file_for(path: Path | None, splits: list[str], predictor):
    """What writes predictions to a path; None without one. Raises ConfigError for several splits."""
    if not path:
        return None
    from tools.prediction.batches import note_on_loss
    from tools.prediction.files import prediction_file

    if len(splits) > 1:
        raise ConfigError(f"--predictions is a file of one split, and there are {', '.join(splits)}. Name "
                          "one with --split.")
    return prediction_file(path, predictor.classes, note=note_on_loss(predictor.trainer))


def write_predictions(file, predictor, split: str, bars: bool) -> None:
    """Writes the predictions for a split, in a second pass."""
    from tools.prediction.batches import split_predictions, write_all

    with located(predictor.places):
        number = write_all(file, split_predictions(predictor, split, bars)).number
    log.info(f"{number:,} predictions written to {file.path}")


def keep_scores(file: Path, about: dict, values: dict, reports: dict[str, dict]) -> None:
    """Writes test.json; keeps the scores of other splits in it if they are of the same checkpoint."""
    try:
        before = dict(json.loads(file.read_text()))
        before = before if {key: before.get(key) for key in about} == about else {}
    except (OSError, ValueError, TypeError):  # no file yet, or an unreadable one
        before = {}
    earlier = before.pop("report", None)
    reports = {**(earlier if isinstance(earlier, dict) else {}), **reports}
    report = {"report": reports} if reports else {}
    replace_file(file, json.dumps({**before, **about, **values, **report}, indent=2) + "\n")


if __name__ == "__main__":
    gc.disable()  # until all is imported, as in train.py
    arguments = test_arguments()
    with exit_codes(arguments.verbose):
        main(arguments)
