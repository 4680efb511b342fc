"""Measures what a dataset's own cache would save."""
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from base.base_data_loader import DataSplits
from base.build import build_dataset
from base.data.views import read_ahead
from base.registries import DATASETS
from utils.config.blocks import args_of, as_block, dataset_blocks
from utils.config.signature import Signature

NUM_SAMPLES, WORTH = 16, 0.1


def describe_cache(data: DataSplits, section: Any, steps_s: float) -> str | None:
    """`cache    1.2 GB on disk would save ...`; None where it would save under a tenth, or there is none.

    A dataset has one if it takes the argument `cache`, a table. `steps_s`: the time of an epoch's steps.
    """
    blocks = dataset_blocks(section)
    path = next((path for path in (("dataset",), ("dataset", "train")) if path in blocks), None)
    block = as_block(blocks[path]) if path else {"type": None}
    args, kind = args_of(block), DATASETS.get(block["type"]) if path else None
    if kind is None or args.get("cache") is not None or "cache" not in Signature(kind).parameters:
        return None
    indices = data.indices("train").tolist()
    some = indices[::max(len(indices) // NUM_SAMPLES, 1)][:NUM_SAMPLES]
    kept = os.environ.get("SEEDBED_CACHE")
    with TemporaryDirectory() as folder:
        os.environ["SEEDBED_CACHE"] = folder
        try:
            section = {"train": {**block, "args": {**args, "cache": {}}}}
            cached_s = _seconds(build_dataset(section, torch.device("cpu"), "train"), data, some)
        finally:
            os.environ.pop("SEEDBED_CACHE") if kept is None else os.environ.update(SEEDBED_CACHE=kept)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    workers = data.loader_options["num_workers"]
    plain_s = _seconds(data.dataset("train"), data, some)
    saved_s = (plain_s - cached_s) * len(indices) / max(workers, 1)
    waits = not workers or plain_s * len(indices) / workers > 0.9 * steps_s  # for the workers
    if not waits or saved_s < WORTH * steps_s:
        return None
    size_gb = size / len(some) * len(indices) / 1e9
    return (f"cache    {size_gb:.2g} GB on disk would save {saved_s:.2g} s of each epoch after the first, of "
            f"{steps_s:.2g} s: {'.'.join(path)}.args.cache={{}}")


def _seconds(dataset: Any, data: DataSplits, indices: list[int]) -> float:
    """The time of a sample, read for the second time."""
    source, _ = read_ahead(dataset, data.sample_transforms["train"])
    for _ in range(2):
        started = time.perf_counter()
        for index in indices:
            source[index]
    return (time.perf_counter() - started) / len(indices)
