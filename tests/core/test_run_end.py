"""A run's record says how each start ended; what has no end and no owner was killed."""
import json
import os
import time

import pytest
import torch

from base.run.setup import checkpoint_to_resume
from conftest import train
from faults.harness import Started
from test_run_lock import held
from utils.config.loading import Reading
from utils.errors import Interrupted, TrainingError
from utils.run_record import RECORD, record_end

run_state = pytest.importorskip("tools.runs.run_state")
is_locked, state_of = run_state.is_locked, run_state.state_of


def records(run):
    return [json.loads(line) for line in (run / RECORD).read_text().splitlines()]


def summary(run):
    return json.loads((run / "summary.json").read_text())


def test_the_end_of_every_start_is_recorded(small, tmp_path):
    with pytest.raises(Interrupted):
        train("-c", small, "--run-name", "r", "--steps", "7", out=tmp_path)
    run = tmp_path / "small" / "r"
    assert summary(run)["state"] == state_of(run) == "stopped"
    train("-r", run, out=tmp_path)
    start, stopped, again, finished = records(run)
    assert "started" in start and "started" in again and start["locked"] is True
    assert (stopped["outcome"], stopped["reason"], stopped["step"]) == ("stopped", "step 7 is done", 7)
    assert stopped.keys() == {"ended", "outcome", "reason", "epoch", "step", "best"}
    assert finished["outcome"] == state_of(run) == "finished" and finished["reason"] is None
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert finished["best"]["name"] == "val/loss" and finished["epoch"] == last["epoch"]
    shown = summary(run)
    assert shown["best"] == finished["best"] and shown["state"] == "finished"
    assert shown["scores"]["val/loss"] == last["val/loss"] and shown["config"]["model.type"]


def test_a_failure_is_recorded_with_its_reason(small, tmp_path):
    with pytest.raises(TrainingError):
        train("-c", small, "--run-name", "r", "optimizer.args.lr=1e30", "trainer.args.epochs=3", out=tmp_path)
    run = tmp_path / "small" / "r"
    end = records(run)[-1]
    assert end["outcome"] == state_of(run) == summary(run)["state"] == "failed"
    assert "not finite" in end["reason"] and "\n" not in end["reason"]


def test_an_end_that_cannot_be_written_ends_nothing(tmp_path, caplog):
    record_end(tmp_path / "gone", "finished", None, {})
    assert "the end could not be recorded" in caplog.text


def test_without_end_and_lock_a_run_was_killed_and_one_of_1_0_0_is_unknown(tmp_path):
    (tmp_path / RECORD).write_text(json.dumps({"started_s": 1.0, "locked": True}) + "\n{\"cut of")
    assert is_locked(tmp_path) is False and state_of(tmp_path) == "killed"
    with held(tmp_path):
        assert is_locked(tmp_path) is True and state_of(tmp_path) == "running"
        assert not (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} ")
    assert state_of(tmp_path) == "killed"
    for record in ({"started_s": 1.0}, {"started_s": 1.0, "locked": False}, {"outcome": ["odd"]}):
        (tmp_path / RECORD).write_text(json.dumps(record) + "\n")
        assert state_of(tmp_path) == "unknown"
    assert state_of(tmp_path / "nothing here") == "unknown"


def test_the_state_of_a_killed_program_is_killed(small, tmp_path):
    run = tmp_path / "small" / "r"
    options = ("-c", small, "--out", tmp_path, "--run-name", "r", "trainer.args.epochs=1000")
    with Started("train.py", "-q", *options) as program:
        program.wait_for((run / "metrics.jsonl").exists)
        assert state_of(run) == summary(run)["state"] == "running"
        program.kill()
    assert state_of(run) == "killed"


def test_auto_passes_over_two_thousand_finished_runs_by_their_records(tmp_path, caplog):
    start, end = {"started_s": 1.0, "locked": True}, {"ended": "", "outcome": "finished"}
    for number in range(2000):
        folder = tmp_path / "small" / f"r{number:04}"
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "last.pt").touch()  # cannot be loaded
        (folder / RECORD).write_text(f"{json.dumps(start)}\n{json.dumps(end)}\n")
    began = time.process_time()
    assert checkpoint_to_resume("auto", Reading({"name": "small"}, {}, [], []), tmp_path, None) is None
    assert "last.pt" not in caplog.text  # no checkpoint was opened
    assert time.process_time() - began < 2  # 0.2 s measured; a checkpoint takes milliseconds to read


def test_auto_judges_a_run_of_1_0_0_by_its_checkpoint(small, tmp_path):
    with pytest.raises(Interrupted):
        train("-c", small, "--run-name", "r", "--steps", "7", out=tmp_path)
    run = tmp_path / "small" / "r"
    given = Reading({"name": "small"}, {}, [], [])
    (run / RECORD).write_text(json.dumps({key: value for key, value in records(run)[0].items()
                                          if key != "locked"}) + "\n")
    assert checkpoint_to_resume("auto", given, tmp_path, None).file.parent.parent == run
    train("-r", run, out=tmp_path)
    (run / RECORD).write_text(json.dumps(records(run)[0]) + "\n")
    assert checkpoint_to_resume("auto", given, tmp_path, None) is None


def test_values_of_the_environment_are_kept_and_not_shown(small, tmp_path, monkeypatch):
    monkeypatch.setenv("HIDDEN", "0.0123")
    config = tmp_path / "own.yaml"
    config.write_text(f"extends: {small}\nname: own\ntrainer: {{args: {{clip_norm: '${{env:HIDDEN}}'}}}}\n"
                      "optimizer: {args: {lr: '${trainer.args.clip_norm}'}}\n")
    with pytest.raises(Interrupted):
        train("-c", config, "--run-name", "r", "--steps", "3", "writers=[TensorBoard]", out=tmp_path)
    run = tmp_path / "own" / "r"
    train("-r", run, out=tmp_path)
    assert "0.0123" in (run / "config.yaml").read_text()
    shown = summary(run)["config"]
    assert shown["trainer.args.clip_norm"] == shown["optimizer.args.lr"] == "***"
    assert shown["model.type"] != "***"
    events = [file.read_bytes() for file in run.glob("**/events*")]
    assert events and not any(b"0.0123" in content for content in events)
    assert any(b"***" in content for content in events)


def test_a_resume_with_another_number_of_threads_is_reported(small, tmp_path, monkeypatch, capsys):
    with pytest.raises(Interrupted):
        train("-c", small, "--steps", 2, out=tmp_path)
    run, = tmp_path.glob("small/*")
    with pytest.raises(Interrupted):
        train("-r", run, "--steps", 1, out=tmp_path)
    assert "threads" not in capsys.readouterr().err
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    train("-r", run, out=tmp_path)
    assert "torch computes with 7 threads, and did with 1 before" in capsys.readouterr().err
