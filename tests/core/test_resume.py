"""A run that was stopped and resumed ends with the bits of one that never stopped."""

import time

import pytest
import torch

from base import TRAINERS
from conftest import assert_same_run, assert_same_state, load, metrics, needs, score, train
from trainer.trainer import Trainer
from utils.errors import ConfigError, Interrupted
from utils.run_record import starts_of

EVERYTHING = ["trainer.args.ema=0.9", "trainer.args.accumulate=2", "trainer.args.clip_norm=1.0",
              "scheduler={type: ExponentialLR, args: {gamma: 0.9}, per: step}", "trainer.args.early_stop=9"]


@TRAINERS.register
class StopsAt(Trainer):
    """Asks itself to stop after a step, as a SIGTERM would."""

    def __init__(self, *, stop_step: int, during: str = "step", **kwargs):
        super().__init__(**kwargs)
        self.stop_step, self.during = stop_step, during

    def on_step_end(self):
        if self.during == "step" and self.position.step == self.stop_step:
            self.stop_request.signal_number = 15

    def eval_step(self, batch):
        if self.during == "evaluation" and not self.in_preflight and self.position.step == self.stop_step:
            self.stop_request.signal_number = 15
        return super().eval_step(batch)


@pytest.mark.parametrize("first_workers, then_workers", [(0, 0), (2, 0), (0, 2)])
def test_three_epochs_and_three_more_are_six_epochs_bit_for_bit(small, tmp_path, undisturbed, first_workers, then_workers):
    straight = undisturbed(*EVERYTHING, "trainer.args.epochs=6")
    run = train("-c", small, *EVERYTHING, "trainer.args.epochs=3", f"data_loader.num_workers={first_workers}",
                out=tmp_path / "resumed")
    again = train("-r", run, "trainer.args.epochs=6", f"data_loader.num_workers={then_workers}", out=tmp_path / "resumed")
    assert again == run
    assert_same_run(straight, run)


@pytest.mark.parametrize("options", [
    ["scheduler=ReduceLROnPlateau", "optimizer={type: SGD, args: {lr: 0.1, momentum: 0.9}}"],
    ["scheduler=[{type: LinearLR, per: step}, {type: StepLR, args: {step_size: 2}}]", "trainer.args.precision=bf16"],
    ["trainer.args.precision=fp16", "metrics=[accuracy, {type: F1Score, args: {task: multiclass, num_classes: 10}}]"],
    ["optimizer.groups=[{match: 'layers.1.*', frozen: true}]", "optimizer.decay_bias_and_norm=false"],
], ids=["plateau", "chained-bf16", "fp16-torchmetrics", "groups"])
@pytest.mark.parametrize("stop_step, during", [(1, "step"), (3, "step"), (5, "step"), (5, "evaluation"), (9, "step")])
def test_a_run_stopped_within_an_epoch_resumes_to_the_same_bits(small, tmp_path, undisturbed, options, stop_step, during):
    options = [*options, "trainer={type: StopsAt, args: {stop_step: -1, epochs: 3, log_every: 2}}"]
    straight = undisturbed(*options)
    with pytest.raises(Interrupted) as stop:
        train("-c", small, *options, f"trainer.args.stop_step={stop_step}", f"trainer.args.during={during}",
              out=tmp_path / "stopped")
    assert stop.value.signal_number == 15
    run = next((tmp_path / "stopped").glob("*/*"))
    assert load(run)["state"]["progress"]["step"] == stop_step
    train("-r", run, "trainer.args.stop_step=-1", out=tmp_path / "stopped")
    assert_same_run(straight, run)
    assert_same_state(load(straight, "best.pt")["state"], load(run, "best.pt")["state"])


def test_two_optimizers_resume_to_the_same_bits(tmp_path):
    needs("configs/digits_gan.yaml")
    options = ["-c", "configs/digits_gan.yaml", "data_loader.batches_per_epoch=4", "trainer.args.ema=0.9", "writers=[]"]
    straight = train(*options, "trainer.args.epochs=4", out=tmp_path / "straight")
    run = train(*options, "trainer.args.epochs=2", out=tmp_path / "resumed")
    train("-r", run, "trainer.args.epochs=4", out=tmp_path / "resumed")
    assert_same_run(straight, run)


