"""Two processes never write into one run."""
import errno
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from base.run.setup import broadcast_checkpoint, open_checkpoint
from conftest import PROJECT, train
from utils import run_lock
from utils.errors import ConfigError, Interrupted, TrainingError
from utils.run_lock import RunLock

pytestmark = pytest.mark.skipif(run_lock.fcntl is None, reason="needs locks of POSIX")
HOLD = """
import os, sys, time
from pathlib import Path
from utils.run_lock import RunLock
RunLock().take(Path(sys.argv[1]))
if sys.argv[2] == "forks" and os.fork() == 0:
    time.sleep(300)
print("has it", flush=True)
time.sleep(float(sys.argv[3]))
"""


@contextmanager
def held(folder, how: str = "alone", seconds: float = 300):
    """Inside, another process has the lock of `folder`, for `seconds` at most."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder), how, str(seconds)], cwd=PROJECT,
                          stdout=subprocess.PIPE, start_new_session=True) as holder:
        assert holder.stdout.readline() == b"has it\n"
        try:
            yield holder
        finally:
            os.killpg(holder.pid, signal.SIGKILL)


def test_a_run_that_another_process_trains_is_refused(small, tmp_path):
    run = train("-c", small, "--run-name", "r", "trainer.args.epochs=1", out=tmp_path)
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.name != run_lock.LOCK}
    with held(run) as holder:
        for overrides in ([], ["trainer.args.epochs=2"]):
            with pytest.raises(ConfigError, match=f"small/r: is being trained by process {holder.pid} on "):
                train("-r", run, *overrides, out=tmp_path)
        with pytest.raises(ConfigError, match="is there already"):
            train("-c", small, "--run-name", "r", out=tmp_path)
    assert before == {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.name != run_lock.LOCK}
    train("-r", run, "trainer.args.epochs=2", out=tmp_path)


def test_of_two_new_runs_of_one_name_one_wins(small, tmp_path):
    (tmp_path / "small" / "r").mkdir(parents=True)
    with held(tmp_path / "small" / "r"), pytest.raises(ConfigError, match="is being trained by process"):
        train("-c", small, "--run-name", "r", out=tmp_path)
    assert {file.name for file in (tmp_path / "small" / "r").iterdir()} == {run_lock.LOCK}


def test_auto_waits_for_the_process_that_trains_the_run(small, tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        train("-c", small, "--run-name", "r", "trainer.args.epochs=2", "--steps", 3, out=tmp_path)
    run = tmp_path / "small" / "r"
    monkeypatch.setattr(run_lock, "WAIT_S", 0.3)
    with held(run), pytest.raises(TrainingError, match="is still being trained by process"):
        train("-c", small, "-r", "auto", "trainer.args.epochs=2", out=tmp_path)
    monkeypatch.setattr(run_lock, "WAIT_S", 300)
    with held(run, seconds=0.5):
        train("-c", small, "-r", "auto", "trainer.args.epochs=2", out=tmp_path)
    assert open_checkpoint(run, ("last.pt",)).state["progress"]["finished"]


def test_the_checkpoint_is_read_again_if_it_was_replaced_before_the_lock_was_taken(small, tmp_path):
    run = train("-c", small, "--run-name", "r", "trainer.args.epochs=1", out=tmp_path)
    old = open_checkpoint(run, ("last.pt",))
    train("-r", run, "trainer.args.epochs=2", out=tmp_path)
    with RunLock() as lock:
        checkpoint = broadcast_checkpoint(old, tmp_path, "small", lock)
    assert old.state["progress"]["epoch"] == 1 and checkpoint.state["progress"]["epoch"] == 2


def test_auto_with_a_name_finds_what_its_predecessor_saved_while_it_waited(small, tmp_path):
    run = train("-c", small, "--run-name", "r", "trainer.args.epochs=1", out=tmp_path)
    with RunLock(waits=True, awaited=run) as lock:  # there was no checkpoint when it looked
        assert broadcast_checkpoint(None, tmp_path, "small", lock).file == run / "checkpoints" / "last.pt"


def test_workers_that_outlive_a_killed_run_do_not_hold_its_lock(tmp_path):
    with held(tmp_path, "forks") as holder:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with RunLock() as lock:
            lock.take(tmp_path)


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def lockf(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "lockf", lockf)
    with RunLock() as lock:
        lock.take(tmp_path)
    assert "this file system has no locks (No locks available)" in caplog.text
