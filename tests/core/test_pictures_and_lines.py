"""What a run shows of itself: pictures and pages of TensorBoard, lines on the console, the time left."""
import io
import re
import sys
import threading
import wave

import pytest
import torch
from conftest import score, train
from torchmetrics.classification import MulticlassConfusionMatrix

from base import DATASETS, METRICS, TRAINERS, WRITERS
from data_loader.digits import Digits
from logger import Writer
from logger.epoch_line import EpochLine
from logger.pictures import draw_grid, draw_matrix, tiles
from logger.tensorboard_layout import layout_of, tag_of
from trainer.trainer import Trainer
from utils.training.progress import TimeLeft
from utils.training.timers import data_wait

CALLS: dict[str, list[tuple]] = {}
CLASSES = [f"class {number}" for number in range(10)]


@WRITERS.register
class Recorder(Writer):
    """Keeps what it gets, by method, with the name of the thread."""

    def images(self, name, images, step, captions):
        self._keep("images", name, images, captions)

    def text(self, *args):
        self._keep("text", *args)

    def table(self, *args):
        self._keep("table", *args)

    def figure(self, *args):
        self._keep("figure", *args)

    def audio(self, *args):
        self._keep("audio", *args)

    def matrix(self, *args):
        self._keep("matrix", *args)

    def best(self, *args):
        self._keep("best", *args)

    def _keep(self, method, *args):
        CALLS.setdefault(method, []).append((threading.current_thread().name, *args))


@DATASETS.register
class DigitsWithClasses(Digits):
    classes = CLASSES


@METRICS.register
class ConfusionOfTen(MulticlassConfusionMatrix):
    def __init__(self):
        super().__init__(num_classes=10)


class Figure:
    """As much of matplotlib's as is used."""

    def savefig(self, file, format):
        draw_matrix(torch.eye(2)).save(file, format.upper())


@TRAINERS.register
class SaysMuch(Trainer):
    def on_epoch_end(self):
        step = self.position.step
        self.run.text("val/sample", "a\nb", step)
        self.run.table("val/rows", ("x", "y"), [(1, "a|b")], step)
        self.run.figure("val/figure", Figure(), step)
        self.run.audio("val/sound", torch.tensor([0.0, 1.0, -2.0]), 8000, step)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    CALLS.clear()
    folder = tmp_path_factory.mktemp("shown")
    (folder / "c.yaml").write_text("""
name: shown
dataset: DigitsWithClasses
data_loader: {batch_size: 64, validation_split: 40, batches_per_epoch: 3}
model: {type: MLP, args: {sizes: [64, 16, 10]}}
loss: CrossEntropyLoss
metrics: [accuracy, {type: ConfusionOfTen, name: confusion}]
optimizer: {type: Adam, args: {lr: 0.01}}
trainer: {type: SaysMuch, args: {epochs: 2, log_every: 2}}
writers: [Recorder, TensorBoard]
""")
    return train("-c", folder / "c.yaml", out=folder)


def test_a_writer_gets_texts_tables_figures_sounds_and_matrices_in_its_own_thread(run):
    assert {call[0] for calls in CALLS.values() for call in calls} == {"writers"}
    first = {method: calls[0][1:] for method, calls in CALLS.items()}
    assert first["text"][:2] == ("val/sample", "a\nb")
    assert first["table"][:3] == ("val/rows", ["x", "y"], [[1, "a|b"]])
    assert first["figure"][1].startswith(b"\x89PNG")
    assert first["audio"][1].shape == (1, 3) and first["audio"][2] == 8000
    name, values, labels, step = CALLS["matrix"][1][1:]
    assert (name, values.shape, labels, values.sum().item()) == ("val/confusion", (10, 10), CLASSES, 40)
    assert step == CALLS["text"][0][3] > 0
    assert len(CALLS["best"]) == 2 and CALLS["best"][0][1:2] + CALLS["best"][0][3:] == ("val/loss", 1, step)


