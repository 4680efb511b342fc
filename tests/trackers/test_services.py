"""MLflow, W&B and Trackio without a network: a run killed twice is one run there, with each point once."""
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, metrics, program, train

from utils.errors import ConfigError

CONFIG = """
name: tracked
dataset: Digits
data_loader: {batch_size: 30, validation_split: 40, batches_per_epoch: 5}
model: {type: MLP, args: {sizes: [64, 16, 10]}}
loss: CrossEntropyLoss
optimizer: {type: Adam, args: {lr: 0.01}}
trainer: {type: Killed, args: {epochs: 4, log_every: 1, log_images_every: 1, monitor: min val/loss}}
"""
# train.py, killed at a step when the writers have sent what was logged, two steps after a checkpoint
KILLED = """
import os, runpy, signal, sys, time
from base import TRAINERS
from trainer.trainer import Trainer

@TRAINERS.register
class Killed(Trainer):
    def on_step_end(self):
        if self.position.step == int(os.environ["KILL_AT"]):
            while self.run.feeder._calls.qsize():
                time.sleep(0.1)
            time.sleep(1.5)
            os.kill(os.getpid(), signal.SIGKILL)

runpy.run_path("train.py", run_name="__main__")
"""
NAMES = ("step/loss", "train/loss")
BLOCKS = {"mlflow": "MLflow", "wandb": "{type: WandB, args: {mode: offline}}", "trackio": "Trackio"}


@pytest.fixture(scope="module", params=BLOCKS)
def tracked(request, tmp_path_factory):
    """The name of a service and the folder of a run that it has followed."""
    pytest.importorskip(request.param)
    out = tmp_path_factory.mktemp(request.param)
    (out / "tracked.yaml").write_text(CONFIG + f"writers: [{BLOCKS[request.param]}]\n")
    run = out / "tracked" / "r"
    environment = {**os.environ, "TRACKIO_DIR": str(out / "trackio"), "PYTHONPATH": str(PROJECT)}
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_MODE"):
        environment.pop(variable, None)
    begin = ["-c", out / "tracked.yaml", "--out", out, "--run-name", "r", "--device", "cpu"]
    for kill_at, arguments in ((8, begin), (13, ["-r", run]), (0, ["-r", run])):
        command = [sys.executable, "-c", KILLED, *map(str, arguments)]
        done = subprocess.run(command, cwd=PROJECT, env={**environment, "KILL_AT": str(kill_at)}, timeout=300,
                              capture_output=True, text=True)
        assert done.returncode == (-9 if kill_at else 0), done.stdout + done.stderr
        assert "without this writer" not in done.stderr, done.stderr
    return request.param, run


def points_in_mlflow(run: Path):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run.parents[1] / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("tracked").experiment_id])
    files = [file.path for folder in ("checkpoints", "images/train")
             for file in client.list_artifacts(found.info.run_id, folder)]
    assert found.info.status == "FINISHED" and found.data.params["optimizer.args.lr"] == "0.01"
    assert "checkpoints/best.pt" in files and len(files) == 5
    points = [(point.step, point.value) for name in NAMES
              for point in client.get_metric_history(found.info.run_id, name)]
    return points, found.data.tags["mlflow.source.git.commit"], found.data.tags["command"]


def points_in_wandb(run: Path):
    from logger.trackers.wandb_files import records_of, row_of

    points, ids, config, files = [], set(), {}, set()
    for file in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for record in records_of(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                ids.add(record.run.run_id)
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            if kind == "history":
                row = row_of(record)
                points += [(row["_step"], row[name]) for name in NAMES if name in row]
                files |= {row[name] for name in row if name == "train/input/path"}
            if kind == "artifact":
                files.add(record.artifact.name)
    assert len(ids) == 1 and config["optimizer"]["args"]["lr"] == 0.01
    assert "r-best" in files and len(files) == 5
    return points, config["commit"], config["command"]


def points_in_trackio(run: Path):
    (file,) = (run.parents[1] / "trackio").glob("*.db")
    with sqlite3.connect(file) as base:
        rows = [(step, json.loads(text)) for step, text in base.execute("select step, metrics from metrics")]
        ((config,),) = base.execute("select config from configs").fetchall()
        assert len(base.execute("select distinct run_name from metrics").fetchall()) == 1
        assert base.execute("select count(*) from artifact_versions").fetchone()[0] >= 1
    config = json.loads(config)
    assert config["optimizer"]["args"]["lr"] == 0.01
    assert sum("train/input" in values for _, values in rows) == 4
    points = [(step, values[name]) for step, values in rows for name in NAMES if name in values]
    return points, config["commit"], config["command"]


@pytest.mark.slow
def test_a_run_that_is_killed_twice_and_resumed_is_one_run_with_each_point_once(tracked):
    service, run = tracked
    points, commit, command = globals()[f"points_in_{service}"](run)
    lines = [(line["step"], line[name]) for line in metrics(run) for name in NAMES if name in line]
    assert sorted(points) == sorted(lines)
    start = json.loads((run / "environment.jsonl").read_text().splitlines()[0])
    assert commit == (start["git_commit"] or "") and "train.py" in command


@pytest.mark.parametrize("name", ["MLflow", "WandB", "Trackio"])
def test_a_package_that_is_missing_is_one_line(small, tmp_path, monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    package = name.lower()
    missing = f"writers.0: {name} needs the package {package}, which is not installed: pip install {package}$"
    with pytest.raises(ConfigError, match=missing):
        train("-c", small, f"writers=[{name}]", out=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("ends,status", [
    (["trainer.args.max_time=0:00:01", "trainer.args.epochs=1000"], "KILLED"),
    (["optimizer.args.lr=1e30"], "FAILED")])
def test_mlflow_shows_how_a_run_ended(tmp_path, ends, status):
    client = pytest.importorskip("mlflow").MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    config = CONFIG.replace("type: Killed", "type: Trainer") + "writers: [MLflow]\n"
    (tmp_path / "tracked.yaml").write_text(config)
    program("train.py", "-c", tmp_path / "tracked.yaml", "--out", tmp_path, *ends,
            code=0 if status == "KILLED" else 1)
    (found,) = client.search_runs([client.get_experiment_by_name("tracked").experiment_id])
    assert found.info.status == status and found.data.tags["reason"]
