"""What docstrings say is read as their authors meant it, in the styles of this project and of the libraries."""
from dataclasses import dataclass

import pytest
import torchmetrics
from torch import nn, optim
from torchvision import datasets, models
from torchvision.transforms import v2

from conftest import needs

from base import MODELS, TRAINERS
from base.base_data_loader import DataSplits
from tools.reference.docstrings import argument_text, summary


class Shouter:
    """Says it `loudly`, e.g. "HEY". Not what it was told to.

    Args:
        volume, pitch: of the ``voice``; see :class:`~torch.nn.Module` and :math:`x`,
            the `paper <https://example.com>`_, **or** :ref:`the notes <notes>`.

            More on that.
        words(list[str], optional (may be None)): what to say: anything.

    Returns:
        nothing: at all.
    """


class Louder(Shouter):
    def __init__(self, volume, echo):
        """How to make one.

        Keyword args:
            echo: seconds.
        """


@dataclass
class Point:
    x: int


class Child(nn.Module):
    def __init__(self, size: int):
        super().__init__()


def test_a_summary_is_the_first_sentence_of_what_is_a_things_own():
    assert summary(Shouter) == 'Says it loudly, e.g. "HEY".'
    assert summary(Shouter, quote="`") == 'Says it `loudly`, e.g. "HEY".'
    assert summary(Louder) == "How to make one."
    assert summary(Point) == summary(Child) == summary(lambda x: x) == ""
    assert summary(nn.CrossEntropyLoss) == "This criterion computes the cross entropy loss between input logits and target."
    assert summary(models.resnet18) == "ResNet-18 from Deep Residual Learning for Image Recognition."
    assert summary(datasets.MNIST) == "MNIST Dataset."


def test_what_is_said_of_an_argument_is_its_first_paragraph_without_markup():
    said = "of the voice; see Module and x, the paper, or the notes."
    assert argument_text(Shouter, "volume") == argument_text(Shouter, "pitch") == said
    assert argument_text(Shouter, "volume", quote="`").startswith("of the `voice`; see `Module` and")
    assert argument_text(Shouter, "words") == "what to say: anything."
    assert argument_text(Shouter, "nothing") == argument_text(Shouter, "Returns") == argument_text(Child, "size") == ""


def test_arguments_are_looked_for_in_the_constructor_and_in_what_a_class_inherits_from():
    assert argument_text(Louder, "echo") == "seconds."
    assert argument_text(Louder, "volume") == argument_text(Shouter, "volume")


@pytest.mark.parametrize("target, name, said", [
    (optim.AdamW, "lr", "learning rate (default: 1e-3)"), (optim.AdamW, "weight_decay", "weight decay coefficient"),
    (nn.CrossEntropyLoss, "label_smoothing", "A float in [0.0, 1.0]. Specifies the amount of smoothing"),
    (optim.lr_scheduler.StepLR, "gamma", "Multiplicative factor of learning rate decay. Default: 0.1."),
    (datasets.MNIST, "root", "Root directory of dataset where MNIST/raw/train-images-idx3-ubyte and"),
    (v2.RandomCrop, "padding", "Optional padding on each border of the image, applied before cropping."),
    (v2.Normalize, "inplace", "Bool to make this operation in-place."),
    (models.resnet18, "weights", "The pretrained weights to use. See ResNet18_Weights below"),
    (torchmetrics.classification.MulticlassF1Score, "average", "Defines the reduction that is applied over labels."),
    (TRAINERS.get("Trainer"), "epochs", "how many to train in all."),
    (TRAINERS.get("Trainer"), "schedulers", "the parts, as base/build.py makes them."),
    (DataSplits, "shuffle", "whether the train split is shuffled"),
    (DataSplits, "drop_last", "whether the train split's last batch is left out"),
])
def test_the_docstrings_of_the_project_and_of_the_libraries_are_read(target, name, said):
    assert argument_text(target, name).startswith(said)


def test_the_docstrings_of_examples_are_read():
    needs("model/lenet.py", "trainer/gan_trainer.py")
    assert argument_text(MODELS.get("LeNet"), "dropout") == "probability before the last layer."
    assert argument_text(TRAINERS.get("GANTrainer"), "grid").startswith("how many")
