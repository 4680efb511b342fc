"""Finds transforms that move the image alone while its targets (masks, boxes) lie on the image."""
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from base.base_data_loader import DataSplits
from base.data.augmentation import BatchAugmentation

log = logging.getLogger(__name__)
# Modules of torchvision's transforms whose classes move pixels. By name: torchvision need not be there.
_GEOMETRIC = ("torchvision.transforms.v2._geometry", "torchvision.transforms.v2._auto_augment")


def warn_of_moved_images(data: DataSplits, batch: Any) -> None:
    """Logs a warning for a geometric transform beside targets that lie on the image.

    `batch` is one of training, before batch transforms. The transforms of a tuple get its first item alone;
    those of a dict get all of it. A mask of the image's size may have been resized by the dataset.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) < 2 or getattr(batch[0], "ndim", 0) != 4:
        return
    for kind, target in _spatial(batch[1:], list(batch[0].shape[-2:])):
        names = [f"{type(transform).__name__} in transforms.{key}" for key in ("train", "batch")
                 for transform in _geometric(data.transforms[key])
                 if (kind == "boxes" or type(transform).__name__ != "Resize")
                 and not _moves(transform, data, kind, target)]
        if names:
            log.warning("%s moves the images %s alone, and not their targets, %s %s, which lie on them. Give "
                        "these as torchvision's tv_tensors, or transform both in the dataset.",
                        ", ".join(names), list(batch[0].shape), kind, list(target.shape))
            return


def _moves(transform: Any, data: DataSplits, kind: str, target: torch.Tensor) -> bool:
    """Whether a transform moves this target, too."""
    if isinstance(transform, BatchAugmentation):
        return (transform.takes_masks and data.prepare.joint is not False and kind == "masks"
                and target.ndim == 3)
    return data.sample_transforms["train"].moves_targets


def _spatial(targets: Any, size: list[int]) -> Iterator[tuple[str, torch.Tensor]]:
    """The targets that lie on images of `size` (height and width), inside lists and dicts: (kind, target)."""
    if isinstance(targets, Mapping):
        if isinstance(boxes := targets.get("boxes"), torch.Tensor):
            yield "boxes", boxes
        targets = list(targets.values())
    if isinstance(targets, (tuple, list)):
        for target in targets:
            yield from _spatial(target, size)
    elif type(targets).__name__ == "BoundingBoxes":
        yield "boxes", targets
    elif isinstance(targets, torch.Tensor) and targets.ndim > 2 and list(targets.shape[-2:]) == size:
        yield "masks", targets


def _geometric(transforms: Iterable[Any]) -> Iterator[Any]:
    """The transforms that move pixels of the input alone, also inside containers such as RandomApply."""
    for transform in transforms:
        if isinstance(transform, BatchAugmentation):
            if transform.is_geometric and type(transform).__call__ is BatchAugmentation.__call__:
                yield transform
        elif any(kind.__module__ in _GEOMETRIC for kind in type(transform).__mro__):
            yield transform
        elif isinstance(inner := getattr(transform, "transforms", None), (list, tuple)):
            yield from _geometric(inner)
