"""Supervised training: a batch of inputs and targets, one model, one loss."""
import logging
from collections.abc import Mapping
from functools import cache, partial

import torch

from base import TRAINERS, BaseTrainer
from base.data.nested import describe_shapes
from base.metric_values import logits_of
from base.model_inputs import PAIR, Choice, choose_inputs, kind_of
from base.preflight.locate_error import describe_lookup
from base.prediction.outputs import as_predictions
from base.weighted_losses import loss_parts, named_terms, num_targets, own_terms
from utils.errors import ConfigError, describe_error

log = logging.getLogger(__name__)


@TRAINERS.register
class Trainer(BaseTrainer):
    """One model and one loss: `outputs = model(inputs)`, `loss(outputs, targets)`.

    Batches are `(inputs, targets)`, or of other shapes that fit the arguments of the model's `forward` (see
    base/model_inputs.py): mappings by name, tuples by position. A loss returns a scalar, named terms
    `{"bce": ..., "dice": ...}` ("loss" is minimised, or else the sum), or `(loss, {"name": value})`. Without
    a loss in the config, the model returns its own, as `loss` of its output. For all else override
    `train_step` and `eval_step`, or only `forward`.

    Args:
        unpack: whether batches and outputs may have other shapes; false, as in 1.0.0, takes two items of a
            batch, the inputs and the targets, and gives outputs to metrics as they are.
    """

    def __init__(self, *, loss=None, unpack: bool = True, **kwargs):
        super().__init__(loss=loss, **kwargs)
        self._of_torch = loss is not None and all(type(part).__module__.startswith("torch.")
                                                  for part in loss_parts(loss).values())
        self._unpack, self._choices = unpack, {}  # how batches are given to the model, by their kind
        # logs a text once; the trial before a run puts attributes back, but leaves this cache
        self._log_choice = cache(partial(log.info, "a batch is taken as %s"))

    def train_step(self, batch):
        outputs, targets, terms = self.forward(batch)
        if "loss" not in terms:
            raise ConfigError.at("loss", f"is missing: {type(self).__name__} needs one, such as "
                                         "CrossEntropyLoss, unless the output of the model has a 'loss'.")
        self.update(terms["loss"])
        return terms | self._scores(outputs, targets)

    def eval_step(self, batch):
        outputs, targets, terms = self.forward(batch)
        self.log_predictions(batch, targets, logits_of(outputs))
        return terms | self._scores(outputs, targets)

    def predict_step(self, batch):
        args, kwargs, _ = self._choice(batch).take(batch)
        with self.autocast():
            outputs = self.model(*args, **kwargs)
        if self._unpack:
            terms = own_terms(outputs) if self.loss is None else {}
            found = self._for_metrics(outputs, terms) if terms else None  # without the loss in a tuple
            outputs = logits_of(outputs) if found is None else found
        return as_predictions(outputs, self.loss)

    def forward(self, batch):
        """Returns (outputs, targets, terms of the loss); `terms["loss"]` is the scalar to minimise.

        `outputs` are what metrics get: with a loss of the project the same, else the `logits` of an
        output that has them; None for an output that consists of terms of the loss.
        """
        choice = self._choice(batch)
        args, kwargs, targets = choice.take(batch)
        outputs = None
        try:
            with self.autocast():
                outputs = self.model(*args, **kwargs)
                terms = own_terms(outputs) if self.loss is None else self._loss_terms(outputs, targets)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            plain = choice == PAIR and isinstance(args[0], torch.Tensor) and isinstance(
                args[0] if outputs is None else outputs, torch.Tensor)
            if self.in_preflight and (not plain or isinstance(error, TypeError)):
                gave = "" if outputs is None else f"The model returned {describe_shapes(outputs)}. "
                advice = describe_lookup(error) or (
                    "For anything else, give its keys the names of forward's arguments, write a loss that "
                    "takes what the model returns, or override `forward(batch)` of Trainer.")
                raise ConfigError.at("model" if outputs is None else "loss", (
                    f"{describe_error(error)}\n{gave}A batch {describe_shapes(batch)} was taken as {choice}. "
                    f"{advice}")) from error
            raise
        return (self._for_metrics(outputs, terms) if self._unpack else outputs), targets, terms

    def _choice(self, batch) -> Choice:
        if not self._unpack:
            return PAIR
        kind = kind_of(batch)
        if kind not in self._choices:
            most = max(map(num_targets, loss_parts(self.loss).values())) if self._of_torch else 0
            choice = choose_inputs(self.unwrapped_model.forward, batch, self.loss is not None, most)
            self._choices[kind] = choice
            if choice != PAIR:
                self._log_choice(str(choice))
        return self._choices[kind]

    def _loss_terms(self, outputs, targets) -> dict:
        """The terms of the loss. Those of torch get the logits, and of targets in a tuple all that they take.
        """
        several = self._of_torch and isinstance(targets, (tuple, list)) and len(targets) > 1 and all(
            num_targets(part) >= len(targets) for part in loss_parts(self.loss).values())
        outputs = logits_of(outputs) if self._of_torch else outputs
        loss = self.loss(outputs, *targets) if several else self.loss(outputs, targets)
        return {"loss": loss} if isinstance(loss, torch.Tensor) else named_terms(loss)

    def _for_metrics(self, outputs, terms):
        if self.loss is not None and not self._of_torch:  # what such a loss gets
            return outputs
        if self.loss is None and isinstance(outputs, Mapping) and outputs.keys() <= terms.keys():
            return None
        if self.loss is None and type(outputs) is tuple:  # (logits, loss)
            return next((part for part in outputs if part is not terms.get("loss")), None)
        return logits_of(outputs)

    def _scores(self, outputs, targets) -> dict:
        return {} if outputs is None else self.metrics(outputs, targets)
