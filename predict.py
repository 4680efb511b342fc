"""Predict from a checkpoint, for files and folders, or for a split of its dataset.

    python predict.py -r saved/digits_lenet picture.png
    python predict.py -r saved/digits_lenet folder/ --out predictions.csv --top-k 3
    python predict.py -r saved/digits_lenet --split test --out predictions.npz
"""
import gc
import logging
import sys

from utils.cli import log_level, predict_arguments
from utils.config.loading import located
from utils.distributed.environment import (
    before_group, end_with_launcher, expected_rank, has_launcher, is_launched, local_rank)
from utils.errors import ConfigError, exit_codes
from utils.signals import die_of_interrupts

log = logging.getLogger("predict")


def main(args) -> int:
    """Returns the exit code: 1 if there are files that cannot be read."""
    from base.api import load
    from logger.console import setup_logging
    from utils.device import pick_device, processes_to_start
    from utils.distributed.group import process_group

    launches = args.distributed and not is_launched()
    setup_logging(logging.ERROR if launches else log_level(args), expected_rank())
    with before_group(args.distributed):
        num_processes = processes_to_start(args.device, args.nproc) if args.distributed else 1
        # a process that only starts others needs no device
        device = None if launches else pick_device(args.device, local_rank())
    gc.enable()
    if launches:
        from utils.distributed.launch import launch

        return launch(sys.argv, num_processes, max_restarts=0)
    with process_group(args.distributed, device, args.timeout):
        return predict(load(args.resume, args.overrides, device), args)


def predict(predictor, args) -> int:
    """The work of each process; the main one writes."""
    from base.api import splits_named
    from tools.prediction.batches import file_predictions, note_on_loss, split_predictions, write_all
    from tools.prediction.files import prediction_file
    from tools.prediction.inputs import input_files
    from utils.distributed.collectives import broadcast_object, is_main
    from utils.run_folder import run_of

    checkpoint, bars = predictor.checkpoint.file, not args.quiet
    with located(predictor.places):
        splits = splits_named(predictor.trainer.data, args.split) if args.split else ["files"]
        if len(splits) > 1:
            raise ConfigError(f"--split {args.split}: there are several: {', '.join(splits)}. Name one.")
        name = f"predictions_{splits[0].replace('/', '_')}.csv"
        out = args.out or (run_of(checkpoint) or checkpoint.parent) / name
        file = prediction_file(out, predictor.classes, args.top_k, note_on_loss(predictor.trainer))
        # found before `file` begins, which may lie in one of the folders
        inputs = [] if args.split else broadcast_object(input_files(args.inputs))
        written = write_all(file if is_main() else None,
                            split_predictions(predictor, splits[0], bars) if args.split
                            else file_predictions(predictor, inputs, bars))
    if not is_main():
        return 0
    for name, what in written.errors.items():
        log.error("%s: cannot be read: %s", name, what)
    log.info(f"{written.first}{written.number:,} predictions of {checkpoint}, written to {file.path}")
    if written.errors:
        log.error("%d of %d files could not be read; they are left out", len(written.errors),
                  written.number + len(written.errors))
    return 1 if written.errors else 0


if __name__ == "__main__":
    gc.disable()  # until all is imported, as in train.py
    arguments = predict_arguments()
    if has_launcher():
        end_with_launcher()
        die_of_interrupts()  # its launcher reports them
    with exit_codes(arguments.verbose):
        sys.exit(main(arguments))
