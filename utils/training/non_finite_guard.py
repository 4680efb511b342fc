"""Keeps a loss that is not finite from becoming a step."""
import logging
import math

import torch

log = logging.getLogger(__name__)


class NonFinite(Exception):
    """A loss or a gradient is NaN or infinite; the weights are those of before the step.

    `num_late`: the steps between the one that was not made and now, itself included; 0 while it is under way, where
    `window` are its batches. `here`: whether this process saw it itself, as far as it knows.
    """

    def __init__(self, message: str, num_late: int = 0, here: bool = True):
        super().__init__(message)
        self.num_late, self.window, self.here = num_late, None, here


class NonFiniteGuard:
    """Looks at every loss and at the gradient norms that are known, and keeps bad steps from being made.

    On the CPU the host sees a bad value at once. On an accelerator it does not wait: steps are masked on the device
    (`mask`), as GradScaler's found_inf does, and `check` tells at the next log point.

    With several processes the loss of one may be bad and all must leave out the step: `inspect` then only takes note, and
    `settle` comes when all know.

    Args:
        tolerated: how many steps in a row may be left out before NonFinite is raised.
    """

    def __init__(self, tolerated: int = 0):
        self.tolerated = tolerated
        self.shared = False  # whether other processes have a say
        self.seen: str | None = None  # what this process itself saw of the step under way
        self.skipped: bool | torch.Tensor = False  # whether the step under way is; on an accelerator 0-dim bool
        self.over: bool | torch.Tensor = False  # whether more were skipped in a row than are tolerated: none is made any more
        self.num_in_a_row: int | torch.Tensor = 0
        self.num_skipped: int | torch.Tensor = 0  # since the last `check`
        self.num_over: int | torch.Tensor = 0  # steps since then

    def inspect(self, value: torch.Tensor, what: str = "loss", everywhere: bool = False) -> None:
        """Takes note of a 0-dim loss or gradient norm; `everywhere` says that it is the same on all processes.

        Raises NonFinite on the CPU, where none is tolerated and no other process has to know.
        """
        if not value.is_cpu:
            bad = value.detach() * 0 != 0  # isfinite would be four kernels; every one of them counts in every step
            self.skipped = bad if self.skipped is False else self.skipped | bad
        elif not math.isfinite(number := value.item()):
            self.skipped, self.seen = True, f"the {what} is {number}"
            if everywhere or not self.shared:
                self._refuse()

    def settle(self, any_skipped: torch.Tensor) -> None:
        """Makes what all processes have noted the guard's own: 0-dim, above 0 if the step is skipped for any of them."""
        if not any_skipped.is_cpu:
            self.skipped = any_skipped > 0
        elif any_skipped.item() > 0:
            self.skipped = True
            self._refuse()

    def _refuse(self) -> None:
        if not self.tolerated:
            raise NonFinite(self.seen or "the loss of another process is not finite", here=self.seen is not None)

    @property
    def mask(self) -> torch.Tensor | None:
        """0-dim bool on the device: whether the step must not be made; None where the host knows."""
        return self.skipped | self.over if isinstance(self.skipped, torch.Tensor) else None

    def end_step(self) -> bool | torch.Tensor:
        """Call after every step; whether it is to be left out. Raises NonFinite on the CPU after too many in a row."""
        skipped, self.skipped, self.seen = self.skipped, False, None
        if self.tolerated:
            self.num_in_a_row = (self.num_in_a_row + 1) * skipped
            self.num_skipped = self.num_skipped + skipped
        if isinstance(skipped, torch.Tensor):
            self.over = self.over | (self.num_in_a_row > self.tolerated if self.tolerated else skipped)
            self.num_over = self.num_over + self.over
        elif self.num_in_a_row > self.tolerated:
            raise NonFinite(f"the loss was not finite in {self.num_in_a_row} steps in a row")
        return skipped if self.tolerated else False

    def state_dict(self) -> dict:
        return {"num_in_a_row": int(self.num_in_a_row)}

    def load_state_dict(self, state: dict) -> None:
        self.num_in_a_row = state["num_in_a_row"]

    def check(self) -> None:
        """Tells of the steps skipped since the last look. Waits for the device. Raises NonFinite after too many in a row."""
        if isinstance(self.num_over, torch.Tensor) and (late := int(self.num_over)):
            raise NonFinite("the loss or its gradient is not finite", late)
        if num_skipped := int(self.num_skipped):
            log.warning("the loss was not finite in %d steps since the last look: they were left out", num_skipped)
        self.num_skipped = 0
