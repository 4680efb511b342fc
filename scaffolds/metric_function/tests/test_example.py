"""example gives one value per sample, the right one, and is logged."""
import torch

from conftest import PROJECT, epochs, train
from model.example import example


def test_example_is_the_probability_of_the_right_class_of_each_sample():
    outputs = torch.tensor([[0.0, 0.0], [9.0, 0.0], [9.0, 0.0]])
    unsure, right, wrong = example(outputs, torch.tensor([0, 0, 1]))
    assert unsure == 0.5 and right > 0.99 and wrong < 0.01


def test_example_rises_in_training(tmp_path):
    config = PROJECT / "configs" / "example.yaml"
    run = train("-c", config, "trainer.args.epochs=2", "writers=[]", out=tmp_path)
    first, last = epochs(run)
    assert first["train/example"] < last["train/example"] <= 1 and first["val/example"] < last["val/example"] <= 1
