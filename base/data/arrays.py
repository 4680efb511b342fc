"""Samples in arrays: a batch is a few rows of each, read at once; no sample is fetched or collated alone."""
import logging
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from utils.errors import ConfigError

log = logging.getLogger(__name__)


class ArrayDataset(Dataset):
    """Samples `(inputs[i], targets[i])` of arrays `[N, ...]`; it returns whole batches.

    Args:
        arrays: tensors or NumPy arrays of the same length. An array too large for memory stays in its file:
            `np.load(file, mmap_mode="r")`. uint8 images `[N, C, H, W]` become float32 in [0, 1] when used.

    Raises ValueError if the lengths differ.
    """

    def __init__(self, *arrays: torch.Tensor | np.ndarray):
        if len({len(array) for array in arrays}) != 1:
            raise ValueError("arrays of the same length are needed; these have "
                             f"{', '.join(str(len(a)) for a in arrays)}")
        self.arrays = arrays

    @property
    def resident(self) -> bool:
        """Whether the samples are kept on an accelerator."""
        return any(isinstance(array, torch.Tensor) and not array.is_cpu for array in self.arrays)

    @property
    def row_bytes(self) -> list[int]:
        """The bytes per sample in each array."""
        return [array.nbytes // max(len(array), 1) for array in self.arrays]

    def __getstate__(self) -> dict:
        """For worker processes that are not forked: of an array in a file its location, not its content."""
        return {**vars(self), "arrays": tuple(_memmap_arguments(array) or array for array in self.arrays)}

    def __setstate__(self, state: dict) -> None:
        arrays = tuple(np.memmap(**array) if isinstance(array, dict) else array for array in state["arrays"])
        vars(self).update(state, arrays=arrays)

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        # a copy: transforms may change it in place
        return tuple(_tensor(array[index]).clone() for array in self.arrays)

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, ...]:
        chosen = torch.from_numpy(indices) if isinstance(indices, np.ndarray) else torch.as_tensor(indices)
        return tuple([_rows(array, chosen) for array in self.arrays])


def _memmap_arguments(array: torch.Tensor | np.ndarray) -> dict | None:
    """The arguments of `np.memmap` for an array that is a whole file; None for any other array."""
    if not isinstance(array, np.memmap) or not isinstance(array.base, mmap.mmap) or (
            not array.flags.c_contiguous):
        return None
    mode = "r+" if array.mode == "w+" else array.mode
    return {"filename": array.filename, "dtype": array.dtype, "mode": mode, "offset": array.offset,
            "shape": array.shape}


def _rows(array: torch.Tensor | np.ndarray, chosen: torch.Tensor) -> torch.Tensor:
    if isinstance(array, np.ndarray):
        return torch.from_numpy(np.asarray(array[chosen.numpy()]))
    if not array.is_cpu:
        chosen = chosen.to(array.device, non_blocking=True)
    return array.index_select(0, chosen)


def as_arrays(dataset: Dataset) -> ArrayDataset | None:
    """The samples that a dataset of torch or torchvision holds in memory, as an ArrayDataset.

    None for any other dataset, and for one that fetches, transforms or collates its samples in its own way.
    """
    if hasattr(dataset, "collate_fn"):
        return None
    if isinstance(dataset, ArrayDataset):
        own = any(getattr(type(dataset), name) is not getattr(ArrayDataset, name)
                  for name in ("__getitem__", "__getitems__"))
        return None if own else dataset
    own_ways = ("__getitems__", "transform", "target_transform", "transforms")
    if any(getattr(dataset, name, None) is not None for name in own_ways):
        return None
    fetch = type(dataset).__getitem__
    arrays = _ARRAYS_OF.get((getattr(fetch, "__module__", None), fetch.__qualname__))
    return arrays and ArrayDataset(*arrays(dataset))


def is_in_memory(dataset: Dataset) -> bool:
    """Whether a dataset's samples are arrays in main memory, and none is a file's."""
    arrays = as_arrays(dataset)
    return arrays is not None and not any(isinstance(array, np.memmap) for array in arrays.arrays)


# By the name of the method that fetches a sample, so nothing has to be imported. A subclass with its own
# method does not match.
_ARRAYS_OF: dict[tuple[str, str], Callable[[Any], tuple]] = {
    ("torch.utils.data.dataset", "TensorDataset.__getitem__"): lambda dataset: dataset.tensors,
    ("torchvision.datasets.mnist", "MNIST.__getitem__"): lambda dataset: (
        dataset.data[:, None], _classes(dataset.targets)),
    ("torchvision.datasets.cifar", "CIFAR10.__getitem__"): lambda dataset: (
        torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous(), _classes(dataset.targets)),
    ("torchvision.datasets.svhn", "SVHN.__getitem__"): lambda dataset: (
        torch.from_numpy(dataset.data), _classes(dataset.labels)),
}


def _classes(labels) -> torch.Tensor:
    return torch.as_tensor(labels).to(torch.int64)


def batch_fetcher(dataset: Dataset) -> Callable[[Sequence[int]], Any] | None:
    """The function from indices to a whole batch; None for a dataset that returns samples.

    As in torch, a `__getitems__` that returns a list returns samples; any other result is a batch. An
    inherited `__getitems__` is not used if the class has its own `__getitem__`, which it does not know.
    """
    arrays = as_arrays(dataset)
    if arrays is not None:
        return arrays.__getitems__
    definers = [name for cls in type(dataset).__mro__ for name in ("__getitems__", "__getitem__")
                if name in vars(cls)]
    if definers[:1] != ["__getitems__"] or hasattr(dataset, "collate_fn"):
        return None
    for index in range(min(len(dataset), 10)):
        try:
            return None if isinstance(dataset.__getitems__([index]), list) else dataset.__getitems__
        except Exception:  # this sample cannot be read; another one tells, too
            continue
    return dataset.__getitems__


def move_arrays(dataset: Dataset, name: str, device: torch.device, where: str = "dataset") -> Dataset:
    """The dataset with its arrays on `device` (the run's), if that is of the device type called `name`.

    If the run uses another device, or memory is too small, the dataset stays where it is, and the log says
    so. `where`: the key of its block. Raises ConfigError for samples that are not in arrays.
    """
    arrays = as_arrays(dataset)
    if arrays is None:
        raise ConfigError.at(f"{where}.args.device",
                             f"{type(dataset).__name__} gives its samples one by one; only arrays can be "
                             "kept on a device (see docs/extend.md). Leave it out.")
    if torch.device(name).type != device.type:
        log.info("%s.args.device: the run computes on %s, so the samples are not kept on %s",
                 where, device, name)
        return dataset
    if device.type == "cuda":
        needed, free = sum(array.nbytes for array in arrays.arrays), torch.cuda.mem_get_info(device)[0]
        if needed > free / 2:  # the model and its activations need memory, too
            log.info("%s.args.device: %.1f GB of samples are more than half of the %.1f GB free on %s: "
                     "they stay in memory", where, needed / 1e9, free / 1e9, device)
            return dataset
    arrays.arrays = tuple(_tensor(array).to(device) for array in arrays.arrays)
    return arrays


def _tensor(array: torch.Tensor | np.ndarray) -> torch.Tensor:
    return array if isinstance(array, torch.Tensor) else torch.from_numpy(np.array(array))
