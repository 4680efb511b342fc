"""What train.py finds out: a learning rate, a batch size, where the time goes. Nothing of it changes a run."""
import json
import math

import numpy as np
import pytest
import torch

from base import MODELS, TRAINERS
from base.build import build_trainer
from base.config.validate import validate_config
from conftest import PROJECT, assert_same_run, metrics, needs, program, train
from model.mlp import MLP
from tools.find_batch_size import Trial, find_batch_size, largest_that_fits, split_batch_size
from tools.find_lr import suggest
from trainer.trainer import Trainer
from utils.config.loading import load_config
from utils.errors import ConfigError, Interrupted, TrainingError

DIGITS = PROJECT / "configs" / "digits.yaml"


@MODELS.register
class Filling(MLP):
    """Takes more memory than there is for more than `num_fit` samples in training, and `num_eval_fit` in evaluation."""

    def __init__(self, num_fit: int, num_eval_fit: int = 10**9):
        super().__init__(sizes=[64, 10])
        self.num_fit, self.num_eval_fit, self.tried = num_fit, num_eval_fit, []

    def forward(self, images):
        self.tried.append(len(images))
        if len(images) > (self.num_fit if self.training else self.num_eval_fit):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return super().forward(images)


def find_lr(*args, capsys) -> tuple[str, str]:
    """`python train.py --find-lr ARGS`, in this process: the overrides it ends with, and all that it said."""
    from train import main
    from utils.cli import train_arguments

    main(train_arguments(["--find-lr", *map(str, args)]))
    said = capsys.readouterr().out
    return said.splitlines()[-1], said


def trainer_of(file, *overrides):
    trainer = build_trainer(validate_config(load_config(file, list(overrides))[0]), torch.device("cpu"))
    trainer.prepare_training()
    return trainer


def files_in(folder) -> dict:
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.rglob("*") if file.is_file()}


# -- a learning rate ---------------------------------------------------------------------------------------------------

def test_a_learning_rate_is_found_on_the_digits_with_a_plot_and_without_a_file(tmp_path):
    needs("configs/digits.yaml")
    done = program(PROJECT / "train.py", "--find-lr", "-c", DIGITS, cwd=tmp_path)
    key, value = done.stdout.splitlines()[-1].split("=")
    assert key == "optimizer.args.lr" and 1e-4 <= float(value) <= 1
    plot = [line.partition("|")[2] for line in done.stdout.splitlines() if " |" in line]
    assert len(plot) >= 16 and max(map(len, plot)) <= 70 and sum(line.count("o") for line in plot) > 40
    assert not list(tmp_path.iterdir())


def test_the_learning_rate_that_is_found_is_the_same_every_time(small, capsys):
    first, said = find_lr("-c", small, capsys=capsys)
    again, said_again = find_lr("-c", small, "trainer.args.log_every=7", capsys=capsys)
    assert first.startswith("optimizer.args.lr=") and said == said_again


def test_where_it_is_quiet_the_overrides_alone_are_printed(small, capsys):
    overrides, said = find_lr("-q", "-c", small, capsys=capsys)
    assert said == f"{overrides}\n"


def test_finding_a_learning_rate_from_a_checkpoint_changes_nothing_of_its_run(small, tmp_path, capsys):
    options = ["-c", small, "trainer.args.epochs=4"]
    with pytest.raises(Interrupted):
        train(*options, "--steps", 8, out=tmp_path / "saved")
    [run] = tmp_path.glob("saved/small/*")
    (run / "checkpoints" / ".last.pt.999999999.tmp").write_bytes(b"what a killed save left")
    before = files_in(tmp_path)
    from_new = find_lr("-c", small, capsys=capsys)[1]
    said = find_lr("-r", run, capsys=capsys)[1]
    assert files_in(tmp_path) == before and said != from_new and f"--init-from {run}" in said
    train("-r", run, out=tmp_path / "saved")
    assert_same_run(run, train(*options, out=tmp_path / "straight"))


@pytest.mark.parametrize("options, keys", [
    (["optimizer.groups=[{match: layers.1.*, lr: 0.001}, {match: layers.4.bias, lr: 0.0}]"],
     {"optimizer.args.lr": 1, "optimizer.groups.0.lr": 0.1}),
    (["scheduler={type: OneCycleLR, args: {max_lr: 0.5}, per: step}"], {"scheduler.args.max_lr": 1}),
    (["scheduler=[{type: LinearLR, args: {total_iters: 50}, per: step}]"], {"optimizer.args.lr": 1}),
    (["optimizer=Adam"], {"optimizer.args.lr": 1}),
])
def test_the_learning_rates_of_a_config_keep_their_proportions(small, capsys, options, keys):
    seen = []

    @TRAINERS.register
    class Looking(Trainer):
        def on_step_end(self):
            seen.append([group["lr"] for group in self.updaters["optimizer"].optimizer.param_groups])

    overrides = find_lr("-c", small, "trainer.type=Looking", *options, capsys=capsys)[0].split()
    validate_config(load_config(small, [*options, *overrides])[0])
    found = dict(text.split("=") for text in overrides)
    largest = max(map(float, found.values()))
    assert {key: pytest.approx(float(value) / largest, rel=0.01) for key, value in found.items()} == keys
    ratios = np.array(seen) / np.array(seen).max(axis=1, keepdims=True)
    assert np.array(seen).max(axis=1)[0] == pytest.approx(1e-7) and np.allclose(ratios, ratios[0])
    assert sorted({*ratios[0]} - {0}) == pytest.approx(sorted({*keys.values()}))


