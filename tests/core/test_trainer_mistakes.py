"""What is said of a trainer of one's own that trains something else than its author thinks."""
import pytest

from base import TRAINERS
from base.preflight.own_trainer import require_called_methods
from conftest import load, train
from trainer.trainer import Trainer
from utils.errors import ConfigError, Interrupted


@TRAINERS.register
class OwnLightning(Trainer):
    def training_step(self, batch, batch_idx):
        raise AssertionError


class OwnValidation(OwnLightning):
    def _valid_epoch(self, epoch):
        raise AssertionError


@TRAINERS.register
class OwnForgets(Trainer):
    def train_step(self, batch):
        return {"loss": self.loss(self.model(batch[0]), batch[1])}


class OwnLightningReplaced(OwnForgets):
    def configure_optimizers(self):
        raise AssertionError

    def build_updaters(self):
        return super().build_updaters()


class OwnCallsIt(Trainer):
    def on_epoch_end(self):
        self.on_train_epoch_end()

    def on_train_epoch_end(self):
        raise AssertionError


@TRAINERS.register
class OwnFullPrecision(Trainer):
    def train_step(self, batch):
        loss = self.loss(self.model(batch[0]), batch[1])
        self.update(loss)
        return {"loss": loss}


class OwnParent(Trainer):
    def learn(self, loss):
        if not self.in_preflight:
            self.update(loss)
        return {"loss": loss}


@TRAINERS.register
class OwnSometimes(OwnParent):
    def train_step(self, batch):
        return self.learn(self.forward(batch)[2]["loss"])


def test_a_method_that_only_another_program_calls_is_refused_in_a_new_run(small, tmp_path, capsys):
    message = r"trainer\.type: OwnLightning has a method training_step, which nothing calls\. It is called " \
              r"train_step\(batch\) here\."
    with pytest.raises(ConfigError, match=message):
        train("-c", small, "trainer.type=OwnLightning", out=tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    require_called_methods(OwnLightning, resumed=True)
    assert "OwnLightning has a method training_step" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="eval_step"):
        require_called_methods(OwnValidation, resumed=False)


def test_methods_that_are_called_or_replaced_are_not_refused(caplog):
    require_called_methods(OwnCallsIt, resumed=False)
    require_called_methods(Trainer, resumed=False)
    assert not caplog.text
    require_called_methods(OwnLightningReplaced, resumed=False)
    assert "has a method configure_optimizers, which nothing calls" in caplog.text


def test_a_loss_without_update_is_refused_in_a_new_run(small, tmp_path, monkeypatch, capsys):
    with pytest.raises(ConfigError, match=r"train_step made no gradients.* with self\.update\(loss\)"):
        train("-c", small, "trainer.type=OwnForgets", out=tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(OwnForgets, "train_step", OwnFullPrecision.train_step)
        train("-c", small, "trainer.type=OwnForgets", "--steps", "1", out=tmp_path)
    run = next(tmp_path.glob("small/*"))
    train("-r", run, out=tmp_path)
    assert "made no gradients" in capsys.readouterr().err and load(run)["state"]["progress"]["finished"]


def test_a_step_that_learns_at_other_times_is_only_warned_of(small, tmp_path, capsys):
    train("-c", small, "trainer={type: OwnSometimes, args: {epochs: 1}}", out=tmp_path)
    assert "made no gradients" in capsys.readouterr().err


@pytest.mark.parametrize("trainer, precision, warned", [
    ("OwnFullPrecision", "bf16", True), ("OwnFullPrecision", "fp32", False), ("Trainer", "bf16", False)])
def test_a_step_outside_of_autocast_is_reported(small, tmp_path, capsys, trainer, precision, warned):
    train("-c", small, f"trainer={{type: {trainer}, args: {{epochs: 1, precision: {precision}}}}}",
          out=tmp_path)
    assert ("train_step computes in float32, not in bf16" in capsys.readouterr().err) is warned
