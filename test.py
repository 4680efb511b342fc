"""Score a checkpoint on a split of its dataset.

    python test.py -r saved/digits_lenet
    python test.py -r saved/digits_lenet/2026-01-31_12-00-00/checkpoints/last.pt --split val
"""
import gc
import json
import logging
from contextlib import closing
from pathlib import Path

from utils.cli import log_level, test_arguments
from utils.distributed.environment import before_group, expected_rank
from utils.errors import ConfigError, exit_codes
from utils.run_files import replace_file

log = logging.getLogger("test")


def main(args) -> None:
    from base.build import build_trainer
    from base.run_setup import load_evaluated_weights, open_checkpoint, resolve_config
    from base.same_data import report_scored_data
    from base.summary import format_table
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
    resolved = resolve_config(None, checkpoint, args.overrides)
    with located(resolved.places):
        trainer = build_trainer(resolved.config, pick_device(args.device))
        load_evaluated_weights(trainer, checkpoint)
        trainer.use_run(SilentRun(bars=not args.quiet))
        if trainer.data.dataset(args.split) is None:
            raise ConfigError(f"--split {args.split}: the dataset has no such split")
        report_scored_data(trainer.data, checkpoint.state, args.split)
        with closing(trainer.data), trainer.errors_explained():
            values = trainer.evaluate(args.split)

    progress = checkpoint.state["progress"]
    about = {"checkpoint": checkpoint.file.name, "epoch": progress["epoch"], "step": progress["step"]}
    file = (run_of(checkpoint.file) or checkpoint.file.parent) / "test.json"
    log.info(f"{checkpoint.file}, epoch {progress['epoch']}, {args.split} split: "
             f"{trainer.data.num_samples(args.split) or 'a stream of'} samples\n{format_table(values)}")
    try:
        keep_scores(file, about, values)
        log.info(f"written to {file}")
    except OSError as error:
        log.warning(f"{file}: cannot be written: {error.strerror}")


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
