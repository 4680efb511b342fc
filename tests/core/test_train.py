"""Training and scoring end to end: what a run leaves behind, and that its numbers are right."""
import json
import math

import pytest
import torch
import yaml

from base import DATASETS, METRICS, TRAINERS
from base.base_model import set_mode
from conftest import PROJECT, assert_same_run, assert_same_state, epochs, load, metrics, needs, score, train
from trainer.trainer import Trainer
from utils.errors import ConfigError, TrainingError


@DATASETS.register
class GeneratedImages(torch.utils.data.Dataset):
    """64 random images [3, 32, 32] of ten classes for each split."""

    def __init__(self, split: str):
        generator = torch.Generator().manual_seed(len(split))
        self.images = torch.randint(0, 256, (64, 3, 32, 32), generator=generator, dtype=torch.uint8)

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return self.images[index], index % 10


@METRICS.register
def target_mean(outputs, targets):
    """The class number itself: its mean over a split can be computed without any model."""
    return targets.float()


def test_a_run_folder_holds_what_the_contract_says(small, tmp_path):
    run = train("-c", small, "trainer.args.save_every=2", "trainer.args.epochs=5", "writers=[TensorBoard]", out=tmp_path)
    assert run.parent == tmp_path / "small"
    assert {file.name for file in (run / "checkpoints").iterdir()} == {
        "last.pt", "previous.pt", "best.pt", "epoch_0002.pt", "epoch_0004.pt"}
    assert list(run.glob("events.out.tfevents.*")) and "epoch 5/5" in (run / "run.log").read_text()
    resolved = yaml.safe_load((run / "config.yaml").read_text())
    assert resolved == load(run)["config"] and resolved["trainer"]["args"]["epochs"] == 5
    assert load(run).keys() == {"format", "version", "config", "state"}
    assert load(run)["state"]["model"].keys() == {f"layers.{i}.{kind}" for i in (1, 4) for kind in ("weight", "bias")}
    assert [line["step"] for line in metrics(run)] == [2, 4, 5, 6, 8, 10, 12, 14, 15, 16, 18, 20, 22, 24, 25]
    assert all({"train/loss", "val/loss", "val/accuracy", "lr/optimizer", "epoch"} <= line.keys() for line in epochs(run))


def test_the_digits_reach_98_percent_on_the_test_split(tmp_path):
    needs("configs/digits.yaml")
    run = train("-c", "configs/digits.yaml", out=tmp_path)
    assert score("-r", run)["test/accuracy"] >= 0.98


def test_scoring_val_reproduces_the_numbers_of_training_exactly(small, tmp_path):
    run = train("-c", small, "trainer.args.ema=0.9", "trainer.args.epochs=3", "metrics=[accuracy, {type: F1Score, args: "
                "{task: multiclass, num_classes: 10, average: macro}}]", out=tmp_path)
    scored = score("-r", run / "checkpoints" / "last.pt", "--split", "val")
    logged = {name: value for name, value in epochs(run)[-1].items() if name.startswith("val/")}
    assert logged == {name: scored[name] for name in logged} and "val/F1Score" in logged
    both = score("-r", run / "checkpoints" / "last.pt")
    assert both["val/loss"] == scored["val/loss"] and "test/loss" in both


