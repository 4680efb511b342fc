"""A stream that tells its state goes on where it was: after a stop, and from an epoch that was cut to the next."""
from itertools import islice
from pathlib import Path

import pytest
import torch
from test_resume import StopsAt
from torch.utils.data import IterableDataset

from base import DATASETS
from base.base_data_loader import DataSplits
from conftest import assert_same_run, load, train
from utils.errors import ConfigError, Interrupted


class Numbered(IterableDataset):
    """Noisy inputs, numbered within their split; what is read of train is written into the file `reads`."""

    def __init__(self, split: str = "train", num_samples: int = 34, reads: Path | None = None):
        self.num_samples, self.reads = num_samples if split == "train" else 10, reads if split == "train" else None

    def sample(self, index):
        if self.reads:
            with open(self.reads, "a") as file:
                file.write(f"{index}\n")
        return torch.full((64,), index / 10) + torch.rand(64), index % 10


@DATASETS.register
class Plain(Numbered):
    """Has no state."""

    def __iter__(self):
        yield from map(self.sample, range(self.num_samples))


@DATASETS.register
class Tape(Numbered):
    """Keeps its position from one iteration to the next, and has nothing left at the end."""

    position = 0

    def __iter__(self):
        while self.position < self.num_samples:
            self.position += 1
            yield self.sample(self.position - 1)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


@DATASETS.register
class Rewinding(Tape):
    """Is back at its beginning when the end was reached."""

    def __iter__(self):
        yield from super().__iter__()
        self.position = 0


@DATASETS.register
class Chapters(Numbered):
    """As those of Hugging Face: a loaded state counts for the next iteration, if it is of the same epoch.

    The order is another in every epoch. Its state is the dict that it works on, in and out.
    """

    def __init__(self, split: str = "train", num_samples: int = 34, reads: Path | None = None):
        super().__init__(split, num_samples, reads)
        self.epoch, self.loaded, self.state = 0, None, {"epoch": 0, "position": torch.zeros((), dtype=torch.int64)}

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        self.state = {"epoch": self.epoch, "position": torch.zeros((), dtype=torch.int64)}
        if self.loaded is not None and self.loaded["epoch"] == self.epoch:
            self.state = self.loaded
        while self.state["position"] < self.num_samples:
            self.state["position"] += 1
            yield self.sample(order(self.epoch, self.num_samples)[self.state["position"] - 1])

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.loaded = state


def order(epoch: int, num_samples: int) -> list[int]:
    """Of Chapters."""
    return torch.randperm(num_samples, generator=torch.Generator().manual_seed(epoch)).tolist()


KINDS = [Tape, Rewinding, Chapters]


def splits(train_set, val=None, **options) -> DataSplits:
    return DataSplits({"train": train_set, "val": val}.get, batch_size=4, **options)


def labels(data: DataSplits, split: str = "train", epoch: int = 0, start: int = 0, **options) -> list[list[int]]:
    """The labels in each batch."""
    return [batch.data[1].tolist() for batch in data.batches(split, epoch, start, **options)]


def command(small, dataset, *options) -> list:
    """Arguments of a run of three epochs of six batches, the last of four samples."""
    return ["-c", small, f"dataset={dataset}", "transforms=null", "data_loader.batch_size=6",
            "data_loader.validation_split=null", "data_loader.batches_per_epoch=null",
            f"trainer={{type: {StopsAt.__name__}, args: {{epochs: 3, log_every: 2, stop_step: -1}}}}", *options]


def stopped(args, stop, tmp_path) -> Path:
    """A run that left."""
    with pytest.raises(Interrupted):
        train(*args, *stop, out=tmp_path / "stopped")
    return next((tmp_path / "stopped").glob("*/*"))


@pytest.fixture
def stopped_and_resumed(small, tmp_path, undisturbed):
    """Gives a run that was not stopped, one that was, and what the latter read of train after it was resumed."""
    def runs(dataset, workers, stop, *options) -> tuple[Path, Path, list[int]]:
        args, reads = command(small, dataset, *options), tmp_path / "reads"
        run = stopped(args, [f"data_loader.num_workers={workers[0]}", *stop], tmp_path)
        train("-r", run, "trainer.args.stop_step=-1", f"data_loader.num_workers={workers[1]}",
              f"dataset={{type: {dataset}, args: {{reads: {reads}}}}}", out=tmp_path / "stopped")
        return undisturbed(*args[2:]), run, [int(line) for line in reads.read_text().splitlines()]
    return runs


# -- a run that was stopped ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("workers", [(0, 0), (1, 1), (0, 1), (1, 0)])
@pytest.mark.parametrize("dataset", ["Tape", "Rewinding"])
def test_a_run_stopped_within_an_epoch_reads_nothing_again_and_ends_with_the_same_bits(stopped_and_resumed, dataset, workers):
    straight, run, read = stopped_and_resumed(dataset, workers, ["trainer.args.stop_step=8"])
    assert_same_run(straight, run)
    preflight, rest, third = range(6), range(12, 34), range(34)
    assert read == [*preflight, *rest, *third]


