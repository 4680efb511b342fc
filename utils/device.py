"""The device a run computes on."""
import torch

from utils.errors import ConfigError


def pick_device(name: str | None) -> torch.device:
    """The device called `name` (cpu, cuda, cuda:N, mps); by default the best there is. Raises ConfigError."""
    has_mps = torch.backends.mps.is_available()
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device: there is no device '{name}'. Choose cpu, cuda, cuda:N or mps.") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"--device: '{name}' is not supported. Choose cpu, cuda, cuda:N or mps.")
    if device.type == "mps" and not has_mps:
        raise ConfigError("--device: this machine has no mps device. Leave --device out to use the best there is.")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(f"--device: '{name}' is not there: {count} CUDA devices are visible. "
                              "Leave --device out to use the best there is.")
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    return device


def describe_device(device: torch.device) -> str:
    """`cpu (2 threads)`, `cuda:0 (NVIDIA H200)`."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)
