"""Trials on Ray: on a cluster of two nodes on this machine, with a program in place of train.py."""
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, needs
from ray_cluster import Cluster, kill, lives, parents, raylet_of, wait_for

from utils.errors import ConfigError

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="takes ray")]
PROGRAM = """
import os, signal, sys, time
def end(number, frame):
    time.sleep(0.3)
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
shown = os.environ["OMP_NUM_THREADS"], repr(os.environ.get("CUDA_VISIBLE_DEVICES"))
print(os.getpid(), os.getppid(), *shown, flush=True)
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until:
    time.sleep(0.05)
os.kill(os.getpid(), signal.SIGKILL) if sys.argv[2] == "killed" else sys.exit(int(sys.argv[2]))
"""


class Runs:
    """An executor, and what it has been given."""

    def __init__(self, folder: Path, **options):
        from tools.sweep.executors.ray_executor import RayExecutor

        self.folder, self.ended = folder, {}
        self.program = folder / "program.py"
        self.program.write_text(PROGRAM)
        self.executor = RayExecutor(**options)

    def start(self, number: int, seconds: float, end: int | str = 0) -> None:
        self.executor.start(number, [self.program, seconds, end], {"OMP_NUM_THREADS": "3"}, self.log(number))

    def log(self, number: int) -> Path:
        return self.folder / f"{number}.log"

    def begun(self, number: int) -> list[int]:
        """The pids of a program and of the worker that started it, once it runs."""
        file = self.log(number)
        assert wait_for(lambda: file.exists() and "\n" in file.read_text())
        return [int(word) for word in file.read_text().split()[:2]]

    def wait(self, *numbers: int, timeout: float = 40) -> list:
        """The outcomes of these."""
        wait_for(lambda: self.ended.update(self.executor.poll()) or self.ended.keys() >= {*numbers}, timeout)
        return [self.ended.pop(number) for number in numbers]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    needs("tools/sweep/executors/ray_executor.py")
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        found.add(f"--address={found.address}")
        yield found
    finally:
        found.close()


@pytest.fixture
def runs(cluster, tmp_path, monkeypatch):
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    found = Runs(tmp_path, address=cluster.address)
    assert wait_for(lambda: found.executor.capacity() == 2), cluster.log.read_text()
    yield found
    found.executor.close()


def test_programs_run_and_their_exit_codes_are_reported(runs):
    assert runs.executor.poll() == []
    for number, (seconds, end) in enumerate([(1, 0), (1, 1), (0, 2), (0, "killed")]):
        runs.start(number, seconds, end)
    outcomes = runs.wait(0, 1, 2, 3)
    assert [outcome.code for outcome in outcomes] == [0, 1, 2, None]
    assert outcomes[3].text == "killed by SIGKILL" and outcomes[0].node == socket.gethostname()
    assert all(runs.log(number).read_text().split()[2:4] == ["3", "''"] for number in range(4))


def test_a_folder_that_a_node_does_not_have_is_a_loss_that_names_it(runs, tmp_path):
    runs.executor.start(0, [runs.program, 0, 0], {"OMP_NUM_THREADS": "3"}, tmp_path / "gone" / "0.log")
    outcome, = runs.wait(0)
    assert (outcome.code, outcome.text) == (None, f"{tmp_path}/gone/0.log: No such file or directory")


def test_a_stop_lets_programs_on_both_nodes_save_and_a_second_one_kills_them(runs):
    for number in (0, 1, 2):
        runs.start(number, 60)
    begun = [runs.begun(number) for number in (0, 1)]
    pids, of = [pid for pid, _ in begun], parents()
    assert len({of[worker] for _, worker in begun}) == 2, "both are on one node"
    runs.executor.stop()
    outcomes = sorted(runs.wait(0, 1, 2), key=lambda outcome: outcome.code or 999)
    assert [outcome.code for outcome in outcomes] == [143, 143, None]  # the third had no place yet
    assert all(runs.log(number).read_text().endswith("saved\n") for number in (0, 1))
    runs.start(3, 60)
    pids += runs.begun(3)[:1]
    runs.executor.stop()
    outcome, = runs.wait(3)
    assert outcome.code is None and wait_for(lambda: not any(map(lives, pids)), 5)


def test_a_worker_that_is_killed_is_a_loss_and_leaves_no_program(runs):
    runs.start(0, 60)
    pid, worker = runs.begun(0)
    kill(worker)
    outcome, = runs.wait(0)
    assert outcome.code is None and "WorkerCrashedError" in outcome.text
    assert wait_for(lambda: not lives(pid), 5)
    runs.start(1, 0)
    assert runs.wait(1)[0].code == 0


def test_a_driver_that_goes_leaves_no_program(runs):
    runs.start(0, 60)
    pid, _ = runs.begun(0)
    runs.executor.close()
    assert wait_for(lambda: not lives(pid), 5)