def test_the_number_of_workers_never_changes_a_result(small, tmp_path):
    runs = [train("-c", small, f"data_loader.num_workers={n}", out=tmp_path / str(n)) for n in (0, 2)]
    assert_same_run(*runs)


def test_validating_or_logging_more_often_does_not_change_training(small, tmp_path):
    plain = train("-c", small, "trainer.args.eval_every=2", "trainer.args.log_every=100", out=tmp_path / "plain")
    chatty = train("-c", small, "trainer.args.log_every=1", "writers=[TensorBoard]", out=tmp_path / "chatty")
    assert_same_state(load(plain)["state"]["model"], load(chatty)["state"]["model"])


def test_another_seed_trains_other_weights(small, tmp_path):
    one, other = (train("-c", small, f"seed={seed}", out=tmp_path / str(seed)) for seed in (1, 2))
    assert not torch.equal(load(one)["state"]["model"]["layers.1.weight"], load(other)["state"]["model"]["layers.1.weight"])


def test_an_epoch_checkpoint_of_the_past_goes_on_without_duplicate_lines(small, tmp_path):
    run = train("-c", small, "trainer.args.epochs=4", "trainer.args.save_every=1", out=tmp_path)
    before = (run / "metrics.jsonl").read_text()
    state = load(run)["state"]
    train("-r", run / "checkpoints" / "epoch_0002.pt", out=tmp_path)
    assert (run / "metrics.jsonl").read_text() == before
    assert_same_state(load(run)["state"], state)


