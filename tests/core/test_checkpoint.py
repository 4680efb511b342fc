"""Checkpoint files and the folder they lie in: sealed to the last byte, written beside the loop, never lost."""
import errno
import threading
import zipfile
from collections import Counter, OrderedDict

import pytest
import torch

from conftest import assert_same_state
from utils.checkpoint import archive, store as checkpoint
from utils.checkpoint.archive import DamagedError, read_archive, write_archive
from utils.checkpoint.loading import load_checkpoint
from utils.checkpoint.state import StateCopier, bit_equal, find_non_finite
from utils.checkpoint.store import CheckpointStore, SavePolicy
from utils.errors import ConfigError, TrainingError

NOW = SavePolicy(background=False)


def state_at(step: int, size: int = 8) -> dict:
    """A state as a run has it, every value of which follows from `step`."""
    weights = {"weight": torch.full((size,), float(step)), "count": torch.tensor(step)}
    return {"model": weights, "progress": {"epoch": step, "batch": 0, "step": step}}


def save(store: CheckpointStore, step: int, *names: str, policy: SavePolicy = NOW) -> None:
    state = state_at(step)
    store.save(state, [*names, "last.pt"], state["model"], policy)


def step_in(store: CheckpointStore, name: str) -> int:
    return load_checkpoint(store.folder / name)["state"]["progress"]["step"]


@pytest.fixture
def store(tmp_path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", {"name": "test"})


@pytest.fixture
def no_space(monkeypatch):
    """While it is set, no file can be written; `no_space.clear()` makes room."""
    full, write = threading.Event(), checkpoint.write_archive
    full.set()

    def write_if_there_is_room(content, file):
        if full.is_set():
            file.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(content, file)

    monkeypatch.setattr(checkpoint, "write_archive", write_if_there_is_room)
    return full


def test_an_archive_holds_what_torch_save_would_hold(tmp_path):
    tied = torch.randn(3, 4)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    content = {
        "model": network.state_dict(), "tied": [tied, tied], "view": tied[1], "transposed": tied.T, "empty": torch.zeros(0),
        "types": [torch.ones(2).to(kind) for kind in (torch.bfloat16, torch.uint16, torch.complex64, torch.bool)],
        "plain": {"a": [1, 2.5, None, True, "x"], 3: (torch.float32, torch.Size([1, 2]), Counter("aab"), {1, 2})}}
    file, other = tmp_path / "a.pt", tmp_path / "b.pt"
    write_archive(content, file)
    torch.save(content, other)
    loaded, expected = torch.load(file, weights_only=True), torch.load(other, weights_only=True)
    assert_same_state(loaded, expected)
    assert_same_state(read_archive(file), expected)
    assert_same_state(read_archive(other), expected)
    assert loaded["tied"][0].data_ptr() == loaded["tied"][1].data_ptr()
    assert loaded["model"]["0.weight"].stride() == expected["model"]["0.weight"].stride()
    assert loaded["model"]._metadata == expected["model"]._metadata
    assert torch.load(file, weights_only=True, mmap=True)["model"]["0.weight"].data_ptr() % 64 == 0
    assert zipfile.ZipFile(file).testzip() is None
    write_archive(content, other)
    assert file.read_bytes() == other.read_bytes()


def test_a_flip_of_any_byte_and_a_cut_anywhere_are_noticed(tmp_path):
    whole, broken = tmp_path / "whole.pt", tmp_path / "broken.pt"
    write_archive({"weight": torch.randn(7), "step": 3, "other": torch.arange(3)}, whole)
    good = whole.read_bytes()
    for at in range(len(good)):
        broken.write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1:])
        with pytest.raises(DamagedError):
            read_archive(broken)
    for length in range(0, len(good), 7):
        broken.write_bytes(good[: len(good) - 1 - length])
        with pytest.raises(DamagedError):
            read_archive(broken)
    broken.write_bytes(good + b"more")
    with pytest.raises(DamagedError):
        read_archive(broken)


