"""What is promised here: whatever file is given as a checkpoint, the answer is a sound run or one line that names the file.

Nothing in the file is executed: pickles that call something, configs that name something dangerous. What would explode
(archives that expand to gigabytes, tensors that claim sizes they do not have, containers that hold themselves) is refused
within a minute and in little memory. Files that are no checkpoints, or not whole ones, are refused with the reason.
"""
import builtins
import copy
import io
import json
import os
import pickle
import re
import struct
import subprocess
import tarfile
import warnings
import zipfile

import numpy
import pytest
import torch

from conftest import needs, train
from harness import LITTLE_GB, Started, assert_refused, write_config
from utils import cli
from utils.errors import ConfigError

WITNESS = "WITNESS_FILE"  # of the environment: what must never be made
SMALL = ["model.args.sizes=[64, 16, 10]", "data_loader={batch_size: 30, validation_split: 40, batches_per_epoch: 5}",
         "trainer.args={epochs: 1, ema: 0.9}"]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A sound checkpoint."""
    folder = tmp_path_factory.mktemp("good")
    return train("-c", write_config(folder), *SMALL, out=folder) / "checkpoints" / "last.pt"


@pytest.fixture
def content(good) -> dict:
    """What it holds; a test may change it."""
    return torch.load(good, weights_only=True)


@pytest.fixture
def witness(tmp_path, monkeypatch):
    """A file that comes into being when something from a hostile file is executed."""
    monkeypatch.setenv(WITNESS, str(tmp_path / "executed"))
    yield tmp_path / "executed"
    assert not (tmp_path / "executed").exists(), "code from the file was executed"


def score(file) -> None:
    """`python test.py -r FILE`, in this process."""
    from test import main

    main(cli.test_arguments(["--quiet", "-r", str(file)]))


def selected(names, always: tuple) -> list:
    """Values to parametrize a test with: those in `always` for every run of the tests, the others for `-m faults`."""
    assert set(always) <= set(names)
    return [name if name in always else pytest.param(name, marks=pytest.mark.faults) for name in names]


# -- files that would execute something --------------------------------------------------------------------------------


class Calls:
    """An object whose unpickling calls `function(*args)`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def touch() -> str:
    return f"touch {os.environ[WITNESS]}"


CALLS = {
    "os.system": lambda: Calls(os.system, touch()),
    "subprocess.Popen": lambda: Calls(subprocess.Popen, touch().split()),
    "builtins.eval": lambda: Calls(builtins.eval, f"open({os.environ[WITNESS]!r}, 'w')"),
    "builtins.exec": lambda: Calls(builtins.exec, f"open({os.environ[WITNESS]!r}, 'w')"),
    "torch.load": lambda: Calls(torch.load, os.environ[WITNESS] + ".inner"),
    "torch.hub.load": lambda: Calls(torch.hub.load, os.environ[WITNESS] + ".hub", "entry", "github"),
}
CARRIERS = {
    "bare pickle": lambda content, evil, file: file.write_bytes(pickle.dumps(evil)),
    "whole content": lambda content, evil, file: torch.save(evil, file),
    "state": lambda content, evil, file: torch.save({**content, "state": {**content["state"], "evil": evil}}, file),
    "config": lambda content, evil, file: torch.save({**content, "config": {**content["config"], "evil": evil}}, file),
    "key": lambda content, evil, file: torch.save({**content, evil: 1}, file),
    "legacy": lambda content, evil, file: torch.save({**content, "e": evil}, file, _use_new_zipfile_serialization=False),
}
MAIN_CALLS = ("os.system in state", "builtins.eval in key", "subprocess.Popen in bare pickle")


def evil_file(case: str, content: dict, tmp_path):
    call, carrier = case.split(" in ")
    evil = CALLS[call]()
    torch.save(Calls(os.system, touch()), os.environ[WITNESS] + ".inner")  # what a call of torch.load would find
    CARRIERS[carrier](content, evil, tmp_path / "evil.pt")
    return tmp_path / "evil.pt"


ALL_CALLS = [f"{call} in {carrier}" for call in CALLS for carrier in CARRIERS]


