"""What plug-ins build on, and the training loop. Begin with base_trainer.py.

base_trainer, base_model, base_metric, base_data_loader    what a fork subclasses or reads
registries, build    from a config to its parts         recovery, nan_report    when a step fails
config/    config errors before anything is built       run/    how a run begins and ends
preflight/    one batch through all of it before        data/    samplers, views, arrays, streams
api, prediction/    training and predicting from Python
"""
from base.base_model import BaseModel
from base.base_trainer import BaseTrainer
from base.data.arrays import ArrayDataset
from base.data.augmentation import BatchAugmentation, per_sample
from base.registries import (
    DATASETS,
    LOSSES,
    METRICS,
    MODELS,
    OPTIMIZERS,
    SAMPLERS,
    SCHEDULERS,
    TRAINERS,
    TRANSFORMS,
    WRITERS,
)

__all__ = ["DATASETS", "LOSSES", "METRICS", "MODELS", "OPTIMIZERS", "SAMPLERS", "SCHEDULERS", "TRAINERS",
           "TRANSFORMS", "WRITERS", "ArrayDataset", "BaseModel", "BaseTrainer", "BatchAugmentation",
           "fit", "load", "per_sample"]


def __getattr__(name: str):
    """`fit` and `load`, which plug-ins do not need, are imported when they are asked for."""
    if name in ("fit", "load"):
        from base import api

        return getattr(api, name)
    raise AttributeError(f"module 'base' has no attribute '{name}'")
