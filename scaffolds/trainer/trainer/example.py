"""Example: what happens to a batch that no other trainer does."""
from base import TRAINERS
from trainer.trainer import Trainer


@TRAINERS.register
class Example(Trainer):
    """Supervised training with a penalty on the size of the weights.

    Evaluation stays that of Trainer; override `eval_step`, too, where it differs.

    Args:
        penalty: of the sum of squares of all parameters; every other argument is the Trainer's.
    """

    def __init__(self, *, penalty: float = 1e-4, **kwargs):
        super().__init__(**kwargs)
        self.penalty = penalty

    def train_step(self, batch):
        outputs, targets, terms = self.forward(batch)  # terms["loss"] is the scalar to minimise
        size = sum(parameter.square().sum() for parameter in self.model.parameters())
        self.update(terms["loss"] + self.penalty * size)  # backward, clip, step, schedule
        return terms | {"size": size} | self.metrics(outputs, targets)  # averaged over samples: train/loss, train/size, ...
