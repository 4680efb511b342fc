"""Score a checkpoint on a split of its dataset, or on all of val and test.

    python test.py -r saved/digits_lenet
    python test.py -r saved/digits_lenet/2026-01-31_12-00-00/checkpoints/last.pt --split val
    python test.py -r saved/digits_lenet --split all
"""
import gc
import json
import logging
from contextlib import closing
from pathlib import Path

from utils.cli import log_level, print_answer, test_arguments
from utils.distributed.environment import before_group, expected_rank
from utils.errors import ConfigError, exit_codes
from utils.run_files import replace_file

log = logging.getLogger("test")


def main(args) -> None:
    from base.build import build_trainer
    from base.run.checkpoints import open_checkpoint
    from base.run.run_config import resolve_config
    from base.run.same_data import report_scored_data
    from base.run.setup import load_evaluated_weights
    from base.summary import describe_scores
    from logger.arrays_file import write_arrays
    from logger.console import setup_logging
    from logger.run_log import SilentRun
    from utils.config.loading import located
    from utils.device import pick_device
    from utils.heap import keep_heap
    from utils.run_folder import run_of

    setup_logging(log_level(args), expected_rank())
    if not args.release_heap:
        keep_heap()
    with before_group(joins=False):
        checkpoint = open_checkpoint(args.resume, ("best.pt", "last.pt"))
    gc.enable()
    progress = checkpoint.state["progress"]
    resolved = resolve_config(None, checkpoint, args.overrides)
    with located(resolved.places):
        trainer = build_trainer(resolved.config, pick_device(args.device))
        load_evaluated_weights(trainer, checkpoint)
        trainer.use_run(SilentRun(bars=not args.quiet))
        folder = run_of(checkpoint.file) or checkpoint.file.parent
        splits, values = scored_splits(trainer.data, args.split), {}
        for split in splits:
            report_scored_data(trainer.data, checkpoint.state, split)
        with closing(trainer.data), trainer.errors_explained(scoring=True):
            for split in splits:
                values |= trainer.evaluate(split)
                write_arrays(folder, split, trainer.eval_metrics.arrays, progress["epoch"])

    about = {"checkpoint": checkpoint.file.name, "epoch": progress["epoch"], "step": progress["step"]}
    file = folder / "test.json"
    told = f"{checkpoint.file}, epoch {progress['epoch']}, {describe_scores(trainer.data, splits, values)}"
    (print_answer if args.quiet else log.info)(told)
    try:
        keep_scores(file, about, values)
        log.info(f"written to {file}")
    except OSError as error:
        log.warning(f"{file}: cannot be written: {error.strerror}")


def scored_splits(data, name: str) -> list[str]:
    """The splits and sets to score: of `name`, or of val and test for "all".

    `name` is a split, or a set (`clean`, `val/clean`). Raises ConfigError if there is none, or more than one.
    """
    from utils.config.blocks import SPLITS
    from utils.config.suggestions import suggest_name

    if name in (*SPLITS, "all"):
        splits = ("val", "test") if name == "all" else (name,)
        found = [part for split in splits for part in data.sets(split)]
    else:
        named = [part for parts in data.evaluation_sets.values() for part in parts]
        found = [part for part in named if name in (part, part.partition("/")[2])]
        if len(found) > 1:
            raise ConfigError(f"--split {name}: there are several: {', '.join(found)}. Write one of them.")
    if not found:
        known = [part for split in SPLITS if split != name
                 for part in data.evaluation_sets.get(split, [split])]
        short = [part.rpartition("/")[2] for part in known if name not in SPLITS]
        raise ConfigError(f"--split {name}: the dataset has no such split.{suggest_name(name, short)} "
                          f"There may be: {', '.join([*known, 'all'])}.")
    return found


def keep_scores(file: Path, about: dict, values: dict) -> None:
    """Writes test.json; keeps the scores of other splits in it if they are of the same checkpoint."""
    try:
        before = dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):  # no file yet, or an unreadable one
        before = {}
    same = {key: before.get(key) for key in about} == about
    replace_file(file, json.dumps({**(before if same else {}), **about, **values}, indent=2) + "\n")


if __name__ == "__main__":
    gc.disable()  # until all is imported, as in train.py
    arguments = test_arguments()
    with exit_codes(arguments.verbose):
        main(arguments)
