"""Processes that get RANK and WORLD_SIZE by hand are one group, or end with a sentence."""
import contextlib
import os
import random
import socket

import pytest

from conftest import PROJECT, start, train
from utils.errors import ConfigError
from utils.run_record import starts_of


def unused_port() -> int:
    """One that no other program is given meanwhile: systems take those of connections from above."""
    for port in random.SystemRandom().sample(range(10_000, 32_000), 100):
        with socket.socket() as attempt, contextlib.suppress(OSError):
            attempt.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


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
    port = unused_port()
    given = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = ["train.py", "--quiet", "--distributed", "--device", "cpu", "-c", str(small),
               "trainer.args.epochs=1", "--out", str(tmp_path / "out")]
    with open(tmp_path / "said", "w") as said:
        started = [start(*command, cwd=PROJECT, stdout=said, stderr=said, env={**given, "RANK": rank})
                   for rank in ("0", "1")]
        assert [process.wait(timeout=300) for process in started] == [0, 0], (tmp_path / "said").read_text()
    run, = (tmp_path / "out").glob("*/*")
    assert [begun["num_processes"] for begun in starts_of(run)] == [2]
