"""Where a run's messages, numbers and images go; every writer in a file here is found by itself."""
from logger.writer import WRITERS, Writer

__all__ = ["WRITERS", "Writer"]
