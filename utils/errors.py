"""What can go wrong for a user, and how it is said: one message, an exit code, no traceback."""
import logging
import os
import sys
import traceback
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
log = logging.getLogger(__name__)


# What is wrong with a config: the key path, the message; where it was written, if that is not where the key's value was.
Fault = tuple[tuple, str] | tuple[tuple, str, str]


class ConfigError(Exception):
    """A user's mistake in a config, a path or an argument. Exit code 2.

    `faults` are those of its values, if it is about such; `utils.config.located` adds where they were written.
    """

    def __init__(self, message: str, faults: Iterable[Fault] = ()):
        super().__init__(message)
        self.faults = list(faults)

    @classmethod
    def of(cls, faults: list[Fault]) -> "ConfigError":
        """The error of several values."""
        lines = [f"{'.'.join(map(str, path))}: {message}" if path else message for path, message, *_ in faults]
        return cls("\n".join(lines), faults)

    @classmethod
    def at(cls, key: str, message: str) -> "ConfigError":
        """The error of a single value: `ConfigError.at("optimizer.args.lr", "'fast' is text; ...")`."""
        return cls.of([(tuple(key.split(".")), message)])

    def with_hint(self, hint: str) -> "ConfigError":
        """The same error, and on a line of its own what might help."""
        return ConfigError(f"{self}\n{hint}", [(path, f"{message}\n{hint}", *where) for path, message, *where in self.faults])


class Attempts:
    """Several things to try: `with attempts: ...` for each, and `attempts.end()` raises one ConfigError for all that failed."""

    def __init__(self):
        self.errors: list[ConfigError] = []

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback) -> bool:
        if isinstance(error, ConfigError):
            self.errors.append(error)
        return isinstance(error, ConfigError)

    def end(self) -> None:
        if self.errors:
            faults = [fault for error in self.errors for fault in error.faults or [((), str(error))]]
            raise ConfigError.of(list(dict.fromkeys(faults))) from self.errors[0]  # two splits may lack the same folder


class TrainingError(Exception):
    """Training cannot go on, through nobody's typing: a loss that is not finite, say. Exit code 1."""


class Interrupted(Exception):
    """A signal, or a time budget that is spent, ended the run; its checkpoint is written. Exit code 128 + signal, or 0."""

    def __init__(self, message: str, signal_number: int | None = None):
        super().__init__(message)
        self.signal_number = signal_number


def describe_error(error: BaseException) -> str:
    """`ValueError: width must be positive (model/mlp.py:12)`: the error and its innermost line in this project."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({_short(error.filename)}:{error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_ours(frame.filename)]
    plug_ins = [frame for frame in frames if _is_plug_in(Path(frame.filename))]
    where = f" ({_short(plug_ins[-1].filename)}:{plug_ins[-1].lineno})" if plug_ins else ""
    return f"{type(error).__name__}: {error}{where}"


def _is_plug_in(file: Path) -> bool:
    """Whether `file`, of this project, is what users write: neither the engine nor a program of the top level."""
    folder, *inside = file.relative_to(PROJECT).parts
    return bool(inside) and folder not in ("base", "tools", "utils")


def is_ours(file: str) -> bool:
    """Whether `file` is the project's own code (and not in a virtual environment that lies inside it)."""
    return Path(file).is_relative_to(PROJECT) and "site-packages" not in file


def _short(file: str) -> str:
    return os.path.relpath(file, PROJECT) if is_ours(file) else file


@contextmanager
def exit_codes(verbose: bool = False):
    """Runs an entry point's body and turns what it raises into a message and an exit code."""
    try:
        yield
    except (ConfigError, TrainingError, Interrupted) as error:
        if verbose:
            traceback.print_exc()
        if logging.getLogger().handlers:
            log.log(logging.INFO if isinstance(error, Interrupted) else logging.ERROR, "%s", error)
        else:  # the mistake came before logging was set up
            print(error, file=sys.stderr)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:  # before the loop began
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def exit_code(error: BaseException) -> int:
    """0 for a spent budget, 128 + signal after a signal, 2 for a user's mistake, 1 for anything else."""
    if isinstance(error, Interrupted):
        return 128 + error.signal_number if error.signal_number else 0
    return 2 if isinstance(error, ConfigError) else 1
