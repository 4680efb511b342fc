"""Search over values of a config, or repeat it over seeds and folds; each trial is an ordinary run.

    python sweep.py -c configs/digits_sweep.yaml
    python sweep.py -c configs/digits.yaml --folds 5 --seeds 3
    python sweep.py -c configs/digits_sweep.yaml --check
    python sweep.py -c configs/digits_sweep.yaml --more 20

The same command resumes a sweep that was stopped or killed. docs/sweep.md
"""
import argparse
import sys
from pathlib import Path

from tools.sweep.commands import check, rehearse, run_sweep
from utils.cli import print_answer
from utils.errors import exit_codes


def main(args: argparse.Namespace) -> int:
    if args.check:
        print_answer(check(args))
        return 0
    if args.dry_run:
        print_answer(rehearse(args))
        return 0
    return run_sweep(args)


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number above 0")
    return int(text)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sweep.py", allow_abbrev=False, description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, metavar="CONFIG", required=True,
                        help="a config, with a section sweep unless --seeds or --folds are given")
    parser.add_argument("--seeds", type=positive, metavar="N", help="repeat each trial with N seeds")
    parser.add_argument("--folds", type=positive, metavar="K", help="repeat each trial on K folds")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--check", action="store_true", help="no trials: check the ends of all parameters and "
                      "20 samples as train.py checks a config")
    only.add_argument("--dry-run", action="store_true", help="no trials: print what is next")
    parser.add_argument("--more", type=positive, metavar="N", help="add N trials to a sweep that exists")
    parser.add_argument("--revive", type=int, metavar="TRIAL",
                        help="train a pruned or failed trial to the full length")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("saved"),
                        help="where runs are kept (saved/)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, only the ranking")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="config values for all "
                        "trials, such as trainer.args.epochs=3, or of the sweep, such as sweep.trials=10")
    args = parser.parse_intermixed_args(argv)
    if args.folds == 1:
        parser.error("argument --folds: one fold leaves nothing to train on: 2 are the fewest")
    if (args.check or args.dry_run) and (args.more or args.revive is not None):
        parser.error("--more and --revive change a sweep; --check and --dry-run do not")
    return args


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")
    with exit_codes():
        sys.exit(main(arguments()))
