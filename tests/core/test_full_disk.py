"""A disk that fills up or refuses ends no run through its logs, and no line of metrics.jsonl is lost once there is space."""
import errno
import logging
import os
import resource
import threading
from contextlib import contextmanager

import pytest
import torch

from base import TRAINERS
from conftest import PROJECT, assert_same_run, metrics, needs, program, train
from logger.metrics_file import MetricsFile
from logger.run_log import RunLog
from logger.tensorboard import TensorBoard
from logger.writer import Writer
from trainer.trainer import Trainer
from utils.checkpoint.store import CheckpointStore
from utils.errors import ConfigError


@contextmanager
def no_file_beyond(size: int):
    """Within it the kernel writes each file up to `size` bytes and refuses the rest, as a disk does that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def refused(file: MetricsFile):
    """Within it every write to the file fails: 'No space left on device'. Begins before there is a file."""
    file.path.symlink_to("/dev/full")
    yield
    file.path.unlink()


def write(file: MetricsFile, *steps: int) -> None:
    for step in steps:
        file.write({"train/loss": step / 3}, epoch=1, step=step)


def undisturbed(tmp_path, num_lines: int) -> bytes:
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    write(file := MetricsFile(folder), *range(num_lines))
    return file.path.read_bytes()


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_lines_that_a_full_disk_refuses_are_written_once_there_is_space(tmp_path, caplog):
    file = MetricsFile(tmp_path)
    with refused(file):
        write(file, 0, 1, 2)
        assert file.state_dict() == {"num_lines": 3}
    write(file, 3)
    assert file.path.read_bytes() == undisturbed(tmp_path, 4) and file.state_dict() == {"num_lines": 4}
    assert len(warnings(caplog)) == 1
    assert "metrics.jsonl: cannot be written: No space left on device" in warnings(caplog)[0]


def test_every_stretch_of_refusals_is_warned_of_once(tmp_path, caplog):
    file = MetricsFile(tmp_path)
    for step in (0, 3):
        with refused(file):
            write(file, step, step + 1)
        write(file, step + 2)
        file.path.rename(tmp_path / f"{step}.jsonl")
    assert len(warnings(caplog)) == 2
    assert b"".join((tmp_path / f"{n}.jsonl").read_bytes() for n in (0, 3)) == undisturbed(tmp_path, 6)


def test_half_a_line_is_cut_off_before_the_next_one(tmp_path):
    file, whole = MetricsFile(tmp_path), undisturbed(tmp_path, 5)
    write(file, 0)
    with no_file_beyond(file.path.stat().st_size + 7):
        write(file, 1, 2)
        torn = file.path.read_bytes()
        assert whole.startswith(torn) and not torn.endswith(b"\n")
        write(file, 3)
    write(file, 4)
    assert file.path.read_bytes() == whole


def test_a_file_that_was_moved_away_meanwhile_is_begun_anew_and_not_filled_with_zeros(tmp_path):
    file = MetricsFile(tmp_path)
    write(file, 0)
    with no_file_beyond(file.path.stat().st_size + 7):
        write(file, 1)
    file.path.rename(tmp_path / "elsewhere.jsonl")
    write(file, 2)
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2]


def test_a_checkpoint_first_brings_to_the_disk_the_lines_that_it_counts(tmp_path):
    file = MetricsFile(tmp_path)
    with refused(file):
        write(file, 0, 1)
    assert file.state_dict() == {"num_lines": 2}
    assert file.path.read_bytes() == undisturbed(tmp_path, 2)


def test_the_end_of_a_run_tries_once_more(tmp_path, caplog):
    run = RunLog(tmp_path, CheckpointStore(tmp_path / "checkpoints", {}))
    with run, refused(run.metrics_file):
        write(run.metrics_file, 0, 1)
    assert run.metrics_file.path.read_bytes() == undisturbed(tmp_path, 2) and len(warnings(caplog)) == 1


def test_the_end_of_a_run_says_how_many_lines_are_lost(tmp_path, caplog):
    run = RunLog(tmp_path, CheckpointStore(tmp_path / "checkpoints", {}))
    with refused(run.metrics_file), run:
        write(run.metrics_file, 0, 1)
    assert "the last 2 of its 2 lines are lost" in warnings(caplog)[-1]


@pytest.mark.parametrize("num_whole, half", [(0, 0), (2, 0), (2, 5)])
def test_lines_that_are_lost_are_named_at_resume_and_half_a_line_counts_as_lost(tmp_path, caplog, num_whole, half):
    content = undisturbed(tmp_path, 5).splitlines(keepends=True)
    file = MetricsFile(tmp_path)
    if num_whole:
        file.path.write_bytes(b"".join(content[:num_whole]) + content[num_whole][:half])
    file.load_state_dict({"num_lines": 4})
    assert len(warnings(caplog)) == 1 and f"has {num_whole} of the 4 lines" in warnings(caplog)[0]
    assert file.state_dict() == {"num_lines": num_whole}
    write(file, 4)
    assert file.path.read_bytes() == b"".join(content[:num_whole]) + content[4]


def test_what_came_after_the_checkpoint_is_cut_off_even_on_a_full_disk(tmp_path, caplog):
    file = MetricsFile(tmp_path)
    write(file, 0, 1, 2)
    with no_file_beyond(0):
        file.load_state_dict({"num_lines": 2})
    assert file.path.read_bytes() == undisturbed(tmp_path, 2) and list(tmp_path.glob("metrics*")) == [file.path]
    assert warnings(caplog) == []


class Refusing(Writer):
    """Raises `error` from one method, and counts its calls."""

    def __init__(self, folder, method: str, error: Exception):
        super().__init__(folder)
        self.calls = []
        for name in ("scalars", "images", "histograms", "hparams", "close"):
            setattr(self, name, lambda *args, name=name: self.called(name, name == method and error))

    def called(self, name, error):
        self.calls.append(name)
        if error:
            raise error


def log_everything(run: RunLog) -> None:
    with run:
        run.hparams({"seed": 1})
        run.scalars({"train/loss": 1.0}, 1, 1)
        run.images("train/input", torch.rand(2, 1, 4, 4), 1)
        run.histograms(torch.nn.Linear(2, 2).state_dict(), 1)


ALL = ["hparams", "scalars", "images", "histograms", "close"]


@pytest.mark.parametrize("method", ALL)
def test_a_writer_whose_disk_is_full_is_left_out_with_one_warning_and_the_others_go_on(tmp_path, caplog, method):
    full = Refusing(tmp_path, method, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    sound = Refusing(tmp_path, "none", OSError())
    log_everything(RunLog(tmp_path, CheckpointStore(tmp_path / "checkpoints", {}), [full, sound]))
    assert full.calls == ALL[: ALL.index(method) + 1] and sound.calls == ALL
    again = ["Left out before the end of the run: Refusing: cannot write: No space left on device"]
    assert warnings(caplog) == ["Refusing: cannot write: No space left on device. Training continues without this writer.",
                                *(again if method != "close" else [])]
    assert len(metrics(tmp_path)) == 1


@pytest.mark.parametrize("size", [0, 100, 400])  # from its first record on, among the hyper-parameters, later
def test_tensorboard_on_a_full_disk_is_left_out_and_neither_hangs_nor_prints_a_traceback(tmp_path, caplog, capsys, monkeypatch,
                                                                                         size):
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # Python's own instead of pytest's
    run = RunLog(tmp_path, CheckpointStore(tmp_path / "checkpoints", {}), [TensorBoard(tmp_path)])
    thread = threading.Thread(target=log_everything, args=[run], daemon=True)
    with no_file_beyond(size):
        thread.start()
        thread.join(20)
    assert not thread.is_alive() and run.feeder.writers == []
    first, *repeated = [text for text in warnings(caplog) if "TensorBoard" in text]
    assert first == "TensorBoard: cannot write: File too large. Training continues without this writer."
    # its own thread writes: where the error comes out at the end only, there is nothing to repeat
    assert repeated in ([], ["Left out before the end of the run: TensorBoard: cannot write: File too large"])
    assert "Traceback" not in capsys.readouterr().err


@TRAINERS.register
class FillsUp(Trainer):
    """From a step on, until the epoch's checkpoint is written, there is no space beyond what metrics.jsonl has."""

    def __init__(self, *, full_step: int, **kwargs):
        super().__init__(**kwargs)
        self.full_step, self.room = full_step, None

    def on_step_end(self):
        if self.position.step == self.full_step:
            self.room = no_file_beyond(self.run.metrics_file.path.stat().st_size + 9)
            self.room.__enter__()

    def on_epoch_end(self):
        if self.room:
            self.room.__exit__(None, None, None)
            self.room = None


