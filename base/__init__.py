"""What plug-ins build on, and the training loop. Begin with base_trainer.py.

base_trainer, base_model, base_metric, base_data_loader    what a fork subclasses or reads
registries, build, validate, key_hints                     from a config to its parts; config errors
run_setup, preflight, recovery, nan_report, locate_error   how a run begins, and what happens when it fails
data/    samplers, views, arrays, streams, batch transforms
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
           "per_sample"]