def test_averages_are_over_samples_not_batches(small, tmp_path):
    run = train("-c", small, "metrics=[target_mean]", "data_loader.batches_per_epoch=null", "data_loader.batch_size=100",
                "data_loader.validation_split=0.13", "trainer.args.epochs=1", out=tmp_path)
    from base.build import build_data
    data = build_data(load(run)["config"], torch.device("cpu"))
    labels = data.dataset("train").labels
    for split in ("train", "val"):
        expected = labels[data.indices(split)].double().mean().item()
        assert epochs(run)[0][f"{split}/target_mean"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("batch_size, accumulate", [(30, 2), (20, 3), (15, 4), (7, 9)])
def test_accumulated_batches_make_the_step_of_one_large_batch(small, tmp_path, batch_size, accumulate):
    options = ["-c", small, "data_loader.batches_per_epoch=null", "transforms.train=[]", "model.args.dropout=0",
               "optimizer={type: SGD, args: {lr: 0.1}}", "data_loader.validation_split=1304"]
    whole = train(*options, f"data_loader.batch_size={batch_size * accumulate}", out=tmp_path / "whole")  # of 133: short last
    parts = train(*options, f"data_loader.batch_size={batch_size}", f"trainer.args.accumulate={accumulate}",
                  out=tmp_path / "parts")
    assert load(whole)["state"]["progress"]["step"] == load(parts)["state"]["progress"]["step"]
    for name, weights in load(whole)["state"]["model"].items():
        torch.testing.assert_close(weights, load(parts)["state"]["model"][name], rtol=0, atol=1e-6)


def test_best_is_saved_whatever_save_every_says_and_only_the_last_k_epochs_are_kept(small, tmp_path):
    run = train("-c", small, "trainer.args.epochs=7", "trainer.args.save_every=2", "trainer.args.keep_last=2", out=tmp_path)
    assert sorted(file.name for file in (run / "checkpoints").glob("epoch_*")) == ["epoch_0004.pt", "epoch_0006.pt"]
    losses = [line["val/loss"] for line in epochs(run)]
    assert load(run, "best.pt")["state"]["progress"]["epoch"] == losses.index(min(losses)) + 1


def test_early_stopping_counts_evaluations_without_improvement(small, tmp_path):
    options = "trainer.args={epochs: 20, early_stop: 2, min_delta: 0.5, eval_every: 2}"
    run = train("-c", small, "optimizer.args.lr=1e-12", options, out=tmp_path)
    assert ["val/loss" in line for line in epochs(run)] == [False, True] * 3


@pytest.mark.parametrize("options", [["optimizer.args.lr=1e20"], ["loss=BreaksDown"]])
def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(small, tmp_path, options):
    from base import LOSSES

    @LOSSES.register
    def BreaksDown(outputs, targets):
        return torch.nn.functional.cross_entropy(outputs, targets) * math.nan

    with pytest.raises(TrainingError, match="the loss is nan|gradient norm"):
        train("-c", small, *options, out=tmp_path)
    run = next(tmp_path.glob("small/*"))
    assert all(torch.isfinite(weights).all() for weights in load(run)["state"]["model"].values())


def test_no_checkpoint_with_weights_that_are_not_finite_is_written(small, tmp_path):
    with pytest.raises(TrainingError):
        train("-c", small, "optimizer={type: SGD, args: {lr: 1e38}}", "data_loader.batches_per_epoch=1", out=tmp_path)
    run = next(tmp_path.glob("small/*"))
    for file in (run / "checkpoints").iterdir():
        assert all(torch.isfinite(weights).all() for weights in load(run, file.name)["state"]["model"].values())


def test_averaged_weights_are_what_gets_evaluated_and_stored(small, tmp_path):
    run = train("-c", small, "trainer.args.ema=0.9", out=tmp_path)
    state = load(run)["state"]
    averaged, plain = state["ema"]["model"], state["model"]
    assert averaged.keys() == plain.keys() and not torch.equal(averaged["layers.1.weight"], plain["layers.1.weight"])
    with_average = score("-r", run / "checkpoints" / "last.pt")["test/loss"]
    assert with_average != train_without_average(run, tmp_path)


def train_without_average(run, tmp_path):
    content = load(run)
    del content["state"]["ema"]
    torch.save(content, run / "checkpoints" / "plain.pt")
    return score("-r", run / "checkpoints" / "plain.pt")["test/loss"]


def test_a_loss_may_give_named_terms_whose_sum_is_minimised(small, tmp_path):
    from base import LOSSES

    @LOSSES.register
    def two_terms(outputs, targets, weight: float = 0.1):
        return {"cross_entropy": torch.nn.functional.cross_entropy(outputs, targets), "size": weight * outputs.square().mean()}

    run = train("-c", small, "loss={type: two_terms, args: {weight: 0.5}}", out=tmp_path)
    line = epochs(run)[-1]
    assert line["val/loss"] == pytest.approx(line["val/cross_entropy"] + line["val/size"], rel=1e-5)


def test_frozen_parameters_stay_and_rules_have_their_own_rate(small, tmp_path):
    options = ["-c", small, "optimizer.groups=[{match: layers.1.*, frozen: true}, {match: layers.4.bias, lr: 0}]"]
    one, three = (train(*options, f"trainer.args.epochs={n}", out=tmp_path / str(n)) for n in (1, 3))
    first, last = load(one)["state"]["model"], load(three)["state"]["model"]
    same = [name for name in first if torch.equal(first[name], last[name])]
    assert same == ["layers.1.weight", "layers.1.bias", "layers.4.bias"]


@DATASETS.register
class HalfEmpty(torch.utils.data.Dataset):
    """Of 30 numbers, 10 to 19 and the odd ones are left out by the collate function."""

    def __init__(self, split: str):
        self.numbers = torch.arange(30.0)

    def __len__(self):
        return 30

    def __getitem__(self, index):
        return self.numbers[index]

    @staticmethod
    def collate_fn(samples):
        kept = [number for number in samples if number % 2 == 0 and number not in range(10, 20)]
        return (torch.stack(kept)[:, None], torch.stack(kept)[:, None]) if kept else None


@pytest.mark.parametrize("accumulate, num_steps", [(1, 2), (2, 2), (3, 1)])
def test_batches_without_samples_make_no_step_and_means_are_over_what_came(tmp_path, accumulate, num_steps):
    (tmp_path / "half.yaml").write_text(f"""
name: half
dataset: {{type: HalfEmpty}}
data_loader: {{batch_size: 10, shuffle: false}}
model: {{type: Linear, args: {{in_features: 1, out_features: 1}}}}
loss: L1Loss
optimizer: {{type: SGD, args: {{lr: 0.0}}}}
trainer: {{args: {{epochs: 1, accumulate: {accumulate}}}}}
writers: []
""")
    run = train("-c", tmp_path / "half.yaml", out=tmp_path)
    assert load(run)["state"]["progress"]["step"] == num_steps
    kept = torch.tensor([float(n) for n in range(0, 30, 2) if n not in range(10, 20)])
    model = load(run)["state"]["model"]
    loss = (kept * model["weight"].item() + model["bias"].item() - kept).abs().mean().item()
    line = epochs(run)[-1]
    assert line["train/loss"] == pytest.approx(loss, rel=1e-5) == line["val/loss"]
    assert "dropped 40 samples" in (run / "run.log").read_text()


@TRAINERS.register
class Thawing(Trainer):
    """Freezes the first layer when it is built, and trains it from the second epoch on."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first.requires_grad_(False)

    @property
    def first(self):
        return self.unwrapped_model.layers[1]

    def on_epoch_end(self):
        self.first.requires_grad_(True)


def test_a_part_that_is_unfrozen_later_is_trained_from_then_on(small, tmp_path):
    weights = [load(train("-c", small, "trainer.type=Thawing", f"trainer.args.epochs={n}", out=tmp_path / str(n)))
               ["state"]["model"]["layers.1.weight"] for n in (1, 2)]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_frozen_normalisation_layers_keep_their_statistics_unless_the_config_says_otherwise(mode):
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2, affine=False))
    model[0].requires_grad_(False)
    set_mode(model.eval(), True, mode)
    assert [layer.training for layer in model] == [mode == "train", True, True]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_keeps_fp32_weights_and_learns(small, tmp_path, precision):
    run = train("-c", small, f"trainer.args.precision={precision}", "trainer.args.epochs=4", out=tmp_path)
    assert load(run)["state"]["model"]["layers.1.weight"].dtype == torch.float32
    assert epochs(run)[-1]["train/loss"] < epochs(run)[0]["train/loss"]


def test_channels_last_changes_no_result_beyond_rounding(tmp_path):
    needs("configs/digits.yaml")
    options = ["-c", "configs/digits.yaml", "trainer.args.epochs=1", "data_loader.batches_per_epoch=5", "writers=[]",
               "optimizer={type: SGD, args: {lr: 0.1}}"]
    plain = train(*options, out=tmp_path / "plain")
    other = train(*options, "trainer.args.channels_last=true", out=tmp_path / "other")
    for name, weights in load(plain)["state"]["model"].items():
        torch.testing.assert_close(weights, load(other)["state"]["model"][name], rtol=1e-3, atol=1e-4)


def test_a_compiled_model_has_clean_names_in_its_checkpoint(small, tmp_path):
    with torch._dynamo.config.patch(disable=True):  # the wrapping is under test, not the compiler, which takes a minute
        run = train("-c", small, "trainer.args.compile=true", out=tmp_path)
    assert load(run)["state"]["model"].keys() == load(train("-c", small, out=tmp_path / "plain"))["state"]["model"].keys()


def test_the_line_finds_its_slope_and_intercept(tmp_path):
    needs("configs/linear_regression.yaml")
    run = train("-c", PROJECT / "configs/linear_regression.yaml", out=tmp_path)
    weights = load(run, "best.pt")["state"]["model"]
    assert weights["linear.weight"].item() == pytest.approx(2, abs=0.05)
    assert weights["linear.bias"].item() == pytest.approx(1, abs=0.05)
    assert score("-r", run)["test/loss"] == pytest.approx(0.01, abs=0.003)


def test_the_gan_trains_both_networks_and_shows_images(tmp_path):
    needs("configs/digits_gan.yaml")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train("-c", "configs/digits_gan.yaml", "trainer.args.epochs=3", out=tmp_path)
    curves = EventAccumulator(str(run), size_guidance={"images": 0})
    curves.Reload()
    assert len({image.step for image in curves.Images("z_pictures/generated")}) == 3
    assert {"lr/generator", "lr/discriminator", "train/generator_loss", "val/pixel_gap"} <= epochs(run)[-1].keys()
    assert len((PROJECT / "trainer" / "gan_trainer.py").read_text().splitlines()) <= 80


def test_mnist_trains_on_idx_files_through_torchvision(tmp_path):
    needs("configs/mnist.yaml", "configs/mnist.json")
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 300), ("t10k", 50)):
        pixels = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8).numpy().tobytes()
        labels = (torch.arange(count) % 10).to(torch.uint8).numpy().tobytes()
        header = b"".join(n.to_bytes(4, "big") for n in (2051, count, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(b"".join(n.to_bytes(4, "big") for n in (2049, count)) + labels)
    options = [f"dataset.args.root={tmp_path / 'data'}", "trainer.args.epochs=1", "writers=[]"]
    runs = [train("-c", f"configs/mnist.{kind}", *options, out=tmp_path / kind) for kind in ("yaml", "json")]
    assert_same_run(*runs)
    assert score("-r", runs[0])["test/loss"] > 0


def test_the_cifar_resnet_trains_on_images_of_that_shape(tmp_path):
    needs("configs/cifar10_resnet.yaml")
    run = train("-c", "configs/cifar10_resnet.yaml", "dataset=GeneratedImages", "trainer.args.epochs=2", "writers=[]",
                "data_loader={batch_size: 16, validation_split: 16}", "trainer.args.save_every=1", out=tmp_path)
    assert score("-r", run)["test/loss"] > 0 and (run / "checkpoints" / "epoch_0002.pt").exists()


def test_a_torchvision_model_can_be_named(small, tmp_path):
    run = train("-c", small, "model={type: squeezenet1_1, args: {num_classes: 10}}", "dataset=GeneratedImages",
                "transforms={}", "data_loader={batch_size: 32, validation_split: 32}", "trainer.args.epochs=1", out=tmp_path)
    assert any(name.startswith("classifier.1") for name in load(run)["state"]["model"])


def test_train_steps_on_device_are_given_whole_batches_and_may_return_a_bare_loss(small, tmp_path):
    @TRAINERS.register
    class BareLoss(Trainer):
        def train_step(self, batch):
            loss = torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])
            self.update(loss)
            return loss

    run = train("-c", small, "trainer.type=BareLoss", "trainer.args.epochs=1", out=tmp_path)
    assert "train/loss" in epochs(run)[0]


def test_the_preflight_leaves_no_trace(small, tmp_path):
    """A model whose buffers and weights change in every forward pass starts from its first state all the same."""
    from base import MODELS

    @MODELS.register
    class Counts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(64, 10)
            self.register_buffer("calls", torch.zeros(()), persistent=True)
            self.register_buffer("hidden_calls", torch.zeros(()), persistent=False)

        def forward(self, images):
            self.calls += 1
            self.hidden_calls += 1
            return self.layer(images.flatten(1)) + 0 * self.hidden_calls

    run = train("-c", small, "model=Counts", "trainer.args.epochs=1", out=tmp_path)
    assert load(run)["state"]["model"]["calls"] == 5 + 2  # training batches, evaluation batches


def test_a_monitor_that_nothing_produces_is_named_before_any_training(small, tmp_path):
    with pytest.raises(ConfigError, match="nothing produces 'val/acuracy'. Did you mean 'val/accuracy'"):
        train("-c", small, "trainer.args.monitor=max val/acuracy", out=tmp_path)
    assert not list(tmp_path.glob("small/*"))


def test_equal_configs_give_equal_runs(small, tmp_path):
    assert_same_run(*(train("-c", small, out=tmp_path / name) for name in "ab"))
    states = [load(next((tmp_path / name).glob("*/*")), "best.pt")["state"] for name in "ab"]
    assert_same_state(*states)


def test_scores_are_written_beside_a_checkpoint_that_was_carried_away(small, tmp_path):
    run = train("-c", small, out=tmp_path / "runs")
    lonely = tmp_path / "lonely" / "model.pt"
    lonely.parent.mkdir()
    (run / "checkpoints" / "best.pt").rename(lonely)
    from test import main

    from utils.cli import test_arguments
    main(test_arguments(["-q", "-r", str(lonely)]))
    assert json.loads((lonely.parent / "test.json").read_text())["test/accuracy"] > 0


@pytest.mark.parametrize("fused", [True, False])
def test_on_an_accelerator_bad_steps_are_masked_and_noticed_at_the_next_look(fused):
    """The flag that a CUDA loss would set on the device, set by hand; after it no step is made any more."""
    from utils.training.non_finite_guard import NonFinite
    from utils.training.schedule import Schedule
    from utils.training.updater import Updater, Window

    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], fused=fused)
    updater = Updater(optimizer, Schedule(optimizer), torch.amp.GradScaler("cpu", enabled=False))
    for lost in (False, True, False):
        updater.guard.skipped = torch.tensor(lost)
        before = weight.detach().clone()
        updater.update(weight.sum(), Window())
        updater.guard.end_step()
        assert torch.equal(weight, before) == (lost or bool(updater.guard.over))
    with pytest.raises(NonFinite) as error:
        updater.guard.check()
    assert error.value.num_late == 2


@pytest.mark.parametrize("options, message", [
    (["trainer.args.keep_last=3"], "no effect without save_every"),
    (["trainer.args.monitor=null", "trainer.args.early_stop=3"], "no effect without a monitor"),
    (["trainer.args.monitor=null", "scheduler=ReduceLROnPlateau"], "nothing to look at"),
])
def test_an_option_without_effect_is_an_error(small, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        train("-c", small, *options, out=tmp_path)
