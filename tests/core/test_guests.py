"""Guests of the house: plug-ins of every shape that people bring, and mistakes they make with them."""
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from base import DATASETS, LOSSES, MODELS, SCHEDULERS, TRAINERS, BaseTrainer
from base.build import build_data
from base.config.validate import validate_config
from conftest import assert_same_run, copy_project, epochs, load, needs, program, score, train
from model.mlp import MLP
from utils.config.loading import load_config
from utils.config.signature import Signature
from utils.config.syntax import parse_yaml
from utils.errors import ConfigError


@MODELS.register
class SmallMLP(MLP):
    """Fills in an argument that its parent needs."""

    def __init__(self, **kwargs):
        super().__init__(sizes=[64, 10], **kwargs)


@MODELS.register
class Masked(nn.Module):
    """Carries a causal mask, whose -inf is no accident."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((10, 10), float("-inf")).triu(1))
        self.layer = nn.Linear(64, 10)

    def forward(self, images):
        return self.layer(images.flatten(1))


@LOSSES.register
class CentreLoss(nn.Module):
    """Has a parameter to train and a buffer that counts."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, outputs, targets):
        if self.training:
            self.calls += 1
        return nn.functional.cross_entropy(outputs * self.scale, targets) * (1 + 0.01 * self.calls)


@DATASETS.register
class Stream(IterableDataset):
    """Endless in every split."""

    def __init__(self, split: str):
        self.split = split

    def __iter__(self):
        while True:
            yield torch.randn(64), int(torch.randint(10, ()))


@DATASETS.register
class TrainOnly(Dataset):
    """Knows neither val nor test."""

    def __init__(self, split: str, root: Path = Path("data")):
        if split != "train":
            raise ValueError(f"no {split}")
        self.root = root / "x"

    def __len__(self):
        return 50

    def __getitem__(self, index):
        return torch.full((64,), float(index)), index % 10


@DATASETS.register
class Records(Dataset):
    """Samples are dicts."""

    def __init__(self, split: str):
        self.split = split

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {"pixels": torch.full((64,), float(index)), "label": index % 10}


