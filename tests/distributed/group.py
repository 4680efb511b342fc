"""Experiments that several processes run, one after the other, in one group: starting a group costs seconds.

    torchrun --nproc-per-node 2 tests/distributed/group.py JOBS.json

JOBS is a list of command lines of train.py. Also the plug-ins that the experiments use.
"""
import faulthandler
import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset
from torchmetrics import ClasswiseWrapper, ConfusionMatrix, Metric, Recall
from torchmetrics.utilities import dim_zero_cat


sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from base import DATASETS, LOSSES, METRICS, MODELS, SAMPLERS, TRAINERS  # noqa: E402
from trainer.trainer import Trainer  # noqa: E402
from utils.distributed import collectives as dist  # noqa: E402
from utils.distributed.group import process_group  # noqa: E402
from utils.errors import ConfigError, Interrupted, TrainingError  # noqa: E402
from utils.checkpoint.state import bit_equal  # noqa: E402


@DATASETS.register
class Points(Dataset):
    """Points in the plane, labelled by a line; sample number `poisoned` of train is not finite."""

    def __init__(self, split: str, num_samples: int = 61, poisoned: int | None = None):
        generator = torch.Generator().manual_seed(len(split))
        self.points = torch.randn(num_samples if split == "train" else 31, 2, generator=generator)
        self.labels = (self.points.sum(1) > 0).long()
        if poisoned is not None and split == "train":
            self.points[poisoned] = torch.nan

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        return self.points[index], self.labels[index]


@SAMPLERS.register
def of_the_process(split, epoch, generator):
    """From the second epoch on another order on each process."""
    return torch.arange(len(split)).roll(dist.rank() * epoch)


@DATASETS.register
class RandomImages(Dataset):
    """Images of noise, float32 `[C, H, W]` in [0, 1], of ten classes."""

    def __init__(self, split: str, num_channels: int, size_px: int):
        generator = torch.Generator().manual_seed(len(split))
        self.images = torch.rand(24, num_channels, size_px, size_px, generator=generator)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], index % 10


@DATASETS.register
class LeftOutPoints(Points):
    """Points 12 to 17, and every fifth, come without data; its collate function leaves these out."""

    def __getitem__(self, index):
        return None if index in range(12, 18) or index % 5 == 0 else super().__getitem__(index)

    @staticmethod
    def collate_fn(samples):
        kept = [sample for sample in samples if sample is not None]
        return torch.utils.data.default_collate(kept) if kept else None


@DATASETS.register
class PointDicts(Points):
    def __getitem__(self, index):
        return {"points": self.points[index], "label": self.labels[index], "index": index}


@LOSSES.register
def with_logs(outputs, targets):
    loss = nn.functional.cross_entropy(outputs, targets)
    return loss, {"twice": 2 * loss.detach()}


@DATASETS.register
class CutPoints(Points):
    """Points 12 to 14 of train cannot be read."""

    def __getitem__(self, index):
        if index in (12, 13, 14) and len(self) == 61:
            raise OSError("cut off")
        return super().__getitem__(index)


@DATASETS.register
class PointStream(IterableDataset):
    def __init__(self, split: str):
        self.points = Points(split)

    def __iter__(self):
        return (self.points[index] for index in range(len(self.points)))


@MODELS.register
class Net(nn.Module):
    """`norm` normalises over the batch; `unused` adds parameters that no step uses; with `now_and_then` one step uses few."""

    def __init__(self, norm: bool = False, unused: bool = False, now_and_then: bool = False):
        super().__init__()
        self.num_calls, self.now_and_then = 0, now_and_then
        self.body = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16) if norm else nn.Identity(), nn.Tanh())
        self.head = nn.Linear(16, 2)
        self.spare = nn.Linear(3, 3) if unused else None

    def forward(self, points):
        self.num_calls += self.training
        outputs = self.head(self.body(points))
        return outputs.detach() * self.head.bias if self.now_and_then and self.num_calls == 4 else outputs


@LOSSES.register
class WithTemperature(nn.Module):
    """Cross entropy with a temperature that is trained, too: a tensor of one number, of which no two processes have a part."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, outputs, targets):
        return nn.functional.cross_entropy(outputs * self.temperature, targets)


@METRICS.register
class LargestMargin:
    """An object that knows nothing of processes: what it computes is right only if it sees every sample."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.margins = []

    def update(self, outputs, targets):
        self.margins += (outputs[:, 1] - outputs[:, 0]).tolist()

    def compute(self):
        return {"most": max(self.margins), "mean": sum(self.margins) / len(self.margins), "num": len(self.margins)}

    def state_dict(self):
        return {"margins": list(self.margins)}

    def load_state_dict(self, state):
        self.margins = list(state["margins"])


