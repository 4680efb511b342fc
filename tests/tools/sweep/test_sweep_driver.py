"""A whole sweep, of a stand-in for train.py: pruning, failures, repeats, restarts."""
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stand_in import value_of
from sweeps import HERE, SEARCH, events, parsed, read_events, results, search, trained, write

from tools.sweep.ledger import LEDGER
from utils.config.loading import load_config
from utils.errors import ConfigError

CHOICES = "sweep: {parameters: {optimizer.args.lr: [0.1, 0.01, 0.001]}, threads_per_trial: 1}\n"


def by_hand(rates: list[float], rungs: list[int], factor: int) -> list[list[int]]:
    """Which trials reach each rung, tried one after the other: Algorithm 2 of arXiv:1810.05934."""
    there: list[list[int]] = [[] for _ in rungs]
    for number in range(len(rates)):
        there[0].append(number)
        level = 0
        while level < len(rungs) - 1:
            def loss(trial: int, epochs: int = rungs[level]) -> float:
                return min(value_of(rates[trial], epoch) for epoch in range(1, epochs + 1))

            best = sorted(there[level], key=loss)[:len(there[level]) // factor]
            up = [trial for trial in best if trial not in there[level + 1]]
            if up:
                there[level + 1].append(up[0])
                level += 1
            elif level:
                level -= 1
            else:
                break
    return there


def test_promotions_equal_a_successive_halving_by_hand_and_no_epoch_is_trained_twice(tmp_path, capsys):
    assert search(parsed(write(tmp_path), tmp_path)) == 0
    rates = [event["params"]["optimizer.args.lr"] for event in events(tmp_path, "new")]
    there = by_hand(rates, [1, 3, 9], 3)
    assert [len(numbers) for numbers in there][0] == 9 and there[2]
    promoted = [(event["trial"], event["level"]) for event in events(tmp_path, "promote")]
    assert sorted(promoted) == sorted((trial, level) for level in (1, 2) for trial in there[level])
    assert len(trained(tmp_path)) == len(there[0]) + 2 * len(there[1]) + 6 * len(there[2])
    best = min(there[2], key=lambda trial: value_of(rates[trial], 9))
    assert f"best: trial {best};" in capsys.readouterr().out
    assert "sweep" not in load_config(tmp_path / "small" / "best.yaml")[0]


def test_when_trials_are_spent_and_none_is_whole_the_best_paused_one_is_finished(tmp_path):
    config = write(tmp_path, SEARCH.replace("trials: 9", "trials: 2"))
    assert search(parsed(config, tmp_path)) == 0
    rates = [event["params"]["optimizer.args.lr"] for event in events(tmp_path, "new")]
    best = min(range(2), key=lambda trial: value_of(rates[trial], 1))
    lengths = [len(values) for values in results(tmp_path).values()]
    assert lengths == [9 if trial == best else 1 for trial in range(2)]


def test_failed_trials_are_shown_with_their_reason_and_the_others_go_on(tmp_path, capsys):
    faults = "sweep: {parameters: {model.args.fault: [raise, nan, refuse, die, none, stop]}}\n"
    assert search(parsed(write(tmp_path, faults), tmp_path)) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line.startswith("trial ") and "failed" in line] == [
        "trial 0 failed: ValueError: too wide", "trial 1 failed: has no value of val/loss",
        "trial 2 failed: refused: model.args.fault: is no argument of MLP.",
        "trial 3 failed: killed by SIGKILL, 3 times without a new epoch",
        "trial 5 failed: exit code 0, 3 times without a new epoch"]
    assert len(results(tmp_path)["trial_0004"]) == 9
    all_bad = write(tmp_path / "bad", faults.replace("nan, refuse, die, none, stop", "refuse"))
    assert search(parsed(all_bad, tmp_path / "bad")) == 1


@pytest.mark.slow
def test_repeats_count_as_one_trial_with_the_mean(tmp_path, capsys):
    args = parsed(write(tmp_path, CHOICES), tmp_path, "--seeds", 3, "sweep.threads_per_trial=3")
    assert search(args) == 0
    record = (tmp_path / "small" / "trial_0000_seed0" / "environment.jsonl").read_text()
    assert '"threads": "3"' in record
    assert sorted(results(tmp_path))[:3] == [f"trial_0000_seed{seed}" for seed in range(3)]
    values = [value_of(0.001, 9, seed) for seed in range(3)]
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("1  "))
    mean = f"{statistics.fmean(values):.5g}"
    assert line.split() == ["1", "2", "0.001", "9", mean, "0.01", "3", "finished"]
    assert "seed: 0" not in (tmp_path / "small" / "best.yaml").read_text()  # none was written


