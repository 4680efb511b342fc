"""What is promised here: a checkpoint that changed on the disk is refused, or it loads with the very content it had.

Bits are flipped and tails cut off at random. A flip may hit a byte of the file that carries nothing (padding, a time stamp):
that is harmless. Nothing is ever accepted with another content; whatever is refused is refused as ConfigError, in one line
that names the file, and by the program with exit code 2.
"""
import random

import pytest
from conftest import train
from harness import assert_refused, different_leaves, few_and_many, write_config

from utils.checkpoint import load_checkpoint
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


def is_refused(file, content: dict) -> bool:
    """Whether loading is refused; where it is not, the content has to be the same. Any other exception passes through."""
    try:
        loaded = load_checkpoint(file)
    except ConfigError as error:
        assert str(error).startswith(f"{file}: ") and len(str(error).splitlines()) == 1, error
        return True
    assert not (differ := different_leaves(content, loaded)), f"accepted with another content: {differ}"
    return False


def flip(checkpoint, file, bits) -> str:
    """Flips each of `bits` alone; returns what came of it, in words. Fails where one was neither refused nor harmless."""
    content, data, refused, wrong = load_checkpoint(checkpoint), checkpoint.read_bytes(), 0, {}
    for bit in bits:
        file.write_bytes(flipped(data, bit))
        try:
            refused += is_refused(file, content)
        except Exception as error:
            wrong[f"byte {bit // 8} bit {bit % 8}"] = f"{type(error).__name__}: {error}".splitlines()[0]
    assert not wrong, f"{len(wrong)} of {len(bits)} flips in {len(data)} bytes: {wrong}"
    assert refused
    return (f"{len(bits)} bits flipped in {len(data)} bytes: {refused} refused, {len(bits) - refused} harmless, "
            "0 accepted with another content")


@pytest.mark.parametrize("flips, seed", few_and_many((20, 1), (200, 2), (5000, 3)))
def test_a_flipped_bit_is_refused_or_harmless(checkpoint, tmp_path, flips, seed):
    generator, num_bits = random.Random(seed), 8 * checkpoint.stat().st_size
    print(f"\nseed {seed}:", flip(checkpoint, tmp_path / "flipped.pt", [generator.randrange(num_bits) for _ in range(flips)]))


@pytest.mark.faults
def test_a_flipped_bit_in_the_structure_of_the_file_is_refused_or_harmless(checkpoint, tmp_path):
    """The first and the last bytes say what the file is: every bit of the first 400 and of the last 1,600."""
    num_bits = 8 * checkpoint.stat().st_size
    bits = [*range(8 * 400), *range(num_bits - 8 * 1600, num_bits)]
    print("\nat the ends:", flip(checkpoint, tmp_path / "flipped.pt", bits))


@pytest.mark.parametrize("cuts, seed", few_and_many((10, 3), (50, 4)))
def test_a_cut_off_checkpoint_is_refused(checkpoint, tmp_path, cuts, seed):
    content, data, file = load_checkpoint(checkpoint), checkpoint.read_bytes(), tmp_path / "cut.pt"
    generator = random.Random(seed)
    lengths = [0, 1, len(data) - 1] + [generator.randrange(len(data)) for _ in range(cuts - 3)]
    for length in lengths:
        file.write_bytes(data[:length])
        assert is_refused(file, content), f"accepted, with {length} of {len(data)} bytes"
    print(f"\n{cuts} of {cuts} cut off checkpoints (seed {seed}, {len(data)} bytes) refused")


@pytest.mark.parametrize("command, damage", few_and_many(("test.py", "flipped"), ("test.py", "cut"), ("train.py", "flipped"),
                                                         ("train.py", "cut")))
def test_the_program_names_a_damaged_checkpoint_in_one_line(checkpoint, tmp_path, command, damage):
    data, file = checkpoint.read_bytes(), tmp_path / "damaged.pt"
    middle = len(data) // 2
    file.write_bytes(flipped(data, 8 * middle) if damage == "flipped" else data[:middle])
    assert_refused([command, "-r", file], file)
