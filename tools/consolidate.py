"""Merges a checkpoint whose tensors are in shards (strategy fsdp) into a single, ordinary file.

    python -m tools.consolidate saved/digits_lenet
    python -m tools.consolidate saved/digits_lenet/2026-01-31_12-00-00/checkpoints/best.pt
"""
import argparse
import logging
import os
from pathlib import Path

from utils.errors import exit_codes, unwritable

log = logging.getLogger("consolidate")


def consolidate(path: Path) -> Path:
    """Writes `<stem>_whole.pt` beside a checkpoint: `path`, or that to resume the run or experiment `path`.

    Raises ConfigError if there is no valid checkpoint, or if it is a single file already.
    """
    # imported here, so that --help does not load torch
    from utils.checkpoint.archive import write_archive
    from utils.checkpoint.loading import consolidate_shards
    from utils.run_folder import find_checkpoints

    file = next(find_checkpoints(path, ("last.pt",)))
    content = consolidate_shards(file)
    whole, unfinished = (file.with_name(f"{file.stem}_whole.pt"),
                         file.with_name(f".{file.stem}_whole.pt.{os.getpid()}.tmp"))
    try:
        write_archive(content, unfinished)
        os.replace(unfinished, whole)
    except OSError as error:
        raise unwritable(whole, error) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return whole


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tools.consolidate", description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, metavar="RUN|CHECKPOINT", help="of a run its last.pt")
    path = parser.parse_args().path
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log.info("written to %s", consolidate(path))


if __name__ == "__main__":
    with exit_codes():
        main()
