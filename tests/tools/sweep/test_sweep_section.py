"""The section `sweep` of a config: what it means, and all that is wrong with it, with places."""
import math
import random
import statistics
import subprocess
import sys
import time

import pytest
import sweep
from sweeps import SEARCH, parsed, write

from base.config.validate import validate_config
from tools.sweep.checks import end_points, overrides_for
from tools.sweep.commands import run_sweep
from tools.sweep.decisions import New, Promote, next_step
from tools.sweep.plan import config_text, read_plan
from tools.sweep.section import read_section
from tools.sweep.table import ranking, trained_epochs
from tools.sweep.trials import Study, ranked
from utils.config.loading import load_config
from utils.config.syntax import parse_yaml
from utils.errors import ConfigError

BAD = """sweep:
  parameters:
    optimizer.args.momentum: {when: {optimizer.type: SGDD}, from: 0.0, to: 0.99, scale: lgo}
    optimizer.type: [SGD, AdamW, SGD]
    optimzer.args.lr: {from: 0, to: -1, scale: log, step: 2}
    model.args.width: {fro: 8, to: .nan}
    trainer.args.epochs: [3, 4]
    name: [a]
    loss: 3
  repeat: {seeds: 0, fold: 3}
  trails: 3
  trials: 2.5
  prune: {type: asha, factor: 1}
  run_on: {type: processes, paralel: 2}
  monitor: val/accuracy
"""


def test_all_faults_of_a_section_are_found_at_once_with_file_and_line(tmp_path):
    config = write(tmp_path, BAD)
    first = config.read_text().splitlines().index("sweep:") + 1
    with pytest.raises(ConfigError) as caught:
        read_plan(parsed(config, tmp_path))
    lines = [line.removeprefix(f"{config}:").split(maxsplit=2) for line in str(caught.value).splitlines()]
    found = {(int(line) - first, key.rstrip(":")) for line, key, _ in lines}
    parameters = "sweep.parameters"
    assert found == {
        (2, f"{parameters}.optimizer.args.momentum.scale"),
        (2, f"{parameters}.optimizer.args.momentum.when.optimizer.type"),
        (3, f"{parameters}.optimizer.type.2"), (4, f"{parameters}.optimzer.args.lr"),
        (4, f"{parameters}.optimzer.args.lr.step"), (4, f"{parameters}.optimzer.args.lr.from"),
        (5, f"{parameters}.model.args.width.fro"), (5, f"{parameters}.model.args.width.from"),
        (5, f"{parameters}.model.args.width.to"), (7, f"{parameters}.name"), (8, f"{parameters}.loss"),
        (9, "sweep.repeat.seeds"), (9, "sweep.repeat.fold"), (10, "sweep.trails"), (11, "sweep.trials"),
        (12, "sweep.prune.factor"), (13, "sweep.run_on.paralel"), (14, "sweep.monitor")}
    assert "Did you mean 'trials'?" in str(caught.value) and "Did you mean 'optimizer'?" in str(caught.value)


@pytest.mark.parametrize("section, fault", [
    ("sweep: {}", "sweep: there is nothing to try."),
    ("sweep: 3", "sweep: a table is needed"),
    ("sweep: {parameters: {seed: [1, 2]}, repeat: {seeds: 2}}", "beside sweep.repeat.seeds, which sets it"),
    ("sweep: {parameters: {trainer.args.epochs: [1, 2]}, prune: asha}", "beside sweep.prune, which sets it"),
    ("sweep: {parameters: {a.b: [1]}}", "there is no section 'a'. Sections: name, seed"),
    ("sweep: {parameters: {seed: {from: 1, to: 5}}, sampler: random}", "sweep.trials: is missing."),
    ("sweep: {parameters: {seed: {when: {model.args.a: 1}, values: [1]}, model.args.a: {when: {seed: 1}, "
     "values: [1]}}}", "depends on itself"),
])
def test_what_cannot_be_is_refused_in_a_sentence(tmp_path, section, fault):
    with pytest.raises(ConfigError, match="small.yaml:7") as caught:
        read_plan(parsed(write(tmp_path, section), tmp_path))
    assert fault in str(caught.value)


def test_types_come_before_arguments_and_conditions_before_what_depends_on_them():
    space = read_section({"parameters": {
        "optimizer.args.momentum": {"when": {"optimizer.type": "SGD"}, "values": [0.0, 0.9]},
        "seed": [1, 2], "optimizer.type": ["SGD", "AdamW"]}}).space
    assert [parameter.key for parameter in space.parameters] == [
        "seed", "optimizer.type", "optimizer.args.momentum"]
    assert len(space.grid()) == 2 * (2 + 1) and {"seed": 2, "optimizer.type": "AdamW"} in space.grid()
    points = [point for key, point in end_points(space) if key == "optimizer.args.momentum"]
    assert points == [{"seed": 1, "optimizer.type": "SGD", "optimizer.args.momentum": value}
                      for value in (0.0, 0.9)]


def test_a_range_with_a_step_is_an_axis_of_a_grid():
    space = read_section({"parameters": {"seed": {"from": 8, "to": 61, "step": 8},
                                         "optimizer.args.lr": {"from": 0.1, "to": 0.3, "step": 0.1}}}).space
    assert [parameter.listed() for parameter in space.parameters] == [
        (8, 16, 24, 32, 40, 48, 56), pytest.approx((0.1, 0.2, 0.3))]


