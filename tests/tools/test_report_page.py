"""report.html: what is on the page, that it needs nothing else, its size, and when it is written."""
import base64
import io
import json
import logging
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import PROJECT, program, score, train
from logger.writer import RunInfo, build_writer
from tools.report.__main__ import main
from tools.report.page import writer as report_writer
from tools.report.page.kept import Kept, png_of, read_kept
from tools.report.page.page import write_page
from tools.report.page.points import Curve, grouped, thinned
from tools.runs import reading

CONFIG = """
name: cats
optimizer: {type: SGD, args: {lr: 0.1, momentum: 0.0}}
trainer: {type: Trainer, args: {epochs: 3, monitor: max val/accuracy}}
default_values: {optimizer.args.momentum: 0.0}
"""
FLAT = {"name": "cats", "optimizer.type": "SGD", "optimizer.args.lr": 0.1, "trainer.args.epochs": 3,
        "trainer.args.monitor": "max val/accuracy"}
ACCURACIES = (0.5, 0.75, 0.625)
START = {"started": "2026-01-31T12:00:00+00:00", "started_s": 1769860800.0, "python": "3.11.7",
         "command": ["python", "train.py", "-c", "c.yaml", "optimizer.args.lr=0.1"], "device": "cpu",
         "git_commit": "0123456789abcdef", "packages": {"torch": "2.14.1"}, "num_processes": 1}
END = {"ended": "2026-01-31T13:01:01+00:00", "outcome": "stopped", "reason": "SIGTERM", "epoch": 3}
HOSTILE = '"><script>alert(1)</script><img src="http://example.com/x.png">'


