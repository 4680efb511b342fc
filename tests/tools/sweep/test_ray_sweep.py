"""A sweep of real runs on Ray, and the same one in processes."""
import importlib.util

import pytest
from conftest import assert_same_run, needs, program

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
    needs("sweep.py", "tools/sweep/ray_executor.py")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # a token may stand in the home folder
    small.write_text(small.read_text() + SWEEP)
    for kind in ("{type: processes, parallel: 2}", "{type: ray, address: local}"):
        out = tmp_path / kind.split()[1].strip(",")
        program("sweep.py", "-c", small, "--out", out, "trainer.args.epochs=2", f"sweep.run_on={kind}")
    for number in range(4):
        name = f"small/trial_{number:04d}"
        assert_same_run(tmp_path / "processes" / name, tmp_path / "ray" / name)
    assert len({file.read_bytes() for file in tmp_path.glob("ray/small/*/metrics.jsonl")}) == 4
