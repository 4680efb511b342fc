"""Processing of whole batches on the device: images become floats, then the `batch` transforms."""
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from base.data.augmentation import BatchAugmentation, Draws, repeat_offsets
from base.data.nested import on_input, on_tensors, to_device
from base.data.sampler import Chosen
from base.data.views import Transform
from utils.random import derive


class BatchPreparation:
    """Turns a loaded batch into the model's input.

    Args:
        transforms: applied to whole batches; a BatchAugmentation among them is applied in training only.
        seed: with a sample's epoch and index it determines the numbers that augmentations draw for the
            sample.
        joint: False keeps augmentations from moving masks with their images.
    """

    def __init__(self, transforms: Sequence[Transform | BatchAugmentation], seed: int,
                 joint: bool | None = None):
        self.transforms, self.seed, self.joint = transforms, seed, joint
        # copies are made in this stream, while the GPU still computes earlier steps
        self._side: torch.cuda.Stream | None = None
        self.augments = any(isinstance(transform, BatchAugmentation) for transform in transforms)
        self._first = _in_place(transforms[0]) if transforms else None  # for floats that were made here

    def __call__(self, batch: Any, device: torch.device, channels_last: bool = False,
                 chosen: Chosen | None = None) -> Any:
        """The batch on `device`; `chosen` are the samples of a training batch, None in evaluation.

        uint8 images `[B, C, H, W]` first become float32 in [0, 1].
        """
        if device.type == "cuda":
            batch = self._copied(batch, device)
        if device.type != "cpu":  # all that is not copied yet
            batch = to_device(batch, device)
        given, batch = batch, on_input(batch, _as_floats)
        draws = self._draws(chosen, device) if chosen and self.augments else None
        for number, transform in enumerate(self.transforms):
            if not isinstance(transform, BatchAugmentation):
                transform = self._first if number == 0 and batch is not given else transform
                _cache_constants(transform, device)
                batch = on_input(batch, transform)
            elif draws and self.joint is False and type(transform).__call__ is BatchAugmentation.__call__:
                batch = on_input(batch, partial(transform.augment, draws=draws))
            elif draws:
                batch = transform(batch, draws)
        return on_input(batch, _channels_last) if channels_last else batch

    def _copied(self, batch: Any, device: torch.device) -> Any:
        """The dense tensors in main memory copied to a GPU; all else stays where it is."""
        self._side = self._side or torch.cuda.Stream(device)
        current = torch.cuda.current_stream(device)

        def copied(value):
            if not isinstance(value, torch.Tensor) or not value.is_cpu or value.layout != torch.strided:
                return value
            value = value.to(device, non_blocking=True)
            value.record_stream(current)
            return value

        with torch.cuda.stream(self._side):
            batch = on_tensors(batch, copied)
        current.wait_stream(self._side)
        return batch

    def _draws(self, chosen: Chosen, device: torch.device) -> Draws:
        samples = torch.from_numpy(chosen.indices)
        if chosen.repeats is not None:
            samples = samples + repeat_offsets(torch.from_numpy(chosen.repeats))
        return Draws(derive(self.seed, "augmentation", chosen.epoch), samples.to(device, non_blocking=True))


def _as_floats(inputs: Any) -> Any:
    images = isinstance(inputs, torch.Tensor) and inputs.dtype == torch.uint8 and inputs.ndim == 4
    return inputs.float().div_(255) if images else inputs


def _in_place(transform: Transform) -> Transform:
    """The transform; for torchvision's Normalize one that works in place: two thirds of the time."""
    kind = type(transform)
    is_known = kind.__name__ == "Normalize" and kind.__module__.startswith("torchvision.transforms.")
    return kind(transform.mean, transform.std, inplace=True) if is_known else transform


def _channels_last(inputs: Any) -> Any:
    images = isinstance(inputs, torch.Tensor) and inputs.ndim == 4
    return inputs.contiguous(memory_format=torch.channels_last) if images else inputs


def _cache_constants(transform: Transform, device: torch.device) -> None:
    """Puts the numbers of torchvision's Normalize on the device once; a copy in every step would wait."""
    if device.type == "cpu" or not type(transform).__module__.startswith("torchvision.transforms.v2"):
        return
    for name in ("mean", "std"):
        if isinstance(numbers := getattr(transform, name, None), (list, tuple)):
            setattr(transform, name, torch.tensor(numbers, dtype=torch.float32, device=device))