@pytest.mark.parametrize("case", ALL_CALLS)
def test_no_pickle_gets_to_call_anything(content, tmp_path, witness, case):
    """In this process, for all of them; the next test asks the program."""
    file = evil_file(case, content, tmp_path)
    with pytest.raises(ConfigError, match=r"evil\.pt: ") as refusal:
        score(file)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("case", selected(ALL_CALLS, MAIN_CALLS[:1]))
def test_the_program_refuses_a_pickle_that_calls_something(content, tmp_path, witness, case):
    assert_refused(["test.py", "-r", evil_file(case, content, tmp_path)], tmp_path / "evil.pt")


@pytest.mark.faults
@pytest.mark.parametrize("command", [["train.py", "-r"], ["train.py", "-c", "configs/digits.yaml", "--init-from"]])
@pytest.mark.parametrize("case", MAIN_CALLS)
def test_training_from_a_hostile_file_is_refused_too(content, tmp_path, witness, case, command):
    needs("configs/digits.yaml")
    assert_refused([*command, evil_file(case, content, tmp_path), "--out", tmp_path / "out"], tmp_path / "evil.pt")


# -- configs that name something dangerous -----------------------------------------------------------------------------

NAMES = ("os.system", "torch.hub.load", "subprocess.Popen", "builtins.eval", "torch.load", "eval", "os:system", "__import__")
SECTIONS = {
    "model": lambda block: {"model": block}, "loss": lambda block: {"loss": block},
    "dataset": lambda block: {"dataset": block}, "optimizer": lambda block: {"optimizer": block},
    "scheduler": lambda block: {"scheduler": block}, "trainer": lambda block: {"trainer": block},
    "writers": lambda block: {"writers": [block]}, "transforms": lambda block: {"transforms": {"eval": [block]}},
    "metrics": lambda block: {"metrics": [block]},
}


def dangerous(name: str) -> list[dict]:
    """Blocks that would make the witness, were `name` looked up and called, whatever the argument is called."""
    arguments = ("command", "args", "source", "f", "repo_or_dir")
    return [{"type": name}, *({"type": name, "args": {argument: touch()}} for argument in arguments)]


@pytest.mark.parametrize("section, name", [
    pytest.param(section, name, marks=[] if section == "model" or name in NAMES[::7] else pytest.mark.slow)
    for section in SECTIONS for name in NAMES])
def test_the_config_inside_a_checkpoint_names_nothing_dangerous(content, tmp_path, witness, section, name):
    file = tmp_path / "evil.pt"
    for block in dangerous(name):
        torch.save({**content, "config": {**content["config"], **SECTIONS[section](block)}}, file)
        with pytest.raises(ConfigError, match=f"{section}.*no [a-z]+ '{re.escape(name)}'"):
            score(file)


@pytest.mark.parametrize("section, name", [pytest.param(*case, marks=[pytest.mark.faults] * (case[0] != "model")) for case in
                                           zip(SECTIONS, (*NAMES, NAMES[0]), strict=True)])
def test_the_program_refuses_a_config_that_names_something_dangerous(content, tmp_path, witness, section, name):
    file = tmp_path / "evil.pt"
    torch.save({**content, "config": {**content["config"], **SECTIONS[section](dangerous(name)[1])}}, file)
    assert re.search(f"{section}.*no [a-z]+ '{re.escape(name)}'", assert_refused(["test.py", "-r", file], file))


@pytest.mark.parametrize("change", [
    {"name": "../../escape"}, {"name": "/tmp/escape"}, {"extends": "/etc/passwd"}, {"seed": "1; touch x"},
    {"trainer": {"type": "Trainer", "args": {"max_time": "__import__('os').system('x')"}}},
], ids=["parent folder", "absolute folder", "extends", "text as seed", "text as time"])
def test_a_config_inside_a_checkpoint_reaches_no_other_file(content, tmp_path, change):
    torch.save({**content, "config": {**content["config"], **change}}, tmp_path / "evil.pt")
    with pytest.raises(ConfigError, match=next(iter(change))):
        score(tmp_path / "evil.pt")


