"""Example: which samples an epoch holds, in which order, and why."""
import torch

from base import SAMPLERS


@SAMPLERS.register
class Example:
    """Begins with a part of the train split, and adds as much in each epoch until it has all.

    Named in the config under data_loader.sampler. A function of (split, epoch, generator) does as well.

    Args:
        first_part: the part of the samples in the first epoch, above 0.
    """

    same_length = False  # True if every epoch has as many batches: a schedule then needs only the first

    def __init__(self, first_part: float = 0.5):
        self.first_part = first_part

    def __call__(self, split, epoch: int, generator: torch.Generator) -> torch.Tensor:
        """Positions within the train split, int64 `[N]`, to be cut into batches; or a list of such batches.

        `split` tells `len(split)`, `split.batch_size`, and of each sample `targets`, `classes`, `lengths`.
        Draw from `generator` alone: the order then is the same in every process, and after a resume.
        """
        num_samples = round(min(self.first_part * (epoch + 1), 1) * len(split))
        first = torch.arange(len(split))[:num_samples]  # or the easiest ones, by length or by another model
        return first[torch.randperm(num_samples, generator=generator)]