@pytest.mark.parametrize("workers", [(0, 0), (1, 1)])
@pytest.mark.parametrize("stop_step", [2, 9])
def test_a_state_that_counts_for_the_next_iteration_of_its_epoch_resumes_too(stopped_and_resumed, stop_step, workers):
    straight, run, read = stopped_and_resumed("Chapters", workers, [f"trainer.args.stop_step={stop_step}"])
    assert_same_run(straight, run)
    num_left = 3 * 34 - stop_step // 6 * 34 - stop_step % 6 * 6
    assert len(read) == 6 + num_left and read[6] == order(stop_step // 6, 34)[stop_step % 6 * 6]


@pytest.mark.parametrize("stop", [["trainer.args.stop_step=6"], ["trainer.args.stop_step=6", "trainer.args.during=evaluation"]],
                         ids=["step", "evaluation"])
@pytest.mark.parametrize("dataset", ["Tape", "Rewinding", "Chapters"])
def test_a_run_stopped_after_the_last_batch_of_an_epoch_has_nothing_of_it_left(stopped_and_resumed, dataset, stop):
    straight, run, read = stopped_and_resumed(dataset, (1, 0), stop)
    assert_same_run(straight, run)
    assert len(read) == 6 + 2 * 34


@pytest.mark.parametrize("stop_step, num_left", [(1, 22 + 34 + 34), (3, 34 + 34), (5, 10 + 34)])
def test_a_window_that_meets_the_end_of_the_data_resumes_behind_it(stopped_and_resumed, stop_step, num_left):
    stop = [f"trainer.args.stop_step={stop_step}"]
    straight, run, read = stopped_and_resumed("Tape", (0, 1), stop, "trainer.args.accumulate=2")
    assert_same_run(straight, run)
    assert len(read) == 6 + num_left


CUTS = [(4, 2), (4, 4), (4, 5), (4, 6), (4, 7), (3, 3), (3, 6), (2, 5)]


@pytest.mark.parametrize("dataset, limit, stop_step", [
    *(("Chapters", *cut) for cut in CUTS), ("Tape", 4, 5), ("Tape", 3, 6),
    *(pytest.param("Tape", *cut, marks=pytest.mark.slow) for cut in CUTS if cut not in [(4, 5), (3, 6)])])
def test_epochs_that_are_cut_resume_to_the_same_bits(stopped_and_resumed, dataset, limit, stop_step):
    workers = (1, 0) if stop_step % 2 else (0, 1)
    straight, run, read = stopped_and_resumed(dataset, workers, [f"trainer.args.stop_step={stop_step}"],
                                              f"data_loader.batches_per_epoch={limit}")
    assert_same_run(straight, run)
    preflight, first = 6, stop_step % 6 * 6
    assert read[preflight] == (first if dataset == "Tape" else order(stop_step // 6 * 2, 34)[first])


def test_only_streams_that_tell_their_state_have_one_in_the_checkpoint(small, tmp_path):
    blocks = {"Tape": ["transforms=null", "data_loader.validation_split=null"], "Digits": []}
    blocks["Plain"] = blocks["Tape"]
    runs = {name: train("-c", small, f"dataset={name}", "trainer.args.epochs=1", *blocks[name], out=tmp_path / name)
            for name in blocks}
    assert [name for name, run in runs.items() if "stream" in load(run)["state"]] == ["Tape"]


@pytest.mark.parametrize("then, lacks", [("Plain", "state_dict"), ("Tape", "saved state")])
def test_a_stream_without_a_state_is_read_again_and_the_log_says_so(small, tmp_path, then, lacks):
    args = command(small, "Plain")
    straight = train(*args, out=tmp_path / "straight")
    run = stopped(args, ["trainer.args.stop_step=10"], tmp_path)
    train("-r", run, "trainer.args.stop_step=-1", f"dataset={then}", out=tmp_path / "stopped")
    said = f"{then} has no {lacks}: the stream is read again from the start of epoch 2, and 4 batches are passed over"
    assert said in (run / "run.log").read_text() and "passed over" not in (straight / "run.log").read_text()
    assert load(straight)["state"]["progress"] == load(run)["state"]["progress"]
    assert (straight / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()


# -- from epoch to epoch -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("num_samples, options, epochs", [
    (6, {}, [[[0, 1, 2, 3], [4, 5]]] * 3),
    (6, {"drop_last": True}, [[[0, 1, 2, 3]]] * 3),
    (10, {"batches_per_epoch": 2}, [[[0, 1, 2, 3], [4, 5, 6, 7]], [[8, 9]], [[0, 1, 2, 3], [4, 5, 6, 7]]]),
    (8, {"batches_per_epoch": 1}, [[[0, 1, 2, 3]], [[4, 5, 6, 7]], [[0, 1, 2, 3]]]),
    (6, {"batches_per_epoch": 1, "drop_last": True}, [[[0, 1, 2, 3]]] * 3),
], ids=["whole", "drop_last", "cut", "cut at the end", "cut before what is dropped"])
@pytest.mark.parametrize("kind", [Tape, Rewinding])
def test_a_cut_epoch_is_gone_on_with_and_a_whole_one_begins_again(kind, num_samples, options, epochs, num_workers):
    data = splits(kind(num_samples=num_samples), num_workers=num_workers, **options)
    assert [labels(data, epoch=epoch) for epoch in range(3)] == epochs


def test_a_stream_that_makes_no_whole_batch_is_a_mistake_where_the_rest_is_dropped():
    with pytest.raises(ConfigError, match="no whole batch, and drop_last is on"):
        splits(Plain(num_samples=3), drop_last=True).first_batch("train")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_stream_that_shuffles_itself_keeps_the_order_of_a_pass_over_epochs_that_are_cut(num_workers):
    data = splits(Chapters(num_samples=10), num_workers=num_workers, batches_per_epoch=2)
    passes = [sum(labels(data, epoch=epoch) + labels(data, epoch=epoch + 1), []) for epoch in (0, 2)]
    assert [sorted(labels_of_pass) for labels_of_pass in passes] == [list(range(10))] * 2 and passes[0] != passes[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_place_is_that_of_the_last_batch_taken_not_of_the_last_fetched(kind):
    data = splits(kind(), num_workers=1, prefetch_factor=4)
    taken = data.batches("train")
    for num_taken in range(1, 4):
        next(taken)
        assert data.place.state["position"] == 4 * num_taken
    data.close()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_numbers_drawn_after_a_resume_are_those_of_a_run_that_never_stopped(num_workers):
    def inputs(batches):
        return [batch.data[0] for batch in batches]

    data, resumed = (splits(Tape(), num_workers=num_workers) for _ in range(2))
    straight = inputs(data.batches("train", epoch=1))
    left = splits(Tape(), num_workers=num_workers)
    list(islice(left.batches("train", epoch=1), 5))
    resumed.place.load_state_dict(left.place.state_dict())
    rest = inputs(resumed.batches("train", epoch=1, start=5))
    assert len(rest) == 4 and all(torch.equal(one, other) for one, other in zip(straight[5:], rest, strict=True))
    left.close()


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_and_preflight_begin_at_the_beginning_and_leave_no_trace(kind, num_workers):
    data, untouched = (splits(kind(), val=kind("val"), num_workers=num_workers, batches_per_epoch=3) for _ in range(2))
    first = [data.first_batch("train").data[1].tolist() for _ in range(2)]
    assert first[0] == first[1] == data.first_batch("train").data[1].tolist()
    evaluated, trained = [], []
    for epoch in range(4):
        trained.append(labels(data, epoch=epoch))
        evaluated.append((labels(data, "val"), labels(data, training=False)))
    assert trained == [labels(untouched, epoch=epoch) for epoch in range(4)] and trained[0][0] == first[0]
    assert all(one == evaluated[0] for one in evaluated)
    assert len(sum(evaluated[0][0], [])) == 10 and len(sum(evaluated[0][1], [])) == 34


# -- a stream whose state lacks its shuffle buffer -----------------------------------------------------------------


class Shuffled(Tape):
    """Shuffles in a buffer. Its state counts what was taken into the buffer."""

    def __iter__(self):
        buffer, draws = [], torch.Generator().manual_seed(self.position)
        for sample in super().__iter__():
            buffer.append(sample)
            if len(buffer) == 8:
                yield buffer.pop(torch.randint(8, (), generator=draws))
        yield from buffer


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("way", ["replay", "state"])
def test_a_stream_whose_state_lacks_something_is_replayed_to_the_sample(way, workers, caplog):
    caplog.set_level("INFO")
    straight = labels(splits(Shuffled()))
    first, second = (splits(Shuffled(), stream_resume=way, num_workers=workers) for _ in range(2))
    begun = [batch.data[1].tolist() for batch in islice(first.batches("train"), 3)]
    second.place.load_state_dict(first.place.state_dict())
    rest = labels(second, start=3)
    assert begun == straight[:3] and (rest == straight[3:]) == (way == "replay")
    assert ("12 samples are passed over" in caplog.text) == (way == "replay")
    first.close()
    second.close()


def test_a_replayed_stream_goes_on_after_an_epoch_that_was_cut():
    data = splits(Shuffled(), stream_resume="replay", batches_per_epoch=3)
    assert [*labels(data, epoch=0), *labels(data, epoch=1)] == labels(splits(Shuffled()))[:6]
