"""torchrun's elastic agent: starts and restarts the processes of a run on this machine."""
import logging
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields


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
