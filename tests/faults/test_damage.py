"""What is promised here: a checkpoint in which a single bit has changed on the disk, or that was cut off, is refused.

Also where the bit carries nothing (padding, a time stamp): the whole file is sealed. Refused means as ConfigError, in one
line that names the file, and by the program with exit code 2.
"""
import random

import pytest

from conftest import train
from harness import assert_refused, few_and_many, write_config
from utils.checkpoint.loading import load_checkpoint
from utils.errors import ConfigError

SMALL = ["model.args.sizes=[64, 16, 10]", "data_loader={batch_size: 30, validation_split: 40, batches_per_epoch: 5}",
         "trainer.args={epochs: 2, ema: 0.9, log_every: 1}"]


@pytest.fixture(scope="module", params=["small", pytest.param("large", marks=pytest.mark.faults)])
def checkpoint(request, tmp_path_factory):
    """A real checkpoint: 28 KB, of which a third is structure, or 160 KB, which is weights for the most part."""
    folder = tmp_path_factory.mktemp(request.param)
    options = SMALL + ["model.args.sizes=[64, 128, 10]"] * (request.param == "large")
    return train("-c", write_config(folder), *options, out=folder) / "checkpoints" / "last.pt"


def flipped(data: bytes, bit: int) -> bytes:
    at = bit // 8
    return data[:at] + bytes([data[at] ^ 1 << bit % 8]) + data[at + 1:]


def fault_of(file) -> str | None:
    """What is wrong with how a damaged file is refused; None where nothing is."""
    try:
        load_checkpoint(file)
    except ConfigError as error:
        well_said = str(error).startswith(f"{file}: ") and len(str(error).splitlines()) == 1
        return None if well_said else f"badly said: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def flip(checkpoint, file, bits) -> str:
    """Flips each of `bits` alone; returns what came of it, in words. Fails where one was not refused."""
    data, wrong = checkpoint.read_bytes(), {}
    load_checkpoint(checkpoint)
    for bit in bits:
        file.write_bytes(flipped(data, bit))
        if fault := fault_of(file):
            wrong[f"byte {bit // 8} bit {bit % 8}"] = fault
    assert not wrong, f"{len(wrong)} of {len(bits)} flips in {len(data)} bytes: {wrong}"
    return f"{len(bits)} of {len(bits)} single flipped bits in {len(data)} bytes refused"


@pytest.mark.parametrize("flips, seed", few_and_many((20, 1), (200, 2), (5000, 3)))
def test_a_flipped_bit_is_refused(checkpoint, tmp_path, flips, seed):
    generator, num_bits = random.Random(seed), 8 * checkpoint.stat().st_size
    print(f"\nseed {seed}:", flip(checkpoint, tmp_path / "flipped.pt", [generator.randrange(num_bits) for _ in range(flips)]))


@pytest.mark.faults
def test_a_flipped_bit_in_the_structure_of_the_file_is_refused(checkpoint, tmp_path):
    """The first and the last bytes say what the file is: every bit of the first 400 and of the last 1,600."""
    num_bits = 8 * checkpoint.stat().st_size
    bits = [*range(8 * 400), *range(num_bits - 8 * 1600, num_bits)]
    print("\nat the ends:", flip(checkpoint, tmp_path / "flipped.pt", bits))


@pytest.mark.parametrize("cuts, seed", few_and_many((10, 3), (50, 4)))
def test_a_cut_off_checkpoint_is_refused(checkpoint, tmp_path, cuts, seed):
    data, file = checkpoint.read_bytes(), tmp_path / "cut.pt"
    generator = random.Random(seed)
    lengths = [0, 1, len(data) - 1] + [generator.randrange(len(data)) for _ in range(cuts - 3)]
    for length in lengths:
        file.write_bytes(data[:length])
        assert not (fault := fault_of(file)), f"with {length} of {len(data)} bytes: {fault}"
    print(f"\n{cuts} of {cuts} cut off checkpoints (seed {seed}, {len(data)} bytes) refused")


@pytest.mark.parametrize("command, damage", few_and_many(("test.py", "flipped"), ("test.py", "cut"), ("train.py", "flipped"),
                                                         ("train.py", "cut")))
def test_the_program_names_a_damaged_checkpoint_in_one_line(checkpoint, tmp_path, command, damage):
    data, file = checkpoint.read_bytes(), tmp_path / "damaged.pt"
    middle = len(data) // 2
    file.write_bytes(flipped(data, 8 * middle) if damage == "flipped" else data[:middle])
    assert_refused([command, "-r", file], file)
