"""What extensions build on: the registries and the base classes."""
from base.arrays import ArrayDataset
from base.augmentation import BatchAugmentation
from base.base_model import BaseModel
from base.base_trainer import BaseTrainer
from base.registries import (
    DATASETS,
    LOSSES,
    METRICS,
    MODELS,
    OPTIMIZERS,
    SCHEDULERS,
    TRAINERS,
    TRANSFORMS,
    WRITERS,
)

__all__ = ["DATASETS", "LOSSES", "METRICS", "MODELS", "OPTIMIZERS", "SCHEDULERS", "TRAINERS", "TRANSFORMS", "WRITERS",
           "ArrayDataset", "BaseModel", "BaseTrainer", "BatchAugmentation"]