@TRAINERS.register
class RecordTrainer(BaseTrainer):
    """Builds on BaseTrainer alone, writes scalars within steps, keeps a state of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state["seen"] = self.seen = torch.nn.Module()
        self.seen.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def train_step(self, batch):
        loss = nn.functional.cross_entropy(self.model(batch["pixels"]), batch["label"])
        self.seen.count += len(batch["label"])
        self.update(loss)
        self.run.scalars({"mine/loss": loss}, self.position.epoch, self.position.step)
        return {"loss": loss}

    def eval_step(self, batch):
        return {"right": self.model(batch["pixels"]).argmax(1) == batch["label"]}


def test_constructors_that_pass_kwargs_on_and_models_with_masks_are_welcome(small, tmp_path):
    for name in ("SmallMLP", "Masked"):
        run = train("-c", small, f"model={name}", out=tmp_path / name)
        assert score("-r", run)["test/accuracy"] >= 0
    with pytest.raises(ConfigError, match="no argument 'dropuot'. Did you mean 'dropout'"):
        train("-c", small, "model={type: SmallMLP, args: {dropuot: 0.1}}", out=tmp_path)


def test_most_torchvision_models_can_be_named_with_their_own_arguments():
    from torchvision.models import list_models
    refused = [name for name in list_models() if Signature(MODELS.get(name)).faults({})]
    assert refused == []
    assert Signature(MODELS.get("resnet18")).faults({"num_clases": 10})


def test_a_loss_with_parameters_and_buffers_is_trained_stored_and_resumed(small, tmp_path):
    straight = train("-c", small, "loss=CentreLoss", "trainer.args.epochs=4", out=tmp_path / "straight")
    run = train("-c", small, "loss=CentreLoss", "trainer.args.epochs=2", out=tmp_path / "resumed")
    train("-r", run, "trainer.args.epochs=4", out=tmp_path / "resumed")
    assert_same_run(straight, run)
    assert load(run)["state"]["loss"]["scale"] != 1
    scored = score("-r", run / "checkpoints" / "last.pt", "--split", "val")
    assert scored["val/loss"] == epochs(run)[-1]["val/loss"]


def test_an_endless_stream_trains_and_evaluates_by_its_limits_and_cannot_be_split(small, tmp_path):
    options = ["-c", small, "dataset=Stream", "transforms=null"]
    limits = "data_loader={batch_size: 8, batches_per_epoch: 4, eval_batches: 2, validation_split: null}"
    runs = [train(*options, limits, f"data_loader.num_workers={n}", out=tmp_path / str(n)) for n in (0, 2)]
    assert_same_run(*runs)
    assert load(runs[0])["state"]["progress"]["step"] == 8
    with pytest.raises(ConfigError, match="a stream cannot be split"):
        train(*options, "data_loader={batch_size: 8, batches_per_epoch: 4, validation_split: 0.1}", out=tmp_path)


def test_a_dataset_without_val_trains_without_validation_and_paths_are_paths(small, tmp_path):
    run = train("-c", small, "dataset={type: TrainOnly, args: {root: there}}", "transforms=null", "trainer.args.monitor=null",
                "data_loader={batch_size: 10, validation_split: 0}", out=tmp_path)
    assert not (run / "checkpoints" / "best.pt").exists() and "val/loss" not in epochs(run)[-1]
    with pytest.raises(ConfigError, match="validation_split: 0.1, say, or 0"):
        train("-c", small, "dataset=TrainOnly", "transforms.train=[]", "data_loader.validation_split=null", out=tmp_path)


def test_a_trainer_on_the_bare_base_class_with_dict_batches_and_state_of_its_own(small, tmp_path):
    options = ["-c", small, "dataset=Records", "transforms=null", "loss=null", "metrics=[]", "data_loader={batch_size: 16}",
               "model={type: Linear, args: {in_features: 64, out_features: 10}}", "data_loader.validation_split=null"]
    trainer = "trainer={{type: RecordTrainer, args: {{epochs: {}, monitor: max val/right}}}}"
    straight = train(*options, trainer.format(4), out=tmp_path / "straight")
    run = train(*options, trainer.format(2), out=tmp_path / "resumed")
    train("-r", run, "trainer.args.epochs=4", out=tmp_path / "resumed")
    assert_same_run(straight, run)
    assert load(run)["state"]["seen"]["count"] == 160 and "mine/loss" in json.loads((run / "metrics.jsonl").open().readline())


def test_evaluating_less_often_resumes_to_the_same_metrics(small, tmp_path):
    plateau = "scheduler={type: ReduceLROnPlateau, args: {patience: 0, threshold: 9}}"
    options = ["-c", small, "trainer.args.eval_every=2", plateau]
    straight = train(*options, "trainer.args.epochs=6", out=tmp_path / "straight")
    run = train(*options, "trainer.args.epochs=3", out=tmp_path / "resumed")
    train("-r", run, "trainer.args.epochs=6", out=tmp_path / "resumed")
    assert_same_run(straight, run)


def test_scoring_the_train_split_takes_every_sample_once_without_augmentation(small, tmp_path):
    run = train("-c", small, "data_loader.drop_last=true", "model.args.dropout=0", out=tmp_path)
    config = load(run)["config"]
    scored = score("-r", run, "--split", "train")
    data = build_data(validate_config({**config, "transforms": {"batch": config["transforms"]["batch"]}}), torch.device("cpu"))
    model = MLP([64, 16, 10])
    model.load_state_dict(load(run, "best.pt")["state"]["model"])
    right = total = 0
    for batch in data.batches("train", training=False):
        images, labels = data.prepare(batch.data, torch.device("cpu"))
        right, total = right + (model.eval()(images).argmax(1) == labels).sum().item(), total + batch.num_samples
    assert total == 1397 and scored["train/accuracy"] == pytest.approx(right / total)


def test_killed_between_the_names_of_a_save_the_best_epoch_is_done_again(small, tmp_path):
    """SIGKILL after best.pt has its new content and before last.pt has: the resumed run ends like the undisturbed one."""
    straight = train("-c", small, "trainer.args.epochs=4", "--run-name", "straight", out=tmp_path)
    code = f"""
