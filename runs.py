"""Lists runs, newest first: state, best value, test scores, and what differs in their configs.

    python runs.py                                            # all runs in saved/
    python runs.py saved/digits_lenet --sort best --where 'optimizer.args.lr<0.01' --where state=finished
    python runs.py --group seed                               # mean and standard deviation over seeds
    python runs.py --csv runs.csv                             # or --json, or --html runs.html
    python runs.py show saved/digits_lenet/2026-01-31_12-00-00      # all of a run, and how to reproduce it
    python runs.py compare saved/digits_lenet/one saved/digits_lenet/other
"""
import argparse
import shutil
import sys
from pathlib import Path

from tools.runs.one_run import describe
from tools.runs.overview import Overview, compare, overview
from tools.runs.reading import read_run, read_runs
from tools.runs.tables import as_json
from utils.cli import print_answer
from utils.errors import ConfigError, exit_codes
from utils.run_files import replace_file

_WIDE = 10**6  # a file or a pipe, which has room for all


def main(args: argparse.Namespace) -> None:
    command, *names = args.words
    if command == "show":
        return print_answer(describe(read_run(Path(names[0]))))
    found = (compare([read_run(Path(name)) for name in names]) if command == "compare" else
             overview(read_runs(Path(command)), args.where, args.sort, args.group))
    answer(found, args)


def answer(found: Overview, args: argparse.Namespace) -> None:
    """Prints a table, or writes it into files."""
    title = " ".join(["Runs:", *args.words])
    for file, text in ((args.csv, found.table.as_csv), (args.html, lambda: found.table.as_html(title))):
        if file and file != "-":
            write(Path(file), text())
        elif file:
            print_answer(text().removesuffix("\n"))
    if args.json:
        print_answer(as_json(found.content))
    elif not args.csv and not args.html:
        print_answer(found.table.as_text(shutil.get_terminal_size((_WIDE, 0)).columns))


def write(file: Path, text: str) -> None:
    try:
        replace_file(file, text, errors="backslashreplace")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror or error}") from error


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="runs.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="FOLDER | show RUN | compare RUN RUN ...",
                        help="a folder with runs (saved); one run; or some, side by side")
    parser.add_argument("--where", action="append", default=[], metavar="CONDITION", help="only runs for "
                        "which it holds: a column or config key, < <= > >= = != or ~ (contains), a value")
    parser.add_argument("--sort", metavar="COLUMN", help="the best first, of other columns the smallest")
    parser.add_argument("--group", metavar="KEY", help="put together runs that are equal but for this key")
    parser.add_argument("--csv", metavar="FILE", help="write CSV with all digits; - prints it")
    parser.add_argument("--html", metavar="FILE", help="write a page; - prints it")
    parser.add_argument("--json", action="store_true", help="print JSON, with all of each run")
    args = parser.parse_intermixed_args(argv)
    args.words = args.words or ["saved"]
    command, number = args.words[0], len(args.words) - 1
    if number != {"show": 1, "compare": max(number, 2)}.get(command, 0):
        parser.error("a folder, or show RUN, or compare RUN RUN ... is needed")
    if command in ("show", "compare") and (args.where or args.sort or args.group):
        parser.error("--where, --sort and --group choose among many runs")
    if command == "show" and (args.csv or args.html or args.json):
        parser.error("show prints text; compare has --csv, --html and --json")
    return args


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")
    with exit_codes():
        main(arguments())
