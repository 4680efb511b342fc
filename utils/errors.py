"""Errors of a user's run and how they are reported: one message, an exit code, no traceback."""
import errno
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from utils.moved import former_names_of

__getattr__ = former_names_of(__name__)

PROJECT = Path(__file__).resolve().parent.parent
log = logging.getLogger(__name__)
# All but newlines and tabs; also the ones that change the order of the text around them.
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with its control characters as escapes: a terminal must not obey the names in a config."""
    return _CONTROL_CHARACTERS.sub(lambda match: repr(match[0])[1:-1], text)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a config at the key path `path`; the path () stands for the config as a whole.

    `place`: where it was written, such as "configs/mnist.yaml:14"; None for the place of the key's value.
    """

    path: tuple
    message: str
    place: str | None = None

    @property
    def key(self) -> str:
        """The path as it is written: `optimizer.args.lr`."""
        return printable(".".join(map(str, self.path)).replace("\n", "\\n"))

    def below(self, path: tuple) -> "Fault":
        """The same fault of a config that is a part of another one, at `path`."""
        return replace(self, path=(*path, *self.path))


class WrongValue(Fault):
    """A value of the wrong type, or outside the allowed values. The message quotes it."""


class UnresolvedReference(Fault):
    """A reference such as `${seed}` that leads nowhere; the config keeps its text."""


class ConfigError(Exception):
    """A user's mistake in a config, a path or an argument. Exit code 2.

    `faults`: those of config values, if any; `utils.config.loading.located` adds their places.
    """

    def __init__(self, message: str, faults: Iterable[Fault] = ()):
        super().__init__(message)
        self.faults = list(faults)

    @classmethod
    def of(cls, faults: Iterable[Fault | tuple]) -> "ConfigError":
        """The error for several values. A fault may also be a plain tuple (path, message)."""
        faults = [fault if isinstance(fault, Fault) else Fault(*fault) for fault in faults]
        return cls("\n".join(f"{fault.key}: {fault.message}" if fault.path else fault.message
                             for fault in faults), faults)

    @classmethod
    def at(cls, key: str, message: str) -> "ConfigError":
        """The error for a single value: `ConfigError.at("optimizer.args.lr", "'fast' is text; ...")`."""
        return cls.of([Fault(tuple(key.split(".")), message)])

    def with_hint(self, hint: str) -> "ConfigError":
        """The same error with a hint on a line of its own."""
        return ConfigError(f"{self}\n{hint}", [replace(fault, message=f"{fault.message}\n{hint}")
                                               for fault in self.faults])


class Attempts:
    """Several attempts, each in `with attempts: ...`; `attempts.end()` raises one ConfigError for all."""

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
            faults = [fault for error in self.errors for fault in error.faults or [Fault((), str(error))]]
            raise ConfigError.of(list(dict.fromkeys(faults))) from self.errors[0]  # drops duplicate faults


class TrainingError(Exception):
    """Training cannot continue, but not by a user's mistake: the loss is not finite, etc. Exit code 1."""


class FailedStep(TrainingError):
    """The code of a model, a dataset or another plug-in failed within the run. A launcher may restart it."""


class Interrupted(Exception):
    """A signal or the end of max_time stopped the run after a save. Exit code 128 + signal, or 0."""

    def __init__(self, message: str, signal_number: int | None = None, reason: str | None = None):
        super().__init__(message)
        self.signal_number, self.reason = signal_number, reason or message


def unwritable(path: Path, error: OSError) -> ConfigError | TrainingError:
    """The error for what cannot be written: a full disk is no mistake of the user's, anything else is."""
    kind = TrainingError if error.errno in (errno.ENOSPC, errno.EDQUOT) else ConfigError
    return kind(f"{path}: cannot be written: {error.strerror or error}")


def describe_error(error: BaseException) -> str:
    """`ValueError: width must be positive (model/mlp.py:12)`: the error and its innermost project line."""
    from utils.torch_messages import message_of  # here: --help needs none of it

    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({_short(error.filename)}:{error.lineno})"
    plug_ins = [frame for frame in traceback.extract_tb(error.__traceback__) if is_plug_in(frame.filename)]
    where = f" ({_short(plug_ins[-1].filename)}:{plug_ins[-1].lineno})" if plug_ins else ""
    return f"{type(error).__name__}: {message_of(error)}{where}"


def is_plug_in(file: str) -> bool:
    """Whether `file` is user code of this project: not the engine, not a program of the top folder."""
    folder, *inside = Path(file).relative_to(PROJECT).parts if is_ours(file) else [""]
    return bool(inside) and folder not in ("base", "tools", "utils")


def passes_plug_in(error: BaseException) -> bool:
    """Whether an error came out of user code, and not of the engine alone."""
    return any(is_plug_in(frame.filename) for frame in traceback.extract_tb(error.__traceback__))


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
        else:  # the error was raised before logging was set up
            print(printable(str(error)), file=sys.stderr)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:  # before the training loop
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def exit_code(error: BaseException) -> int:
    """0 at the end of max_time, 128 + signal after a signal, 2 for a user's mistake, 1 for anything else."""
    if isinstance(error, Interrupted):
        return 128 + error.signal_number if error.signal_number else 0
    return 2 if isinstance(error, ConfigError) else 1
