"""The writers of a run: what they learn of it, and how they are built, for training and for test.py."""
import logging
import uuid
from collections.abc import Mapping
from pathlib import Path

from base.registries import WRITERS
from logger.feeder import Feeder
from logger.writer import RunInfo, Writer, build_writer
from utils.config.blocks import as_block
from utils.config.values import mask_tree
from utils.errors import ConfigError
from utils.run_record import keys_from_environment, run_id, starts_of

log = logging.getLogger(__name__)


def run_info(folder: Path, config: dict, start_step: int | None = None, resumed: bool = False) -> RunInfo:
    """What the writers of a run learn, from its `config` and its last start."""
    start = next(reversed(starts_of(folder)), {})
    return RunInfo(config["name"], folder.absolute().name, run_id(folder) or uuid.uuid4().hex, folder,
                   mask_tree(config, keys_from_environment(folder)), start.get("command", ()),
                   start.get("git_commit"), resumed, start_step)


def build_writers(blocks: list, run: RunInfo) -> list[Writer]:
    """The writers of a run. At a resume a writer that cannot be built is left out."""
    writers = []
    for number, block in enumerate(blocks):
        try:
            writers.append(build_writer(block, f"writers.{number}", run))
        except ConfigError as error:
            if not run.resumed:
                raise
            log.warning("%s. The run continues without this writer.", error)
    return writers


def send_scores(folder: Path, config: dict, scores: Mapping[str, Mapping[str, float]], outside: bool) -> None:
    """Sends scores, by split, to writers that take them; `outside`: also to writers outside, in a service."""
    blocks = [block for block in config["writers"] if _takes_scores(block, outside)]
    feeder = Feeder(build_writers(blocks, run_info(folder, config, resumed=True)), resumed=True)
    for split, values in scores.items():
        feeder.send("scores", split, values)
    feeder.close("scored")


def _takes_scores(block: str | dict, outside: bool) -> bool:
    try:
        writer = WRITERS.get(as_block(block)["type"])
    except ConfigError:  # its file may be gone
        return False
    return (getattr(writer, "scores", Writer.scores) is not Writer.scores
            and (outside or not getattr(writer, "outside", False)))
