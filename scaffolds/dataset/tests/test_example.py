"""Example gives every split samples of its own, always the same, from which its config learns."""
import pytest
import torch
from PIL import Image

from conftest import PROJECT, epochs, train
from data_loader.example import Example


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_example_gives_the_same_samples_at_every_start(split):
    image, target = Example(split)[0]
    assert image.shape == (1, 8, 8) and image.dtype == torch.float32
    again, target_again = Example(split)[0]
    assert torch.equal(image, again) and target == target_again


def test_example_shares_no_samples_between_splits():
    datasets = [Example(split, num_samples=20) for split in ("train", "val", "test")]
    assert len({image.sum().item() for dataset in datasets for image, _ in dataset}) == 60


def test_a_file_gives_the_input_that_example_gives(tmp_path):
    image = (Example("test")[0][0].clamp(max=1) * 255).byte()  # [1, 8, 8]
    Image.fromarray(image[0].numpy()).save(tmp_path / "1.png")
    assert torch.allclose(Example.read_input(tmp_path / "1.png"), image / 255)


def test_a_network_learns_from_example(tmp_path):
    config = PROJECT / "configs" / "example.yaml"
    run = train("-c", config, "trainer.args.epochs=2", "writers=[]", out=tmp_path)
    assert epochs(run)[-1]["val/accuracy"] > 0.8