def test_several_optimizers_rise_together_and_one_message_says_so(tmp_path, capsys):
    needs("configs/digits_gan.yaml")
    config = PROJECT / "configs" / "digits_gan.yaml"

    @TRAINERS.register
    class Followed(TRAINERS.get("GANTrainer")):
        def train_step(self, batch):
            values = super().train_step(batch)
            return {"loss": values["discriminator_loss"]}

    overrides, said = find_lr("-c", config, "trainer={type: Followed, args: {monitor: null}}", capsys=capsys)
    assert "2 optimizers (generator, discriminator) rise together" in said
    found = dict(text.split("=") for text in overrides.split())
    assert found.keys() == {"optimizer.generator.args.lr", "optimizer.discriminator.args.lr"}
    assert float(found["optimizer.generator.args.lr"]) == pytest.approx(2 * float(found["optimizer.discriminator.args.lr"]))


def test_the_suggestion_is_where_the_loss_falls_fastest():
    rates = np.geomspace(1e-7, 10, 100)
    noise = 0.01 * np.random.default_rng(0).standard_normal(100)
    falling = 2.3 - 2 / (1 + (1e-3 / rates) ** 1.5)  # steepest at 1e-3
    found = suggest(rates, falling + (rates / 0.3) ** 2 + noise)
    assert found.value == found.steepest_at == pytest.approx(1e-3, rel=0.7) and found.falls_at < 1e-3 < found.lowest_at / 10
    soon = suggest(rates, falling + (rates / 0.005) ** 2 + noise)
    assert soon.value == soon.lowest_at / 10 < soon.steepest_at
    assert suggest(rates, 2.3 + noise) is None and suggest(rates, 2.3 + (rates / 0.3) ** 2 + noise) is None


@pytest.mark.parametrize("values, message", [
    ({"loss": math.nan}, "loss is not finite"), ({"loss": 1.0}, "falls at no learning rate"),
    ({}, "the loss is not finite, or not there"), ({"first": math.inf, "second": 1.0}, "first is not finite"),
])
def test_a_loss_that_cannot_be_followed_is_one_clear_error(small, capsys, values, message):
    @TRAINERS.register
    class Opaque(Trainer):
        def train_step(self, batch):
            self.update(self.forward(batch)[2]["loss"])
            return {name: torch.tensor(value) for name, value in values.items()}

    with pytest.raises(TrainingError, match=message):
        find_lr("-c", small, "trainer.type=Opaque", capsys=capsys)


# -- a batch size ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("start", [1, 3, 64, 1000, 5000])
@pytest.mark.parametrize("threshold", [0, 1, 2, 3, 63, 64, 65, 129, 777, 1000, 4000])
def test_the_largest_size_that_fits_is_found(start, threshold):
    tried = []

    def fits(size):
        tried.append(size)
        assert 1 <= size <= 1000
        return size <= threshold

    expected = min(threshold, 1000)
    assert largest_that_fits(fits, start, 1000, tolerance=0) == expected
    assert len(tried) == len({*tried}) <= 22
    near = largest_that_fits(lambda size: size <= threshold, start, 1000)
    assert near <= expected <= near * 1.05 or near == expected


@pytest.mark.parametrize("effective, most, pieces", [
    (64, 1000, (64, 1)), (128, 100, (64, 2)), (96, 40, (32, 3)), (127, 100, (64, 2)), (10, 1, (1, 10)), (1, 1, (1, 1))])
def test_the_effective_batch_is_kept_where_it_divides(effective, most, pieces):
    assert split_batch_size(effective, most) == pieces


def test_a_trial_makes_real_steps_and_takes_a_want_of_memory_for_an_answer(small):
    trainer = trainer_of(small, "model={type: Filling, args: {num_fit: 100}}", "trainer.args.accumulate=2")
    before = {name: value.clone() for name, value in trainer.unwrapped_model.state_dict().items()}
    trial = Trial(trainer)
    assert trial(60) and not trial(101) and trial(100) and trial(59)
    assert trainer.unwrapped_model.tried == [60, 60, 40, 101, 100, 100, 40, 59, 59, 59, 59, 40]  # two steps, of one batch or two
    assert all(torch.equal(value, before[name]) for name, value in trainer.unwrapped_model.state_dict().items())


@pytest.mark.parametrize("options", [[], ["optimizer={type: Adagrad}"], ["trainer.args.precision=fp16"],
                                     ["trainer.args={on_nan: skip, ema: 0.9}"],
                                     ["scheduler={type: OneCycleLR, args: {max_lr: 0.5}, per: step}"]])