@pytest.mark.parametrize("direct", [True, False])
def test_every_length_is_written_to_the_last_byte(tmp_path, monkeypatch, direct):
    """With blocks of two pages, so that they end within records, headers, and the seal."""
    monkeypatch.setattr(archive, "_BLOCK", 2 * archive.mmap.PAGESIZE)
    if not direct:
        monkeypatch.setattr(archive, "_DIRECT", 0)
    for size in [*range(0, 9000, 449), *range(3270, 3290)]:
        content = {"one": torch.randint(255, (size,), dtype=torch.uint8), "other": torch.arange(size, dtype=torch.uint8)}
        write_archive(content, tmp_path / "a.pt")
        assert_same_state(read_archive(tmp_path / "a.pt"), content)


def test_without_the_fast_checksum_the_bytes_are_the_same(tmp_path, monkeypatch):
    import zlib
    write_archive(state_at(3), tmp_path / "fast.pt")
    monkeypatch.setattr(archive, "crc32", zlib.crc32)
    write_archive(state_at(3), tmp_path / "slow.pt")
    assert (tmp_path / "fast.pt").read_bytes() == (tmp_path / "slow.pt").read_bytes()


def endless():
    loop = []
    loop.append(loop)
    return loop


def doubled():
    value = [0]
    for _ in range(40):
        value = [value, value]
    return value


@pytest.mark.parametrize("value, message", [
    (torch.zeros(1).expand(10**12), "claims the shape"), (endless(), "without end"), (doubled(), "without end"),
], ids=["a-huge-tensor", "a-list-within-itself", "a-list-doubled-forty-times"])
def test_what_explodes_when_somebody_walks_through_it_is_refused(tmp_path, value, message):
    torch.save({"value": value}, tmp_path / "bomb.pt")
    with pytest.raises(DamagedError, match=message):
        read_archive(tmp_path / "bomb.pt")


def test_a_compressed_record_is_refused_before_it_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", bytes(10**8))
    with pytest.raises(DamagedError, match="compressed"):
        read_archive(tmp_path / "bomb.pt")


def test_weights_that_are_not_finite_are_neither_written_nor_read(store):
    save(store, 1)
    state = state_at(2)
    state["model"]["weight"][3] = float("nan")
    with pytest.raises(TrainingError, match="weights of weight are not finite"):
        store.save(state, ["last.pt"], state["model"], NOW)
    assert step_in(store, "last.pt") == 1
    content = torch.load(store.folder / "last.pt", weights_only=True)
    content["state"]["model"]["weight"][3] = float("inf")
    torch.save(content, store.folder / "last.pt")
    with pytest.raises(ConfigError, match="last.pt: damaged: the weights of weight are not finite"):
        load_checkpoint(store.folder / "last.pt")


def test_buffers_may_hold_infinities(store):
    state = state_at(1)
    weights = dict(state["model"])
    state["model"]["mask"] = torch.tensor([0.0, float("-inf")])
    store.save(state, ["last.pt"], weights, NOW)
    assert load_checkpoint(store.folder / "last.pt")["state"]["model"]["mask"][1] == float("-inf")


def test_large_finite_weights_are_finite():
    assert find_non_finite({"large": torch.full((4,), 3e38), "half": torch.full((9,), 6e4, dtype=torch.float16)}) is None


def test_a_copy_does_not_change_with_its_origin_and_keeps_what_is_shared():
    weight = torch.ones(3)
    origin = OrderedDict(a=weight, b=weight, c=[weight[:2], {"d": 1}])
    copies = StateCopier()
    first = copies.copy(origin)
    weight.fill_(2)
    assert first["a"].tolist() == [1, 1, 1] and first["a"] is first["b"] and first["c"][0].tolist() == [1, 1]
    second = copies.copy(origin)
    assert second["a"].tolist() == [2, 2, 2] and second["a"].data_ptr() == first["a"].data_ptr()  # the memory is kept


