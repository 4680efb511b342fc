"""Every config in configs/ trains, is resumed and scored on one process and on two, a new one unasked."""
import math
from pathlib import Path

import group
import pytest

from conftest import PROJECT, assert_same_run, in_group, load, metrics, score
from utils.config.blocks import as_block
from utils.config.loading import load_config

CONFIGS = sorted(file.name for file in (PROJECT / "configs").glob("*.*")
                 if file.name != "schema.json" and "\nsweep:" not in file.read_text())
# What has to be downloaded is replaced by random images of the same shape: (channels, height and width).
IMAGES = {"MNIST": (1, 28), "CIFAR10": (3, 32)}


def options(name: str) -> list[str]:
    """The config with four small batches in two epochs."""
    config, _ = load_config(PROJECT / "configs" / name)
    block = as_block(config["dataset"])
    short = ["data_loader.batch_size=8", "data_loader.batches_per_epoch=2", "data_loader.eval_batches=1",
             "trainer.args.epochs=2", "trainer.args.log_every=1", "writers=[]"]
    if block["type"] in IMAGES:
        channels, size_px = IMAGES[block["type"]]
        short += [f"dataset={{type: RandomImages, args: {{num_channels: {channels}, size_px: {size_px}}}}}",
                  "data_loader.validation_split=8"]
    return ["-q", "-c", f"configs/{name}", "--device", "cpu", *short]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder for each number of processes. Runs have the names of configs; `NAME-resumed` was stopped."""
    folder, whole, stopped, resumed = tmp_path_factory.mktemp("shipped"), [], [], []
    for name in CONFIGS:
        whole.append([*options(name), "--run-name", name])
        stopped.append([*options(name), "--run-name", f"{name}-resumed", "--steps", "1"])
        experiment, _ = load_config(PROJECT / "configs" / name)
        resumed.append(["-q", "--device", "cpu", "-r", f"{experiment['name']}/{name}-resumed"])
    for number in (1, 2):
        jobs = [[*job, "--out", folder / str(number)] for job in whole + stopped]
        jobs += [[*job[:-1], folder / str(number) / job[-1]] for job in resumed]
        in_group(2, jobs, folder) if number == 2 else [group.run([*map(str, job)]) for job in jobs]
    return folder


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_shipped_config_trains_is_resumed_to_the_same_bits_and_scored(name, num_processes, runs):
    run, = (runs / str(num_processes)).glob(f"*/{name}")
    resumed, = (runs / str(num_processes)).glob(f"*/{name}-resumed")
    assert_same_run(run, resumed)
    assert load(run)["state"]["progress"]["step"] == 4
    assert all(math.isfinite(value) for line in metrics(run) for value in line.values())
    assert any(key.startswith("test/") and math.isfinite(value) for key, value in score("-r", run).items())
