"""`data_loader.limit`: a few samples of train and of val, to debug."""
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from base.base_data_loader import DataSplits
from conftest import assert_same_run, load, train
from utils.errors import ConfigError


class Numbers(Dataset):
    """The numbers from 0 on."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.tensor(index)


class Counter(IterableDataset):
    """The numbers from 0 on, without end; its state is the next one."""

    def __init__(self):
        self.next = 0

    def __iter__(self):
        while True:
            self.next += 1
            yield torch.tensor(self.next - 1)

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"] if state else 0


def read(data: DataSplits, split: str = "train", **position) -> list[list[int]]:
    return [batch.data.tolist() for batch in data.batches(split, **position)]


def test_a_limit_takes_the_first_samples_of_train_and_val_after_the_split():
    whole, few = (DataSplits(lambda split: Numbers(), seed=5, batch_size=4, validation_split=12, limit=limit)
                  for limit in (None, 7))
    for split in ("train", "val"):
        assert few.indices(split).tolist() == whole.indices(split)[:7].tolist()
        assert few.num_samples(split) == 7 and few.num_batches(split) == 2
    assert sorted(sum(read(few, epoch=3), [])) == whole.indices("train")[:7].tolist()
    assert few.num_samples("test") == 40
    sets = DataSplits(lambda split: Numbers(), evaluation_sets={"val": ["val/a"]}, limit=7)
    assert (sets.num_samples("val/a"), sets.num_samples("train"), sets.num_samples("test/b")) == (7, 7, 40)


def test_a_stream_ends_at_the_limit_in_every_pass_also_when_it_goes_on():
    data = DataSplits(lambda split: Counter(), batch_size=4, limit=10, batches_per_epoch=2)
    assert [read(data, epoch=epoch) for epoch in range(3)] == [
        [[0, 1, 2, 3], [4, 5, 6, 7]], [[8, 9]], [[0, 1, 2, 3], [4, 5, 6, 7]]]
    data = DataSplits(lambda split: Counter(), batch_size=5, limit=10)
    assert read(data, epoch=0) == read(data, epoch=1) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    data = DataSplits(lambda split: Counter(), batch_size=5, limit=10, batches_per_epoch=2)
    assert read(data, epoch=0) == read(data, epoch=1)


def test_a_limit_is_said_and_named_and_kept(small, tmp_path):
    options = ["-c", small, "data_loader.limit=33", "data_loader.batch_size=10"]
    straight = train(*options, out=tmp_path / "straight")
    assert straight.name.endswith("-limit33")
    said = (straight / "run.log").read_text()
    assert "train 33 | val 33 samples (data_loader.limit: 33); 4 batches" in said
    named = train(*options, "--run-name", "mine", "trainer.args.epochs=1", out=tmp_path / "named")
    assert named.name == "mine"
    train("-r", named, "trainer.args.epochs=2", out=tmp_path / "named")
    assert_same_run(straight, named)
    with pytest.raises(ConfigError, match="data_loader.limit: was 33 .* keeps its limit.*--init-from"):
        train("-r", named, "data_loader.limit=null", "trainer.args.epochs=3", out=tmp_path / "named")


def test_auto_goes_on_with_a_run_of_the_same_limit(small, tmp_path):
    def start(*options):
        run = train("-c", small, *options, "-r", "auto", out=tmp_path)
        return run.name, load(run)["state"]["progress"]["step"]

    def stopped(*options):
        with pytest.raises(Exception, match="step 1 is done"):
            start(*options, "--steps", 1)

    limited = ["data_loader.limit=33", "data_loader.batch_size=10"]
    stopped()
    stopped(*limited)
    assert len([*tmp_path.glob("small/*")]) == 2
    assert start(*limited)[0].endswith("-limit33") and start()[1] == 10
    assert len([*tmp_path.glob("small/*")]) == 2
