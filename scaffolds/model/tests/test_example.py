"""Example keeps its shapes and learns from its config."""
import torch

from conftest import PROJECT, epochs, train
from model.example import Example


def test_example_gives_a_logit_for_each_class_whatever_the_size_of_the_images():
    for size in (8, 28):
        assert Example(num_classes=3)(torch.rand(5, 1, size, size)).shape == (5, 3)


def test_example_learns_from_its_config(tmp_path):
    config = PROJECT / "configs" / "example.yaml"
    run = train("-c", config, "trainer.args.epochs=2", "data_loader.batches_per_epoch=10", "writers=[]", out=tmp_path)
    first, last = epochs(run)
    assert last["train/loss"] < first["train/loss"]
