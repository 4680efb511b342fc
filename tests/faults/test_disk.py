"""What is promised here: a disk that fills up or cannot be written while training costs checkpoints, never the run at once.

A save that fails is told, loudly, once; training goes on, and the old checkpoint stays sound. After
`trainer.args.max_failed_saves` (3) failures in a row that last for a minute (here for no time), or where the last save of all fails, the run ends with exit code 1 and
a message. When there is space again, the run goes on as if nothing had been. A disk that is full before the first step ends
the run in the first seconds.

The disk is a small tmpfs (which takes the right to mount one), a limit on the size of files, which any user can set, and a
folder that cannot be written.
"""
import ctypes
import json
import os
import resource
import time
from contextlib import contextmanager, nullcontext

import pytest

from conftest import load
from harness import (
    BUSY,
    Started,
    different_leaves,
    finish,
    half_written,
    look_at,
    mounted_tmpfs,
    sound_step,
    write_config,
)

# The value that is monitored falls in every epoch, so that best.pt is the last epoch in the end; 300 KB a checkpoint.
STEADY = BUSY.replace("sizes: [64, 4096, 1024, 10], dropout: 0.2", "sizes: [64, 256, 10]").replace(
    "scheduler: {type: OneCycleLR, args: {max_lr: 0.003}, per: step}\n", "").replace("lr: 0.001", "lr: 0.0003").replace(
    "epochs: 6", "epochs: 8").replace("save_every: 1, keep_last: 2", "")
# train.py without patience: saves that fail end the run by their number alone
IMPATIENT = ("import runpy, sys; sys.argv[0] = 'train.py'; from utils.checkpoint import store; store.PATIENCE_S = 0; "
             "runpy.run_path('train.py', run_name='__main__')")
NO_LIMIT = resource.RLIM_INFINITY


class Disk:
    """Where a run writes, and how that comes to fail: `fail` and `heal` while it is running. `preexec` is for its start."""

    preexec = None

    def __init__(self, folder):
        self.folder = folder


class SizeLimit(Disk):
    """Files cannot grow beyond 100 KB (EFBIG): enough for logs, not for a checkpoint."""

    def fail(self, program) -> None:
        resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE, (100_000, NO_LIMIT))

    def heal(self, program) -> None:
        if program.process.poll() is None:
            resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE, (NO_LIMIT, NO_LIMIT))

    def fail_from_the_start(self) -> None:
        self.preexec = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, NO_LIMIT))


class Full(Disk):
    """A file system of 4 MB, with a file that takes all but 100 KB of it."""

    left = 100_000

    def fail(self, program=None) -> None:
        with open(self.folder / "ballast", "wb", buffering=0) as ballast:
            with pytest.raises(OSError, match="No space"):
                while True:
                    ballast.write(bytes(4096))
            ballast.truncate(ballast.tell() - self.left)

    def heal(self, program) -> None:
        (self.folder / "ballast").unlink()

    fail_from_the_start = fail


class FullToTheLastByte(Full):
    """As Full, and no line of a log has a place either."""

    left = 0


class ReadOnly(Disk):
    """The folder of checkpoints loses its permission to write; root, whom that would not stop, loses the privilege."""

    def __init__(self, folder):
        super().__init__(folder)
        if os.geteuid() == 0:
            self.preexec = drop_override

    def fail(self, program) -> None:
        next(self.folder.glob("*/*/checkpoints")).chmod(0o555)

    def heal(self, program) -> None:
        next(self.folder.glob("*/*/checkpoints")).chmod(0o755)


def drop_override() -> None:
    pr_capbset_drop, cap_dac_override = 24, 1
    if ctypes.CDLL(None).prctl(pr_capbset_drop, cap_dac_override, 0, 0, 0):
        raise OSError("CAP_DAC_OVERRIDE cannot be dropped")


@contextmanager
def disk(kind: type, folder):
    """A Disk of that kind; skips the test where it cannot be had."""
    if kind is ReadOnly and os.geteuid() == 0 and not can_drop():
        pytest.skip("root ignores permissions, and cannot lose that privilege here")
    if kind is SizeLimit and not hasattr(resource, "prlimit"):
        pytest.skip("the limits of another process can be set on Linux only")
    with mounted_tmpfs(folder, "4m") if issubclass(kind, Full) else nullcontext(folder):
        yield kind(folder)


def can_drop() -> bool:
    child = os.fork()
    if child == 0:
        try:
            drop_override()
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


FIRST = pytest.mark.parametrize("kind", [SizeLimit, *(pytest.param(kind, marks=pytest.mark.faults) for kind in
                                                      (Full, FullToTheLastByte, ReadOnly))], ids=lambda kind: kind.__name__)
