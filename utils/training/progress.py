"""The position of training, and the bar that shows it."""
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from tqdm import tqdm


class Position:
    """Completed epochs, consumed batches of the current epoch, optimizer steps.

    A checkpoint also holds the place in the epoch in nominal samples, so that a run can continue with another
    `batch_size`.
    """

    def __init__(self, batch_size: int = 1):
        self.epoch = self.batch = self.step = 0
        self._batch_size = batch_size

    def advance(self, num_batches: int) -> None:
        """Records one optimizer step over `num_batches` batches."""
        self.batch += num_batches
        self.step += 1

    def pass_over(self, num_batches: int) -> None:
        """Records batches that made no step."""
        self.batch += num_batches

    def next_epoch(self) -> None:
        self.epoch, self.batch = self.epoch + 1, 0

    def step_back(self, num_steps: int, accumulate: int) -> None:
        """Goes back by `num_steps` optimizer steps of this epoch, of `accumulate` batches each."""
        if num_steps:
            self.batch = (-(-self.batch // accumulate) - num_steps) * accumulate
            self.step -= num_steps

    def __str__(self):
        return f"epoch {self.epoch + 1}, batch {self.batch:,}, step {self.step:,}"

    def state_dict(self) -> dict:
        return {"epoch": self.epoch, "batch": self.batch, "samples": self.batch * self._batch_size,
                "step": self.step}

    def load_state_dict(self, state: dict) -> None:
        """Loads a state, which may be of a run with another batch size that divides the steps equally."""
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
        if "samples" in state:
            self.batch = -(-state["samples"] // self._batch_size)  # the last batch of an epoch may be short


class SaveInterval:
    """Decides when a checkpoint is due: every N epochs, steps or minutes, whichever comes first."""

    def __init__(self, epochs: int | None = None, steps: int | None = None, minutes: float | None = None):
        self.epochs, self.steps, self.minutes = epochs, steps, minutes
        self.saved()

    def saved(self) -> None:
        """Records that a checkpoint was written: the minutes start again."""
        self._saved_at = time.monotonic()

    @property
    def time_is_up(self) -> bool:
        """Whether the minutes have passed."""
        return bool(self.minutes and time.monotonic() - self._saved_at >= 60 * self.minutes)

    def due(self, step: int, time_is_up: bool, epoch: int | None = None) -> bool:
        """Whether a checkpoint is due after `step` steps in total and, at an epoch's end, `epoch` epochs."""
        return bool(time_is_up or (self.steps and step % self.steps == 0)
                    or (self.epochs and epoch and epoch % self.epochs == 0))


def parse_save_interval(table: dict) -> SaveInterval:
    """Parses `{"steps": 500, "minutes": 10}` into a SaveInterval. Raises ValueError for anything else."""
    for name, value in table.items():
        if name not in ("epochs", "steps", "minutes"):
            raise ValueError(f"'{name}' is no interval. "
                             "Write one or more of {epochs: 1, steps: 500, minutes: 10}")
        if isinstance(value, bool) or not isinstance(
                value, int if name != "minutes" else (int, float)) or value <= 0:
            raise ValueError(f"{name}: {value!r} is no "
                             f"{'number' if name == 'minutes' else 'whole number'} above 0")
    if not table:
        raise ValueError("is empty. Write one or more of {epochs: 1, steps: 500, minutes: 10}")
    return SaveInterval(**table)


def accumulation_windows(batches: Iterable, size: int) -> Iterator[list]:
    """Yields lists of `size` batches, one list for each optimizer step; the last may be shorter."""
    batches = iter(batches)
    while window := list(islice(batches, size)):
        yield window


def parse_duration(time_text: str | float | None) -> float | None:
    """Parses 90, "1:30" and "0:01:30" into 90.0 seconds. Raises ValueError for other text."""
    if time_text is None or not isinstance(time_text, str):
        return time_text
    parts = time_text.split(":")
    if len(parts) not in (2, 3) or not all(part.isdigit() for part in parts):
        raise ValueError(f"'{time_text}' is no time. Write seconds (5400) or \"h:mm:ss\" (\"1:30:00\")")
    return float(sum(int(part) * 60**power for power, part in enumerate(reversed(parts))))


class TimeLeft:
    """Estimates how long something will still take, from its pace since the first call."""

    def __init__(self):
        self._began: tuple[float, float] | None = None

    def describe(self, done: float, whole: float) -> str:
        """`1:12:05` at `done` of `whole`; "" while nothing is known."""
        now = time.monotonic()
        self._began = self._began or (now, done)
        began_s, before = self._began
        if done <= before:
            return ""
        return tqdm.format_interval((whole - done) * (now - began_s) / (done - before))


class ProgressBar:
    """A tqdm bar, on a terminal or in a notebook. `note()` returns the text at its end, twice a second."""

    def __init__(self, label: str, total: int | None, start: int = 0, note: Callable[[], str] | None = None,
                 shown: bool = True):
        self._bar, self._note, self._next_note_s = None, note, 0.0
        in_notebook = "ipykernel" in sys.modules
        if shown and (in_notebook or sys.stderr.isatty()):
            bar = tqdm
            if in_notebook:  # a bar of its own; as text where ipywidgets is missing
                from tqdm.auto import tqdm as bar  # imports much that a terminal does not need
            self._bar = bar(desc=label, total=total, initial=start, leave=False, mininterval=0.2,
                            dynamic_ncols=True)

    def update(self, count: int) -> None:
        if self._bar is None:
            return
        if self._note and (now := time.monotonic()) >= self._next_note_s:
            self._next_note_s = now + 0.5
            self._bar.set_postfix_str(self._note(), refresh=False)
        self._bar.update(count)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
