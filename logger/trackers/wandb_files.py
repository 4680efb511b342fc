"""The files of W&B's offline runs: how far a killed run has come."""
import json
import struct
from collections.abc import Iterator
from pathlib import Path


def records_of(file: Path) -> Iterator:
    """The whole records of a `.wandb` file: LevelDB's log format, in blocks of 32 KiB, after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:  # no header fits into the rest of a block
            place += left
            continue
        size, kind = struct.unpack("<HB", content[place + 4:place + 7])
        parts += content[place + 7:place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            if place <= len(content):
                yield Record.FromString(parts)
            parts = b""


def row_of(record) -> dict:
    """The values of a record, if it is a row of the history; empty for other records."""
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in record.history.item}


def last_step(folder: Path, run_id: str) -> int:
    """The last step that the offline runs of this id in `folder` hold; -1 if there is none."""
    return max((row_of(record).get("_step", -1) for file in folder.glob(f"offline-run-*/run-{run_id}.wandb")
                for record in records_of(file)), default=-1)
