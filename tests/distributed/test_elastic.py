"""Several processes and what may happen to them: each fault ends soon, says so once, and costs no bit."""
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from faults.harness import GROUP, Started, few_and_many, gone, workers, write_config

from conftest import PROJECT, assert_same_run, copy_project, in_group, program, start

FAULTY = '''
import os
import signal

from base import TRAINERS
from trainer.trainer import Trainer
from utils.distributed import collectives as dist


@TRAINERS.register
class Faulty(Trainer):
    """Something goes wrong on process 1 of the first start, in step 30."""

    def __init__(self, *, what: str, **rest):
        super().__init__(**rest)
        self.what = what
        if what == "build" and dist.rank() == 1:
            raise ValueError("cannot be built")

    def train_step(self, batch):
        if dist.rank() == 1 and self.position.step == 30 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            if self.what == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            if self.what == "raise":
                raise ValueError("a plug-in's mistake")
        return super().train_step(batch)
'''
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", 2)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """The run that is not disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    in_group(2, [["-q", "-c", write_config(folder, GROUP), "--out", folder]], folder)
    return only_run(folder)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Path:
    """A project with a trainer that goes wrong."""
    project = tmp_path_factory.mktemp("fork") / "project"
    copy_project(project)
    (project / "trainer" / "faulty.py").write_text(FAULTY)
    return project


def arguments(folder: Path, *options) -> list:
    return ["train.py", "-q", "-c", write_config(folder, GROUP), "--out", folder, "--distributed", *options]


def mistaken(what: str) -> str:
    return f"trainer={{type: Faulty, args: {{what: {what}, epochs: 4, log_every: 1, checkpoint_every: {{steps: 3}}}}}}"


def only_run(folder: Path) -> Path:
    run, = (folder / "group").iterdir()
    return run


def num_lines(folder: Path) -> int:
    return sum(len(file.read_text().splitlines()) for file in folder.glob("group/*/metrics.jsonl"))


def reaches(launcher: Started, folder: Path, lines: int = 20) -> None:
    """Waits until the run has logged so many steps."""
    launcher.wait_for(lambda: num_lines(folder) >= lines, pause_s=0.001)


@pytest.mark.parametrize("options", [["trainer.args.log_every=1"], pytest.param(
    ["data_loader.num_workers=2"], marks=pytest.mark.faults)])
def test_killed_processes_are_started_again_and_end_with_the_same_bits(tmp_path, straight, options):
    """First as soon as there is a folder, then between checkpoints; then no restart is left, and a user goes on."""
    with Started(*arguments(tmp_path, "--nproc", 2, "--max-restarts", 1, *options)) as launcher:
        launcher.wait_for(lambda: list(tmp_path.glob("group/*/environment.jsonl")), pause_s=0.0005)
        os.kill((first := workers(launcher))[1], signal.SIGKILL)
        launcher.wait_for(lambda: not set(workers(launcher)) & set(first) and workers(launcher))
        reaches(launcher, tmp_path)
        os.kill((second := workers(launcher))[0], signal.SIGKILL)
        assert launcher.end() == 1 and gone(first + second, within_s=60)
        said = launcher.said
    assert [said.count(line) for line in (
        "process 1 was killed by SIGKILL; restart 1 of 1", "process 0 was killed by SIGKILL, and no restart is left",
        "lost touch", "Traceback", "torch")] == [1, 1, 0, 0, 0], said
    in_group(2, [["-q", "-r", only_run(tmp_path)]], tmp_path)
    assert_same_run(straight, only_run(tmp_path))


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), *[
    pytest.param(*pair, marks=pytest.mark.faults)
    for pair in ((signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 138))]])
def test_a_signal_to_the_launcher_saves_and_ends_all_at_the_same_step(tmp_path, straight, number, code):
    with Started(*arguments(tmp_path, "--nproc", 2, "--max-restarts", 3)) as launcher:
        reaches(launcher, tmp_path)
        group = workers(launcher)
        os.kill(launcher.process.pid, number)
        assert launcher.end() == code and gone(group, within_s=60)
        assert launcher.said == ""
    log = (only_run(tmp_path) / "run.log").read_text()
    assert log.count(f"signal {number:d}: saved at") == 1 and "WARNING" not in log
    in_group(2, [["-q", "-r", only_run(tmp_path)]], tmp_path)
    assert_same_run(straight, only_run(tmp_path))


