"""TensorBoard event files."""
import threading
from collections.abc import Callable, Mapping
from functools import cached_property

import torch

from logger.writer import WRITERS, Writer


@WRITERS.register
class TensorBoard(Writer):
    """Writes event files into the run's folder: `tensorboard --logdir saved`.

    A resumed run hides the points after its checkpoint, so the curves have no overlap.
    """

    @cached_property
    def _summary(self):
        from torch.utils.tensorboard import SummaryWriter  # 0.3 s, so only if there is something to write

        threading.excepthook = _quiet_about_tensorboard(threading.excepthook)
        return SummaryWriter(str(self.folder),
                             purge_step=None if self.start_step is None else self.start_step + 1)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._summary.file_writer.add_summary(  # one event; add_scalar would write one per value
            Summary(value=points), step)

    def images(self, name: str, images: torch.Tensor, step: int) -> None:
        self._summary.add_images(name, images, step)

    def histograms(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        for name, tensor in tensors.items():
            self._summary.add_histogram(name, tensor.float(), step)

    def hparams(self, config: Mapping) -> None:
        from torch.utils.tensorboard.summary import hparams

        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in config.items()}
        _, start, end = hparams(plain, {})  # the first lists columns, and would hide columns of other runs
        self._summary.file_writer.add_summary(start)
        self._summary.file_writer.add_summary(end)

    def close(self) -> None:
        if "_summary" in vars(self):
            self._summary.close()


def _quiet_about_tensorboard(others: Callable) -> Callable:
    """A hook for errors in threads. It hides OSErrors that TensorBoard's thread keeps for the next call."""
    def hook(args) -> None:
        if not (isinstance(args.exc_value, OSError)
                and type(args.thread).__module__.startswith("tensorboard.")):
            others(args)
    return hook
