"""Runs trials on the nodes of a Ray cluster, over a folder that all of them share; see docs/sweep_ray.md."""
import importlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.sweep.executors import ray_task
from tools.sweep.executors.outcome import Outcome
from utils.errors import ConfigError, TrainingError

log = logging.getLogger(__name__)
_CHILD = Path(__file__).with_name("child.py")
_KEY = "sweep.run_on"
_CURRENT = Path("/tmp/ray/ray_current_cluster")  # where Ray notes the address of the cluster begun last
_ANSWER_S = 5.0
_LOOK_EVERY_S = 2.0  # whether the head answers
_HEAD_GONE_S = 30.0  # it may be started again meanwhile
_RECONNECT_S = (1, 4, 15, 30)  # pauses between attempts
_NO_ACCESS = ("the cluster wants a token that this process has not. Set RAY_AUTH_MODE=token and "
              "RAY_AUTH_TOKEN_PATH to the cluster's token, here and on every machine.")


class RayExecutor:
    """Trials as tasks of Ray; what Ray loses is reported as lost, never as failed. Raises ConfigError.

    Args:
        address: "auto": the cluster that this machine belongs to; HOST:PORT; or "local": one of its own, on
            this machine, for as long as this process lives.
        cpus_per_trial, gpus_per_trial: what a trial takes of a node; half a GPU is 0.5. Memory is not shared
            out.
    """

    def __init__(self, address: str | None = "auto", cpus_per_trial: int = 1, gpus_per_trial: float = 0):
        self._address, self._cpus, self._gpus = address or "auto", cpus_per_trial, gpus_per_trial
        self._ray = _import_ray()
        self._running: dict[Any, int] = {}  # the number by the reference to its result
        self._stopped, self._capacity = False, 0
        try:
            self._connect()
            self._require_room()
            self._compare_nodes()
        except BaseException:
            self.close()
            raise

    def start(self, number: int, argv: list[str], env: Mapping[str, str], log: Path) -> None:
        """Hands a program to Ray; see Executor. Raises TrainingError if the cluster is gone for good."""
        if not self._ray.is_initialized():
            self._reconnect()
        if not self._gpus:
            env = {**env, "CUDA_VISIBLE_DEVICES": ""}
        task = self._task(ray_task.run_program, num_cpus=self._cpus, num_gpus=self._gpus,
                          scheduling_strategy="SPREAD")
        reference = task.remote(str(_CHILD), [*map(str, argv)], dict(env), str(log.absolute()), os.getcwd())
        self._running[reference] = number

    def poll(self) -> list[tuple[int, Outcome]]:
        """The trials that have ended. An error of Ray's is a loss."""
        ended: list[tuple[int, Outcome]] = []
        if not self._running:
            return ended
        self._look()
        if why := self._gone():
            return self._lose_all(why)
        ready, _ = self._ray.wait([*self._running], num_returns=len(self._running), timeout=0)
        for reference in ready:
            try:
                outcome = Outcome(**self._ray.get(reference))
            except self._ray.exceptions.LocalRayletDiedError as error:
                return ended + self._lose_all(_first_sentence(error))
            except self._ray.exceptions.RayError as error:
                outcome = Outcome(None, "", _first_sentence(error))
            ended.append((self._running.pop(reference), outcome))
        return ended

    def stop(self) -> None:
        """Interrupts all tasks, which pass it on as SIGTERM; the second call kills their workers."""
        for reference in self._running:
            self._ray.cancel(reference, force=self._stopped)
        self._stopped = True

    def capacity(self) -> int:
        """How many the nodes that live have room for, at least one: it may wait for a node."""
        if self._ray.is_initialized():
            self._look()
        return max(self._capacity, 1)

    def close(self) -> None:
        """Leaves the cluster; what still runs is killed, and its trials save and end."""
        if self._ray.is_initialized():
            for reference in self._running:
                self._ray.cancel(reference, force=True)
            self._ray.shutdown()
        self._running.clear()

    def _connect(self) -> None:
        ray, address = self._ray, self._address
        options = {"address": address, "logging_level": "ERROR", "log_to_driver": False}
        if address == "local":
            options |= {"include_dashboard": False}
        else:
            _require_answer(address)
        own = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM)
        try:
            ray.init(**options)
        except ray.exceptions.AuthenticationError as error:
            raise ConfigError.at(_KEY, _NO_ACCESS) from error
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            # the error that comes in the end is another one, and no type tells
            chain = (error, error.__cause__, error.__context__)
            denied = any("InvalidAuthToken" in str(one) for one in chain)
            text = _NO_ACCESS if denied else f"Ray at '{address}': {_first_sentence(error)}"
            raise ConfigError.at(_KEY, text) from error
        finally:
            if own:
                signal.signal(signal.SIGTERM, own)  # Ray puts one of its own in its place
        here = ray.get_runtime_context()
        self._head, self._own_node, self._own_node_lives = here.gcs_address, here.get_node_id(), True
        self._answered_s, self._next_look_s = time.monotonic(), 0.0

    def _reconnect(self) -> None:
        for pause in _RECONNECT_S:
            time.sleep(pause)
            try:
                return self._connect()
            except ConfigError as error:
                log.warning("%s", error)
        raise TrainingError(f"Ray at '{self._address}' is gone. Start it, and give the same command again: "
                            "all trials go on.")

    def _lose_all(self, why: str) -> list[tuple[int, Outcome]]:
        """All tasks are lost with this process's connection: Ray ends them, and Ray is left."""
        lost = [(number, Outcome(None, "", why)) for number in self._running.values()]
        self._running.clear()
        self._ray.shutdown()
        return lost

    def _look(self) -> None:
        """Takes in which nodes live, every LOOK_EVERY_S, if the head answers.

        A call to a head that is gone would block, and after a minute Ray ends this process.
        """
        if time.monotonic() < self._next_look_s:
            return
        if _answers(self._head, timeout=1.0):
            sizes, before = self._sizes(), self._capacity
            self._answered_s, self._own_node_lives = time.monotonic(), self._own_node in sizes
            self._capacity = sum(map(self._room, sizes.values()))
            if before and not self._capacity:
                log.warning("no node of the Ray cluster has room for a trial any more: waiting for one")
        self._next_look_s = time.monotonic() + _LOOK_EVERY_S

    def _gone(self) -> str:
        """Why this process's connection is of no use any more; empty while it is."""
        if not self._own_node_lives:
            return "the Ray node of this machine has died"
        silent_s = time.monotonic() - self._answered_s
        return "the head of the Ray cluster does not answer" if silent_s > _HEAD_GONE_S else ""

    def _sizes(self) -> dict[str, dict[str, float]]:
        """The resources of each node that lives, by its id."""
        return {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}

    def _room(self, resources: Mapping[str, float]) -> int:
        """How many trials fit into these resources of a node."""
        rooms = [resources.get("CPU", 0) // self._cpus]
        if self._gpus:
            rooms.append(resources.get("GPU", 0) // self._gpus if self._gpus >= 1 else
                         resources.get("GPU", 0) * (1 // self._gpus))  # one trial is on one GPU
        return int(min(rooms))

    def _require_room(self) -> None:
        sizes = self._sizes().values()
        if not any(map(self._room, sizes)):
            wanted, *have = (f"{size.get('CPU', 0):g} CPUs and {size.get('GPU', 0):g} GPUs"
                             for size in ({"CPU": self._cpus, "GPU": self._gpus}, *sizes))
            raise ConfigError.at(_KEY, f"a trial takes {wanted}, and no node has them. The nodes have: "
                                       f"{', '.join(have)}. Set cpus_per_trial and gpus_per_trial.")
        if not self._gpus and any(size.get("GPU") for size in sizes):
            log.warning("%s: the cluster has GPUs, but gpus_per_trial is 0: trials compute on the CPU", _KEY)

    def _compare_nodes(self) -> None:
        """Raises ConfigError for a node without this folder; warns of other versions."""
        folder, packages = str(_CHILD.parent), ["torch", "torchvision", "numpy"]
        own = ray_task.describe_node(folder, packages)
        affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        places = [affinity(node, soft=False) for node in self._sizes()]
        asked = [self._task(ray_task.describe_node, num_cpus=0, scheduling_strategy=place)
                 for place in places]
        for reference in [task.remote(folder, packages) for task in asked]:
            try:
                found = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                log.warning("%s: a node does not answer: %s", _KEY, _first_sentence(error))
                continue
            if not found["has_folder"]:
                raise ConfigError.at(_KEY, f"node {found['node']} has no folder {folder}. All nodes need the "
                                           "project, and its saved/, in one shared folder.")
            others = [f"{name} {version} (here {own['versions'][name]})"
                      for name, version in found["versions"].items() if version != own["versions"][name]]
            if others:
                log.warning("%s: node %s has %s: its trials may have other last bits", _KEY, found["node"],
                            ", ".join(others))

    def _task(self, function: Any, **options: Any) -> Any:
        return self._ray.remote(function).options(max_retries=0, **options)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError.at(f"{_KEY}.type", "'ray' needs the package ray: pip install ray. "
                                             "Or take processes.") from error
    ray.cloudpickle.register_pickle_by_value(ray_task)
    return ray


def _require_answer(address: str) -> None:
    """Raises ConfigError unless something listens at an address: Ray itself would wait for minutes."""
    where = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
    hint = "Start a cluster (ray start --head --port=6379), or write address: local."
    if where == "auto":
        if not _CURRENT.exists():
            raise ConfigError.at(_KEY, f"no Ray cluster runs on this machine. {hint}")
        where = _CURRENT.read_text().strip()
    host, colon, port = where.rpartition(":")
    if not colon or not host or not port.isdigit() or "/" in host:
        raise ConfigError.at(f"{_KEY}.address", f"'{address}' is none of: auto, local, HOST:PORT.")
    if not _answers(where, _ANSWER_S):
        raise ConfigError.at(_KEY, f"no Ray cluster answers at {where}. {hint}")


def _answers(address: str, timeout: float) -> bool:
    """Whether something listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout).close()
    except (OSError, OverflowError):
        return False
    return True


def _first_sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].partition('. ')[0][:200] if lines else ''}"