ALL = pytest.mark.parametrize("kind", [SizeLimit, Full, FullToTheLastByte, ReadOnly], ids=lambda kind: kind.__name__)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run on a disk that does not fail."""
    folder = tmp_path_factory.mktemp("straight")
    finish("train.py", "-q", "-c", write_config(folder, STEADY), "--out", folder, "--run-name", "run")
    best = load(folder / "busy" / "run", "best.pt")["state"]["progress"]
    assert best == load(folder / "busy" / "run")["state"]["progress"], "the config is meant to get better in every epoch"
    return folder / "busy" / "run"


def num_epochs(run) -> int:
    file = run / "metrics.jsonl"
    return file.read_text().count('"train/loss"') if file.exists() else 0


def told(program) -> list[str]:
    """What was said of checkpoints that could not be written; never a traceback."""
    assert "Traceback" not in program.said and "Logging error" not in program.said, program.said
    return [line for line in program.said.splitlines() if ".pt" in line or "checkpoint" in line]


def new_run(tmp_path, folder, *options) -> list:
    return ["train.py", "-q", "-c", write_config(tmp_path, STEADY), *options, "--out", folder, "--run-name", "run"]


def start_and_fail(disk: Disk, program):
    """Lets the disk fail when a second epoch is under way; returns the run and the step of its checkpoint then."""
    run = disk.folder / "busy" / "run"
    program.wait_for(lambda: num_epochs(run) == 1 and look_at(run)[0] > 13)  # epoch 1 is saved, epoch 2 has begun
    disk.fail(program)
    return run, sound_step(run)


def assert_same_training(straight, run, with_logs: bool) -> None:
    """The states are equal, whatever was lost of the logs; of which every line is whole."""
    for name in ("last.pt", "best.pt"):
        differ = different_leaves(load(straight, name)["state"], load(run, name)["state"])
        assert set(differ) <= (set() if with_logs else {".metrics_file.num_lines"}), differ
    lines = (run / "metrics.jsonl").read_bytes()
    assert [json.loads(line) for line in lines.splitlines()]
    assert lines == (straight / "metrics.jsonl").read_bytes() or not with_logs
    assert not half_written(run)


@FIRST
def test_training_goes_on_past_a_failed_save_and_ends_right_when_there_is_space_again(tmp_path, straight, kind):
    with disk(kind, tmp_path / "disk") as place, Started(*new_run(tmp_path, place.folder), preexec=place.preexec) as program:
        run, step = start_and_fail(place, program)
        program.wait_for(lambda: told(program))
        assert sound_step(run) == step
        failed = len(told(program))
        place.heal(program)
        assert program.end() == 0, program.said
        assert failed <= len(told(program)) <= 3, program.said
        assert_same_training(straight, run, with_logs=kind is not FullToTheLastByte)
        print(f"\n{kind.__name__}: went on past {len(told(program))} failed saves; states bit-identical in the end")


@pytest.mark.faults
@ALL
@pytest.mark.parametrize("most", [3, 1])
def test_several_failed_saves_in_a_row_end_the_run_with_code_1_and_a_sound_checkpoint(tmp_path, straight, kind, most):
    options = () if most == 3 else (f"trainer.args.max_failed_saves={most}",)
    with disk(kind, tmp_path / "disk") as place:
        arguments = ["-c", IMPATIENT, *new_run(tmp_path, place.folder, *options)[1:]]
        with Started(*arguments, preexec=place.preexec) as program:
            run, step = start_and_fail(place, program)
            assert program.end() == 1, program.said
            assert most <= len(told(program)) <= most + 1, program.said  # a warning for each, and why it ends
            assert sound_step(run) == step
            if kind is not FullToTheLastByte:
                # the last failure is noticed at a log point after it, which may be one of the next epoch
                assert 1 + most <= num_epochs(run) <= 2 + most
            said = told(program)[-1]
            place.heal(program)
        finish("train.py", "-q", "-r", run)
        assert_same_training(straight, run, with_logs=True)
        print(f"\n{kind.__name__}, at most {most}: {said[:300]}")


@pytest.mark.faults
@ALL
def test_a_last_save_that_fails_ends_the_run_with_code_1(tmp_path, kind):
    options = ("trainer.args.max_failed_saves=100", "trainer.args.epochs=3")
    with disk(kind, tmp_path / "disk") as place:
        with Started(*new_run(tmp_path, place.folder, *options), preexec=place.preexec) as program:
            run, step = start_and_fail(place, program)
            assert program.end() == 1, program.said
            assert 2 <= len(told(program)) <= 3, program.said  # of the saves after epochs 2 and 3
            assert sound_step(run) == step
            place.heal(program)
        finish("train.py", "-q", "-r", run)
        assert load(run)["state"]["progress"]["epoch"] == 3


@pytest.mark.faults
@pytest.mark.parametrize("number", [15, 10])
def test_a_signal_on_a_full_disk_ends_the_run_with_code_1_for_it_could_not_save(tmp_path, number):
    with disk(SizeLimit, tmp_path / "disk") as place, Started(*new_run(tmp_path, place.folder)) as program:
        run, step = start_and_fail(place, program)
        program.process.send_signal(number)
        assert program.end() == 1, program.said
        assert told(program) and sound_step(run) == step


@pytest.mark.parametrize("kind", [Full, *(pytest.param(kind, marks=pytest.mark.faults) for kind in
                                          (SizeLimit, FullToTheLastByte))], ids=lambda kind: kind.__name__)
def test_a_disk_that_is_full_before_the_first_step_ends_the_run_in_the_first_seconds(tmp_path, kind):
    with disk(kind, tmp_path / "disk") as place:
        place.fail_from_the_start()
        started = time.monotonic()
        with Started(*new_run(tmp_path, place.folder), preexec=place.preexec) as program:
            assert program.end() == 1, program.said
        run = place.folder / "busy" / "run"
        assert not num_epochs(run) and not list((run / "checkpoints").glob("*.pt"))
        print(f"\n{kind.__name__}: after {time.monotonic() - started:.1f} s")


@pytest.mark.faults
def test_a_full_disk_says_that_no_space_is_left(tmp_path):
    with disk(Full, tmp_path / "disk") as place:
        place.fail_from_the_start()
        with Started(*new_run(tmp_path, place.folder)) as program:
            program.end()
            assert "no space left" in program.said.lower() and len(program.said.splitlines()) == 1, program.said
