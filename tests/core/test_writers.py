"""What writers learn of a run, and when: its identity, checkpoints, events, scores, the end."""
import json
import threading

import pytest
from conftest import score, train

from base import WRITERS
from base.run.writers import run_info
from logger import Writer
from logger.feeder import Feeder
from utils.config.values import mask_tree
from utils.errors import Interrupted, TrainingError

CALLS: list[tuple] = []  # of all Diaries: the method, its arguments


@WRITERS.register
class Diary(Writer):
    """Notes each call but those of numbers."""

    def __init__(self, run, note: str = ""):
        super().__init__(run.folder, run.start_step, run)
        CALLS.append(("built", run))

    def hparams(self, config, changed):
        CALLS.append(("hparams", config["seed"], changed))

    def event(self, kind, text):
        CALLS.append(("event", kind, text))

    def checkpoint(self, path, epoch, best):
        assert path.exists()
        CALLS.append(("checkpoint", path.name, epoch, best))

    def scores(self, split, values):
        CALLS.append(("scores", split, sorted(values)))

    def close(self, outcome, reason):
        CALLS.append(("close", outcome, reason))


@WRITERS.register
class OutsideDiary(Diary):
    outside = True


@WRITERS.register
class FormerDiary(Writer):
    """As 1.0.0 shows writers."""

    def __init__(self, folder, start_step, **options):
        super().__init__(folder, start_step)
        CALLS.append(("built", start_step, options))

    def hparams(self, config):
        CALLS.append(("hparams", config["seed"]))

    def close(self):
        CALLS.append(("close",))


@pytest.fixture(autouse=True)
def calls():
    CALLS.clear()
    return CALLS


def noted(*methods):
    return [call for call in CALLS if call[0] in methods]


def test_a_writer_learns_one_identity_what_changed_and_how_each_start_ended(small, tmp_path, monkeypatch):
    monkeypatch.setenv("NOTE", "secret")
    note = "writers=[{type: Diary, args: {note: '${env:NOTE}'}}]"
    begin = ["-c", small, note, "trainer.args.monitor=min val/loss", "--run-name", "r"]
    with pytest.raises(Interrupted):
        train(*begin, "--steps", 7, out=tmp_path)
    run = tmp_path / "small" / "r"
    train("-r", run, "trainer.args.log_every=1", out=tmp_path)
    (_, first), (_, second) = noted("built")
    assert (first.name, first.run_name, first.start_step, second.start_step) == ("small", "r", None, 7)
    assert first.id == second.id and not first.resumed and second.resumed
    assert first.command and first.folder == run
    assert first.config["writers"] == [{"type": "Diary", "args": {"note": "***"}}]
    assert noted("hparams") == [("hparams", 7, None), ("hparams", 7, {"trainer.args.log_every": 1})]
    assert {("checkpoint", "best.pt", 1, True), ("checkpoint", "last.pt", 0, False)} < {*noted("checkpoint")}
    assert [call[1] for call in noted("event")] == ["stopped", "resumed"]
    assert [call[1] for call in noted("close")] == ["stopped", "finished"]
    CALLS.clear()
    score("-r", run)
    assert [call[0] for call in CALLS] == ["built", "scores", "close"]  # nothing comes again, nothing is cut
    assert CALLS[0][1].id == first.id and CALLS[0][1].resumed and CALLS[0][1].start_step is None
    assert CALLS[1:] == [("scores", "test", ["test/accuracy", "test/loss"]), ("close", "scored", None)]


def test_scores_go_to_a_service_only_if_that_is_wanted(small, tmp_path):
    run = train("-c", small, "writers=[OutsideDiary, FormerDiary]", "trainer.args.epochs=1", out=tmp_path)
    for options in ([], ["--writers"]):
        CALLS.clear()
        score("-r", run, *options)
        assert [call[0] for call in CALLS] == (["built", "scores", "close"] if options else [])


def test_a_writer_of_an_earlier_version_is_called_as_it_was(small, tmp_path):
    with pytest.raises(Interrupted):
        train("-c", small, "writers=[FormerDiary]", "--run-name", "r", "--steps", 7, out=tmp_path)
    train("-r", tmp_path / "small" / "r", out=tmp_path)
    assert CALLS == [("built", None, {}), ("hparams", 7), ("close",), ("built", 7, {}), ("close",)]


def test_what_is_skipped_what_stops_early_and_what_fails_are_events(small, tmp_path):
    begin = ["-c", small, "writers=[Diary]"]
    skip = ["trainer.args.on_nan=skip", "trainer.args.max_nan_steps=3", "trainer.args.log_every=1"]
    with pytest.raises(TrainingError, match="in a row"):
        train(*begin, *skip, "optimizer={type: SGD, args: {lr: 1e30}}", out=tmp_path)
    assert [call[1] for call in noted("event")][-1] == "failed" and noted("close")[0][1] == "failed"
    assert {call[1] for call in noted("event")} == {"skipped_steps", "failed"}
    CALLS.clear()
    early = ["trainer.args.monitor=max val/loss", "trainer.args.early_stop=1", "trainer.args.epochs=9"]
    train(*begin, *early, "optimizer.args.lr=0.003", "--run-name", "early", out=tmp_path)
    assert [call[1] for call in noted("event")] == ["early_stop"]
    assert noted("close") == [("close", "finished", None)]


def test_what_no_writer_takes_starts_no_thread_and_each_is_closed():
    feeder, threads = Feeder([FormerDiary(None, None)]), threading.active_count()
    feeder.send("scalars", {}, 0)
    assert not feeder.wants("scalars") and feeder.wants("hparams") and threading.active_count() == threads
    feeder.close("failed", "why")
    assert CALLS[1:] == [("close",)]


def test_the_calls_before_the_first_step_wait_but_never_fill_the_queue(tmp_path):
    run, calls = run_info(tmp_path, {"name": "small"}), []

    class Patient(Diary):
        hparams = checkpoint = scalars = lambda self, *given: calls.append(threading.current_thread().name)

    feeder = Feeder([Patient(run)])
    feeder.send("hparams", {}, {})
    feeder.send("checkpoint", tmp_path, 0, False)
    assert feeder._thread is None and not calls
    for number in range(400):
        feeder.send("checkpoint", tmp_path, number, False)
    feeder.close()
    assert calls == ["writers"] * 402


def test_a_masked_config_keeps_its_form():
    config = {"a": [{"b": 1}, "c"], "d": {"e": {"f": 2}}}
    assert mask_tree(config, {"a.0.b", "d.e"}) == {"a": [{"b": "***"}, "c"], "d": {"e": "***"}}


def test_a_run_of_an_earlier_version_gets_an_id_at_its_next_start(small, tmp_path):
    with pytest.raises(Interrupted):
        train("-c", small, "writers=[Diary]", "--run-name", "r", "--steps", 2, out=tmp_path)
    record = tmp_path / "small" / "r" / "environment.jsonl"
    start, *end = record.read_text().splitlines(keepends=True)
    former = {key: value for key, value in json.loads(start).items() if key != "run_id"}
    record.write_text("".join([json.dumps(former) + "\n", *end]))
    with pytest.raises(Interrupted):
        train("-r", record.parent, "--steps", 4, out=tmp_path)
    (_, first), (_, second) = noted("built")
    assert run_info(record.parent, {"name": "small"}).id == second.id != first.id
