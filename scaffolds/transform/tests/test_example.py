"""Example does to an image what it says, and training takes it."""
import torch

from conftest import PROJECT, epochs, train
from data_loader.example import Example

IMAGE = torch.full((1, 8, 8), 51, dtype=torch.uint8)  # 0.2 of white


def test_example_adds_noise_that_the_seed_decides():
    assert torch.equal(Example(std=0.0)(IMAGE), IMAGE / 255)
    images = []
    for _ in range(2):
        torch.manual_seed(0)
        images.append(Example(std=0.1)(IMAGE))
    assert torch.equal(*images)
    assert 0.05 < (images[0] - IMAGE / 255).std() < 0.15


def test_a_network_learns_from_what_example_makes_of_images(tmp_path):
    config = PROJECT / "configs" / "example.yaml"
    run = train("-c", config, "trainer.args.epochs=2", "writers=[]", out=tmp_path)
    first, last = epochs(run)
    assert last["train/loss"] < first["train/loss"]