@pytest.mark.slow
def test_a_torn_last_line_is_dropped_and_other_damage_is_named(tmp_path):
    args = parsed(write(tmp_path, CHOICES), tmp_path)
    search(args)
    file = tmp_path / "small" / LEDGER
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"event": "new", "tri')
    assert len(read_events(tmp_path / "small")) == whole.count(b"\n")
    search(args)
    assert file.read_bytes() == whole
    file.write_bytes(b"[]\n" + whole)
    with pytest.raises(ConfigError, match=r"ledger.jsonl:1: is no line of a ledger"):
        search(args)


@pytest.mark.slow
def test_a_sweep_takes_more_trials_and_no_other_space(tmp_path, capsys):
    few = SEARCH.replace("trials: 9", "trials: 3")
    search(parsed(write(tmp_path, few), tmp_path))
    search(parsed(write(tmp_path, few), tmp_path, "--more", 1))
    assert len(events(tmp_path, "new")) == 4
    other = write(tmp_path, SEARCH.replace("to: 1.0", "to: 2.0"))
    with pytest.raises(ConfigError, match=r"holds another sweep(.|\n)*optimizer.args.lr.to: 1.0 -> 2.0"):
        search(parsed(other, tmp_path))
    paused = next(name for name, values in results(tmp_path).items() if len(values) == 1)
    search(parsed(write(tmp_path, few), tmp_path, "--revive", int(paused[-4:])))
    assert len(results(tmp_path)[paused]) == 9


