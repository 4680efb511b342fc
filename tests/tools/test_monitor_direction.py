"""--check reports a monitor whose best value is most probably the worst one."""
import json
import logging

import pytest

from tools.monitor_direction import warn_of_direction
from train import main
from utils.cli import train_arguments


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
def test_a_plateau_that_waits_for_the_other_direction_is_reported(small, capsys, mode, reported):
    block = {"type": "ReduceLROnPlateau", "args": {"mode": mode} if mode else {}}
    main(train_arguments(["--quiet", "--check", "-c", str(small), f"scheduler={json.dumps(block)}",
                          "trainer.args.monitor=min val/loss"]))
    assert ("has mode: max, and the monitor is 'min ...'" in capsys.readouterr().err) == reported