def test_training_goes_on_while_a_save_is_written_and_the_next_save_waits(store, monkeypatch):
    may_write, write = threading.Event(), checkpoint.write_archive
    monkeypatch.setattr(checkpoint, "write_archive", lambda *args: may_write.wait(30) and write(*args))
    state = state_at(1)
    store.save(state, ["last.pt"], state["model"], SavePolicy())
    assert not (store.folder / "last.pt").exists()
    state["model"]["weight"].fill_(99)  # as the steps do that come meanwhile
    may_write.set()
    save(store, 2, policy=SavePolicy())
    store.finish()
    assert step_in(store, "last.pt") == 2 and step_in(store, "previous.pt") == 1
    previous = load_checkpoint(store.folder / "previous.pt")["state"]["model"]["weight"]
    assert previous.tolist() == [1.0] * 8


def test_a_bug_in_the_writing_thread_surfaces_in_the_loop(store, monkeypatch):
    monkeypatch.setattr(checkpoint, "write_archive", lambda *args: 1 / 0)
    save(store, 1, policy=SavePolicy())
    with pytest.raises(ZeroDivisionError):
        save(store, 2)


def test_a_failed_save_leaves_what_was_saved_and_makes_up_for_the_best(store, no_space, caplog):
    no_space.clear()
    save(store, 1, "best.pt")
    no_space.set()
    save(store, 2, "best.pt")
    save(store, 3)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "no space left" in caplog.text and "failure 2 in a row, 3 end the run after a minute" in caplog.text
    assert step_in(store, "last.pt") == step_in(store, "best.pt") == 1
    assert not list(store.folder.glob(".*"))
    no_space.clear()
    save(store, 4)
    assert step_in(store, "last.pt") == 4 and step_in(store, "best.pt") == 2
    store.finish()


def test_so_many_failures_in_a_row_end_the_run_after_a_minute(store, no_space, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    for step in range(9):  # a row that a save ends says nothing on the next one
        save(store, step)
    no_space.clear()
    save(store, 9)
    no_space.set()
    for clock[0] in (2000.0, 2000.1, 2000.2, 2059.9):
        save(store, 10)
        store.check()
    clock[0] = 2060.0
    with pytest.raises(TrainingError, match="no space left.*failure 5 in a row, which ends"):
        save(store, 10)
    with pytest.raises(TrainingError):
        store.finish()


def test_saves_that_fail_seldom_end_the_run_by_their_number(store, no_space, monkeypatch):
    monkeypatch.setattr(checkpoint, "PATIENCE_S", 0.0)
    for step in (1, 2):
        save(store, step)
    with pytest.raises(TrainingError, match="no space left.*failure 3 in a row, which ends"):
        save(store, 3)
    with pytest.raises(TrainingError):
        store.finish()


def test_space_is_asked_for_before_anything_is_written(store, monkeypatch, caplog):
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10})())
    save(store, 1)
    assert "no space left on the disk: 1 MB are needed, 0 MB are free" in caplog.text
    assert list(store.folder.iterdir()) == []


def test_the_checkpoint_that_the_run_goes_on_from_is_never_pruned(tmp_path):
    store = CheckpointStore(tmp_path, {})
    for step in (1, 2, 3):
        save(store, step, f"epoch_{step:04d}.pt")
    store = CheckpointStore(tmp_path, {}, resumed_from=tmp_path / "epoch_0001.pt")
    for step in (2, 3, 4):
        save(store, step, f"epoch_{step:04d}.pt", policy=SavePolicy(background=False, keep_last=1))
    assert {file.name for file in tmp_path.glob("epoch_*")} == {"epoch_0001.pt", "epoch_0004.pt"}


def test_a_damaged_last_never_takes_the_place_of_a_sound_previous(tmp_path):
    store = CheckpointStore(tmp_path, {})
    save(store, 1)
    save(store, 2)
    (tmp_path / "last.pt").write_bytes(b"damaged")
    store = CheckpointStore(tmp_path, {}, resumed_from=tmp_path / "previous.pt")
    save(store, 1)
    assert step_in(store, "previous.pt") == 1 and step_in(store, "last.pt") == 1
    save(store, 2)
    assert step_in(store, "previous.pt") == 1 and step_in(store, "last.pt") == 2
    (tmp_path / "last.pt").unlink()
    save(store, 3)
    assert step_in(store, "last.pt") == 3


