"""Skips optimizer steps whose loss or gradient is not finite."""
import logging
import math

import torch

log = logging.getLogger(__name__)


class NonFinite(Exception):
    """A loss or a gradient is NaN or infinite. The weights are still those from before the step.

    `num_late`: steps from the skipped one to now, that one included; 0 while it still runs. `here`: whether
    this process saw the value itself, as far as it knows.
    """

    def __init__(self, message: str, num_late: int = 0, here: bool = True):
        super().__init__(message)
        self.num_late, self.here = num_late, here


class NonFiniteGuard:
    """Checks every loss and every known gradient norm, and prevents steps with values that are not finite.

    On the CPU the host sees a bad value at once. On an accelerator the host does not wait: steps are masked
    on the device (`mask`), as with found_inf of GradScaler, and `check` reports them at the next log point.

    Args:
        tolerated: how many steps in a row may be skipped before NonFinite is raised.
        shared: whether several processes decide together. One loss may be bad, and all processes must skip
            the step. So `inspect` only records the value, and `settle` acts when all processes know.
    """

    def __init__(self, tolerated: int = 0, shared: bool = False):
        self.tolerated, self.shared = tolerated, shared
        self.seen: str | None = None  # the bad value that this process saw in the current step
        self.skipped: bool | torch.Tensor = False  # the current step is skipped; on an accelerator 0-dim bool
        self.over: bool | torch.Tensor = False  # more skipped in a row than tolerated: all steps are skipped
        self.num_in_a_row: int | torch.Tensor = 0
        self.num_skipped: int | torch.Tensor = 0  # since the last `check`
        self.num_over: int | torch.Tensor = 0  # steps since then

    def inspect(self, value: torch.Tensor, what: str = "loss", everywhere: bool = False) -> None:
        """Checks a 0-dim loss or gradient norm. `everywhere`: it has the same value on all processes.

        Raises NonFinite on the CPU if no bad step is tolerated and no other process has to know.
        """
        if not value.is_cpu:
            bad = value.detach() * 0 != 0  # isfinite would launch four kernels, in every step
            self.skipped = bad if self.skipped is False else self.skipped | bad
        elif not math.isfinite(number := value.item()):
            self.skipped, self.seen = True, f"the {what} is {number}"
            if everywhere or not self.shared:
                self._refuse()

    def settle(self, any_skipped: torch.Tensor) -> None:
        """Applies the common result: 0-dim, above 0 if any process has to skip the step."""
        if not any_skipped.is_cpu:
            self.skipped = any_skipped > 0
        elif any_skipped.item() > 0:
            self.skipped = True
            self._refuse()

    def _refuse(self) -> None:
        if not self.tolerated:
            raise NonFinite(self.seen or "the loss of another process is not finite",
                            here=self.seen is not None)

    @property
    def mask(self) -> torch.Tensor | None:
        """0-dim bool on the device: whether the step must be skipped; None if the host knows it already."""
        return self.skipped | self.over if isinstance(self.skipped, torch.Tensor) else None

    def end_step(self) -> bool | torch.Tensor:
        """Call after every step. Returns whether to skip it. On the CPU too many in a row raise NonFinite."""
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

    def abandon_step(self) -> None:
        """Forgets what was seen in a step that is not completed."""
        self.skipped, self.seen = False, None

    def state_dict(self) -> dict:
        return {"num_in_a_row": int(self.num_in_a_row)}

    def load_state_dict(self, state: dict) -> None:
        self.num_in_a_row = state["num_in_a_row"]

    def check(self) -> None:
        """Reports the steps skipped since the last call. Waits for the device. Too many raise NonFinite."""
        if isinstance(self.num_over, torch.Tensor) and (late := int(self.num_over)):
            raise NonFinite("the loss or its gradient is not finite", late)
        if num_skipped := int(self.num_skipped):
            log.warning("the loss was not finite in %d steps since the last look: they were left out",
                        num_skipped, extra={"event": "skipped_steps"})
        self.num_skipped = 0
