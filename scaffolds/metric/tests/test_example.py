"""Example counts what it says, batch by batch, and is logged."""
import pytest
import torch

from conftest import PROJECT, epochs, train
from model.example import Example

OUTPUTS = torch.tensor([[1.0, 0.0]] * 4)  # class 0, whatever is shown
TARGETS = torch.tensor([0, 0, 0, 1])


def test_a_rare_class_counts_as_much_as_a_frequent_one():
    metric = Example(num_classes=2)
    metric.update(OUTPUTS, TARGETS)
    assert metric.compute() == 0.5  # all of class 0, none of class 1


def test_batches_and_a_restart_between_them_change_nothing():
    first, second = Example(num_classes=2), Example(num_classes=2)
    first.update(OUTPUTS[:1], TARGETS[:1])
    second.load_state_dict(first.state_dict())
    second.update(OUTPUTS[1:], TARGETS[1:])
    assert second.compute() == 0.5


def test_example_is_logged_in_training_and_evaluation(tmp_path):
    config = PROJECT / "configs" / "example.yaml"
    run = train("-c", config, "trainer.args.epochs=1", "writers=[]", out=tmp_path)
    last = epochs(run)[-1]
    # the digits are about equally frequent
    assert last["train/Example"] == pytest.approx(last["train/accuracy"], abs=0.1)
    assert 0 < last["val/Example"] <= 1
