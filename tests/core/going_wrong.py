"""train.py in a process that harms itself: it sends itself signals, or is killed between two names of a file.

    python -m tests.core.going_wrong ARGUMENTS     # those of train.py, with `trainer.type=Harmed`
"""
import os
import runpy
import signal
import sys
from pathlib import Path

from base import TRAINERS
from trainer.trainer import Trainer


@TRAINERS.register
class Harmed(Trainer):
    """Args:
        signals: numbers of signals that this process sends itself after its third step, one right after the
            other.
        kill_between_names: at which save under both names, best.pt and last.pt, SIGKILL comes between the
            two; the first such save is number 1. By default at none.
    """

    def __init__(self, *, signals: list[int] = (), kill_between_names: int | None = None, **rest):
        super().__init__(**rest)
        self.signals, self.kill_between_names = signals, kill_between_names

    def on_train_start(self):
        if self.kill_between_names:
            sys.addaudithook(KillBetweenNames(self.kill_between_names))

    def on_step_end(self):
        if self.position.step == 3:
            for number in self.signals:
                signal.raise_signal(number)


class KillBetweenNames:
    """Hears of a renaming before it happens. Kills where a file is about to get the second of the names."""

    def __init__(self, number: int):
        self.number, self.file, self.name = number, None, None  # of the last renaming to one of the two names

    def __call__(self, event: str, args: tuple) -> None:
        if event != "os.rename" or Path(args[1]).name not in ("best.pt", "last.pt"):
            return
        file, name = os.stat(args[0]).st_ino, Path(args[1]).name
        if file == self.file and name != self.name:
            self.number -= 1
            if self.number == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        self.file, self.name = file, name


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may be run by nohup
    sys.argv[0] = "train.py"
    runpy.run_path("train.py", run_name="__main__")