def test_pictures_of_a_batch_have_its_classes_and_those_that_were_predicted(run):
    shown = {call[1]: call[2:] for call in CALLS["images"]}
    assert {*shown} == {"train/input", "val/prediction"}
    images, captions = shown["train/input"]
    assert images.shape == (32, 1, 8, 8) and {*captions} <= {*CLASSES}
    assert any(" as class " in caption for caption in shown["val/prediction"][1])


def test_tensorboard_has_them_all_and_begins_with_the_losses(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    score("-r", run)
    pages = EventAccumulator(str(run))
    pages.Reload()
    tags = pages.Tags()
    groups = sorted({tag.partition("/")[0] for tag in tags["scalars"] + tags["images"]})
    assert groups == ["train", "val", "within_epoch", "z_pictures", "z_scores", "z_technical"]
    assert {"val/loss (best)", "z_scores/test/loss", "z_technical/time/compute_s"} < {*tags["scalars"]}
    assert {*tags["images"]} == {f"z_pictures/{name}" for name in (
        "train/input", "val/prediction", "val/figure", "train/confusion", "val/confusion")}
    # the list of columns would be that of one run for all
    assert "_hparams_/experiment" not in tags["tensors"]
    assert "_hparams_/session_start_info" in pages.summary_metadata
    with wave.open(io.BytesIO(pages.Audio("val/sound")[0].encoded_audio_string)) as file:
        assert file.getparams()[:4] == (1, 2, 8000, 3) and file.readframes(3)[2:] == b"\xff\x7f\x01\x80"
    assert pages.Tensors("val/sample/text_summary")[0].tensor_proto.string_val == [b"a  \nb"]
    assert b"| 1 | a&#124;b |" in pages.Tensors("val/rows/text_summary")[0].tensor_proto.string_val[0]
    layout = Layout.FromString(pages.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == ["losses", "metrics", "technical"]
    assert layout.category[0].chart[0].title == "loss"


def test_charts_hold_train_val_and_each_set_and_fold_values_by_class():
    names = ["step/loss", "train/loss", "train/acc", "val/loss", "val/a/loss", "val/a/acc", "lr/optimizer",
             "val/iou", *(f"val/f1/{number}" for number in range(20))]
    layout = layout_of(names)
    assert {group: [*charts] for group, charts in layout.items()} == {
        "losses": ["loss", "loss within an epoch"], "metrics": ["acc", "iou"], "technical": ["learning rate"]}
    (pattern,) = layout["losses"]["loss"][1]
    shown = [name for name in names if re.match(pattern, tag_of(name))]
    assert shown == ["train/loss", "val/loss", "val/a/loss"]
    (pattern,) = layout["technical"]["learning rate"][1]
    assert re.match(pattern, "lr/optimizer") and re.match(pattern, tag_of("lr/optimizer"))  # of 1.0.0, too


def test_masks_and_images_stand_beside_the_input_and_large_ones_are_reduced():
    images, masks = torch.rand(40, 3, 600, 60), torch.randint(3, (40, 600, 60))
    shown, captions = tiles((images, masks), outputs=torch.rand(40, 3, 600, 60))
    assert shown.shape == (32, 3, 200, 60) and captions is None
    assert shown.min() >= 0 and shown.max() <= 1 and (shown[..., 20:40] == 0).any()
    assert tiles({"image": images[:2, :1], "target": images[:2]})[0].shape == (2, 3, 200, 40)
    assert max(draw_grid(shown).size) <= 1100
    of_others = tiles(images[:2], torch.arange(7), torch.rand(3, 3, 600, 60))
    assert of_others[0].shape == (2, 3, 200, 20)
    assert tiles(images[:2], masks[:2], -torch.ones(2, 1, 600, 60))[0][..., 40:].max() == 0
    for nothing in (None, (), torch.rand(3), torch.rand(0, 1, 2, 2), torch.rand(1, 5, 2, 2), {"ids": [1]}):
        assert tiles(nothing) is None
    assert tiles(torch.rand(2, 1, 4, 4), torch.tensor([1, 0]))[1] == ["1", "0"]
    assert tiles((torch.rand(2, 1, 4, 4), torch.tensor([1, 7])), classes=["a", "b"])[1] == ["b", "7"]


def test_a_matrix_is_coloured_by_its_rows_and_has_labels_if_they_fit():
    def side(values, **labels):
        picture = draw_matrix(values, **labels)
        return picture.size[0], picture.getpixel((picture.size[0] - 4, picture.size[1] - 4))

    plain, dark = side(torch.eye(4) * 100)
    labelled, _ = side(torch.eye(4), labels=["a long name"] * 4)
    assert dark == (8, 69, 148) and labelled > plain + 40
    assert side(torch.full((4, 4), float("nan")))[1] == (255, 255, 255)
    assert side(torch.eye(300))[0] < 660 and side(torch.eye(3000))[0] <= 1025


# -- the console ---------------------------------------------------------------------------------------------


def line_of(lines, monkeypatch, columns, values, **more):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: columns > 0, raising=False)
    given = {"elapsed_s": 2.0, "improved": False, "seconds_of": {"compute": 2.0}, "sets": ["val"], **more}
    return lines.format("epoch 1/3", values, **given)[1]


VALUES = {"train/loss": 0.5, "train/accuracy": 0.25, "val/loss": 12.5, "val/accuracy": 0.5,
          "lr/optimizer": 0.001}


def test_an_epoch_fits_the_terminal_and_keeps_its_columns(monkeypatch):
    lines = EpochLine()
    wide = line_of(lines, monkeypatch, 200, VALUES, improved=True)
    assert wide == ("epoch 1/3  train loss 0.5000 accuracy 0.2500 | val loss 12.5000 accuracy 0.5000 | "
                    "lr 0.001   |    2.0 s  * best")
    later = line_of(lines, monkeypatch, 200, VALUES | {"val/loss": 0.25})
    assert later.index("0.2500 acc") == wide.index("12.5000") + 1 and later.index(" s") == wide.index(" s")
    without = line_of(lines, monkeypatch, 200, {"train/loss": 0.5, "lr/optimizer": 0.001})
    assert without.index("lr") == wide.index("lr") and "val" not in without
    for columns in (100, 80, 60, 50):
        line = line_of(lines, monkeypatch, columns, VALUES, improved=True)
        assert len(line) < columns and "val loss 12.5000" in line and line.endswith("* best")
    assert "lr" not in line_of(lines, monkeypatch, 100, VALUES)
    assert line_of(EpochLine(), monkeypatch, 0, VALUES, improved=True) == wide  # into a file: whole


def test_an_epoch_remarks_only_on_much_waiting_and_folds_values_by_class(monkeypatch):
    waits = {"data wait": 4.0, "compute": 6.0}
    assert data_wait(waits) == "data wait 40 %" and data_wait({"data wait": 2.0, "compute": 6.0}) is None
    lines = EpochLine()
    waited = line_of(lines, monkeypatch, 200, VALUES, seconds_of=waits)
    assert waited.endswith("2.0 s          (data wait 40 %)")
    assert "wait" not in line_of(lines, monkeypatch, 200, VALUES, seconds_of=waits, elapsed_s=0.9)
    values = {"val/f1/a": 0.5, "val/f1/b": 1.0, "val/f1/c": float("nan")}
    assert "val/f1 min 0.5000 mean 0.7500" in line_of(lines, monkeypatch, 200, values)
    assert "b 1.0000" in lines.format("epoch 1/3", values, 2.0, False, waits, ["val"])[0]


def test_the_time_that_is_left_follows_the_pace_since_the_first_call(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    left = TimeLeft()
    assert left.describe(2.5, 10) == ""  # resumed here
    now[0] = 160.0
    assert left.describe(3.0, 10) == "14:00"


def test_the_log_has_the_whole_line_of_an_epoch(run):
    line = next(line for line in (run / "run.log").read_text().splitlines() if "epoch 1/2" in line)
    assert "(" in line and "compute" in line and "lr " in line
