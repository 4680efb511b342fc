"""Supervised training: a batch of inputs and targets, one model, one loss."""
from collections.abc import Mapping

import torch

from base import TRAINERS, BaseTrainer
from base.prediction.outputs import as_predictions


@TRAINERS.register
class Trainer(BaseTrainer):
    """Assumes batches `(inputs, targets)`, `outputs = model(inputs)` and `loss(outputs, targets)`.

    A loss returns a scalar, or named terms `{"bce": ..., "dice": ...}`: "loss" is minimised, or else the sum.
    For other batches or losses, override `train_step` and `eval_step`, or only `forward`.
    """

    def __init__(self, *, loss, **kwargs):
        super().__init__(loss=loss, **kwargs)

    def train_step(self, batch):
        outputs, targets, terms = self.forward(batch)
        self.update(terms["loss"])
        return terms | self.metrics(outputs, targets)

    def eval_step(self, batch):
        outputs, targets, terms = self.forward(batch)
        return terms | self.metrics(outputs, targets)

    def predict_step(self, batch):
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        with self.autocast():
            outputs = self.model(inputs)
        return as_predictions(outputs, self.loss)

    def forward(self, batch):
        """Returns (outputs, targets, terms of the loss); `terms["loss"]` is the scalar to minimise."""
        inputs, targets = batch
        with self.autocast():
            outputs = self.model(inputs)
            loss = self.loss(outputs, targets)
        terms = dict(loss) if isinstance(loss, Mapping) else {"loss": loss}
        if "loss" not in terms:
            terms["loss"] = torch.stack(list(terms.values())).sum()
        return outputs, targets, terms
