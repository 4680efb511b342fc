"""Losses that say nothing or are no means: NaN in an evaluation, exactly 0 before the run, sums."""
import math

import pytest
import torch
from torch import nn

from base import LOSSES
from base.base_metric import Totals
from base.preflight.loss import require_a_mean
from conftest import epochs, train
from utils.errors import ConfigError


@LOSSES.register
class Spares(nn.CrossEntropyLoss):
    """Ignores all labels in the second batch of an evaluation; outside of it `training` is the usual loss."""

    def __init__(self, times: float = 1.0):
        super().__init__(ignore_index=-1)
        self.times, self.num_evaluated = times, 0

    def forward(self, outputs, targets):
        self.num_evaluated = 0 if self.training else self.num_evaluated + 1
        if self.num_evaluated == 2:
            targets = torch.full_like(targets, self.ignore_index)
        return super().forward(outputs, targets) * self.times


def test_a_nan_in_an_evaluation_is_reported_with_its_batch_and_with_what_the_loss_ignores(
        small, tmp_path, capsys):
    run = train("-c", small, "loss=Spares", "data_loader.eval_batch_size=15", out=tmp_path)
    assert all(line["val/loss"] is None for line in epochs(run))  # JSON has no NaN
    said = capsys.readouterr().err
    assert said.count("val/loss (first in batch 2)") == 2  # in each of the two epochs
    assert "all labels of a batch are ignored (ignore_index -1)" in said and "accuracy (first" not in said


def test_the_first_nan_is_that_of_the_values_read_last():
    totals = Totals()
    for value in (1.0, math.nan, 2.0, math.nan):
        totals.add({"loss": torch.tensor(value), "other": 1.0}, 4)
    totals.means()
    assert totals.first_nan == {"loss": 2}
    totals.add({"loss": 1.0}, 4)
    assert math.isnan(totals.means()["loss"]) and totals.first_nan == {}


@pytest.mark.parametrize("times, reported", [(0.0, True), (1.0, False)])
def test_a_loss_of_zero_without_gradients_is_reported_before_the_run(
        small, tmp_path, capsys, times, reported):
    train("-c", small, f"loss={{type: Spares, args: {{times: {times}}}}}", "trainer.args.epochs=1",
          out=tmp_path)
    assert ("loss is exactly 0" in capsys.readouterr().err) == reported


def test_a_sum_is_refused_where_a_step_has_several_parts(small, tmp_path, capsys):
    options = ["-c", small, "loss={type: CrossEntropyLoss, args: {reduction: sum}}", "trainer.args.epochs=1"]
    with pytest.raises(ConfigError, match="loss.args.reduction: 'sum' gives other steps"):
        train(*options, "trainer.args.accumulate=2", out=tmp_path)
    train(*options, out=tmp_path)
    assert "other steps" not in capsys.readouterr().err
    require_a_mean(nn.MSELoss(reduction="sum"), 2, resumed=True)
    assert "'sum' gives other steps" in capsys.readouterr().err
