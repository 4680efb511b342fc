"""Train a model from a config, or continue a run.

    python train.py -c configs/digits.yaml
    python train.py -c configs/digits.yaml optimizer.args.lr=0.01 trainer.args.epochs=3
    python train.py -r saved/digits_lenet
    python train.py --verify-resume -c configs/digits.yaml
"""
import logging
import sys
import time

from utils.cli import log_level, train_arguments, verify_arguments
from utils.errors import exit_codes
from utils.signals import ignore_signals

log = logging.getLogger("train")


def main(args) -> None:
    # imported here, so that --help answers without loading torch
    from base.build import build_trainer
    from base.rehearsal import rehearse
    from base.starting import checkpoint_to_resume, initial_weights, open_run, resolve_config
    from base.summary import describe_end, describe_finished, describe_parts, describe_resumed
    from base.verify import verify_resume
    from logger.console import log_to_file, setup_logging
    from utils.device import pick_device
    from utils.run import run_of

    setup_logging(log_level(args))
    if args.verify_resume:
        sys.exit(not verify_resume(*verify_arguments(args), args.steps or 30))
    checkpoint = checkpoint_to_resume(args.resume, args.config, args.overrides, args.out, args.run_name)
    config = resolve_config(args.config, checkpoint, args.overrides)
    device = pick_device(args.device)

    trainer = build_trainer(config, device)
    trainer.stop_request.at_step, trainer.stop_request.crash_at_step = args.steps, args.crash_at_step
    if args.init_from:
        log.info(initial_weights(trainer.bare_model, args.init_from))
    trainer.prepare_training()
    rehearse(trainer)
    if checkpoint:
        trainer.resume(checkpoint.state)
        if trainer.finished:
            log.info(describe_finished(trainer, run_of(checkpoint.file) or checkpoint.file))
            return

    run = open_run(config, checkpoint, device, args.out, args.run_name, bars=not args.quiet)
    log_to_file(run.folder / "run.log")
    log.info(describe_parts(trainer))
    if checkpoint:
        log.info(describe_resumed(trainer))
    started = time.monotonic()
    trainer.train(run)
    log.info(describe_end(trainer, time.monotonic() - started))


if __name__ == "__main__":
    arguments = train_arguments()
    with exit_codes(arguments.verbose):
        main(arguments)
        ignore_signals()