def test_tensorboard_curves_have_every_step_once_after_a_resume(small, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from logger.tensorboard_layout import tag_of

    run = train("-c", small, "writers=[TensorBoard]", "trainer.args.save_every=1", out=tmp_path)
    time.sleep(1)  # TensorBoard reads its files in the order of the seconds in their names
    train("-r", run / "checkpoints" / "epoch_0001.pt", "trainer.args.epochs=4", out=tmp_path)
    curves = EventAccumulator(str(run))
    curves.Reload()
    for name in ("train/loss", "val/loss", "val/accuracy", "lr/optimizer", "step/loss", "grad_norm/optimizer"):
        steps = [point.step for point in curves.Scalars(tag_of(name))]
        assert steps == [line["step"] for line in metrics(run) if name in line], name
    assert len(curves.Scalars("z_technical/speed/samples_per_s")) > 0 and curves.Images("z_pictures/train/input")


def test_a_finished_run_says_so_and_more_epochs_extend_it(small, tmp_path, capsys):
    run = train("-c", small, out=tmp_path)
    before = (run / "run.log").read_text()
    from train import main
    from utils.cli import train_arguments
    main(train_arguments(["-r", str(run)]))
    assert "finished: 2 of 2 epochs" in capsys.readouterr().out
    assert (run / "run.log").read_text() == before
    train("-r", run.parent, "trainer.args.epochs=3", out=tmp_path)
    assert [line["epoch"] for line in metrics(run) if "val/loss" in line] == [1, 2, 3]
    assert "trainer.args.epochs is now 3; the checkpoint was made with 2" not in before


def test_a_run_that_stopped_early_says_so(small, tmp_path, capsys):
    run = train("-c", small, "optimizer.args.lr=1e-12", "trainer.args.early_stop=2", "trainer.args.min_delta=1.0",
                "trainer.args.epochs=9", out=tmp_path)
    assert load(run)["state"]["progress"]["epoch"] == 3
    from train import main
    from utils.cli import train_arguments
    main(train_arguments(["-r", str(run)]))
    assert "stopped early: no better val/loss in 2 evaluations" in capsys.readouterr().out


def test_a_learning_rate_cannot_be_changed_without_effect_at_resume(small, tmp_path):
    run = train("-c", small, out=tmp_path)
    with pytest.raises(ConfigError, match="optimizer.args.lr.*--init-from"):
        train("-r", run, "optimizer.args.lr=0.5", "trainer.args.epochs=3", out=tmp_path)


def test_a_model_that_does_not_fit_the_checkpoint_is_named(small, tmp_path):
    run = train("-c", small, out=tmp_path)
    with pytest.raises(ConfigError, match=r"'model' does not fit.*layers.1.weight"):
        train("-r", run, "model.args.sizes=[64, 8, 10]", "trainer.args.epochs=3", out=tmp_path)


def test_fine_tuning_starts_from_another_runs_weights_and_reports_each_tensor(small, tmp_path, capsys):
    needs("configs/linear_regression.yaml")
    run = train("-c", small, out=tmp_path / "first")
    capsys.readouterr()
    from base.run.initial_weights import load_initial_weights
    from model.mlp import MLP
    report = load_initial_weights(MLP([64, 16, 3]), run)
    assert "2 loaded: layers.1.weight, layers.1.bias" in report
    assert "2 mismatched (left out): layers.4.weight [10, 16], not [3, 16]" in report
    tuned = train("-c", small, "--init-from", run, "optimizer.args.lr=1e-12", out=tmp_path / "second")
    assert torch.allclose(load(tuned)["state"]["model"]["layers.1.weight"],
                          load(run, "best.pt")["state"]["model"]["layers.1.weight"], atol=1e-6)
    with pytest.raises(ConfigError, match="no tensor fits"):
        train("-c", "configs/linear_regression.yaml", "--init-from", run, out=tmp_path / "third")


def test_a_checkpoint_without_its_run_goes_on_in_a_new_run(small, tmp_path):
    run = train("-c", small, out=tmp_path / "first")
    stray = tmp_path / "stray.pt"
    stray.write_bytes((run / "checkpoints" / "last.pt").read_bytes())
    assert score("-r", run)["test/loss"] > 0
    on = train("-r", stray, "trainer.args.epochs=3", out=tmp_path / "second")
    assert [line["epoch"] for line in metrics(on) if "val/loss" in line] == [3]


def test_time_budget_ends_a_run_that_can_be_resumed(small, tmp_path):
    straight = train("-c", small, out=tmp_path / "straight")
    with pytest.raises(Interrupted) as stop:
        train("-c", small, "trainer.args.max_time=1e-6", out=tmp_path / "stopped")
    assert stop.value.signal_number is None and "max_time" in str(stop.value)
    run = next((tmp_path / "stopped").glob("*/*"))
    train("-r", run, "trainer.args.max_time=1:00:00", out=tmp_path / "stopped")
    assert_same_run(straight, run)


def test_a_damaged_checkpoint_is_named_and_the_newest_sound_one_is_used(small, tmp_path, capsys):
    straight = train("-c", small, "trainer.args.epochs=4", "trainer.args.save_every=1", out=tmp_path / "straight")
    run = train("-c", small, "trainer.args.epochs=3", "trainer.args.save_every=1", out=tmp_path / "damaged")
    for name, size in (("last.pt", 1000), ("epoch_0003.pt", 0)):
        damaged = run / "checkpoints" / name
        content = damaged.read_bytes()
        damaged.unlink()  # its other names are links to the same file
        damaged.write_bytes(content[:size])
    with pytest.raises(ConfigError, match=r"last.pt: not a whole checkpoint.*best.pt is sound"):
        train("-r", run / "checkpoints" / "last.pt", out=tmp_path / "damaged")
    capsys.readouterr()
    train("-r", run, "trainer.args.epochs=4", out=tmp_path / "damaged")
    assert "last.pt: not a whole" in (said := capsys.readouterr().err) and "epoch_0003.pt: not a whole" in said
    assert_same_run(straight, run)


def test_the_environment_of_every_start_is_recorded(small, tmp_path):
    run = train("-c", small, out=tmp_path)
    train("-r", run, "trainer.args.epochs=3", out=tmp_path)
    records = starts_of(run)
    assert len(records) == 2 and records[0]["packages"]["torch"] == torch.__version__.split("+")[0]
    assert {"command", "python", "device", "git_commit"} <= records[0].keys()
