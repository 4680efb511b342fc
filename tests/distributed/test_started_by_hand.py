"""Processes that get RANK and WORLD_SIZE by hand are one group, or end with a sentence."""
import os
import socket
import subprocess
import sys

import pytest

from conftest import PROJECT, train
from utils.errors import ConfigError
from utils.run_record import starts_of


@pytest.mark.parametrize("options, said", [
    ([], "one of 2 processes, and without --distributed each would"),
    (["--distributed"], "MASTER_ADDR and MASTER_PORT not"),
])
def test_one_of_several_processes_that_cannot_join_is_an_error(small, tmp_path, monkeypatch, options, said):
    for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=said):
        train("-c", small, *options, out=tmp_path)


def test_processes_that_are_started_by_hand_train_one_run(small, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "train.py", "--quiet", "--distributed", "--device", "cpu", "-c", str(small),
               "trainer.args.epochs=1", "--out", str(tmp_path / "out")]
    started = [subprocess.Popen(command, cwd=PROJECT, env={**given, "RANK": rank}) for rank in ("0", "1")]
    assert [process.wait(timeout=100) for process in started] == [0, 0]
    run, = (tmp_path / "out").glob("*/*")
    assert [start["num_processes"] for start in starts_of(run)] == [2]
