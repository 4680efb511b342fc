"""Where a run's messages, numbers and images go. Every file in this folder is imported automatically."""
from logger.writer import WRITERS, RunInfo, Writer

__all__ = ["WRITERS", "RunInfo", "Writer"]
