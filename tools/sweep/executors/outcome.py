"""What starts the processes of a sweep must offer, and how a process ended."""
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Outcome:
    """How a process of train.py ended.

    Args:
        code: the exit code that train.py itself returned; None if it was lost, to be started again.
        node: the machine on which it ran.
        text: why it was lost; else empty.
    """

    code: int | None
    node: str
    text: str = ""


class Executor(Protocol):
    """Starts processes of train.py, here or on other machines, and reports their ends."""

    def start(self, number: int, argv: list[str], env: Mapping[str, str], log: Path) -> None:
        """Starts `python *argv` with more environment variables; its output is appended to `log`."""

    def poll(self) -> list[tuple[int, Outcome]]:
        """The numbers of the trials that have ended since the last call, and how."""

    def stop(self) -> None:
        """Sends SIGTERM to all, which then save and end. A second call kills them."""

    def capacity(self) -> int:
        """How many can run at once."""

    def close(self) -> None:
        """Leaves no process behind."""