import os, sys
sys.argv = ["train.py", "-q", "-c", {str(small)!r}, "trainer.args.epochs=4", "--out", {str(tmp_path)!r}, "--run-name", "killed"]
replace, count = os.replace, 0
def killing(source, target):
    global count
    replace(source, target)
    count += str(target).endswith("best.pt")
    if count == 2:
        os.kill(os.getpid(), 9)
os.replace = killing
from train import main
from utils.cli import train_arguments
main(train_arguments())
"""
    program("-c", code, code=-9)
    run = tmp_path / "small" / "killed"
    train("-r", run, out=tmp_path)
    assert_same_run(straight, run)
    assert_same_run(straight, run, "best.pt")


@SCHEDULERS.register
def breaks_at_once(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda number: 1 / (1 - number))


@pytest.mark.parametrize("options, message", [
    (["optimizer={layers: SGD, layrs: SGD}"], "the model has no part 'layrs'. Did you mean 'layers'"),
    (["scheduler={type: OneCycleLR, args: {max_lr: 0.1, total_steps: 3}, per: step}"], "OneCycleLR is stepped 10 times .*total_steps is 3"),
    (["scheduler=breaks_at_once"], "LambdaLR breaks down"),
    (["metrics=[{type: accuracy, name: loss}]"], "'loss' is what the loss is called"),
    (["trainer.args.eval_every=3"], "nothing would be evaluated"),
])
def test_mistakes_of_the_second_kind_are_config_errors(small, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        train("-c", small, *options, out=tmp_path)


def test_a_split_or_a_batch_size_cannot_change_under_a_run(small, tmp_path):
    from utils.errors import Interrupted

    run = train("-c", small, out=tmp_path / "a")
    with pytest.raises(ConfigError, match="train on samples that it validates on"):
        train("-r", run, "data_loader.validation_split=50", "trainer.args.epochs=3", out=tmp_path / "a")
    with pytest.raises(Interrupted):
        train("-c", small, "trainer.args.max_time=1e-6", out=tmp_path / "b")
    with pytest.raises(ConfigError, match="the epoch under way was begun with 30"):
        train("-r", tmp_path / "b" / "small", "data_loader.batch_size=10", out=tmp_path / "b")


def test_from_one_optimizer_to_several_and_back_by_extending(small, tmp_path):
    needs("configs/digits_gan.yaml")
    one, several = "{type: SGD, args: {lr: 0.1}}", "{generator: {type: SGD, args: {lr: 0.1}}, discriminator: Adam}"
    for base, optimizer in ((small, several), ("configs/digits_gan.yaml", one)):
        config, _ = load_config(base, [f"optimizer={optimizer}"])
        assert config["optimizer"] == parse_yaml(optimizer, "")[0]
    config, _ = load_config("configs/digits_gan.yaml", ["optimizer.generator.args.lr=0.5"])
    assert config["optimizer"]["generator"]["args"] == {"lr": 0.5, "betas": [0.5, 0.999]}
    with pytest.raises(ConfigError, match="this trainer updates 'optimizer'; the config has layers"):
        train("-c", small, "optimizer={layers: SGD}", out=tmp_path)


def test_a_file_that_exits_at_import_does_not_stop_runs_that_do_not_need_it(tmp_path):
    needs("configs/linear_regression.yaml")
    copy_project(tmp_path / "fork")
    (tmp_path / "fork" / "model" / "tool.py").write_text("import sys\nsys.exit(3)\n")
    program("train.py", "-c", "configs/linear_regression.yaml", "trainer.args.epochs=1", "writers=[]", cwd=tmp_path / "fork")


def test_an_annotation_that_cannot_be_resolved_leaves_the_others_in_force():
    def build(width: "int", where: "Path", thing: "Missing | None" = None):  # noqa: F821
        """As under `from __future__ import annotations`."""

    signature = Signature(build)
    assert [fault.key for fault in signature.faults({"width": "wide", "where": 3, "thing": 5})] == ["width", "where"]
    assert signature.convert({"where": "here"}) == {"where": Path("here")}


def test_class_weights_are_given_as_a_list(small, tmp_path):
    weights = [1.0] * 9 + [0.0]
    train("-c", small, f"loss={{type: CrossEntropyLoss, args: {{weight: {weights}}}}}", out=tmp_path)


@pytest.mark.skipif(os.name != "posix" or sys.platform != "linux", reason="looks at /proc")
def test_loader_workers_are_gone_when_a_run_ends(small, tmp_path):
    def children() -> set[str]:
        of_threads = (file.read_text().split() for file in Path("/proc/self/task").glob("*/children"))
        files = (Path(f"/proc/{child}/cmdline") for some in of_threads for child in some)
        commands = {file: file.read_bytes() for file in files if file.exists()}
        return {file.parent.name for file, command in commands.items() if b"multiprocessing" not in command}

    before = children()
    train("-c", small, "data_loader.num_workers=2", out=tmp_path)
    assert children() <= before


def test_metrics_stay_on_their_device_when_a_state_from_the_cpu_is_loaded():
    from torchmetrics.classification import MulticlassF1Score

    from base.base_metric import Metrics

    metrics = Metrics({"f1": MulticlassF1Score(num_classes=3)}, torch.device("meta"))
    metrics.load_state_dict(Metrics({"f1": MulticlassF1Score(num_classes=3)}, torch.device("cpu")).state_dict())
    assert metrics.objects["f1"].tp.device.type == "meta"


def test_a_state_written_without_fused_kernels_resumes_with_them():
    from utils.training.schedule import Schedule
    from utils.training.updater import Updater, Window

    def updater(fused):
        weight = nn.Parameter(torch.ones(3))
        optimizer = torch.optim.Adam([weight], fused=fused)
        return weight, Updater(optimizer, Schedule(optimizer), torch.amp.GradScaler("cpu", enabled=False))

    weight, first = updater(fused=False)
    first.update(weight.sum(), Window())
    weight, second = updater(fused=True)
    second.load_state_dict(first.state_dict())
    second.guard.skipped = torch.tensor(False)  # as on an accelerator, where steps are masked
    second.update(weight.sum(), Window())
    assert second.optimizer.param_groups[0]["fused"] is True


def test_a_schedule_of_fewer_steps_an_epoch_is_taken_up_at_the_same_epoch():
    from utils.training.schedule import Schedule

    def schedule(steps_per_epoch):
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        build = (lambda optimizer, length: torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=length), "step")
        return optimizer, Schedule(optimizer, [build], num_epochs=10, steps_per_epoch=steps_per_epoch)

    _, fine = schedule(100)
    for step in range(510):
        fine.step()
        if step % 100 == 99:
            fine.epoch()
    optimizer, coarse = schedule(50)
    coarse.load_state_dict(fine.state_dict())
    expected_optimizer, expected = schedule(50)
    for _ in range(260):
        expected.step()
    assert optimizer.param_groups[0]["lr"] == expected_optimizer.param_groups[0]["lr"]


def test_epochs_are_kept_by_their_number_and_never_what_was_just_written(tmp_path):
    from utils.checkpoint.store import CheckpointStore, SavePolicy
    from utils.run_folder import find_checkpoints

    store = CheckpointStore(tmp_path / "checkpoints", {})
    for number in (9999, 10000, 10001):
        state = {"model": {}, "progress": {"epoch": number, "batch": 0, "step": number}}
        store.save(state, [f"epoch_{number}.pt", "last.pt"], {}, SavePolicy(keep_last=2))
    store.finish()
    names = [file.name for file in find_checkpoints(tmp_path, ("last.pt",))]
    assert names == ["last.pt", "epoch_10001.pt", "epoch_10000.pt", "previous.pt"]
    store.save(state, ["epoch_0005.pt", "last.pt"], {}, SavePolicy(keep_last=1, background=False))
    assert (store.folder / "epoch_0005.pt").exists()


def test_an_ignored_hangup_stays_ignored():
    import signal

    from utils.training.stop_requests import StopRequest

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest().listening() as request:
            signal.raise_signal(signal.SIGHUP)
            assert request.signal_number is None
            signal.raise_signal(signal.SIGUSR1)
            assert request.signal_number == signal.SIGUSR1
    finally:
        signal.signal(signal.SIGHUP, before)
