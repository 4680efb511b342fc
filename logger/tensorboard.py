"""TensorBoard event files."""
import io
import threading
import wave
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch

from logger.pictures import draw_grid, draw_matrix, png_of
from logger.tensorboard_layout import layout_of, tag_of
from logger.writer import WRITERS, Writer


@WRITERS.register
class TensorBoard(Writer):
    """Writes event files into the run's folder: `tensorboard --logdir saved`.

    A resumed run hides the points after its checkpoint, so the curves have no overlap. Tags are the names in
    metrics.jsonl, except for what is to stand below train and val: `within_epoch/` is for `step/`, and what
    begins with `z_` sorts last (`z_technical/lr/...`).
    """

    @cached_property
    def _summary(self):
        from torch.utils.tensorboard import SummaryWriter  # 0.3 s, so only if there is something to write

        threading.excepthook = _quiet_about_tensorboard(threading.excepthook)
        self._names, self._layout = {}, b""  # of all values so far, in their order
        return SummaryWriter(str(self.folder),
                             purge_step=None if self.start_step is None else self.start_step + 1)

    def _add(self, step: int, **points: Mapping) -> None:
        """Writes an event with a value for each point of a kind, such as `simple_value={"train/loss": 1}`."""
        writer = self._summary.file_writer  # before the import, which needs what this one sets up
        from tensorboard.compat.proto.summary_pb2 import Summary

        writer.add_summary(Summary(value=[Summary.Value(tag=name, **{kind: value}) for kind, named in
                                          points.items() for name, value in named.items()]), step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._add(step, simple_value={tag_of(name): value for name, value in values.items()})
        self._names |= dict.fromkeys(values)
        if any(name.startswith("train/") for name in values):  # the end of an epoch
            self._arrange()

    def _arrange(self) -> None:
        layout = layout_of(self._names)
        if layout != self._layout:
            from torch.utils.tensorboard.summary import custom_scalars

            self._layout = layout
            self._summary.file_writer.add_summary(custom_scalars(layout))

    def best(self, name: str, value: float, epoch: int, step: int) -> None:
        self._add(step, simple_value={f"{name} (best)": value})

    def scores(self, split: str, values: Mapping[str, float]) -> None:
        self._add(0, simple_value={f"z_scores/{name}": value for name, value in values.items()})

    def images(self, name: str, images: torch.Tensor, step: int,
               captions: Sequence[str] | None = None) -> None:
        self._picture(name, draw_grid(images, captions), step)

    def matrix(self, name: str, values: torch.Tensor, labels: Sequence[str] | None, step: int) -> None:
        self._picture(name, draw_matrix(values, labels), step)

    def figure(self, name: str, png: bytes, step: int) -> None:
        from PIL import Image

        self._picture(name, Image.open(io.BytesIO(png)), step)

    def _picture(self, name: str, picture, step: int) -> None:
        content = {"height": picture.height, "width": picture.width, "encoded_image_string": png_of(picture)}
        self._add(step, image={f"z_pictures/{name}": {"colorspace": 3, **content}})

    def text(self, name: str, text: str, step: int) -> None:
        self._summary.add_text(name, text.replace("\n", "  \n"), step)  # markdown: keeps the ends of lines

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence], step: int) -> None:
        lines = [[str(cell).replace("|", "&#124;") for cell in line] for line in (columns, *rows)]
        lines.insert(1, ["---"] * len(columns))
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        self._summary.add_text(name, text, step)

    def audio(self, name: str, samples: torch.Tensor, rate_hz: int, step: int) -> None:
        content, pcm = io.BytesIO(), (samples.clamp(-1, 1) * 32767).round().to(torch.int16)  # [C, T]
        with wave.open(content, "wb") as file:
            file.setparams((len(pcm), 2, rate_hz, pcm.shape[1], "NONE", ""))
            file.writeframes(pcm.T.contiguous().numpy().astype("<i2").tobytes())
        self._add(step, audio={name: {
            "sample_rate": rate_hz, "num_channels": len(pcm), "length_frames": pcm.shape[1],
            "encoded_audio_string": content.getvalue(), "content_type": "audio/wav"}})

    def histograms(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        for name, tensor in tensors.items():
            self._summary.add_histogram(name, tensor.float(), step)

    def hparams(self, config: Mapping) -> None:
        from torch.utils.tensorboard.summary import hparams

        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in config.items()}
        # The first lists columns. TensorBoard takes one such list for all runs; without any it makes a column
        # of each config key and each value that some run has.
        _, start, end = hparams(plain, {})
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