def test_the_config_of_a_sweep_keeps_references_and_a_section_is_inherited(tmp_path):
    config = write(tmp_path, SEARCH + "data_loader: {batch_size: '${seed}', limit: '$${x}'}\nseed: 7\n")
    (tmp_path / "child.yaml").write_text(f"extends: {config.name}\nname: child\nsweep: {{trials: 4}}\n")
    plan, _ = read_plan(parsed(tmp_path / "child.yaml", tmp_path, "sweep.threads_per_trial=3", "seed=9"))
    assert (plan.folder.name, plan.options.trials, plan.threads, plan.seed) == ("child", 4, 3, 9)
    (tmp_path / "again.yaml").write_text(config_text(plan))
    written = parse_yaml(config_text(plan), "again.yaml").value
    assert written["data_loader"] == {"batch_size": "${seed}", "limit": "$${x}"} and written["seed"] == 7
    assert load_config(tmp_path / "again.yaml", ["~sweep", *plan.overrides])[0]["data_loader"] == {
        "batch_size": 9, "limit": "${x}"}


@pytest.mark.parametrize("value, threads", [("3", 3), ("0", 2), ("4,2", 2), (None, 2)])
def test_a_trial_has_the_threads_of_the_shell_else_a_share_of_cores(value, threads, tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if value:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    config = write(tmp_path, "sweep: {parameters: {seed: [1, 2]}, run_on: {type: processes, parallel: 4}}")
    assert read_plan(parsed(config, tmp_path))[0].threads == threads
    assert read_plan(parsed(config, tmp_path, "sweep.threads_per_trial=5"))[0].threads == 5


def test_a_decision_among_1000_trials_takes_under_a_tenth_of_a_second():
    study = Study([1, 3, 9, 27, 81], 3, 1001, maximize=False)
    for number in range(1000):
        study.apply({"event": "new", "trial": number, "params": {}})
        level = min([level for level in range(5) if number % 3**level == 0][-1], 4)
        trial = study.trials[number]
        trial.level, trial.runs[0].finished = level, level == 4
        trial.runs[0].curve = [(epoch, number + 1 / epoch) for epoch in range(1, study.rungs[level] + 1)]
    begun = time.process_time()
    step = next_step(study)
    assert isinstance(step, (Promote, New)) and time.process_time() - begun < 0.1


def test_a_trial_with_a_value_has_the_epoch_of_the_run_that_gave_it():
    study = Study([9], 3, 1, False, [("_seed0", ()), ("_seed1", ())])
    study.apply({"event": "new", "trial": 0, "params": {}})
    assert study.trials[0].epoch == 0
    study.trials[0].runs[0].curve = [(1, 0.5), (2, 7.7969e-09)]
    row = ranking(study, "min val/loss", ended=False)[1].split()
    assert row == ["-", "0", "2", "7.7969e-09", "-", "1", "interrupted"]


def test_the_driver_loads_no_torch():
    code = "import sweep, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=sweep.__file__.rpartition("/")[0])


def test_every_value_arrives_as_it_was_chosen():
    values = {"a": "1e-3", "b": 1e-5, "c": "off", "d": None, "e": [1, "2"], "f": {"type": "SGD"},
              "g": "${seed}", "h": 0.1 + 0.2, "i": True, "j": "a: b", "k": "x" * 300 + " y"}
    for (key, value), override in zip(values.items(), overrides_for(values), strict=True):
        assert parse_yaml(override.removeprefix(f"{key}="), "command line").value == value


def test_pruning_finds_a_good_trial_with_a_part_of_the_epochs():
    parts, losses = [], []
    for seed in range(5):
        drawn, study, ends = random.Random(seed), Study([1, 3, 9, 27], 3, 40, maximize=True), []
        while step := next_step(study):
            if isinstance(step, New):
                study.apply({"event": "new", "trial": step.trial, "params": {}})
                ends.append((0.85 + 0.1 * drawn.random(), 0.2 + drawn.random()))  # the value, how fast
            elif isinstance(step, Promote):
                study.apply({"event": "promote", "trial": step.trial, "level": step.level})
            else:
                trial, (end, speed) = study.trials[step.trial], ends[step.trial]
                trial.runs[0].curve += [
                    (epoch, end - 0.3 * math.exp(-speed * epoch) + drawn.gauss(0, 0.003))
                    for epoch in range(trial.runs[0].epoch + 1, study.rungs[trial.level] + 1)]
                trial.runs[0].finished = trial.level == 3
        whole = [trial for trial in study.trials if trial.finished]
        parts.append(trained_epochs(study) / (27 * 40))
        losses.append(max(end for end, _ in ends) - ends[ranked(whole, True)[0][1].number][0])
    print(f"parts of the epochs: {parts}, losses: {losses}")
    assert max(parts) <= 0.4 and statistics.median(losses) <= 0.01


def test_train_py_says_that_the_section_is_for_sweep_py(tmp_path):
    config, places = load_config(write(tmp_path))
    with pytest.raises(ConfigError, match=r"small.yaml:8  sweep: is for sweep.py(.*)'~sweep'"):
        validate_config(config, places)
    validate_config(load_config(write(tmp_path), ["~sweep"])[0])


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    config = write(tmp_path, "sweep: {parameters: {optimizer.args.lr: [0.1]}}")
    with pytest.raises(ConfigError, match="file/small: cannot be written: Not a directory"):
        run_sweep(parsed(config, tmp_path / "file"))
