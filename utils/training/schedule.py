"""The learning-rate schedulers of one optimizer: step, resume, and recompute for another run length."""
import math
import warnings

from torch.optim.lr_scheduler import ReduceLROnPlateau

from utils.errors import ConfigError, describe_error


class Schedule:
    """The learning-rate schedulers of one optimizer, each stepped per optimizer step or per epoch, in order.

    Args:
        optimizer: the optimizer whose learning rate they set.
        factories: `(build, per)` pairs: `build(optimizer, length)` returns a scheduler. `length` is the
            number of steps or epochs of the run, as `per` ("step" or "epoch") says.
        num_epochs, steps_per_epoch: the length of the run. `steps_per_epoch` is None if it is unknown, and a
            list with a number for each epoch if these differ.
    """

    def __init__(self, optimizer, factories=(), num_epochs: int = 1,
                 steps_per_epoch: int | list[int] | None = None):
        # the order of our steps is correct, but torch also warns after a resume, and if fp16 skips its first
        warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler\.step\(\)` before",
                                category=UserWarning)
        self.optimizer = optimizer
        self.num_epochs, self.steps_per_epoch = num_epochs, steps_per_epoch
        self.lengths = {"epoch": num_epochs, "step": steps_per_epoch and _steps(steps_per_epoch, num_epochs)}
        self.schedulers = [(build(optimizer, self.lengths[per]), per) for build, per in factories]
        self.num_steps_done = self.num_epochs_done = 0
        self._first = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]

    def step(self) -> None:
        """Call after each optimizer step."""
        self.num_steps_done += 1
        for scheduler, per in self.schedulers:
            if per == "step":
                self._advance(scheduler)

    def epoch(self, value: float | None = None) -> None:
        """Call after each epoch. `value` is the monitored value, None if this epoch has none."""
        self.num_epochs_done += 1
        for scheduler, per in self.schedulers:
            if per == "epoch" and not isinstance(scheduler, ReduceLROnPlateau):
                self._advance(scheduler)
            elif per == "epoch" and value is not None:
                self._advance(scheduler, value)

    def _advance(self, scheduler, *value: float) -> None:
        try:
            scheduler.step(*value)
        except (ArithmeticError, ValueError, TypeError) as error:
            if self.num_steps_done > (self.lengths["step"] or math.inf):
                return  # the data gave more than their length: the rate stays, and DataSplits reports it
            raise ConfigError.at("scheduler",
                                 f"{type(scheduler).__name__} breaks down at step {self.num_steps_done}, "
                                 f"epoch {self.num_epochs_done}: {describe_error(error)}") from error

    def state_dict(self) -> dict:
        return {"schedulers": [scheduler.state_dict() for scheduler, _ in self.schedulers],
                "num_steps_done": self.num_steps_done, "num_epochs_done": self.num_epochs_done,
                "num_epochs": self.num_epochs, "steps_per_epoch": self.steps_per_epoch}

    def load_state_dict(self, state: dict) -> None:
        """Restores the schedulers. If the run has a new length, they are computed again for that length.

        The learning rate is then the one that a run planned with the new length would have at this point.
        """
        same_length = (state["num_epochs"] == self.num_epochs
                       and state["steps_per_epoch"] == self.steps_per_epoch)
        plateau = any(isinstance(scheduler, ReduceLROnPlateau) for scheduler, _ in self.schedulers)
        if plateau and any(inner.get(name, getattr(scheduler, name, None)) != getattr(scheduler, name, None)
                           for (scheduler, _), inner in zip(self.schedulers, state["schedulers"], strict=True)
                           for name in ("total_steps", "T_max")):
            raise ConfigError.at("scheduler",
                                 "beside ReduceLROnPlateau a schedule that depends on the length of the run "
                                 "cannot be laid out anew. Resume with the same number of epochs.")
        if same_length or plateau or not self.schedulers:
            for (scheduler, _), inner in zip(self.schedulers, state["schedulers"], strict=True):
                scheduler.load_state_dict(inner)
            self.num_steps_done, self.num_epochs_done = state["num_steps_done"], state["num_epochs_done"]
        else:
            num_in_epoch = (state["num_steps_done"]
                            - _steps(state["steps_per_epoch"] or 0, state["num_epochs_done"]))
            self._replay(state["num_epochs_done"], num_in_epoch, state["num_steps_done"])

    def _replay(self, num_epochs: int, num_in_epoch: int, num_steps: int) -> None:
        """Steps through `num_epochs` epochs from the start, and `num_in_epoch` steps into the next epoch."""
        for group, first in zip(self.optimizer.param_groups, self._first, strict=True):
            group.update(first)
        if self.steps_per_epoch is None:  # a stream: how the steps fell into epochs is unknown
            steps_per_epoch = num_steps // max(num_epochs, 1)
            num_in_epoch = num_steps - num_epochs * steps_per_epoch
        else:
            steps_per_epoch = self.steps_per_epoch
        for epoch in range(num_epochs):
            for _ in range(_steps(steps_per_epoch, epoch + 1) - _steps(steps_per_epoch, epoch)):
                self.step()
            self.epoch()
        for _ in range(num_in_epoch):
            self.step()


def _steps(steps_per_epoch: int | list[int], num_epochs: int) -> int:
    """The steps of the first `num_epochs` epochs together."""
    return (sum(steps_per_epoch[:num_epochs]) if isinstance(steps_per_epoch, list)
            else steps_per_epoch * num_epochs)
