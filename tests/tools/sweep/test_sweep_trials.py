"""Trials of train.py itself: they equal single runs, and failures are shown."""
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import PROJECT, flatten_state, load, program
from sweeps import results
from test_sweep_driver import trials_alive, wait_until

CONFIG = """
name: small
seed: 3
dataset: Digits
data_loader: {batch_size: 64, validation_split: 0.1}
model: {type: MLP, args: {sizes: [64, 16, 10], dropout: 0.1}}
loss: CrossEntropyLoss
metrics: [accuracy]
optimizer: {type: SGD, args: {lr: 0.1}}
trainer: {args: {epochs: 4}}
writers: []
"""


def write(folder, section: str):
    (folder / "small.yaml").write_text(CONFIG + section)
    return folder / "small.yaml"


def assert_same(one, other) -> None:
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    for name in ("last.pt", "best.pt"):
        left, right = flatten_state(load(one, name)), flatten_state(load(other, name))
        assert left.keys() == right.keys()
        for key, value in left.items():
            same = torch.equal(value, right[key]) if isinstance(value, torch.Tensor) else value == right[key]
            assert same, (name, key)


@pytest.mark.slow
@pytest.mark.parametrize("prune", ["none", "{type: asha, min_epochs: 1, factor: 2}"])
def test_trials_equal_single_runs_bit_for_bit_also_when_they_were_paused(tmp_path, prune):
    config = write(tmp_path, f"""
sweep:
  parameters: {{optimizer.type: [SGD, AdamW], optimizer.args.lr: [0.01, 0.001]}}
  prune: {prune}
  run_on: {{type: processes, parallel: 2}}
  threads_per_trial: 1
""")
    program("sweep.py", "-c", config, "--out", tmp_path / "sweep", cold=True)
    whole = 0
    for number, (kind, lr) in enumerate((kind, lr) for kind in ("SGD", "AdamW") for lr in (0.01, 0.001)):
        run = tmp_path / "sweep" / "small" / f"trial_{number:04d}"
        if '"finished"' in (run / "environment.jsonl").read_text():
            program("train.py", "-q", "-c", config, "~sweep", f"optimizer.type={kind}",
                    f"optimizer.args.lr={lr}", "--out", tmp_path / "single", "--run-name", run.name,
                    cold=True)
            assert_same(run, tmp_path / "single" / "small" / run.name)
            whole += 1
    assert whole == 4 if prune == "none" else whole
    best = tmp_path / "sweep" / "small" / "best.yaml"
    program("train.py", "-q", "-c", best, "--out", tmp_path / "best", "--run-name", "run")
    assert (tmp_path / "best" / "small" / "run" / "metrics.jsonl").read_text() in {
        file.read_text() for file in (tmp_path / "sweep").glob("small/*/metrics.jsonl")}


@pytest.mark.slow
def test_trials_that_go_nan_or_are_refused_are_shown_and_the_sweep_goes_on(tmp_path):
    config = write(tmp_path, """
sweep:
  parameters:
    optimizer.args.lr: [1.0e+30, 0.1]
    model.args.dropout: [0.1, 7.0]
""")
    command = ("sweep.py", "-c", config, "--out", tmp_path, "-q", "trainer.args.epochs=1")
    shown = program(*command, cold=True).stdout
    assert shown.count("refused: ") == 2 and "trial 0 failed: " in shown and "nan" in shown.lower()
    assert [len(values) for values in map(list, results(tmp_path).values())].count(1) == 1


@pytest.mark.slow
def test_folds_and_seeds_of_a_config_without_a_section(tmp_path):
    config = write(tmp_path, "")
    program("sweep.py", "-c", config, "--folds", 2, "--seeds", 2, "--out", tmp_path, "-q",
            "trainer.args.epochs=1", cold=True)
    assert [*results(tmp_path)] == [f"trial_0000_seed{seed}_fold{fold}" for seed in (3, 4) for fold in (0, 1)]
    best = (tmp_path / "small" / "best.yaml").read_text()
    assert "n = 4" in best and "\nseed: 3\n" in best
    assert "validation_split: 0.1" in best and "fold:" not in best


@pytest.mark.slow
def test_train_py_names_sweep_py_and_the_check_names_the_line_of_a_parameter(tmp_path):
    config = write(tmp_path, "sweep:\n  parameters:\n    optimizer.args.lrr: [0.1, 0.2]\n")
    done = program("train.py", "-c", config, code=2)
    assert f"{config}:12  sweep: is for sweep.py" in done.stderr
    for more in ([], ["--check"], ["--dry-run"]):
        done = program("sweep.py", "-c", config, "--out", tmp_path, *more, code=2, cold=True)
        assert f"{config}:14  optimizer.args.lrr: " in done.stderr and "Did you mean 'lr'?" in done.stderr
    assert not (tmp_path / "small").exists()


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(3))
def test_kill_9_of_a_driver_leaves_no_trial_after_2_s_and_it_resumes_to_the_same_bits(tmp_path, seed):
    section = "sweep: {parameters: {optimizer.args.lr: [0.1, 0.01]}, threads_per_trial: 1}\n"
    config = write(tmp_path, section)
    long = "trainer.args.epochs=30"
    program("sweep.py", "-c", config, "--out", tmp_path / "straight", "-q", long, cold=True)
    command = [sys.executable, "sweep.py", "-c", str(config), "--out", str(tmp_path / "killed"), "-q", long]
    for _ in range(2):
        with open(os.devnull, "w") as nothing:
            driver = subprocess.Popen(command, cwd=PROJECT, stdout=nothing, stderr=nothing)
        wait_until(lambda: trials_alive(tmp_path / "killed"))
        time.sleep(1.5 + seed)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        wait_until(lambda: not trials_alive(tmp_path / "killed"), timeout_s=2)
    subprocess.run(command, cwd=PROJECT, check=True)
    for name in ("trial_0000", "trial_0001"):
        assert_same(tmp_path / "straight" / "small" / name, tmp_path / "killed" / "small" / name)
