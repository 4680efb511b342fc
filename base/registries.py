"""The kinds of things that a config can name, and where each is searched."""
import importlib

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from base.base_trainer import BaseTrainer
from logger import WRITERS
from utils.config.registry import Library, Registry

# Arguments that build.py passes to every trainer; the others come from trainer.args.
TRAINER_PARTS = ("model", "data", "optimizers", "schedulers", "loss", "metrics", "seed", "device")


def subclasses(module: str, kind: type | str, ending: str = ""):
    """A loader of a module's public subclasses of `kind`, by name. It imports the module when called.

    `kind`: a class, or the name of one in the module.
    """

    def load() -> dict[str, type]:
        members = vars(importlib.import_module(module))
        base = members[kind] if isinstance(kind, str) else kind
        return {name: thing for name, thing in members.items()
                if isinstance(thing, type) and issubclass(thing, base) and thing is not base
                and name.endswith(ending) and not name.startswith("_")}

    return load


def _modules() -> dict:
    return {**subclasses("torch.nn", nn.Module)(), "Sequential": Sequential}


def Sequential(layers: list[nn.Module] = ()) -> nn.Sequential:
    """torch's Sequential.

    Args:
        layers: the blocks of its layers, in their order.
    """
    return nn.Sequential(*layers)


def _torchvision_models() -> dict:
    from torchvision.models import get_model_builder, list_models

    return {name: get_model_builder(name) for name in list_models()}


def _torchmetrics() -> dict[str, type]:
    from torchmetrics import Metric, MetricCollection

    return {**subclasses("torchmetrics.classification", Metric)(), **subclasses("torchmetrics", Metric)(),
            "MetricCollection": MetricCollection}


MODELS = Registry("model", "model", expects=nn.Module, nests=True, libraries=[
    Library("any torchvision model", _torchvision_models),
    Library("any torch.nn module", _modules)])
LOSSES = Registry("loss", "model", inputs=2, nests=True, libraries=[
    Library("any loss of torch.nn", subclasses("torch.nn", nn.Module, ending="Loss"))])
METRICS = Registry("metric", "model", inputs=2, nests=True, libraries=[
    Library("any torchmetrics class", _torchmetrics)])
DATASETS = Registry("dataset", "data_loader", expects=Dataset, or_has=("__len__", "__getitem__"),
                    libraries=[
    Library("any torchvision dataset", subclasses("torchvision.datasets", Dataset))])
TRANSFORMS = Registry("transform", "data_loader", inputs=1, nests=True, libraries=[
    Library("any torchvision.transforms.v2 class", subclasses("torchvision.transforms.v2", "Transform"))])
SAMPLERS = Registry("sampler", "data_loader", inputs=3)
OPTIMIZERS = Registry("optimizer", "trainer", expects=Optimizer, provided=("params",), libraries=[
    Library("any torch.optim optimizer", subclasses("torch.optim", Optimizer))])
SCHEDULERS = Registry("scheduler", "trainer", expects=LRScheduler, provided=("optimizer",), libraries=[
    Library("any torch.optim.lr_scheduler", subclasses("torch.optim.lr_scheduler", LRScheduler))])
TRAINERS = Registry("trainer", "trainer", expects=BaseTrainer, provided=TRAINER_PARTS)
# The registry of each section that names things; optimizer, scheduler and transforms may have several blocks.
# What data_loader names stands in data_loader.sampler.
KINDS = {"dataset": DATASETS, "transforms": TRANSFORMS, "model": MODELS, "loss": LOSSES, "metrics": METRICS,
         "optimizer": OPTIMIZERS, "scheduler": SCHEDULERS, "trainer": TRAINERS, "writers": WRITERS,
         "data_loader": SAMPLERS}