def test_without_hard_links_names_are_copies(store, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EPERM, "Operation not permitted")
    monkeypatch.setattr(checkpoint.os, "link", refuse)
    save(store, 1, "best.pt")
    save(store, 2)
    assert [step_in(store, name) for name in ("best.pt", "previous.pt", "last.pt")] == [1, 1, 2]


def test_what_killed_saves_left_is_cleaned_up_and_nothing_else(tmp_path):
    for name in (".last.pt.999999999.tmp", ".best.pt.999999999.link.tmp", ".last.pt.1.tmp", ".browser.tmp"):
        (tmp_path / name).write_bytes(b"half")
    CheckpointStore(tmp_path, {})
    assert {file.name for file in tmp_path.iterdir()} == {".last.pt.1.tmp", ".browser.tmp"}  # process 1 is running


def test_going_on_from_an_older_checkpoint_keeps_the_newest_and_prunes_by_its_own_epochs(tmp_path):
    store = CheckpointStore(tmp_path, {})
    for step in (1, 2, 3, 4):
        save(store, step, f"epoch_{step:04d}.pt")
    store = CheckpointStore(tmp_path, {}, resumed_from=tmp_path / "epoch_0001.pt")
    save(store, 1)
    assert step_in(store, "previous.pt") == 4
    save(store, 2, "epoch_0002.pt", policy=SavePolicy(background=False, keep_last=2))
    assert {file.name for file in tmp_path.glob("epoch_*")} == {f"epoch_000{number}.pt" for number in (1, 2, 3, 4)}


def test_sparse_tensors_are_saved_and_quantized_ones_are_named(store):
    state = state_at(1)
    state["graph"] = {"adjacency": torch.eye(3).to_sparse()}
    store.save(state, ["last.pt"], {"adjacency": state["graph"]["adjacency"]}, NOW)
    assert load_checkpoint(store.folder / "last.pt")["state"]["graph"]["adjacency"].to_dense().sum() == 3
    state["graph"] = {"eights": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}
    with pytest.raises(TrainingError, match=r"\['eights'\] is a quantized tensor"):
        store.save(state, ["last.pt"], {}, NOW)
    deep = []
    for _ in range(200):
        deep = [deep]
    for unstorable in ({torch.ones(1)}, deep):
        with pytest.raises(TrainingError, match="a checkpoint holds tensors and plain values"):
            store.save({**state_at(1), "more": unstorable}, ["last.pt"], {}, NOW)


@pytest.mark.parametrize("change", [
    lambda state: state.update(finite_weights=5), lambda state: state.update(finite_weights=[[1]]),
    lambda state: state.update(progress={}), lambda state: state["progress"].update(step="ten"),
], ids=["number", "lists", "no-progress", "text"])
def test_a_state_of_another_shape_is_refused_and_the_one_before_is_used(store, change):
    from base.run.setup import open_checkpoint
    save(store, 1)
    save(store, 2)
    content = torch.load(store.folder / "last.pt", weights_only=True)
    change(content["state"])
    torch.save(content, store.folder / "last.pt")
    assert open_checkpoint(store.folder.parent, ("last.pt",)).file.name == "previous.pt"


def test_tensors_of_any_layout_are_compared_to_the_last_bit():
    one_of_many = torch.ones(1, 9).T[:1]  # [1, 1], with strides of a larger tensor
    assert bit_equal(one_of_many, torch.ones(1, 1)) and not bit_equal(one_of_many, torch.zeros(1, 1))
    matrix = torch.tensor([[1.0, torch.nan], [-0.0, 2.0]])
    assert bit_equal(matrix.T.contiguous().T, matrix) and not bit_equal(matrix, matrix.abs())
    assert bit_equal(torch.tensor(3), torch.tensor(3)) and bit_equal(torch.zeros(0), torch.zeros(0))
    assert not bit_equal(torch.zeros(2), torch.zeros(2, 1)) and not bit_equal(torch.zeros(1), torch.zeros(1).long())
