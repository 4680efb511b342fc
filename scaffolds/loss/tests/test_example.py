"""Example adds up to what it says, and training makes it smaller."""
import torch
from torch.nn.functional import cross_entropy

from conftest import PROJECT, epochs, train
from model.example import Example

OUTPUTS, TARGETS = torch.tensor([[2.0, 0.0], [1.0, 3.0], [0.5, 0.0]]), torch.tensor([0, 1, 1])


def test_example_is_the_cross_entropy_and_a_term_that_its_weight_scales():
    light, heavy = Example(weight=1.0)(OUTPUTS, TARGETS), Example(weight=2.0)(OUTPUTS, TARGETS)
    assert torch.equal(light["cross_entropy"], cross_entropy(OUTPUTS, TARGETS))
    assert light["z_loss"] > 0 and torch.equal(heavy["z_loss"], 2 * light["z_loss"])


def test_example_falls_in_training_and_its_terms_are_logged(tmp_path):
    config = PROJECT / "configs" / "example.yaml"
    run = train("-c", config, "trainer.args.epochs=2", "writers=[]", out=tmp_path)
    first, last = epochs(run)
    assert last["train/loss"] < first["train/loss"]
    assert last["train/z_loss"] > 0 and last["val/cross_entropy"] > 0
