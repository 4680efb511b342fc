"""Errors of torch that have no exception class of their own. Only this file reads the message of an error."""
import logging
import re
from collections.abc import Mapping

DEVICE_ASSERT_ADVICE = ("Most often that is a label outside the classes, or an index outside an Embedding, "
                        "in an earlier call: --device cpu names it.")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory is too small, from any library."""
    import torch  # here: programs that need no torch load this file

    in_message = "out of memory" in str(error) or "can't allocate memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and in_message)


def is_loader_worker_death(error: BaseException | None) -> bool:
    """Whether a worker process of a DataLoader was killed, had no shared memory, or took too long."""
    signs = ("DataLoader worker (pid", "unable to allocate shared memory", "DataLoader timed out")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def is_unused_parameters(error: RuntimeError) -> bool:
    """Whether DistributedDataParallel complains about parameters that had no part in the loss."""
    return "find_unused_parameters" in str(error)


def is_lost_connection(error: BaseException) -> bool:
    """Whether gloo or NCCL could not reach another process."""
    signs = ("/gloo/", "Connection closed by peer", "NCCL")
    return type(error) is RuntimeError and any(sign in str(error) for sign in signs)


def is_device_assert(error: BaseException) -> bool:
    """Whether a CUDA kernel found an index out of range; the error comes late, in any later call."""
    return "device-side assert" in str(error)


def is_freed_graph(error: BaseException) -> bool:
    """Whether backward ran through a graph that an earlier call had freed."""
    return "backward through the graph a second time" in str(error)


def is_missing_graph(error: BaseException) -> bool:
    """Whether a gradient was asked for where none is computed."""
    return "does not require grad" in str(error)


def is_timeout(error: BaseException) -> bool:
    """Whether another process did not answer in time."""
    return "imed out" in str(error)


def is_exit_report(record: logging.LogRecord) -> bool:
    """Whether torchrun's agent logs that a process failed; its arguments begin with exit code and number."""
    text = record.msg if isinstance(record.msg, str) else ""
    return text.startswith("failed (exitcode") and len(record.args or ()) >= 2


def is_of_worker(error: BaseException) -> bool:
    """Whether a DataLoader raises again what its worker process raised; the message has that traceback."""
    return "Original Traceback (most recent call last)" in str(error)


def message_of(error: BaseException) -> str:
    """The message of an error; of one from a loader worker its last line, without the traceback."""
    if not is_of_worker(error):
        return str(error)
    return str(error).strip().splitlines()[-1].removeprefix(f"{type(error).__name__}: ")


def argument_named_by(error: Exception, arguments: Mapping) -> str | None:
    """The only one of a constructor's arguments that its error names, or whose value it quotes."""

    def is_named(name: str, value) -> bool:
        quoted = isinstance(value, str) and len(value) > 2 and value in text
        return quoted or text.endswith(f" {value}") or bool(
            re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text))

    text = str(error)
    named = [name for name, value in arguments.items() if is_named(name, value)]
    return named[0] if len(named) == 1 else None
