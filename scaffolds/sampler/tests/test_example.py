"""Example adds samples epoch by epoch, and training takes its order."""
import torch

from conftest import PROJECT, epochs, train
from data_loader.example import Example


def test_example_begins_with_a_part_and_ends_with_all_of_the_split():
    sampler, split = Example(first_part=0.5), range(10)
    first, second = (sampler(split, epoch, torch.Generator().manual_seed(epoch)) for epoch in range(2))
    assert sorted(first.tolist()) == list(range(5)) and sorted(second.tolist()) == list(range(10))
    assert torch.equal(first, sampler(split, 0, torch.Generator().manual_seed(0)))


def test_a_network_learns_in_the_order_that_example_gives(tmp_path):
    config = PROJECT / "configs" / "example.yaml"
    run = train("-c", config, "trainer.args.epochs=2", "writers=[]", out=tmp_path)
    first, last = epochs(run)
    assert last["train/loss"] < first["train/loss"] and last["step"] > 2 * first["step"]
