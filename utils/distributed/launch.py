"""`train.py --distributed`: starts processes on this machine, forwards signals, returns one exit code."""
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from pathlib import Path

from utils.distributed.environment import END_SIGNALS, LAUNCHED_BY
from utils.signals import NAMES, ignore_signals, set_handler
from utils.torch_messages import is_exit_report

log = logging.getLogger(__name__)


def launch(program: Sequence[str], num_processes: int, max_restarts: int) -> int:
    """Runs `python PROGRAM...` in `num_processes` processes on this machine by torchrun's elastic agent.

    If one dies, all are ended and start again, up to `max_restarts` times. A signal is forwarded; a second
    one ends all. Returns 0 if all ended well; 2 for a user's mistake, without restart; 128 + signal; else 1.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(_num_cores() // num_processes, 1)))
    os.environ[LAUNCHED_BY] = str(os.getpid())
    run_id = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").addFilter(_FailureReport(max_restarts))
    ended_by, codes = run_processes(program, num_processes, max_restarts, run_id, _install_handlers)
    ignore_signals()
    if ended_by is not None:
        return next((code for code, number in END_SIGNALS.items() if number == ended_by), 128 + ended_by)
    return _common_exit_code(codes)


def run_processes(program: Sequence[str], num_processes: int, max_restarts: int, run_id: str,
                  install_handlers: Callable[[Callable[[int], None]], None]) -> tuple[int | None, list[int]]:
    """Runs `python PROGRAM...` in `num_processes` processes with torchrun's elastic agent until they end.

    `install_handlers(end)` makes signals call `end(number)`, which ends the processes with that signal.
    Returns the signal's number or None, and the exit codes of the processes that failed.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in [name for name in logging.root.manager.loggerDict
                 if name.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.ERROR)  # else it logs every signal that it sends
    patient = "shutdown_timeout" in {field.name for field in fields(LaunchConfig)}  # old torch waits 30 s
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=num_processes, run_id=run_id, rdzv_backend="c10d",
            rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=max_restarts,
            logs_specs=DefaultLogsSpecs(log_dir=folder), signals_to_handle="SIGQUIT",
            **{"shutdown_timeout": 3600} if patient else {})  # saving a checkpoint may take long

        def end(number: int):
            raise SignalException(f"signal {number}", signal.Signals(number))

        install_handlers(end)
        try:
            elastic_launch(config, sys.executable)(*program)
        except SignalException as ended:
            return int(ended.sigval), []
        except ChildFailedError as failed:
            return None, [failure.exitcode for failure in failed.failures.values()]
    return None, []


def _install_handlers(end: Callable[[int], None]) -> None:
    """Installs signal handlers: the first signal calls `end`, a SIGINT after it ends all at once."""
    received = []

    def handle(number, frame):
        received.append(number)
        if len(received) == 1:
            end(number)
        elif number == signal.SIGINT:
            log.error("ended by SIGINT")
            _kill_children()
            os._exit(128 + number)

    for number in [getattr(signal, name) for name in NAMES
                   if hasattr(signal, name)] + [*END_SIGNALS.values()]:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup stays nohup
            set_handler(number, handle)


class _FailureReport(logging.Filter):
    """Replaces the agent's message about a failed process by a plain one that also says what follows."""

    def __init__(self, max_restarts: int):
        super().__init__()
        self.max_restarts, self.num_failures = max_restarts, 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not is_exit_report(record):
            return True
        code, number = record.args[:2]
        self.num_failures += 1
        follows = (f"; restart {self.num_failures} of {self.max_restarts}"
                   if self.num_failures <= self.max_restarts else
                   ", and no restart is left" if self.max_restarts else "")
        if follows or code not in (1, 2) and not _is_clean_stop(code):  # else the process has reported it
            log.error("process %d %s%s", number, _describe_exit(code), follows)
        return False


def _common_exit_code(codes: Collection[int]) -> int:
    """One exit code for all failed processes; some of them failed only because others had failed."""
    agreed = {code for code in codes if _is_clean_stop(code)}
    return 0 if not codes else 2 if 2 in codes else min(agreed) if agreed == {*codes} else 1


def _is_clean_stop(code: int) -> bool:
    """Whether a signal ended the process as intended: together with all others, and with everything saved."""
    return 128 < code < 192


def _describe_exit(code: int) -> str:
    number = -code if code < 0 else code - 128
    if number in {*signal.Signals}:
        return f"was {'killed' if code < 0 else 'ended'} by {signal.Signals(number).name}"
    return "failed" if code in (1, 2) else f"failed with exit code {code}"


def _kill_children() -> None:
    """Kills all processes left after a second signal. Linux only; elsewhere they notice it themselves."""
    for file in Path("/proc/self/task").glob("*/children"):
        for number in file.read_text().split():
            try:
                os.killpg(int(number), signal.SIGKILL)  # its session includes its loader workers
            except (ProcessLookupError, PermissionError):
                pass


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