def test_the_largest_batch_is_found_and_named_with_what_keeps_the_effective_batch(small, caplog, options):
    caplog.set_level("INFO")
    trainer = trainer_of(small, "model={type: Filling, args: {num_fit: 20}}", "trainer.args.accumulate=2", *options)
    effective = 30 * trainer.accumulate
    found = find_batch_size(trainer)
    assert found == f"data_loader.batch_size=15 trainer.args.accumulate={effective // 15}"
    assert "30  does not fit" in caplog.text and "15  fits" in caplog.text and "10 % of head room" in caplog.text


def test_a_batch_is_no_larger_than_the_split_and_evaluation_has_to_fit_too(small, caplog):
    caplog.set_level("INFO")
    assert find_batch_size(trainer_of(small, "model={type: Filling, args: {num_fit: 9999}}")).startswith(
        "data_loader.batch_size=30 trainer.args.accumulate=1")
    assert "1,397 samples (all there are)" in caplog.text
    narrow = trainer_of(small, "model={type: Filling, args: {num_fit: 9999, num_eval_fit: 12}}")
    assert find_batch_size(narrow) == "data_loader.batch_size=10 trainer.args.accumulate=3"
    with pytest.raises(TrainingError, match="out of memory with batches of 1 samples"):
        find_batch_size(trainer_of(small, "model={type: Filling, args: {num_fit: 0}}"))
    with pytest.raises(ConfigError, match="A step with 30 samples was tried, and failed"):
        find_batch_size(trainer_of(small, "model={type: MLP, args: {sizes: [64, 3]}}"))


def test_without_cuda_no_batch_size_is_found(tmp_path):
    needs("configs/digits.yaml")
    done = program(PROJECT / "train.py", "--find-batch-size", "-c", DIGITS, "--device", "cpu", cwd=tmp_path, code=2)
    assert "CUDA" in done.stderr and len(done.stderr.strip().splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("find", ["--find-lr", "--find-batch-size"])
@pytest.mark.parametrize("options", [
    ["--distributed"], ["--verify-resume"], ["--profile", "3"], ["--steps", "3"], ["--out", "x"],
    ["--run-name", "x"], ["-r", "auto"], ["--find-lr", "--find-batch-size"]], ids=" ".join)
def test_options_that_would_have_no_effect_beside_a_test_are_refused(find, options, capsys):
    from utils.cli import train_arguments

    with pytest.raises(SystemExit) as end:
        train_arguments([find, "-c", str(DIGITS), *options])
    assert end.value.code == 2 and len(capsys.readouterr().err.split("train.py: error: ")) == 2


# -- where the time goes -----------------------------------------------------------------------------------------------

def profiled(run) -> dict:
    """The steps in the trace of a run, by the name of its file."""
    [file] = (run / "profile").iterdir()
    names = {event["name"] for event in json.loads(file.read_text())["traceEvents"]}
    assert any(name.startswith("aten::") for name in names)
    return {file.name: sum(name.startswith("ProfilerStep#") for name in names)}


def test_a_profile_of_three_steps_is_a_trace_and_a_table_and_changes_no_number(small, tmp_path):
    options = ["-c", small, "data_loader.batches_per_epoch=9"]
    plain = train(*options, "--run-name", "plain", out=tmp_path)
    run = train(*options, "--profile", 3, "--run-name", "profiled", out=tmp_path)
    assert profiled(run) == {"steps_4-6.pt.trace.json": 3}
    said = (run / "run.log").read_text().splitlines()
    head = next(number for number, line in enumerate(said) if line.split()[:1] == ["operator"])
    assert all(len(line.split()) == 4 for line in said[head + 1 : head + 11]) and "The trace lies in" in said[head + 11]
    assert_same_run(plain, run)


@pytest.mark.parametrize("steps, options, name", [
    (4, [], "steps_2-5"), (10, ["data_loader.batches_per_epoch=1"], "steps_1-1"),
    (2, ["trainer.args.accumulate=2"], "steps_2-3"), (10, ["--steps", 3], "steps_2-3")])
def test_an_epoch_with_fewer_steps_is_profiled_as_far_as_it_goes(small, tmp_path, steps, options, name):
    try:
        run = train("-c", small, "transforms.train=[]", "--profile", steps, *options, out=tmp_path)
    except Interrupted:
        [run] = tmp_path.glob("small/*")
    assert [*profiled(run)] == [f"{name}.pt.trace.json"] and metrics(run)


def test_a_resumed_run_can_be_profiled_and_a_hook_of_its_own_is_called(small, tmp_path):
    steps = []

    @TRAINERS.register
    class CountsSteps(Trainer):
        def on_step_end(self):
            steps.append(self.position.step)

    run = train("-c", small, "trainer.type=CountsSteps", "trainer.args.epochs=1", out=tmp_path)
    train("-r", run, "trainer.args.epochs=3", "--profile", 2, out=tmp_path)
    assert profiled(run) == {"steps_9-10.pt.trace.json": 2} and steps == [*range(1, 16)]