def test_a_trial_that_no_node_has_room_for_is_refused(runs, cluster, monkeypatch):
    from tools.sweep.executors.ray_executor import RayExecutor

    runs.executor.close()
    with pytest.raises(ConfigError, match="takes 2 CPUs and 0 GPUs, and no node has .*: 1 CPUs"):
        RayExecutor(address=cluster.address, cpus_per_trial=2)
    with pytest.raises(ConfigError, match="a trial takes 1 CPUs and 0.5 GPUs, and no node has them"):
        RayExecutor(address=cluster.address, gpus_per_trial=0.5)


def test_a_cluster_whose_token_this_process_has_not_is_one_sentence(cluster, tmp_path):
    """In a process of its own, as Ray reads the token once."""
    code = ("from tools.sweep.executors.ray_executor import RayExecutor\n"
            "from utils.errors import exit_codes\n"
            f"with exit_codes(False):\n    RayExecutor(address={cluster.address!r})")
    env = {**os.environ, **cluster.env, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "sweep.run_on: the cluster wants a token that this process has not. Set RAY_AUTH" in done.stderr


def test_an_address_that_does_not_answer_is_one_sentence(tmp_path, monkeypatch):
    from tools.sweep.executors import ray_executor

    monkeypatch.setattr(ray_executor, "_CURRENT", tmp_path / "current")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for address, said in [("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9. Start a cluster"),
                          ("auto", "no Ray cluster runs on this machine. Start a cluster"),
                          ("gpu-node", "'gpu-node' is none of: auto, local, HOST:PORT"),
                          ("ray://127.0.0.1:10001", "is none of: auto, local, HOST:PORT")]:
        with pytest.raises(ConfigError) as error:
            ray_executor.RayExecutor(address=address)
        assert said in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "current").write_text("127.0.0.1:9")
    with pytest.raises(ConfigError, match="no Ray cluster answers at 127.0.0.1:9"):
        ray_executor.RayExecutor()


def test_other_versions_on_a_node_are_a_warning_and_a_folder_that_is_not_there_is_an_error(
        runs, cluster, monkeypatch, caplog):
    from tools.sweep.executors import ray_executor

    found = {"node": "far", "versions": {"python": "3.1", "torch": "0.1"}, "has_folder": True}
    own = {"node": "here", "versions": {"python": "3.1", "torch": "0.2"}, "has_folder": True}
    monkeypatch.setattr(ray_executor.ray_task, "describe_node",
                        lambda *args, remote=os.getpid(): own if os.getpid() == remote else found)
    runs.executor.close()
    ray_executor.RayExecutor(address=cluster.address).close()
    assert "node far has torch 0.1 (here 0.2): its trials may have other last bits" in caplog.text
    found["has_folder"] = False
    with pytest.raises(ConfigError, match="node far has no folder .*in one shared folder"):
        ray_executor.RayExecutor(address=cluster.address)


def test_without_ray_a_line_says_how_to_get_it(monkeypatch):
    from tools.sweep.executors.ray_executor import RayExecutor

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="'ray' needs the package ray: pip install ray. Or take processes"):
        RayExecutor()


def test_a_local_cluster_that_loses_its_node_is_begun_anew(cluster, tmp_path, monkeypatch):
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    runs = Runs(tmp_path, address="local")
    try:
        handler = signal.getsignal(signal.SIGTERM)
        runs.start(0, 60)
        pid, _ = runs.begun(0)
        kill(raylet_of(os.getpid()))
        outcome, = runs.wait(0)
        assert outcome.code is None and "died" in outcome.text
        assert runs.executor.capacity() >= 1
        runs.start(1, 0, 3)
        assert runs.wait(1)[0].code == 3 and not lives(pid)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        runs.executor.close()


def test_a_node_that_dies_with_its_worker_is_a_loss_and_what_is_started_again_runs_elsewhere(runs, cluster):
    before = runs.executor.capacity()
    third = cluster.add(f"--address={cluster.address}")
    assert wait_for(lambda: runs.executor.capacity() == before + 1)
    for number in (0, 1, 2):
        runs.start(number, 60)
    begun = [runs.begun(number) for number in (0, 1, 2)]
    raylet = raylet_of(third)
    number, = [number for number, (_, worker) in enumerate(begun) if parents()[worker] == raylet]
    pid, worker = begun[number]
    kill(raylet)
    kill(worker)
    assert wait_for(lambda: not lives(pid), 5), "its program trains on"
    outcome, = runs.wait(number)
    assert outcome.code is None and outcome.text
    assert wait_for(lambda: runs.executor.capacity() == before)
    runs.executor.stop()
    assert [outcome.code for outcome in runs.wait(*{0, 1, 2} - {number})] == [143, 143]
    runs.start(3, 0)
    assert runs.wait(3)[0].code == 0
