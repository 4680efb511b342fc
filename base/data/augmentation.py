"""Random augmentation of whole batches on their device; each sample draws its own numbers."""
import copy
import math
from typing import Any

import torch

from base.data.nested import on_input, on_tensors
from utils.random import derive

# SplitMix64 (Steele, Lea and Flood 2014) with constants of David Stafford's "Mix13", as signed 64-bit.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_AHEAD = 16  # numbers per sample made at once: it costs as much as a few


class Draws:
    """The random numbers of a batch: a function of `(seed, sample index, numbers drawn before)` only.

    They do not depend on the other samples of the batch, the device, or any generator. No call waits for the
    device. Every call gives new numbers, equally many for each sample.

    Args:
        seed: any whole number, of the run and the epoch.
        indices: which samples these are, int64 `[B]`; the numbers are on the same device.
    """

    def __init__(self, seed: int, indices: torch.Tensor):
        self.device = indices.device
        self._keys = _scramble(indices.long() * _STEP + derive(seed, "draws"))  # [B]
        self._used = self._first = 0  # numbers used per sample; number of the first one in `_made`
        self._made = torch.empty(0, device=self.device)  # [numbers, B]

    def uniform(self, count: int | None = None) -> torch.Tensor:
        """float32 `[B]`, or `[B, count]`: multiples of 2**-24 in [0, 1), the same bits on every device."""
        return self._next(1)[0] if count is None else self._next(count).T

    def integers(self, high: int | torch.Tensor, count: int | None = None) -> torch.Tensor:
        """int64 `[B]`, or `[B, count]`, in [0, `high`); `high` is at most 2**24 and may be a tensor."""
        # the product rounds down if it is not exact, so it never reaches `high`
        return (self.uniform(count) * high).long()

    def normal(self, count: int | None = None) -> torch.Tensor:
        """float32 `[B]`, or `[B, count]`: mean 0 and variance 1. Devices may differ in the last bits."""
        return torch.erfinv(self.uniform(count) * 2 - (1 - 2**-24)) * math.sqrt(2)  # argument in (-1, 1)

    def _next(self, count: int) -> torch.Tensor:
        first, self._used = self._used, self._used + count
        if count > _AHEAD:
            # each sample's numbers are contiguous
            return self._hash(self._keys[:, None] + self._offsets(first, count)).T
        if self._used > self._first + len(self._made):
            self._first, self._made = first, self._hash(self._keys + self._offsets(first, _AHEAD)[:, None])
        return self._made[first - self._first : self._used - self._first]

    def _offsets(self, first: int, count: int) -> torch.Tensor:
        return torch.arange(first + 1, first + count + 1, device=self.device).mul_(_STEP)

    @staticmethod
    def _hash(states: torch.Tensor) -> torch.Tensor:
        return ((_scramble(states) >> 40) & 0xFFFFFF).float().mul_(2**-24)  # the 24 best bits


def _scramble(states: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser in place, without its last line, which would not change the upper bits."""
    states ^= (states >> 30) & (2**34 - 1)  # the mask removes the copies of the sign that >> shifts in
    states *= _FIRST
    states ^= (states >> 27) & (2**37 - 1)
    states *= _SECOND
    return states


def repeat_offsets(repeats: torch.Tensor) -> torch.Tensor:
    """What a sample's index is moved by, int64 `[B]`, when it came `repeats` times before; 0 for never."""
    return _scramble(repeats * _STEP)


class BatchAugmentation:
    """Changes whole batches at random; it is named in `transforms.batch`.

    It is used in training only, on a batch on its device, after uint8 images became float32 `[B, C, H, W]` in
    [0, 1]. Override `augment`, or `__call__` if targets change too.

    All randomness comes from `draws`, so that a resumed run gets the same bits. No code in it may wait for
    the device: no `.item()`, no `if tensor:`, no `images[mask]`, and no tensor from a list (use `Constant`).
    """

    is_geometric = False  # whether `augment` moves pixels; `--check` then reports boxes and unmoved masks

    def __call__(self, batch: Any, draws: Draws) -> Any:
        """The batch with its input augmented: the first item of a tuple or list, else (a dict) the whole.

        Tensors `[B, H, W]` beside images of that size are masks: `augment_masks` moves them along.
        """
        images, same = batch[0] if isinstance(batch, (tuple, list)) and batch else None, copy.copy(draws)
        if not (self.takes_masks and isinstance(images, torch.Tensor) and images.ndim == 4):
            return on_input(batch, lambda inputs: self.augment(inputs, draws))
        augmented, shape = self.augment(images, draws), (len(images), *images.shape[2:])

        def moved(value):
            if value is images:
                return augmented
            is_mask = isinstance(value, torch.Tensor) and value.shape == shape
            return self.augment_masks(value[:, None], copy.copy(same))[:, 0] if is_mask else value

        return on_tensors(batch, moved)

    @property
    def takes_masks(self) -> bool:
        """Whether masks move with their images."""
        return type(self).augment_masks is not BatchAugmentation.augment_masks

    def augment(self, inputs: Any, draws: Draws) -> Any:
        """The augmented inputs, of the same dtype; does not change the given ones."""
        raise NotImplementedError

    def augment_masks(self, masks: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Masks `[B, 1, H, W]` moved as `augment` moves their images; `draws` gives the same numbers."""
        return masks


class Constant:
    """A tensor of plain numbers that is copied to a device once, not in every step."""

    def __init__(self, values: Any):
        self._value = torch.as_tensor(values, dtype=torch.float32)
        self._copies: dict[torch.device, torch.Tensor] = {}

    def on(self, device: torch.device) -> torch.Tensor:
        """The tensor, float32, on `device`."""
        if device not in self._copies:
            self._copies[device] = self._value.to(device)
        return self._copies[device]


def per_sample(values: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """`values` `[B]` as `[B, 1, ..., 1]`, to broadcast with `inputs` `[B, ...]` of any shape."""
    return values.reshape(-1, *[1] * (inputs.ndim - 1))
