"""Whether the workers of a loader have the time for a batch that data_loader.timeout gives them."""
import time

from base.base_data_loader import DataSplits
from base.data.sampler import Batch
from utils.errors import ConfigError


def first_batch_in_time(data: DataSplits, split: str) -> Batch:
    """A split's first batch, for a trial. Raises ConfigError if it takes longer than a worker may.

    A slow one is loaded twice: the second time, its files are in the memory of the system.
    """
    limit = data.loader_options.get("timeout") or float("inf")  # is there with workers only
    for _ in range(2):
        started = time.monotonic()
        batch = data.first_batch(split)
        if (taken := time.monotonic() - started) <= limit:
            return batch
    raise ConfigError.at("data_loader.timeout",
                         f"{limit:g} s are too short: the first batch of {split} took {taken:.2g} s, without "
                         "a worker to start. Set it to 60, or more.")
