"""The same experiment on one process, on two and on four: the same samples, the same losses, the same weights."""
import json
from pathlib import Path

import group
import pytest
import torch

from conftest import assert_same_run, in_group, load, metrics, needs
from utils.checkpoint.state import flatten_state

CONFIG = """
name: points
seed: 3
dataset: {type: Points}
data_loader: {batch_size: 12}
model: {type: Net}
loss: CrossEntropyLoss
metrics: [accuracy]
optimizer: {type: AdamW, args: {lr: 0.01}}
trainer: {type: CheckedTrainer, args: {epochs: 3, log_every: 2, monitor: min val/loss}}
writers: []
"""
F1 = "{type: F1Score, args: {task: multiclass, num_classes: 2, average: macro}}"
COLLECTION = f"{{type: MetricCollection, name: scores, args: {{metrics: [{F1}, MedianMargin, {F1.replace('F1Score', 'Recall').replace('macro', 'null')}]}}}}"
SGD = "optimizer={type: SGD, args: {lr: 0.1, momentum: 0.9}}"
# 61 samples in batches of 12: the last has a single one
JOBS = {
    "plain": [],
    "digits": ["dataset=Digits", SGD, "data_loader={batch_size: 64, validation_split: 0.1}", "trainer.args.epochs=2",
               "model={type: MLP, args: {sizes: [64, 64, '${data:num_classes}']}}",
               "transforms.train=[{type: RandomAffine, args: {degrees: 10}}]"],
    "accumulate": ["trainer.args.accumulate=4", "trainer.args.clip_norm=0.5", "trainer.args.log_every=1"],
    "schedule": ["trainer.args.ema=0.9", "scheduler={type: OneCycleLR, args: {max_lr: 0.02}, per: step}",
                 "data_loader.drop_last=true", "data_loader.num_workers=1"],
    # no AdamW: the bias before the norm has a gradient of rounding errors alone, which Adam makes steps of
    "norm": ["model.args.norm=true", SGD, "trainer.args.sync_batchnorm=true", "data_loader.drop_last=true"],
    "dicts": ["dataset=PointDicts", "loss=with_logs", "trainer.args.ema=0.9", "data_loader.num_workers=1"],
    "unused": ["model.args.unused=true"],
    "loss": ["loss=WithTemperature"],
    "parts": ["trainer={type: ByParts, args: {epochs: 2}}", SGD],
    "metrics": [f"metrics=[accuracy, {F1}, MedianMargin, LargestMargin]", "data_loader.eval_batch_size=5"],
    "collection": [f"metrics=[{COLLECTION}]", "data_loader.eval_batch_size=5", "trainer.args.monitor=max val/scores/MedianMargin"],
    "held": ["metrics=[Held]", "data_loader.eval_batch_size=5"],
    # process 0 has no sample of the second batch
    "dropped": ["dataset=LeftOutPoints", SGD, "data_loader.shuffle=false", f"metrics=[accuracy, {F1}, LargestMargin]"],
    "dropped accumulate": ["dataset=LeftOutPoints", SGD, "trainer.args.accumulate=2"],
    # process 0 can read no sample of the third batch
    "bad samples": ["dataset=CutPoints", SGD, "data_loader={batch_size: 6, shuffle: false, on_bad_sample: skip}",
                    "trainer.args.accumulate=2"],
    "patterns": ["optimizer={w: {type: SGD, match: '*.weight', args: {lr: 0.1}}, rest: {type: AdamW, args: {lr: 0.01}}}",
                 "loss=WithTemperature", "trainer.args.accumulate=2", "trainer.args.clip_norm=0.5"],
    "phases": ["optimizer={type: AdamW, args: {lr: 0.01}, groups: [{match: 'body.*', frozen: {until_epoch: 1}}]}"],
    "unfrozen": ["trainer={type: Unfreezing, args: {epochs: 3}}", SGD],
    "stream": ["dataset=PointStream", "data_loader.num_workers=1"],
    "stopped early": ["trainer.args.early_stop=1", "trainer.args.min_delta=0.1", "trainer.args.epochs=9",
                      "scheduler={type: ReduceLROnPlateau, args: {patience: 0}}"],
    "sets": ["dataset={train: Points, val: {one: Points, two: {type: Points, args: {split: test, num_samples: 61}}}}",
             f"metrics=[accuracy, {F1}, LargestMargin]", "data_loader.eval_batch_size=5",
             "trainer={type: EndedInSecondSet, args: {epochs: 2, monitor: max val/two/accuracy}}"],
    "together": ["loss={ce: CrossEntropyLoss, smooth: {type: CrossEntropyLoss, args: {label_smoothing: 0.1}, scale: 0.5}}",
                 "data_loader={batch_size: 6, folds: 3, fold: 1, stratify: true, limit: 30, sampler: Balanced}",
                 "optimizer={a: {type: SGD, match: body.*, args: {lr: 0.1}, groups: [{match: '*', frozen: {until_epoch: 1}}]}, "
                 "b: {type: SGD, args: {lr: 0.2}}}", "trainer.args.ema=0.9"],
    "skipped": ["dataset.args.poisoned=5", "trainer.args.on_nan=skip"],
    "sampler": [SGD, "data_loader.sampler=Balanced", "data_loader.num_workers=1"],
    "static": ["trainer.args.strategy={type: ddp, args: {static_graph: true, bucket_cap_mb: 1}}"],
}
GAN = ["-c", "configs/digits_gan.yaml", "trainer.type=CheckedGAN", "writers=[]", "trainer.args={epochs: 1, monitor: null}",
       "data_loader.batches_per_epoch=4"]
