"""What is reported and does not stop a run: a monitor against its name, another number of threads."""
import json
import logging

import pytest
import torch

from conftest import train
from utils.errors import Interrupted
from utils.training.monitor import warn_of_direction


@pytest.mark.parametrize("monitor, usual", [
    ("max val/loss", "min val/loss"), ("min val/accuracy", "max val/accuracy"),
    ("min val/f1_macro", "max val/f1_macro"), ("min val/loss", None), ("max val/accuracy", None),
    ("max val/anything", None), ("min val/anything", None), ("min val/loss_of_accuracy", None),
])
def test_a_monitor_against_its_name_is_reported(caplog, monitor, usual):
    with caplog.at_level(logging.WARNING):
        warn_of_direction(monitor)
    assert (f"Usual is '{usual}'" in caplog.text) if usual else not caplog.text


@pytest.mark.parametrize("mode, reported", [("max", True), ("min", False), (None, False)])
def test_a_plateau_that_waits_for_the_other_direction_is_reported(small, tmp_path, capsys, mode, reported):
    block = {"type": "ReduceLROnPlateau", "args": {"mode": mode} if mode else {}}
    train("-c", small, f"scheduler={json.dumps(block)}", "trainer.args.epochs=1", out=tmp_path)
    assert ("has mode: max, and the monitor is 'min ...'" in capsys.readouterr().err) == reported


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