def test_a_run_whose_disk_was_full_for_a_while_ends_with_the_files_of_one_that_was_not(small, tmp_path, capsys):
    options = ["-c", small, "trainer={type: FillsUp, args: {epochs: 3, log_every: 1}}", "writers=[TensorBoard]"]
    straight = train(*options, "trainer.args.full_step=-1", out=tmp_path / "straight")
    capsys.readouterr()
    with no_file_beyond(resource.RLIM_INFINITY):  # lifts the trainer's limit whatever happens
        run = train(*options, "trainer.args.full_step=7", out=tmp_path / "full")
    assert_same_run(straight, run)
    said = capsys.readouterr().err
    assert said.count("metrics.jsonl: cannot be written: File too large") == 1
    assert said.count("\nTensorBoard: cannot write: File too large. Training continues without") == 1
    assert said.count("summary.json: cannot be written: File too large") == 1
    assert said.strip().splitlines()[3:] == [
        "Left out before the end of the run: TensorBoard: cannot write: File too large"], said
    assert "epoch 3/3" in (run / "run.log").read_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of an epoch on the line; each test breaks its run.log in a way of its own."""
    needs("configs/linear_regression.yaml")
    out = tmp_path_factory.mktemp("saved")
    return train("-c", PROJECT / "configs/linear_regression.yaml", "trainer.args.epochs=1", "writers=[]", out=out)


def last_line(done) -> str:
    """The only error; plug-ins of a fork may warn of former names before."""
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_a_start_on_a_full_disk_is_one_message_and_exit_code_2_and_costs_no_file(finished):
    before = {file.name: file.read_bytes() for file in finished.iterdir() if file.is_file() and file.name != ".lock"}
    start = "import resource as r, runpy; r.setrlimit(r.RLIMIT_FSIZE, (0, 0)); runpy.run_path('train.py', run_name='__main__')"
    done = program("-c", start, "-r", finished, "trainer.args.epochs=2", code=2, cold=True)  # its output is no file
    assert last_line(done) == f"{finished}: cannot be written: File too large"
    assert {name: (finished / name).read_bytes() for name in before} == before


def test_a_full_disk_under_run_log_is_no_reason_for_tracebacks(tmp_path):
    (tmp_path / "run.log").symlink_to("/dev/full")
    lines = ["import logging", "from pathlib import Path", "from logger.console import log_to_file, setup_logging",
             "setup_logging()", f"log_to_file(Path({str(tmp_path / 'run.log')!r}))", "logging.info('epoch 2/2')"]
    done = program("-c", "; ".join(lines))
    assert done.stderr == "" and "epoch 2/2" in done.stdout


def test_a_run_log_that_cannot_be_opened_is_one_message_and_exit_code_2(finished):
    (finished / "run.log").unlink()
    (finished / "run.log").mkdir()
    done = program("train.py", "-r", finished, "trainer.args.epochs=3", code=2)
    assert last_line(done) == f"{finished / 'run.log'}: cannot be written: Is a directory"
    with pytest.raises(ConfigError, match="run.log"):
        train("-r", finished, "trainer.args.epochs=3", out=finished)