STOP = "7"  # steps, of 6 an epoch: in the middle of the second


OF_FOUR = ("plain", "accumulate", "norm", "metrics")  # those that four processes run, too


class Group:
    """Command lines of train.py for the jobs, all in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "points.yaml").write_text(CONFIG)

    def new(self, name: str, *more: str) -> list[str]:
        job = name.rsplit("-", 1)[0].replace("_", " ")
        config = str(self.folder / "points.yaml")
        return ["-q", "-c", config, "--out", str(self.folder), "--run-name", name, *JOBS[job], *more]

    def stopped(self, *names: str) -> list[list[str]]:
        return [self.new(f"metrics-{name}", "--steps", STOP) for name in names]

    def resumed(self, *names: str) -> list[list[str]]:
        return [["-q", "-r", str(self.folder / "points" / f"metrics-{name}")] for name in names]

    def runs(self) -> dict[str, Path]:
        """Run folders by name."""
        return {path.name: path for path in self.folder.glob("*/*")}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> Group:
    return Group(tmp_path_factory.mktemp("distributed"))


@pytest.fixture(scope="module")
def runs(jobs) -> dict[str, Path]:
    """The jobs run by 1 and 2 processes, and some stopped and resumed by others; run folders by name."""
    folder, new, stopped, resumed = jobs.folder, jobs.new, jobs.stopped, jobs.resumed
    gan = ["-q", *GAN, "--out", str(folder), "--run-name", "gan"]
    nan = new("plain-nan", "dataset.args.poisoned=7", "trainer.args.accumulate=2")
    second = new("plain-nan1", "dataset.args.poisoned=7", "data_loader.shuffle=false")
    unused = [new("plain-refused", "model.args.now_and_then=true"),
              new("plain-told", "model.args.now_and_then=true",
                  "trainer.args.strategy={type: ddp, args: {find_unused_parameters: true}}")]
    unused += [new("plain-unsteady", "data_loader.sampler=of_the_process")]
    unused += [new("plain-single", "model.args.norm=true", "dataset.args.num_samples=63")]
    examples = [gan] if hasattr(group, "CheckedGAN") else []
    names = [job.replace(" ", "_") for job in JOBS]
    for job in [new(f"{name}-1") for name in names] + stopped("1to2"):
        group.run(job)
    ended = [new("sets-ended", "trainer.args.ended=true"),
             ["-q", "-r", str(folder / "points" / "sets-ended"), "trainer.args.ended=false"]]
    of_two = [*ended, *(new(f"{name}-2") for name in names)] + stopped("2to2", "2to1") + resumed("2to2", "1to2")
    for name, steps in (("together", "4"), ("bad_samples", "8"), ("collection", STOP)):
        of_two += [new(f"{name}-again", "--steps", steps), ["-q", "-r", str(folder / "points" / f"{name}-again")]]
    in_group(2, [*of_two, nan, second, *unused, *examples], folder)
    group.run(*resumed("2to1"))
    return jobs.runs()


@pytest.fixture(scope="module")
def with_four(jobs, runs) -> dict[str, Path]:
    """Besides, some jobs run by 4 processes, and stopped by 4 and resumed by 4 or 2."""
    in_group(4, [jobs.new(f"{job}-4") for job in OF_FOUR] + jobs.stopped("4to4", "4to2") + jobs.resumed("4to4"), jobs.folder)
    in_group(2, jobs.resumed("4to2"), jobs.folder)
    return jobs.runs()


def assert_close(one: Path, other: Path, weights: float = 1e-6) -> None:
    """The weights within `weights`, every logged number within a hundredth of a thousandth of itself."""
    lines = [metrics(run) for run in (one, other)]
    assert len(lines[0]) == len(lines[1])
    for mine, theirs in zip(*lines, strict=True):
        assert mine.keys() == theirs.keys()
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-6, nan_ok=True)
    states = [flatten_state(load(run)["state"]["model"]) for run in (one, other)]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=weights)


@pytest.mark.parametrize("job", JOBS)
def test_two_processes_train_to_the_numbers_of_one(job, runs):
    name = job.replace(" ", "_")
    assert_close(runs[f"{name}-1"], runs[f"{name}-2"])


@pytest.mark.slow
@pytest.mark.parametrize("job", OF_FOUR)
def test_four_processes_train_to_the_numbers_of_one(job, with_four):
    assert_close(with_four[f"{job}-1"], with_four[f"{job}-4"])


@pytest.mark.parametrize("first, then", [(1, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_processes(first, then, runs):
    assert_close(runs["metrics-1"], runs[f"metrics-{first}to{then}"])


def test_resumed_with_as_many_processes_it_ends_with_the_same_bits(runs):
    assert_same_run(runs["metrics-2"], runs["metrics-2to2"])


def test_a_collection_counts_every_sample_once_and_resumes_exactly(runs):
    assert_same_run(runs["collection-2"], runs["collection-again"])
    assert "val/scores/MulticlassRecall/1" in metrics(runs["collection-2"])[-1]
    assert sum(metrics(runs["held-2"])[-1][f"val/Held/right/{number}"] for number in range(4)) == 31


def test_stopped_in_the_evaluation_of_the_second_set_they_end_with_the_same_bits(runs):
    assert_same_run(runs["sets-2"], runs["sets-ended"])
    assert "Resumed at epoch 1 of 2, batch 6 of 6" in (runs["sets-ended"] / "run.log").read_text()
    last = metrics(runs["sets-2"])[-1]
    assert [last[f"val/{name}/LargestMargin/num"] for name in ("one", "two")] == [31, 31]
    assert last["val/one/loss"] != last["val/two/loss"]


def test_folds_sampler_losses_phases_and_patterns_resume_exactly_on_two(runs):
    assert_same_run(runs["together-2"], runs["together-again"])


def test_samples_that_cannot_be_read_count_once_on_any_number_of_processes(runs):
    assert_same_run(runs["bad_samples-2"], runs["bad_samples-again"])
    for number in (1, 2):
        state = load(runs[f"bad_samples-{number}"])["state"]["skipped_samples"]
        assert (state["seen"], state["skipped"], state["indices"].tolist()) == (3 * 61, 3 * 3, [12, 13, 14])
        assert (runs[f"bad_samples-{number}"] / "run.log").read_text().count("left out of training: sample 13 ") == 1
    assert {"train/ce", "train/smooth", "train/loss"} <= metrics(runs["together-2"])[-1].keys()


@pytest.mark.slow
def test_four_processes_resume_exactly_and_two_go_on_with_their_run(with_four):
    assert_same_run(with_four["metrics-4"], with_four["metrics-4to4"])
    assert_close(with_four["metrics-1"], with_four["metrics-4to2"])
    assert load(with_four["norm-4"])["state"]["model"]["body.1.num_batches_tracked"] == 15
    assert_every_sample_is_counted_once(with_four["metrics-4"])


def test_every_sample_is_counted_once(runs):
    for number in (1, 2):
        assert_every_sample_is_counted_once(runs[f"metrics-{number}"])


def assert_every_sample_is_counted_once(run: Path) -> None:
    last = [line for line in metrics(run) if "val/LargestMargin/num" in line][-1]
    assert (last["train/LargestMargin/num"], last["val/LargestMargin/num"]) == (61, 31)


def test_the_experiments_do_what_they_are_there_for(runs):
    assert max(line["epoch"] for line in metrics(runs["stopped_early-2"])) < 9
    assert any("grad_norm/optimizer" in line for line in metrics(runs["accumulate-2"]))
    assert load(runs["norm-2"])["state"]["model"]["body.1.num_batches_tracked"] == 15
    assert not torch.equal(load(runs["loss-2"])["state"]["loss"]["temperature"], torch.ones(1))
    assert "left out" in (runs["skipped-2"] / "run.log").read_text()


def test_two_optimizers_each_have_their_gradients_averaged(runs):
    needs("configs/digits_gan.yaml")
    assert load(runs["gan"])["state"]["progress"]["step"] == 4  # the processes agree in every weight: see CheckedGAN


def test_a_loss_that_is_not_finite_on_one_process_ends_all_with_its_evidence(runs):
    """Sample 7 is in the part of one process; all leave out the step, and tell the same."""
    told = [(runs["plain-nan"].parents[1] / f"error_plain-nan_{rank}_of_2.txt").read_text() for rank in (0, 1)]
    assert told[0] == told[1] and "the loss is nan (process" in told[0] and "The batch itself holds values" in told[0]
    report = runs["plain-nan"] / "nan_report"
    batches = torch.load(report / "batch.pt", weights_only=True)["batches"]
    assert sum(points.isnan().any().item() for points, _ in batches) == 1
    step = json.loads((report / "report.json").read_text())["step"]
    assert torch.load(report / "checkpoint.pt", weights_only=True)["state"]["progress"]["step"] == step


def test_a_loss_that_is_not_finite_on_the_second_process_is_reported_of_that_one_with_its_batch(runs):
    """Sample 7 of a first batch of 12 belongs to process 1; the averaged gradients are not finite on both."""
    told = (runs["plain-nan1"].parents[1] / "error_plain-nan1_0_of_2.txt").read_text()
    assert "the loss is nan (process 1 of 2). The batch itself holds values" in told
    (points, _), = torch.load(runs["plain-nan1"] / "nan_report" / "batch.pt", weights_only=True)["batches"]
    assert points.isnan().any()


def test_parameters_that_are_not_used_in_every_step_are_a_matter_of_an_option(runs):
    folder = runs["plain-1"].parents[1]
    assert "find_unused_parameters: true" in (folder / "error_plain-refused_0_of_2.txt").read_text()
    assert load(runs["plain-told"])["state"]["progress"]["finished"]


def test_a_slice_of_one_sample_is_tried_before_the_run(runs):
    assert "drop_last=true" in (runs["plain-1"].parents[1] / "error_plain-single_0_of_2.txt").read_text()


def test_a_sampler_that_is_not_the_same_in_all_processes_is_an_error_that_names_one(runs):
    for rank in (0, 1):
        told = (runs["plain-1"].parents[1] / f"error_plain-unsteady_{rank}_of_2.txt").read_text()
        assert "data_loader.sampler: of_the_process gave process 1 another order for epoch 2 than process 0" in told