def start(config: Path, out: Path, *more, **environment) -> subprocess.Popen:
    command = [sys.executable, str(HERE / "sweeps.py"), "-c", str(config), "--out", str(out), "-q", *more]
    return subprocess.Popen(command, env={**os.environ, **environment}, start_new_session=True, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_until(happened, timeout_s: float = 30) -> None:
    until = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


def trials_alive(out: Path) -> list[str]:
    """The processes that train into a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if str(out) in words and any(word.endswith(("stand_in.py", "train.py")) for word in words):
            found.append(file.parent.name)
    return found


@pytest.mark.slow
def test_a_second_driver_is_refused_and_a_signal_lets_trials_save(tmp_path):
    config = write(tmp_path, CHOICES)
    first = start(config, tmp_path, STAND_IN_S="0.2")
    wait_until(lambda: trials_alive(tmp_path))
    with pytest.raises(ConfigError, match=rf"is being run by process {first.pid} on .* since 20"):
        search(parsed(config, tmp_path))
    first.send_signal(signal.SIGINT)
    assert first.wait(10) == 130 and not trials_alive(tmp_path)
    assert search(parsed(config, tmp_path)) == 0 and len(trained(tmp_path)) == 27


def killed_and_resumed(config: Path, out: Path, kills, **environment) -> int:
    """Runs the sweep, killing it (and its trials, or not) at moments; returns how many kills met it."""
    met = 0
    for moment_s, children in kills:
        driver = start(config, out, **environment)
        try:
            driver.wait(moment_s)
            break
        except subprocess.TimeoutExpired:
            alive = trials_alive(out) if children else []
            os.kill(driver.pid, signal.SIGKILL)
            for number in alive:
                try:
                    os.kill(int(number), signal.SIGKILL)
                except ProcessLookupError:
                    pass
            driver.communicate()
            met += 1
            wait_until(lambda: not trials_alive(out), timeout_s=2)
    driver = start(config, out, **environment)
    assert driver.wait(120) == 0, driver.communicate()[1]
    return met


@pytest.mark.slow
def test_killed_before_or_after_any_event_the_sweep_ends_as_undisturbed(tmp_path):
    config = write(tmp_path, SEARCH.replace("trials: 9", "trials: 3"))
    search(parsed(config, tmp_path / "straight"))
    undisturbed = results(tmp_path / "straight")
    for number in (2, 3, 4, 11):  # new, start, end, promote
        for when in ("", "b"):
            out = tmp_path / f"{number}{when}"
            driver = start(config, out, f"kill={number}{when}")
            assert driver.wait(30) == -signal.SIGKILL, driver.communicate()[1]
            assert search(parsed(config, out)) == 0
            assert results(out) == undisturbed, (number, when)


@pytest.mark.faults
@pytest.mark.parametrize("seed, sampler", [*((seed, "random") for seed in range(5)), (5, "tpe"), (6, "tpe")])
def test_killed_at_random_moments_one_at_a_time_the_sweep_ends_with_the_same_table(tmp_path, seed, sampler):
    if sampler == "tpe":
        pytest.importorskip("optuna")
    config = write(tmp_path, SEARCH.replace("random", sampler).replace("trials: 9", "trials: 15"))
    drawn = random.Random(seed)
    search(parsed(config, tmp_path / "straight"))
    kills = [(drawn.uniform(0.2, 1.5), drawn.random() < 0.5) for _ in range(8)]
    met = killed_and_resumed(config, tmp_path / "killed", kills, STAND_IN_S="0.05")
    print(f"seed {seed}: {met} kills")
    assert met and results(tmp_path / "killed") == results(tmp_path / "straight")
    assert events(tmp_path / "killed", "new") == events(tmp_path / "straight", "new")
    assert events(tmp_path / "killed", "promote") == events(tmp_path / "straight", "promote")


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_two_at_a_time_no_trial_is_lost_or_there_twice(tmp_path, seed):
    config = write(tmp_path, SEARCH + "  run_on: {type: processes, parallel: 2}\n")
    drawn = random.Random(seed)
    kills = [(drawn.uniform(0.2, 1.0), drawn.random() < 0.5) for _ in range(8)]
    met = killed_and_resumed(config, tmp_path / "killed", kills, STAND_IN_S="0.05")
    print(f"seed {seed}: {met} kills")
    assert met and [event["trial"] for event in events(tmp_path / "killed", "new")] == list(range(9))
    assert set(map(len, results(tmp_path / "killed").values())) <= {1, 3, 9}


@pytest.mark.slow
def test_with_repeats_a_trial_is_at_a_rung_when_all_its_runs_are_and_its_mean_counts(tmp_path):
    config = write(tmp_path, SEARCH.replace("trials: 9", "trials: 3"))
    assert search(parsed(config, tmp_path, "--seeds", 2)) == 0
    rates = [event["params"]["optimizer.args.lr"] for event in events(tmp_path, "new")]
    best = min(range(3), key=lambda trial: value_of(rates[trial], 1))
    lengths = {name: len(values) for name, values in results(tmp_path).items()}
    assert lengths == {f"trial_{trial:04d}_seed{seed}": 9 if trial == best else 1
                       for trial in range(3) for seed in range(2)}
    starts = [(event["trial"], event["run"], event["until"]) for event in events(tmp_path, "start")]
    assert starts[:6] == [(trial, run, 1) for trial in range(3) for run in range(2)]


@pytest.mark.parametrize("how", ["linux", pytest.param("darwin", marks=pytest.mark.slow)])
def test_a_trial_ends_with_its_driver_also_where_the_system_does_not_see_to_it(how):
    code = f"""
import subprocess, sys, time
sys.platform = {how!r}
from tools.sweep.executors import child, processes
command = [sys.executable, "-c", "import time; time.sleep(60)"]
if {how!r} == "darwin":
    start = ("import sys; from tools.sweep.executors.child import run_beside; "
             "sys.exit(run_beside(sys.argv[1:]))")
    process = subprocess.Popen([sys.executable, "-c", start, *command], stdin=subprocess.PIPE)
else:
    start = ("import sys; from tools.sweep.executors.child import become; "
             "become(int(sys.argv[1]), sys.argv[2:])")
    process = subprocess.Popen([sys.executable, "-c", start, str(__import__("os").getpid()), *command])
print(process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        number = int(parent.stdout.readline())
        time.sleep(0.3)
        assert Path(f"/proc/{number}").exists()
        parent.kill()
    wait_until(lambda: not Path(f"/proc/{number}").exists(), timeout_s=5)
