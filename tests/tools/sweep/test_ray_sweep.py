"""A sweep of real runs on Ray, and the same one in processes."""
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, assert_same_run, epochs, needs, program, train
from ray_cluster import Cluster, kill, lives, parents, raylet_of, wait_for

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="takes ray")]
SWEEP = """
sweep:
  parameters:
    optimizer.type: [SGD, AdamW]
    optimizer.args.lr: [0.1, 0.001]
  threads_per_trial: 1
"""


def test_a_grid_on_ray_equals_the_same_in_processes_bit_for_bit(small, tmp_path, monkeypatch):
    needs("sweep.py", "tools/sweep/executors/ray_executor.py")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # a token may stand in the home folder
    small.write_text(small.read_text() + SWEEP)
    for kind in ("{type: processes, parallel: 2}", "{type: ray, address: local}"):
        out = tmp_path / kind.split()[1].strip(",")
        program("sweep.py", "-c", small, "--out", out, "trainer.args.epochs=2", f"sweep.run_on={kind}")
    for number in range(4):
        name = f"small/trial_{number:04d}"
        assert_same_run(tmp_path / "processes" / name, tmp_path / "ray" / name)
    assert len({file.read_bytes() for file in tmp_path.glob("ray/small/*/metrics.jsonl")}) == 4


def trial_processes(out: Path) -> list[int]:
    """The processes of train.py whose runs are in a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_text().split("\0")
        except OSError:
            continue
        if str(out) in words and any(word.endswith("train.py") for word in words):
            found.append(int(file.parent.name))
    return found


def test_a_trial_whose_node_dies_ends_elsewhere_with_the_bits_of_a_single_run(small, tmp_path):
    needs("sweep.py", "tools/sweep/executors/ray_executor.py")
    small.write_text(small.read_text() + SWEEP.replace("optimizer.type: [SGD, AdamW]\n    ", ""))
    out, cluster = tmp_path / "out", Cluster(tmp_path)
    try:
        second = cluster.add(f"--address={cluster.address}")
        command = [sys.executable, "sweep.py", "-c", small, "--out", out, "trainer.args.epochs=60",
                   f"sweep.run_on={{type: ray, address: '{cluster.address}'}}"]
        with subprocess.Popen([*map(str, command)], cwd=PROJECT, env={**os.environ, **cluster.env},
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as sweep:
            runs = [out / "small" / f"trial_{number:04d}" for number in range(2)]
            files = [run / "metrics.jsonl" for run in runs]
            assert wait_for(lambda: all(file.exists() and len(epochs(file.parent)) > 2 for file in files), 90)
            raylet, of = raylet_of(second), parents()
            train_py, = [pid for pid in trial_processes(out) if of[of[pid]] == raylet]
            kill(raylet)
            kill(of[train_py])
            assert wait_for(lambda: not lives(train_py), 15)  # it saves first
            said = sweep.communicate(timeout=200)[0]
        assert sweep.returncode == 0, said
        assert not trial_processes(out)
    finally:
        cluster.close()
    events = [json.loads(line) for line in (out / "small" / "ledger.jsonl").read_text().splitlines()]
    assert [event["code"] for event in events if event["event"] == "end"].count(None) == 1, events
    for run, lr in zip(runs, (0.1, 0.001), strict=True):
        options = ["~sweep", f"optimizer.args.lr={lr}", "trainer.args.epochs=60"]
        single = train("-c", small, *options, out=tmp_path / str(lr))
        assert_same_run(single, run)
