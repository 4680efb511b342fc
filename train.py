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
import importlib
import logging
import math
import sys
import time

from utils.cli import log_level, print_answer, train_arguments
from utils.config.loading import located, raise_faults, read_config
from utils.distributed.environment import (
    before_group,
    end_with_launcher,
    expected_rank,
    has_launcher,
    is_launched,
    local_rank,
)
from utils.errors import exit_codes
from utils.signals import die_of_interrupts, ignore_signals, only_training

log = logging.getLogger("train")


def main(args) -> None:
    stage = args.tool and args.tool.stage
    joins = args.distributed and stage != "command"
    with before_group(joins):
        given = read_config(args.config, args.overrides) if args.config else None
    if stage == "config":
        print_answer(call_tool(args, given))
        return raise_faults(given) if given else None
    with only_training():
        run(args, given, stage, joins)


def run(args, given, stage: str | None, joins: bool) -> None:
    """What a checked command line asks for, in this process or in the processes that it starts."""
    # imported here, so that --help and syntax errors are answered without loading torch
    from base.run.run_config import resolve_config
    from base.run.setup import checkpoint_to_resume
    from logger.console import setup_logging
    from utils.device import pick_device, processes_to_start
    from utils.distributed.group import process_group
    from utils.heap import keep_heap

    # the processes that it starts do the logging
    launches = args.distributed and not is_launched() and stage != "command"
    setup_logging(logging.ERROR if launches else log_level(args), expected_rank())
    if stage == "command" and not is_launched():
        return call_tool(args)
    with before_group(joins):
        num_processes = processes_to_start(args.device, args.nproc) if args.distributed else 1
        # a process that only starts others needs no device
        device = None if launches else pick_device(args.device, local_rank())
        checkpoint = checkpoint_to_resume(args.resume, given, args.out, args.run_name)
        resolved = resolve_config(given, checkpoint, args.overrides, num_processes)
    gc.enable()
    if not args.release_heap:
        keep_heap()
    if launches:
        from utils.distributed.launch import launch

        sys.exit(launch(sys.argv, num_processes, args.max_restarts or 0))
    with process_group(args.distributed, device, args.timeout), located(resolved.places):
        train(args, resolved, checkpoint, device)


def call_tool(args, *parts):
    """Calls the module in tools/ for the flag that was given (the table is in utils/cli.py)."""
    return importlib.import_module(args.tool.module).run_tool(args, *parts)


def train(args, resolved, checkpoint, device) -> None:
    """The work of each process."""
    from base.run.data_values import enter_data_values
    from base.run.setup import set_up_training
    from base.summary import describe_finished
    from utils.run_folder import run_of
    from utils.run_lock import RunLock

    resolved, train_dataset = enter_data_values(resolved, checkpoint, device)
    stage, config = args.tool and args.tool.stage, resolved.config
    waits = str(args.resume) == "auto"
    awaited = args.out / config["name"] / args.run_name if waits and args.run_name else None
    with RunLock(waits, awaited) as lock:
        setup = set_up_training(config, checkpoint, device, args.out, args.init_from,
                                check=stage != "memory", lock=lock if stage in (None, "run") else None,
                                train_dataset=train_dataset)
        if stage in ("memory", "trainer"):
            return call_tool(args, setup, config)
        trainer, checkpoint = setup.trainer, setup.checkpoint
        if checkpoint and (trainer.finished or trainer.position.epoch >= (args.until_epoch or math.inf)):
            log.info(describe_finished(trainer, run_of(checkpoint.file) or checkpoint.file))
            return
        write_run(args, resolved, setup, device, lock)


def write_run(args, resolved, setup, device, lock) -> None:
    """Trains, in the run's folder."""
    from base.run.end import recorded
    from base.run.setup import open_run
    from base.summary import describe_end, describe_parts, describe_resumed
    from logger.console import log_to_file
    from utils.distributed.collectives import rank

    trainer = setup.trainer
    run = open_run(resolved, setup.checkpoint, device, args.out, args.run_name, not args.quiet, lock)
    log_to_file(run.folder / "run.log", rank())
    log.info(describe_parts(trainer))
    if setup.checkpoint:
        log.info(describe_resumed(trainer))
    profiler = call_tool(args, trainer, run) if args.tool and args.tool.stage == "run" else None
    started = time.monotonic()
    extra = {"last_step": args.steps, "last_epoch": args.until_epoch, "profiler": profiler}
    with recorded(trainer, run):
        trainer.train(run, **{name: value for name, value in extra.items() if value})
    log.info(describe_end(trainer, time.monotonic() - started))


if __name__ == "__main__":
    # off until all is imported: imports leave a million objects, which it would scan again and again
    gc.disable()
    arguments = train_arguments()
    if has_launcher():
        end_with_launcher()
        die_of_interrupts()  # its launcher reports them
    with exit_codes(arguments.verbose):
        main(arguments)
        ignore_signals()
