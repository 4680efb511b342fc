"""The command line of `python -m tools.report`."""
import argparse
import logging
from pathlib import Path

from utils.errors import exit_codes, unwritable

log = logging.getLogger("report")


def main() -> None:
    """Makes report.html anew, of the files in a run's folder."""
    parser = argparse.ArgumentParser(prog="python -m tools.report", allow_abbrev=False,
                                     description="Write report.html of a run, from its folder alone.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run, or an experiment: its newest run")
    path = parser.parse_args().run
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_codes():
        from tools.report.page.page import write_page
        from tools.runs.reading import read_run

        folder = read_run(path).folder
        try:
            file = write_page(folder)
        except OSError as error:
            raise unwritable(folder, error) from error
        log.info("written to %s", file)


if __name__ == "__main__":
    main()
