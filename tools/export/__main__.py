"""The command line of `python -m tools.export`."""
import argparse
import json
import logging
from pathlib import Path

from utils.errors import exit_codes

log = logging.getLogger("export")


def main() -> None:
    """Parses the arguments and exports. Prints where the file is, and how close its outputs are."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.export", allow_abbrev=False,
        description="Write the model of a run as a file for other programs. The file is loaded again and "
                    "compared with the run on samples of val before it is kept.")
    parser.add_argument("-r", "--resume", type=Path, metavar="PATH", required=True,
                        help="a checkpoint, a run or an experiment; best.pt unless said otherwise")
    parser.add_argument("--format", required=True, choices=("weights", "safetensors", "pt2", "onnx"))
    parser.add_argument("--with-transforms", action="store_true",
                        help="the file takes samples as the dataset gives them, such as uint8 images: the "
                             "`batch` transforms are part of it (pt2, onnx)")
    parser.add_argument("--to", type=Path, metavar="FOLDER",
                        help="where to write; by default export/ in the run")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value",
                        help="config values to override, such as dataset.args.root=NEW")
    args = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for library in ("onnxscript", "onnx_ir"):
        logging.getLogger(library).setLevel(logging.ERROR)
    with exit_codes():
        from tools.export.export import export  # loads torch, which --help does not need

        file, difference = export(args.resume, args.format, args.with_transforms, args.to, args.overrides)
        taken = json.loads(file.with_suffix(".json").read_text())["input"]
        log.info(f"written: {file}, whose input is {taken['dtype']} [{', '.join(map(str, taken['shape']))}]. "
                 f"Checked: its outputs are the run's, up to {difference:.1e} of the largest one.")


if __name__ == "__main__":
    main()
