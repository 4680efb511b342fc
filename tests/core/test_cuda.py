"""What only a GPU can show: no step waits for the host, and copies ahead change nothing."""
import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from base import TRAINERS, ArrayDataset
from base.base_data_loader import DataSplits
from conftest import assert_same_run, epochs, train
from trainer.trainer import Trainer
from utils.random import StepSeeds

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CUDA = torch.device("cuda:0")


@TRAINERS.register
class NeverWaits(Trainer):
    """Anything between the first step and the next log point that waits for the device is an error."""

    def on_step_end(self):
        at_log_point = (self.position.step + 1) % self.log_every == 0
        torch.cuda.set_sync_debug_mode("default" if at_log_point or self.position.step < 2 else "error")

    def log_step(self):
        torch.cuda.set_sync_debug_mode("default")
        super().log_step()

    def finish_epoch(self):
        torch.cuda.set_sync_debug_mode("default")
        super().finish_epoch()


AUGMENTED = ("transforms={batch: [{type: BatchRandomCrop, args: {size: 8, padding: 1}}, BatchRandomHorizontalFlip, "
             "{type: BatchRandomAffine, args: {degrees: 10}}, {type: BatchRandomErasing, args: {p: 0.5}}, "
             "{type: BatchMixUp, args: {num_classes: 10}}, {type: BatchCutMix, args: {num_classes: 10}}, "
             "{type: Normalize, args: {mean: [0.3], std: [0.4]}}]}")


@pytest.mark.parametrize("options", [
    ["transforms.train=[]"], ["transforms.train=[]", "dataset.args.device=cuda"], [AUGMENTED], [],
    [AUGMENTED, "trainer.args={precision: bf16, ema: 0.9, clip_norm: 1, epochs: 2, log_every: 4}", "data_loader.num_workers=1"],
    ["transforms.train=[]", "trainer.args.precision=fp16", "trainer.args.accumulate=2", "trainer.args.on_nan=skip"],
])
def test_no_step_waits_for_the_device(small, tmp_path, options):
    try:
        run = train("-c", small, "trainer.type=NeverWaits", "trainer.args.log_every=4", "data_loader.batches_per_epoch=12",
                    "--device", "cuda", *options, out=tmp_path)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(epochs(run)) == 2


def test_the_device_that_holds_the_samples_does_not_matter(small, tmp_path):
    options = ["-c", small, "--device", "cuda", AUGMENTED]
    host, resident = (train(*options, *extra, out=tmp_path / str(len(extra))) for extra in ([], ["dataset.args.device=cuda"]))
    assert_same_run(host, resident)


@pytest.mark.parametrize("dataset", [TensorDataset, lambda *arrays: ArrayDataset(*(array.cuda() for array in arrays))])
def test_batches_copied_ahead_are_those_of_the_cpu(dataset):
    inputs, targets = torch.rand(500, 300), torch.arange(500)
    ahead = DataSplits(lambda split: dataset(inputs, targets), seed=1, batch_size=20, validation_split=0, pin_memory=True)
    plain = DataSplits(lambda split: TensorDataset(inputs, targets), seed=1, batch_size=20, validation_split=0)
    busy = torch.rand(2000, 2000, device=CUDA)
    for loaded, expected in zip(ahead.batches("train"), plain.batches("train"), strict=True):
        busy, batch = busy @ busy / busy.norm(), ahead.prepare(loaded.data, CUDA)
        assert all(value.device == CUDA for value in batch)
        assert all(torch.equal(value.cpu(), other) for value, other in zip(batch, expected.data, strict=True))


@pytest.mark.parametrize("draws", [False, True])
def test_the_generator_of_the_device_follows_the_step(draws):
    def drawn(step):
        StepSeeds(5, CUDA, draws).begin(step)
        return torch.rand(4, device=CUDA).tolist()

    for step in (0, 3):
        assert drawn(step) == drawn(step) != drawn(step + 1) and np.isfinite(drawn(step)).all()
