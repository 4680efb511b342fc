"""example does to an image what it says, and training takes it."""
import torch

from conftest import PROJECT, epochs, train
from data_loader.example import example


def test_example_brightens_all_but_black_and_white():
    image = torch.tensor([[[0, 64, 255]]], dtype=torch.uint8)
    assert torch.equal(example(image, gamma=1.0), image / 255)
    black, grey, white = example(image, gamma=0.5).flatten()
    assert black == 0 and grey > 64 / 255 and white == 1


def test_a_network_learns_from_what_example_makes_of_images(tmp_path):
    config = PROJECT / "configs" / "example.yaml"
    run = train("-c", config, "trainer.args.epochs=2", "writers=[]", out=tmp_path)
    first, last = epochs(run)
    assert last["train/loss"] < first["train/loss"]