@pytest.fixture
def run(tmp_path):
    """The files of a run of three epochs, typed in."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    lines = [{"step": 10 * epoch, "epoch": epoch, "train/loss": 1 / epoch, "val/accuracy": accuracy}
             for epoch, accuracy in enumerate(ACCURACIES, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "environment.jsonl").write_text(f"{json.dumps(START)}\n{json.dumps(END)}\n")
    write_json(folder / "summary.json", {
        "state": "stopped", "reason": "SIGTERM", "epoch": 3, "step": 30, "config": FLAT,
        "best": {"name": "val/accuracy", "value": 0.75, "epoch": 2},
        "scores": {"epoch": 3, "val/accuracy": 0.625}})
    (folder / "run.log").write_text("2026-01-31 12:30:00,123 WARNING cat.png: left out of training\n"
                                    "2026-01-31 12:30:01,000 INFO    epoch 2\n")
    return folder


def write_json(file, content) -> None:
    file.write_text(json.dumps(content))


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def page_of(folder, *state) -> Page:
    text = write_page(folder, *state).read_text()
    assert len(text.encode()) < 1_000_000
    assert text.count("<table") == text.count("</table>") and text.endswith("</html>\n")
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        assert not {name for name in attributes if name.startswith("on")} | {"href"} & attributes.keys()
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert tag != "img" or attributes["alt"]
    assert "could not be made" not in page.text
    return page


def test_a_page_tells_what_run_it_is_how_it_ended_and_how_to_repeat_it(run):
    write_json(run / "test.json", {"checkpoint": "best.pt", "epoch": 2, "step": 20, "test/accuracy": 0.6875})
    text = page_of(run).text
    assert "cats: run stopped : SIGTERM" in text and "1:01:01" in text
    assert "best val/accuracy 0.7500 at epoch 2, max val/accuracy" in text and "3 of 3" in text
    assert "test/ accuracy 0.6875" in text  # the space is where a line may break
    assert "optimizer. args. lr 0.1 command line" in text and "trainer. args. epochs 3 file" in text
    assert "1 defaults" in text and "optimizer. args. momentum 0.0" in text
    assert "2026-01-31 12:30:00 warning: cat.png: left out of training" in text
    assert "stopped: epoch 3, SIGTERM" in text and "2.14.1" in text
    assert "git -C" in text and "worktree add --detach" in text


def test_a_curve_shows_each_split_the_best_epoch_and_its_values(run):
    page = page_of(run)
    assert "epoch 2: val 0.7500" in page.text and "val 0.6250, 0.7500 at the best epoch" in page.text
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert [drawing["aria-label"] for drawing in drawings] == ["loss: train ends at 0.3333",
                                                               "accuracy: val ends at 0.6250"]
    assert sum(attributes.get("class") == "best" for tag, attributes in page.tags if tag == "path") == 2
    heights = [attributes["d"] for tag, attributes in page.tags if attributes.get("class") == "l b"]
    assert heights == ["M86,320 395,16 704,168"]  # the lowest, the highest, and one in the middle


def test_whatever_a_run_is_called_is_text(run):
    line = {"step": 40, "epoch": 4, f"val/{HOSTILE}": 1.0, f"{HOSTILE}/x": 2.0, f"val/f1/{HOSTILE}": 0.5}
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
    row = {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 3}
    report = {"classes": {HOSTILE: row, "b": row, "c": row}, "confusion": [[1, 2, 0], [0, 3, 0], [0, 0, 1]]}
    write_json(run / "test.json", {"checkpoint": HOSTILE, "epoch": HOSTILE, f"test/{HOSTILE}": 1.0,
                                   "report": {HOSTILE: report}})
    write_json(run / "environment.jsonl", {**START, "command": ["python", HOSTILE], "device": HOSTILE})
    (run / "run.log").write_text(f"2026-01-31 12:30:00,123 WARNING {HOSTILE}\n")
    kept = {"images": {HOSTILE: {"step": 1, "tiles": [HOSTILE], "labels": [HOSTILE]}},
            "events": [["2026", HOSTILE, HOSTILE]], "texts": {HOSTILE: {"step": HOSTILE, "text": HOSTILE}},
            "figures": {HOSTILE: {"step": HOSTILE, "png": HOSTILE}},
            "tables": {HOSTILE: {"step": 1, "columns": [HOSTILE], "rows": [[HOSTILE]]}},
            "matrices": {HOSTILE: {"step": 1, "values": [[1, 0], [0, 1]], "labels": [HOSTILE, "b"]}}}
    write_json(run / "report.json", kept)
    config = {**FLAT, "name": HOSTILE, HOSTILE: HOSTILE}
    write_json(run / "summary.json", {"state": "failed", "reason": HOSTILE, "config": config})
    page = page_of(run, "failed", HOSTILE)
    assert page.text.count("alert(1)") > 20
    policy = next(attributes for tag, attributes in page.tags if "http-equiv" in attributes)
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_a_part_whose_files_are_damaged_leaves_the_others(run):
    write_json(run / "report.json", {"images": {"a": 3}, "speed": [], "events": {}})
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text() + '{"step": 40, "epo')
    (run / "test.json").write_text("[1]")
    text = Page(write_page(run).read_text()).text
    assert text.count("could not be made") == 1 and "val 0.6250" in text


def test_a_long_run_with_many_metrics_and_large_pictures_stays_small(run):
    values = torch.rand(600, 300, generator=torch.Generator().manual_seed(0)).double().tolist()
    with open(run / "metrics.jsonl", "w") as file:
        for epoch, row in enumerate(values, 1):
            named = {f"val/f1/c{n}" if n % 2 else f"val/metric{n}": value for n, value in enumerate(row)}
            file.write(json.dumps({"step": epoch, "epoch": epoch, "train/loss": 1.0, **named}) + "\n")
    (run / "test_mistakes.png").write_bytes(b"\x89PNG" + bytes(800_000))
    row = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 3}
    classes = {f"class {n}": {**row, "f1": n / 5000} for n in range(5000)}
    write_json(run / "test.json", {"epoch": 2, "report": {"test": {"classes": classes}}})
    text = page_of(run).text
    assert "104 more metrics are not drawn: metric92" in text and "The range of 150 values." in text
    assert "the 30 with the lowest F1 of 5000; test.json has all" in text
    assert "test_mistakes.png in the run's folder is too large" in text


def test_a_page_of_more_than_it_can_hold_says_so(run):
    noise = base64.b64encode(np.random.default_rng(0).bytes(140_000)).decode()
    figures = {f"f{n}": {"step": 1, "png": noise} for n in range(6)}
    write_json(run / "report.json", {"figures": figures})
    assert "shows less of it, to stay small" in page_of(run).text


def test_thinned_curves_keep_every_peak():
    values = [0.0] * 5000
    values[1234], values[4321] = 9.0, -9.0
    points = thinned(Curve(list(range(5000)), values), 100)
    assert len(points) <= 100 and {(1234, 9.0), (4321, -9.0)} <= {*points}
    assert points == sorted(points)


def test_sets_of_val_share_a_chart_and_classes_become_a_range():
    one, two = Curve([1, 2], [0.25, 0.5]), Curve([1, 2], [0.75, 1.0])
    found = {group.title: group for group in grouped({
        "train/loss": one, "val/loss": two, "val/noisy/loss": one, "val/f1/cat": one, "val/f1/dog": two,
        "lr/optimizer": one})}
    assert [*found["loss"].curves] == ["train", "val", "val: noisy"]
    assert [*found["f1 (val)"].members] == ["cat", "dog"]
    assert found["f1 (val)"].curves["mean"].values == [0.5, 0.75]
    assert not found["learning rate"].about_training


def test_pngs_are_those_that_other_programs_read():
    for shape in ((3, 4), (3, 4, 3)):
        pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_of(pixels)))), pixels)


def test_matrices_of_metrics_and_the_most_frequent_mistakes_are_shown(run):
    (run / "metrics").mkdir()
    for epoch, count in ((1, 90), (2, 91)):
        matrix = np.array([[5, 1, 0], [count, 5, 0], [0, 0, 5]])
        np.savez(run / "metrics" / f"val_confusion_epoch000{epoch}.npz", **{"val/confusion": matrix})
    (run / "metrics" / "val_broken_epoch0001.npz").write_bytes(b"PK")
    text = page_of(run).text
    assert "val/confusion, epoch 2" in text and "1 0 91 0 1 1" in text and " 90 " not in text


def test_a_run_of_version_1_0_0_has_a_page(run, monkeypatch):
    for name in ("summary.json", "environment.jsonl", "run.log"):
        (run / name).unlink()
    monkeypatch.setattr(sys, "argv", ["tools.report", str(run)])
    main()
    assert "best val/accuracy 0.7500 at epoch 2" in Page((run / "report.html").read_text()).text
    monkeypatch.setattr(sys, "argv", ["tools.report", str(run / "none")])
    with pytest.raises(SystemExit) as refused:
        main()
    assert refused.value.code == 2


# -- the writer ------------------------------------------------------------------------------------------

def writer_of(folder, start_step=None):
    return build_writer("Report", "writers.0", RunInfo("cats", "run", "1", folder, {}, start_step=start_step))


@pytest.fixture
def unasked(monkeypatch):
    """In the process of a run its lock must not be asked for: the run would lose it."""
    monkeypatch.setattr(reading, "state_after", lambda *args: pytest.fail("the lock was asked for"))


def test_the_page_is_written_after_an_evaluation_and_then_not_for_a_while(run, unasked, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(report_writer.time, "monotonic", lambda: clock[0])
    writer, page = writer_of(run), run / "report.html"
    writer.scalars({"step/loss": 1.0, "speed/samples_per_s": 5.0}, 5)
    writer.scalars({"val/accuracy": 0.5, "speed/epoch_s": 2.0, "time/compute_s": 1.5}, 10)
    assert not page.exists()  # summary.json follows
    writer.images("train/input", torch.rand(40, 3, 200, 100), 10, ["cat"] * 32)
    text = Page(page.read_text()).text
    assert "cats: run running" in text and "seconds per epoch" in text and "compute 100.0 %" in text
    assert text.count("cat") >= 32
    page.unlink()
    for later, written in ((20, False), (31, True)):
        clock[0] = 100.0 + later
        writer.scalars({"val/accuracy": 0.5, "speed/epoch_s": 2.0}, 20)
        writer.checkpoint(run / "last.pt", 2, False)
        assert page.exists() is written
    writer.close("failed", "it broke")
    assert "failed : it broke" in Page(page.read_text()).text


def test_what_is_kept_stays_small_and_a_resume_takes_back_later_points(run):
    writer = writer_of(run)
    for step in range(2000):
        writer.scalars({"speed/samples_per_s": float(step)}, step)
    images = torch.rand(32, 3, 150, 200)
    for number in range(8):
        writer.images(f"images {number}", images, 7, None)
        writer.figure(f"figure {number}", b"\x89PNG" + bytes(200_000), 7)
    writer.text("sample", "x" * 100_000, 7)
    writer.table("rows", ["a"], [[1.5]] * 1000, 7)
    writer.matrix("val/confusion", torch.eye(3), ["a", "b", "c"], 7)
    writer.close("stopped", None)
    assert (run / "report.json").stat().st_size < 1_500_000
    assert "too large for this page" in page_of(run).text
    resumed = writer_of(run, start_step=1000)
    resumed.scalars({"speed/samples_per_s": 0.0}, 1001)
    resumed.close("finished", None)
    steps = [step for step, _ in read_kept(run)["speed"]["speed/samples_per_s"]]
    assert steps[-1] == 1001 and steps[-2] <= 1000 and len(steps) <= 600


def test_a_page_that_cannot_be_written_is_one_warning(run, monkeypatch, caplog):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tools.report.page.page.replace_file", full)
    writer = writer_of(run)
    with caplog.at_level(logging.WARNING):
        for outcome in ("finished", "finished"):
            writer.close(outcome, None)
    assert [record.message for record in caplog.records] == [
        f"{run}: the report cannot be written: No space left on device"]


def test_three_pictures_side_by_side_stay_as_sharp_as_one(run):
    kept = Kept(run, 0)
    for name, width in (("one", 256), ("three", 3 * 256), ("long", 9 * 256)):
        kept.images(name, torch.full((2, 3, 256, width), 0.5), 1, None)
        tile = Image.open(io.BytesIO(base64.b64decode(kept.content["images"][name]["tiles"][0])))
        assert tile.size == {"one": (128, 128), "three": (384, 128), "long": (384, 43)}[name]


def test_a_check_writes_no_page_and_scores_only_one_where_nothing_trains(run, monkeypatch):
    writer_of(run).close("checked", None)
    monkeypatch.setattr("tools.runs.run_state.is_locked", lambda folder: True)
    (run / "environment.jsonl").write_text(json.dumps({**START, "locked": True}) + "\n")
    for locked in (True, False):
        assert not (run / "report.html").exists()
        monkeypatch.setattr("tools.runs.run_state.is_locked", lambda folder, locked=locked: locked)
        writer = writer_of(run)
        writer.scores("test", {"test/accuracy": 0.5})
        writer.close("scored", None)
    assert "cats: run killed" in Page((run / "report.html").read_text()).text


def test_a_page_tells_short_flags_and_defaults_from_what_a_file_says(small, tmp_path):
    options = ["-c", small, "--epochs", 1, "--lr", 0.05, "optimizer.args.eps=0.1", "metrics=[accuracy]"]
    run = train(*options, out=tmp_path)
    train("-r", run, "--epochs", 2, out=tmp_path)
    written, _, defaults = page_of(run).text.partition("What was written")[2].partition("Defaults")
    for row in ("lr 0.05", "eps 0.1", "epochs 2", "metrics [accuracy]"):
        assert f"{row} command line" in written, row
    assert "optimizer. type Adam file" in written and "batch_size 30 file" in written
    assert "writers [] file" in written and "init" not in written and "init null" in defaults


@pytest.mark.slow
def test_a_run_its_resume_and_its_scores_make_one_page(small, tmp_path):
    options = ["-c", small, "writers=[Report]", "trainer.args.log_images_every=1", "--run-name", "r"]
    with pytest.raises(Exception, match="step 7 is done"):
        train(*options, "--steps", 7, out=tmp_path)
    run = tmp_path / "small" / "r"
    assert "stopped" in Page((run / "report.html").read_text()).text
    shown = read_kept(run)["images"]["train/input"]
    train("-r", run, out=tmp_path)
    page = (run / "report.html").read_text()
    assert "finished" in page and "resumed: " in page
    assert len(shown["labels"]) == len(shown["tiles"]) == 30
    score("-r", run)
    page = (run / "report.html").read_text()
    assert "test/<wbr>accuracy" in page and "test split, from test.py" in page and "split: mistakes" in page
    assert len(re.findall("train/input", page)) > 30
    assert not [*run.glob(".*.tmp")]
    program("-m", "tools.report", run, cwd=PROJECT)
    assert page.partition("Written")[0] == (run / "report.html").read_text().partition("Written")[0]
