"""The device of a run."""
import os
import sys

import torch

from utils.distributed.environment import expected_world_size, is_launched
from utils.errors import ConfigError

_LEAVE_OUT = "Leave --device out to use the best there is."


def pick_device(name: str | None, one_of_several: int | None = None) -> torch.device:
    """The device `name` (cpu, cuda, cuda:N, mps); by default the best available one.

    `one_of_several`: the local rank of this process if several run on this machine. Each uses a GPU of its
    own, or the CPU. Raises ConfigError if the device is missing.
    """
    has_mps = torch.backends.mps.is_available()
    if one_of_several is not None:
        name = f"cuda:{one_of_several}" if _of_several(name) == "cuda" else "cpu"
    elif name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if fault := device_fault(name):
        raise ConfigError(f"--device: {fault}")
    device = torch.device(name)
    if device.type == "mps" and not has_mps:
        raise ConfigError(f"--device: this machine has no mps device. {_LEAVE_OUT}")
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.index >= count:
            raise ConfigError(f"--device: '{name}' is not there: {count} CUDA devices are visible. "
                              f"{_LEAVE_OUT}")
        torch.cuda.set_device(device)
    return device


def device_fault(name: object) -> str | None:
    """What is wrong with the name of a device, as text; None if it is valid."""
    try:
        kind = torch.device(name).type if isinstance(name, str) else None
    except RuntimeError:
        kind = None
    return (None if kind in ("cpu", "cuda", "mps")
            else f"there is no device {name!r}. Choose cpu, cuda, cuda:N or mps.")


def processes_to_start(name: str | None, num_wanted: int | None) -> int:
    """The number of processes: that of a launcher, else `num_wanted`, else one for each GPU.

    `name` is the kind of device. Touches no GPU. Raises ConfigError if the machine has too few devices, or if
    no number is given for the CPU.
    """
    kind = _of_several(name)
    if is_launched():
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if kind == "cuda" and here > torch.cuda.device_count():
            raise ConfigError(f"{here} processes were started and need a GPU each; "
                              f"{torch.cuda.device_count()} are visible")
        return expected_world_size()
    if kind == "cpu" and num_wanted is None:
        raise ConfigError("--distributed: no GPU is to be used here. Say how many processes share the CPU: "
                          "--nproc 2")
    if kind == "cuda" and (num_wanted or 1) > torch.cuda.device_count():
        raise ConfigError(f"--nproc: {num_wanted} processes need a GPU each; "
                          f"{torch.cuda.device_count()} are visible")
    return num_wanted or torch.cuda.device_count()


def _of_several(name: str | None) -> str:
    """The kind of device that several processes use, each its own. Raises ConfigError if not possible."""
    if name not in (None, "cpu", "cuda"):
        raise ConfigError(f"--device: several processes run on cpu or cuda, not on '{name}'")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device: 'cuda' is not there: 0 CUDA devices are visible. "
                          "For the CPU: --device cpu --nproc 2")
    return name or ("cuda" if torch.cuda.is_available() else "cpu")


def synchronize(device: torch.device) -> None:
    """Waits until a device has finished its work."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def peak_memory(device: torch.device) -> int | None:
    """The peak bytes in use: on CUDA by tensors, elsewhere by this process; None on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not available on Windows
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe_device(device: torch.device) -> str:
    """`cpu (2 threads)`, `cuda:0 (NVIDIA H200)`."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)