@pytest.mark.slow
def test_a_second_ctrl_c_ends_all_at_once(tmp_path):
    with Started(*arguments(tmp_path, "--nproc", 2)) as launcher:
        reaches(launcher, tmp_path, 1)
        group = workers(launcher)
        os.kill(group[1], signal.SIGSTOP)  # so that there can be no agreement
        until = time.monotonic() + 60
        while launcher.process.poll() is None and time.monotonic() < until:  # two that come at once may arrive as one
            os.kill(launcher.process.pid, signal.SIGINT)
            time.sleep(0.2)
        assert launcher.end(60) == 130 and gone(group, within_s=60)
        assert launcher.said.strip() == "ended by SIGINT"


@pytest.mark.slow
def test_processes_whose_launcher_is_killed_save_and_end(tmp_path):
    with Started(*arguments(tmp_path, "--nproc", 2)) as launcher:
        reaches(launcher, tmp_path)
        group = workers(launcher)
        launcher.kill()
        assert gone(group, within_s=60)
    assert (only_run(tmp_path) / "run.log").read_text().count("saved at") == 1


@pytest.mark.parametrize("what, code", [("raise", 1), pytest.param("build", 2, marks=pytest.mark.slow)])
def test_an_error_in_one_process_ends_all_with_one_message(tmp_path, faulty, what, code):
    restarts = 0 if code == 1 else 3
    with Started(*arguments(tmp_path, "--nproc", 2, "--max-restarts", restarts, mistaken(what)), cwd=faulty) as launcher:
        assert launcher.end() == code
        lines = launcher.said.splitlines()
    marked = [line for line in lines if line.startswith("[process 1] ")]
    assert len(marked) == 1 and [line for line in lines if "restart" in line] == []
    assert not any(line.startswith("Traceback") for line in lines)
    assert sum("ValueError: " in line for line in lines) == 1


@pytest.mark.faults  # the agent waits 30 seconds for it to end by itself
def test_a_process_that_stands_still_is_noticed_and_the_group_starts_again(tmp_path, straight, faulty):
    with Started(*arguments(tmp_path, "--nproc", 2, "--max-restarts", 1, "--timeout", 3, mistaken("stop")),
                 cwd=faulty) as launcher:
        assert launcher.end(300) == 0, launcher.said
        assert "process 0 failed; restart 1 of 1" in launcher.said and "does not answer" in launcher.said
    assert_same_run(straight, only_run(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("fault", few_and_many("kill", "mistake"))
def test_torchrun_starts_again_what_was_killed_and_not_what_is_mistaken(tmp_path, straight, fault):
    mistake = ["model.args.sizes=[64,8]"] if fault == "mistake" else []
    with Started(*TORCHRUN, "--max-restarts", 3, *arguments(tmp_path, *mistake)) as launcher:
        if fault == "kill":
            reaches(launcher, tmp_path)
            os.kill(workers(launcher)[1], signal.SIGKILL)
        code = launcher.end()
        said = launcher.said
    if fault == "kill":
        assert code == 0, said
        assert_same_run(straight, only_run(tmp_path))
    else:
        assert code != 0 and said.count("10 are needed") == 1, said


@pytest.mark.faults
def test_verify_resume_kills_and_resumes_a_group(tmp_path):
    done = program("train.py", "--verify-resume", "-c", write_config(tmp_path, GROUP), "--distributed", "--nproc", 2, "--steps",
                   50, cwd=PROJECT)
    assert "PASS" in done.stdout


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.faults)])
def test_torchrun_with_a_mistake_is_told_of_it_by_one_process(tmp_path, rank):
    """As torchrun starts a process; in a config, and where --distributed is forgotten."""
    as_by_torchrun = {**os.environ, "TORCHELASTIC_RUN_ID": "x", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    for arguments in (["test.py", "-r", "saved"], ["train.py", "-c", "configs/none.yaml", "--distributed", "--device", "cpu"]):
        with open(tmp_path / "said", "w") as said:
            process = start(*arguments, cwd=PROJECT, stdout=said, stderr=said, env=as_by_torchrun)
        if rank == 0:
            assert process.wait(300) == 2 and (tmp_path / "said").read_text().count("\n") == 1
        else:  # leaves it to the other, and waits for the launcher to end it
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(6)
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            assert (tmp_path / "said").read_text() == ""
