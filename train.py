"""Train a model from a config, or continue a run.

    python train.py -c configs/digits.yaml
    python train.py -c configs/digits.yaml optimizer.args.lr=0.01 trainer.args.epochs=3
    python train.py -r saved/digits_lenet
    python train.py -c configs/digits.yaml --distributed
    python train.py --verify-resume -c configs/digits.yaml
    python train.py --check -c configs/digits.yaml
    python train.py --help
"""
import gc
import logging
import sys
import time

from utils.cli import log_level, train_arguments, verify_arguments
from utils.config import located, read_config
from utils.errors import exit_codes
from utils.launch import before_group, end_with_launcher, expected_rank, is_launched, launch, local_rank
from utils.origins import tell
from utils.signals import die_of_interrupts, ignore_signals

log = logging.getLogger("train")


def main(args) -> None:
    joins = args.distributed and not args.verify_resume
    with before_group(joins):
        given = read_config(args.config, args.overrides) if args.config else None
    if args.asks:
        return tell(args, given)
    # imported here, so that --help and broken syntax are answered without loading torch
    from base.starting import checkpoint_to_resume, resolve_config
    from logger.console import setup_logging
    from utils import dist
    from utils.device import pick_device, processes_to_start
    from utils.heap import keep_heap

    launches = args.distributed and not is_launched() and not args.verify_resume  # the others that it starts do the talking
    setup_logging(logging.ERROR if launches else log_level(args), expected_rank())
    if args.verify_resume and not is_launched():
        from base.verify import verify_resume
        sys.exit(not verify_resume(*verify_arguments(args), args.steps or 30))
    with before_group(joins):
        num_processes = processes_to_start(args.device, args.nproc) if args.distributed else 1
        device = None if launches else pick_device(args.device, local_rank())  # who only starts others needs none
        checkpoint = checkpoint_to_resume(args.resume, given, args.out, args.run_name, tidy=not args.find)
        config, places = resolve_config(given, checkpoint, args.overrides, num_processes)
    gc.enable()
    if not args.release_heap:
        keep_heap()
    if launches:
        sys.exit(launch(sys.argv, num_processes, args.max_restarts or 0))
    with dist.process_group(args.distributed, device, args.timeout), located(places):
        train(args, config, checkpoint, device)


def train(args, config: dict, checkpoint, device) -> None:
    """What each process does."""
    from base.build import build_trainer
    from base.rehearsal import rehearse
    from base.starting import checkpoint_of_all, initial_weights, open_run
    from base.summary import describe_end, describe_finished, describe_parts, describe_resumed
    from logger.console import log_to_file
    from utils.dist import num_restarts, rank
    from utils.run import run_of

    checkpoint = checkpoint_of_all(checkpoint, args.out, config["name"])
    trainer = build_trainer(config, device, splits=("train", "val"))
    trainer.stop_request.at_step = args.steps
    trainer.stop_request.crash_at_step = None if num_restarts() else args.crash_at_step  # once is enough
    if args.init_from:
        log.info(initial_weights(trainer.bare_model, args.init_from))
    trainer.prepare_training()
    if args.find:
        from base.find import find
        return find(args.find, trainer, config, checkpoint, bars=not args.quiet)
    rehearse(trainer, config)
    if checkpoint:
        trainer.resume(checkpoint.state)
        if trainer.finished:
            log.info(describe_finished(trainer, run_of(checkpoint.file) or checkpoint.file))
            return

    run = open_run(config, checkpoint, device, args.out, args.run_name, bars=not args.quiet)
    log_to_file(run.folder / "run.log", rank())
    log.info(describe_parts(trainer))
    if checkpoint:
        log.info(describe_resumed(trainer))
    if args.profile:
        from base.profiling import profile_steps
        profile_steps(trainer, args.profile)
    started = time.monotonic()
    trainer.train(run)
    log.info(describe_end(trainer, time.monotonic() - started))


if __name__ == "__main__":
    gc.disable()  # until all is imported: that leaves a million objects, which it would go through again and again
    arguments = train_arguments()
    if is_launched():
        end_with_launcher()
        die_of_interrupts()  # its launcher says so
    with exit_codes(arguments.verbose):
        main(arguments)
        ignore_signals()
