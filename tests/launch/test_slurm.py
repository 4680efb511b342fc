"""launch/slurm.sh, among toys that stand in for Slurm: what it starts, and what it does when time is up."""
import os
import signal
import subprocess
import time

import pytest
from torch.distributed.run import get_args_parser

from conftest import PROJECT, needs
from utils.cli import train_arguments

SLURM = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4",
         "SLURM_CPUS_PER_TASK": "32"}


@pytest.fixture
def slurm(tmp_path):
    """Starts launch/slurm.sh. What the toys were called with is then in the files `srun` and `calls`."""
    toys = {"scontrol": 'echo "scontrol $*" >> calls; [ "$1" != show ] || printf "node7\\nnode8\\n"',
            "srun": 'trap "echo srun got TERM >> calls; exit 143" TERM; printf "%s\\n" "$@" > srun; '
                    'while [ -e wait ]; do sleep 0.05; done; exit "$(cat code)"'}
    (tmp_path / "bin").mkdir()
    for name, code in toys.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{code}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "code").write_text("0")
    environment = {**os.environ, **SLURM, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    return lambda: subprocess.Popen(["bash", PROJECT / "launch" / "slurm.sh"], cwd=tmp_path, env=environment)


def test_the_slurm_script_gives_torchrun_and_train_what_they_understand(slurm, tmp_path):
    needs("configs/cifar10_resnet.yaml")
    subprocess.run(["bash", "-n", PROJECT / "launch" / "slurm.sh"], check=True)
    assert slurm().wait(120) == 0
    given = (tmp_path / "srun").read_text().splitlines()
    launcher = get_args_parser().parse_args(given[given.index("torchrun") + 1:])
    assert (launcher.nnodes, launcher.nproc_per_node, launcher.rdzv_backend, launcher.rdzv_id) == ("2", "4", "c10d", "4711")
    assert launcher.rdzv_endpoint.startswith("node7:") and launcher.max_restarts > 0 and launcher.training_script == "train.py"
    args = train_arguments(launcher.training_script_args)
    assert args.distributed and str(args.resume) == "auto" and args.run_name == "job-4711"
    assert (PROJECT / args.config).exists()
    assert "requeue" not in (tmp_path / "calls").read_text()


def test_the_slurm_script_tells_of_a_failure_and_does_not_try_it_for_ever(slurm, tmp_path):
    (tmp_path / "code").write_text("1")
    assert slurm().wait(120) == 1
    assert "requeue" not in (tmp_path / "calls").read_text()


def test_the_slurm_script_ends_the_step_and_queues_again_when_time_is_up(slurm, tmp_path):
    (tmp_path / "wait").touch()
    job = slurm()
    while not (tmp_path / "srun").exists():
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    job.wait(120)
    assert (tmp_path / "calls").read_text().splitlines()[-2:] == ["srun got TERM", "scontrol requeue 4711"]
