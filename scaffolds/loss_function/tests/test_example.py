"""example is what it says, and training makes it smaller."""
import torch
from torch.nn.functional import cross_entropy

from conftest import PROJECT, epochs, train
from model.example import example

OUTPUTS, TARGETS = torch.tensor([[2.0, 0.0], [1.0, 3.0], [0.5, 0.0]]), torch.tensor([0, 1, 1])


def test_example_is_the_cross_entropy_and_a_term_that_its_weight_scales():
    plain, light, heavy = (example(OUTPUTS, TARGETS, weight) for weight in (0.0, 1.0, 2.0))
    assert torch.equal(plain, cross_entropy(OUTPUTS, TARGETS))
    assert light > plain and torch.isclose(heavy - plain, 2 * (light - plain))


def test_example_falls_in_training(tmp_path):
    config = PROJECT / "configs" / "example.yaml"
    run = train("-c", config, "trainer.args.epochs=2", "writers=[]", out=tmp_path)
    first, last = epochs(run)
    assert last["train/loss"] < first["train/loss"]