# -- what explodes -----------------------------------------------------------------------------------------------------


def rezip(good, file, change=None, add=None) -> None:
    """The archive `good` again: `change(name, data)` gives a record's new data, `add(archive, prefix)` writes more."""
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(file, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(zipfile.ZipInfo(info.filename), change(info.filename, data) if change else data)
        if add:
            add(new, old.namelist()[0].split("/")[0])


def zeros(archive: zipfile.ZipFile, name: str, gigabytes: float) -> None:
    info = zipfile.ZipInfo(name)
    info.compress_type, block = zipfile.ZIP_DEFLATED, bytes(1 << 24)
    with archive.open(info, "w", force_zip64=True) as record:
        for _ in range(int(gigabytes * 64)):
            record.write(block)


def many_entries(archive: zipfile.ZipFile, prefix: str) -> None:
    """One record of 64 MB, and a directory that names it 20,000 times."""
    zeros(archive, f"{prefix}/data/bomb", 1 / 16)
    archive.filelist.extend([archive.filelist[-1]] * 20_000)


def in_place_of(mark: str, opcodes: bytes):
    """A change for `rezip`: the text `mark` in the pickle becomes what `opcodes` push."""
    old = b"X" + struct.pack("<I", len(mark)) + mark.encode()

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return data
        assert data.count(old) == 1
        return data.replace(old, opcodes)
    return change


def replaced(content: dict, where: str, value) -> dict:
    """`content` with `value` at a dotted path, all else as it was."""
    new = copy.copy(content)
    inner, *path = new, *where.split(".")
    for key in path[:-1]:
        inner[key] = copy.copy(inner[key])
        inner = inner[key]
    inner[path[-1]] = value
    return new


def laughs(depth: int = 40):
    """A billion laughs: ten times ten times ten ..., each list held once."""
    value = ["ha"]
    for _ in range(depth):
        value = [value] * 10
    return value


def itself():
    value: list = []
    value.append(value)
    return value


def absurd(size: int = 10**12) -> torch.Tensor:
    return torch.zeros(1).expand(size)


def deep(good, content, file, where: str, depth: int = 100_000) -> None:
    """Lists in lists in lists, at a dotted path."""
    between = file.with_suffix(".between")
    torch.save(replaced(content, where, "SENTINEL"), between)
    rezip(between, file, change=in_place_of("SENTINEL", b"]" * depth + b"a" * (depth - 1)))


def with_bomb_as_pickle(good, content, file) -> None:
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(file, "w") as new:
        for info in old.infolist():
            if info.filename.endswith("data.pkl"):
                zeros(new, info.filename, 4)
            else:
                new.writestr(zipfile.ZipInfo(info.filename), old.read(info))


BOMBS = {
    "a record that expands to 4 GB": lambda good, content, file: rezip(
        good, file, add=lambda archive, prefix: zeros(archive, f"{prefix}/data/bomb", 4)),
    "a pickle that expands to 4 GB": with_bomb_as_pickle,
    "records that overlap": lambda good, content, file: rezip(good, file, add=many_entries),
    "10^12 weights that are one": lambda good, content, file: torch.save(
        replaced(content, "state.ema.model", {name: absurd() for name in content["state"]["model"]}), file),
    "10^12 numbers elsewhere": lambda good, content, file: torch.save(replaced(content, "state.stray", absurd()), file),
    "10^12 numbers in the config": lambda good, content, file: torch.save(
        replaced(content, "config.seed", absurd()), file),
    "a size without its bytes": lambda good, content, file: rezip(
        good, file, change=lambda name, data: data[:0] if name.endswith("data/0") else data),
    "billion laughs as an argument": lambda good, content, file: torch.save(
        replaced(content, "config.model.args.sizes", laughs()), file),
    "billion laughs as a seed": lambda good, content, file: torch.save(replaced(content, "config.seed", laughs()), file),
    "billion laughs in the state": lambda good, content, file: torch.save(replaced(content, "state.stray", laughs()), file),
    "billion laughs as metrics": lambda good, content, file: torch.save(replaced(content, "config.metrics", laughs()), file),
    "a list in itself in the config": lambda good, content, file: torch.save(
        replaced(content, "config.model.args.sizes", itself()), file),
    "a list in itself in the state": lambda good, content, file: torch.save(replaced(content, "state.stray", itself()), file),
    "deep nesting in the config": lambda good, content, file: deep(good, content, file, "config.seed"),
    "deep nesting in the state": lambda good, content, file: deep(good, content, file, "state.stray"),
}


@pytest.mark.parametrize("name", selected(BOMBS, ("billion laughs as an argument",)))
def test_what_explodes_is_refused_within_a_minute_and_little_memory(good, content, tmp_path, name):
    BOMBS[name](good, content, tmp_path / "bomb.pt")
    size = (tmp_path / "bomb.pt").stat().st_size
    said = assert_refused(["test.py", "-r", tmp_path / "bomb.pt"], tmp_path / "bomb.pt")
    print(f"\n{name} ({size / 1e6:.1f} MB): {said[:300]}")


@pytest.mark.faults
def test_a_config_that_asks_for_more_memory_than_there_is_ends_in_a_message(content, tmp_path):
    """Such a config is no fault of the file; so the message names the section."""
    torch.save(replaced(content, "config.model.args.sizes", [64, 10**6, 10**6, 10]), tmp_path / "bomb.pt")
    with Started("test.py", "-r", tmp_path / "bomb.pt", memory_gb=LITTLE_GB) as program:
        assert program.end(60) == 2 and "model" in program.said and "Traceback" not in program.said, program.said


# -- what is no checkpoint, or not a whole one -------------------------------------------------------------------------


def tar(good, content, file) -> None:
    with tarfile.open(file, "w") as archive:
        archive.add(good, "last.pt")


def safetensors(good, content, file) -> None:
    header = json.dumps({"weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


def in_directory(offset: int, form: str, value: int):
    """A change to the entry of the last tensor in the archive's directory: `value` at `offset` of it."""

    def make(good, content, file) -> None:
        data = bytearray(good.read_bytes())
        with zipfile.ZipFile(good) as archive:
            names = [info.filename for info in archive.infolist() if "/data/" in info.filename]
        at = data.rfind(max(names, key=names.index).encode()) - 46
        assert data[at:at + 4] == b"PK\x01\x02"
        struct.pack_into(form, data, at + offset, value)
        file.write_bytes(data)
    return make


def with_weights(value: float, part: str = "state.ema.model"):
    """The weights that the program would use, with one of them not a number."""

    def make(good, content, file) -> None:
        weights = {name: tensor.clone() for name, tensor in content["state"]["model"].items()}
        next(iter(weights.values())).view(-1)[0] = value
        torch.save(replaced(content, part, weights), file)
    return make


def saved(change):
    return lambda good, content, file: torch.save(change(content), file)


def without(content: dict, *path: str) -> dict:
    *above, last = path
    inner = content
    for key in above:
        inner = inner[key]
    del inner[last]
    return content


def numpy_archive(good, content, file) -> None:
    with open(file, "wb") as handle:
        numpy.savez(handle, weight=numpy.zeros(4))


def with_warnings_off(save):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save()


def scripted(good, content, file) -> None:
    with_warnings_off(lambda: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(file)))


FOREIGN = {
    "a text file": lambda good, content, file: file.write_text("# Seedbed\n\nA template.\n"),
    "an empty file": lambda good, content, file: file.write_bytes(b""),
    "a folder": lambda good, content, file: file.mkdir(),
    "a picture": lambda good, content, file: file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8),
    "zeros": lambda good, content, file: file.write_bytes(bytes(good.stat().st_size)),
    "safetensors": safetensors,
    "a tar": tar,
    "an empty zip": lambda good, content, file: zipfile.ZipFile(file, "w").close(),
    "some zip": lambda good, content, file: rezip(good, file, change=lambda name, data: b"x"),
    "numpy .npz": numpy_archive,
    "TorchScript": scripted,
    "a bare tensor": saved(lambda content: torch.zeros(3)),
    "a list": saved(lambda content: [1, 2, 3]),
    "an empty dict": saved(lambda content: {}),
    "a bare state_dict": saved(lambda content: content["state"]["model"]),
    "a state and nothing else": saved(lambda content: {"state": {}}),
    "another format": saved(lambda content: {**content, "format": 99}),
    "a format of another kind": saved(lambda content: {**content, "format": torch.ones(2)}),
    "no format": saved(lambda content: without(content, "format")),
    "no config": saved(lambda content: without(content, "config")),
    "an empty config": saved(lambda content: {**content, "config": {}}),
    "a config that is a list": saved(lambda content: {**content, "config": ["model"]}),
    "no model": saved(lambda content: without(content, "state", "model")),
    "no progress": saved(lambda content: without(content, "state", "progress")),
    "an empty progress": saved(lambda content: replaced(content, "state.progress", {})),
    "a progress of text": saved(lambda content: replaced(content, "state.progress.step", "ten")),
    "a model that is a list": saved(lambda content: replaced(content, "state.ema.model", [1, 2])),
    "a model without a weight": saved(lambda content: without(content, "state", "ema", "model", "layers.1.weight")),
    "a weight of text": saved(lambda content: replaced(
        content, "state.ema.model", {**content["state"]["ema"]["model"], "layers.1.weight": "x"})),
    "a weight of another shape": saved(lambda content: replaced(
        content, "state.ema.model", {**content["state"]["ema"]["model"], "layers.1.weight": torch.zeros(2, 2)})),
    "one key more": saved(lambda content: {**content, "more": 1}),
    "legacy torch.save": lambda good, content, file: torch.save(content, file, _use_new_zipfile_serialization=False),
    "half a file": lambda good, content, file: file.write_bytes(good.read_bytes()[:good.stat().st_size // 2]),
    "half a file and its directory": lambda good, content, file: file.write_bytes(
        good.read_bytes()[:8000] + good.read_bytes()[16000:]),
    "a record marked as a folder": in_directory(38, "<I", 0x10),
    "a record said to be compressed": in_directory(10, "<H", 8),
    "a record said to be encrypted": in_directory(8, "<H", 1),
    "a record that starts elsewhere": in_directory(42, "<I", 0),
    "averaged weights with a NaN": with_weights(float("nan")),
    "averaged weights with an infinity": with_weights(float("inf")),
    "weights with a NaN": with_weights(float("nan"), "state.model"),
}
MAIN_FILES = ("a record marked as a folder",)


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_whole_checkpoint_is_refused(good, content, tmp_path, name):
    """In this process, for all of them; the next test asks the program."""
    FOREIGN[name](good, content, tmp_path / "foreign.pt")
    with pytest.raises(ConfigError) as refusal:
        score(tmp_path / "foreign.pt")
    if name != "an empty config":  # all its faults are told, each in a line
        assert len(str(refusal.value).splitlines()) == 1 and "foreign.pt" in str(refusal.value)


@pytest.mark.parametrize("name", selected(FOREIGN, MAIN_FILES))
def test_the_program_refuses_what_is_no_whole_checkpoint(good, content, tmp_path, name):
    FOREIGN[name](good, content, tmp_path / "foreign.pt")
    if name == "an empty config":
        pytest.skip("told in several lines")
    print(f"\n{name}: {assert_refused(['test.py', '-r', tmp_path / 'foreign.pt'], tmp_path / 'foreign.pt')[:300]}")


@pytest.mark.faults
def test_a_sound_copy_is_accepted(good, content, tmp_path):
    """So that what the tests above refuse is refused for what was done to it."""
    torch.save(replaced(content, "state.stray", torch.zeros(3)), tmp_path / "copy.pt")
    score(tmp_path / "copy.pt")
    rezip(good, tmp_path / "rezipped.pt")
    score(tmp_path / "rezipped.pt")
    buffer = io.BytesIO()
    torch.save(content, buffer)
    (tmp_path / "again.pt").write_bytes(buffer.getvalue())
    score(tmp_path / "again.pt")