@METRICS.register
class MedianMargin(Metric):
    """One of torchmetrics that keeps every sample."""

    def __init__(self):
        super().__init__()
        self.add_state("margins", default=[], dist_reduce_fx="cat")

    def update(self, outputs, targets):
        self.margins.append(outputs[:, 1] - outputs[:, 0])

    def compute(self):
        return dim_zero_cat(self.margins).median()


@METRICS.register
class Held:
    """An object of the user's that holds objects of torchmetrics: one counts, one of a wrapper keeps its own."""

    def __init__(self):
        self.parts = {"counts": ConfusionMatrix(task="binary"), "each": ClasswiseWrapper(Recall(
            task="multiclass", num_classes=2, average=None))}

    def reset(self):
        for part in self.parts.values():
            part.reset()

    def update(self, outputs, targets):
        self.parts["counts"].update(outputs.argmax(1), targets)
        self.parts["each"].update(outputs, targets)

    def compute(self):
        return {"right": self.parts["counts"].compute().flatten(), **self.parts["each"].compute()}


class Checked:
    """Every process ends with the same weights and buffers."""

    def on_train_end(self):
        gathered = dist.all_gather_object(self.unwrapped_model.state_dict())
        assert all(bit_equal(gathered[0][name], theirs[name]) for theirs in gathered for name in theirs)


@TRAINERS.register
class CheckedTrainer(Checked, Trainer):
    pass


if "GANTrainer" in TRAINERS.names():  # an example; a fork may have thrown it out

    @TRAINERS.register
    class CheckedGAN(Checked, TRAINERS.get("GANTrainer")):
        pass


@TRAINERS.register
class Unfreezing(CheckedTrainer):
    """Trains the head alone in the first epoch, and all from the second on."""

    def train_step(self, batch):
        for parameter in self.model.body.parameters():
            parameter.requires_grad_(self.position.epoch >= 1)
        return super().train_step(batch)


@TRAINERS.register
class ByParts(CheckedTrainer):
    """Never calls the model as a whole."""

    def forward(self, batch):
        points, labels = batch
        outputs = self.model.head(self.model.body(points))
        return outputs, labels, {"loss": self.loss(outputs, labels)}


@TRAINERS.register
class EndedInSecondSet(CheckedTrainer):
    """Process 1 gets a SIGTERM in the second set of the evaluation of two."""

    def __init__(self, *, ended: bool = False, **rest):
        super().__init__(**rest)
        self.ended, self.evaluated = ended, None

    def evaluate(self, split):
        self.evaluated = split
        return super().evaluate(split)

    def eval_step(self, batch):
        if self.ended and self.evaluated == "val/two" and dist.rank() == 1:
            self.stop_request.signal_number = 15
        return super().eval_step(batch)


@TRAINERS.register
class Recorded(CheckedTrainer):
    """Each process writes into `folder` its first weights, the points of each batch, and what dropout made of ones."""

    def __init__(self, *, folder: str, **rest):
        super().__init__(**rest)
        self.folder, self.record = Path(folder), {}

    def on_train_start(self):
        weights = {name: weight.tolist() for name, weight in self.unwrapped_model.state_dict().items()}
        self.record = {"weights": weights, "points": [], "masks": []}  # without those of the preflight

    def train_step(self, batch):
        if self.record:
            self.record["points"].append(batch[0].tolist())
            self.record["masks"].append(nn.functional.dropout(torch.ones(64)).tolist())
        return super().train_step(batch)

    def on_train_end(self):
        name = f"process{dist.rank()}_of_{dist.world_size()}.json"
        (self.folder / name).write_text(json.dumps(self.record))
        super().on_train_end()


def run(arguments: list[str]) -> None:
    """`python train.py ARGUMENTS`, in the group there is."""
    from base.run.run_config import resolve_config
    from base.run.setup import checkpoint_to_resume
    from train import train
    from utils.cli import train_arguments
    from utils.config.loading import read_config

    args = train_arguments(arguments)
    given = read_config(args.config, args.overrides) if args.config else None
    checkpoint = checkpoint_to_resume(args.resume, given, args.out, args.run_name)
    resolved = resolve_config(given, checkpoint, args.overrides, dist.world_size())
    try:
        train(args, resolved, checkpoint, torch.device("cpu"))
    except Interrupted:  # --steps
        pass
    except (TrainingError, ConfigError) as error:
        (args.out / f"error_{args.run_name}_{dist.rank()}_of_{dist.world_size()}.txt").write_text(str(error))


if __name__ == "__main__":
    from logger.console import setup_logging

    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(45, repeat=True)  # shown if one of them hangs
    with process_group(True, torch.device("cpu"), 200):
        for job in json.loads(Path(sys.argv[1]).read_text()):
            setup_logging(30, dist.rank())
            run(job)
            dist.wait_for_main()  # the next job may resume what it still writes
