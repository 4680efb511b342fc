"""The cache of decoded pictures: the same bytes as without it, if any file is damaged, deleted or full."""
import json
import logging
import os
import pickle
import signal
import time

import pytest
import torch
from conftest import PROJECT, assert_same_run, load, program, train
from test_image_folder import file, folder_of, loaded, picture
from torchvision.transforms import v2

from data_loader import picture_store
from data_loader.image_folder import ImageFolder
from data_loader.image_reader import ImageReader
from data_loader.picture_store import PictureStore, cache_folder, parse_cache
from utils.cli import train_arguments


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEEDBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(picture_store, "_SETTLED_S", -9)  # files are old enough at once
    return tmp_path / "cache" / "pictures"


def whole(path, **cache) -> torch.Tensor:
    return ImageReader(cache=cache).with_transforms([])[0](path)


def must_not_decode(path, content):
    raise AssertionError("it is there already")


def kept(path) -> torch.Tensor | None:
    """What a new process would find."""
    try:
        return ImageReader(cache={}).store.picture(path, must_not_decode)
    except AssertionError:
        return None


@pytest.mark.parametrize("transforms", [
    [v2.RandomResizedCrop(16), v2.RandomHorizontalFlip()], [v2.CenterCrop(20)],
    [v2.CenterCrop(20), v2.ColorJitter(1)], [v2.RandomHorizontalFlip(), v2.CenterCrop(20)]],
    ids=["resized", "cropped", "then PIL", "all PIL"])
def test_an_epoch_is_the_same_with_and_without_the_cache(tmp_path, transforms):
    options = {"transforms": transforms, "size": 30}
    expected = torch.cat(loaded(folder_of(tmp_path), **options))
    for workers in (0, 2, 0):
        assert torch.equal(torch.cat(loaded(tmp_path, workers, cache={}, **options)), expected)
        assert torch.equal(torch.cat(loaded(tmp_path, start=1, cache={}, **options)), expected[4:])
    assert kept(file(tmp_path, "00.jpg")) is None  # that of another size


def test_a_picture_is_decoded_once_and_found_by_new_processes_and_under_other_names(tmp_path):
    picture().save(path := file(tmp_path, "1.jpg"))
    expected = whole(path)
    assert torch.equal(kept(path), expected) and whole(path).stride() == expected.stride()
    other = pickle.loads(pickle.dumps(ImageReader(cache={}))).store
    assert torch.equal(other.picture(path, must_not_decode), expected)
    path.rename(path.with_name("2.jpg"))
    assert torch.equal(kept(path.with_name("2.jpg")), expected)


def test_what_a_user_changes_in_a_sample_does_not_change_the_cache(tmp_path):
    picture().save(path := file(tmp_path, "1.jpg"))
    expected = whole(path).clone()
    for transforms in ([], [v2.CenterCrop(30)]):
        reader = ImageReader(cache={}).with_transforms(transforms)[0]
        reader(path).zero_()
        reader(path).zero_()
    assert torch.equal(kept(path), expected)


def test_a_changed_file_is_read_anew_though_its_length_and_time_are_the_same(tmp_path, monkeypatch):
    path, store = file(tmp_path, "1.ppm"), PictureStore("")
    for settled_s in (-9, 2.0):
        monkeypatch.setattr(picture_store, "_SETTLED_S", settled_s)
        for seed in (0, 1, 2):
            picture(seed=seed).save(path)
            os.utime(path, (10**9, 10**9))
            found = store.picture(path, ImageReader("pil")._decoded)
            assert torch.equal(found, v2.functional.pil_to_tensor(picture(seed=seed)))
            time.sleep(0.02 * (settled_s < 0))  # the clock of a file system ticks a hundred times a second


def test_two_data_sets_unpacked_alike_do_not_meet(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        picture(seed=seed).save(path := file(tmp_path / name, "1.bmp"))
        os.utime(path, (10**9, 10**9))
    for name, seed in 2 * (("a", 0), ("b", 1)):
        os.chdir(tmp_path / name)
        assert torch.equal(whole("train/cat/1.bmp"), v2.functional.pil_to_tensor(picture(seed=seed)))
    os.chdir(PROJECT)


def changed(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1:]


def test_damaged_and_half_written_files_of_the_cache_are_passed_over(tmp_path, cache):
    paths = [file(folder_of(tmp_path, 4), f"{number:02}.jpg") for number in range(4)]
    expected = [*map(ImageReader(cache={}).with_transforms([])[0], paths)]
    pixels, index = next(cache.glob("*.dat")), next(cache.glob("*.idx"))
    data, records = bytearray(pixels.read_bytes()), bytearray(index.read_bytes())
    for file_, content in ((pixels, data[:-1]), (pixels, b""), (pixels, changed(data, 100)),
                           (index, records[:-1]), (index, changed(records, 20)), (index, b""),
                           (index, records + b"half a record"), (index, records + bytes(112))):
        before = file_.read_bytes()
        file_.write_bytes(content)
        assert all(map(torch.equal, [whole(path) for path in paths], expected))
        file_.write_bytes(before)
    for name in cache.iterdir():
        name.unlink()
    assert all(map(torch.equal, [whole(path) for path in paths], expected))


def test_a_folder_that_cannot_be_used_is_told_before_loader_workers_start(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SEEDBED_CACHE", str(tmp_path / "file"))
    folder = ImageFolder("train", str(folder_of(tmp_path)), cache={})
    assert f"{tmp_path / 'file' / 'pictures'}: no more pictures are kept there" in caplog.text
    assert folder[0][0].size  # without it


@pytest.mark.parametrize("name", ["_write_all", "mkdir"])
def test_a_full_disk_costs_the_cache_alone(tmp_path, cache, monkeypatch, caplog, name):
    real, room = picture_store._write_all, [7_500]

    def write(opened, data):
        room[0] -= len(data)
        if room[0] < 0:
            real(opened, data[:100])
            raise OSError(28, "No space left on device")
        real(opened, data)

    def mkdir(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    expected = torch.cat(loaded(folder_of(tmp_path)))
    monkeypatch.setattr(picture_store if name == "_write_all" else picture_store.Path, name,
                        write if name == "_write_all" else mkdir)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(torch.cat(loaded(tmp_path, cache={})), expected)
    assert caplog.text.count("no more pictures are kept there") == 1
    assert not cache.exists() or sum(one.stat().st_size for one in cache.glob("*.dat")) <= 7_500
    monkeypatch.undo()
    monkeypatch.setenv("SEEDBED_CACHE", str(cache.parent))
    assert torch.equal(torch.cat(loaded(tmp_path, cache={})), expected)


def test_the_cache_keeps_to_its_limit_and_says_so_once(tmp_path, cache, caplog, monkeypatch):
    monkeypatch.setattr(picture_store, "_STRIDE", 10_000)
    expected = torch.cat(loaded(folder_of(tmp_path)))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(torch.cat(loaded(tmp_path, cache={"max_gb": 2e-5})), expected)
    assert caplog.text.count("it holds 2") == 1 and "max_gb is 2e-05" in caplog.text
    assert sum(one.stat().st_size for one in cache.glob("*.dat")) < 40_000
    for wrong in ({"max_gb": 0}, {"max_gb": "50"}, {"gb": 1}, {"max_gb": True}):
        with pytest.raises(ValueError, match="{max_gb: 50} is one"):
            parse_cache(wrong)


def test_the_folder_is_that_of_the_command_line_or_of_the_environment_or_of_the_user(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache" / "pictures"
    monkeypatch.chdir(tmp_path)
    train_arguments(["-c", "x.yaml", "--cache", "other"])
    assert cache_folder() == tmp_path / "other" / "pictures"  # also in processes that are started elsewhere
    monkeypatch.delenv("SEEDBED_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "seedbed" / "pictures"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().parts[-3:] == (".cache", "seedbed", "pictures")


def test_a_forked_process_adds_to_a_segment_of_its_own(tmp_path, cache):
    paths = [file(folder_of(tmp_path, 3), f"{number:02}.jpg") for number in range(3)]
    store, decode = PictureStore(""), ImageReader("pil")._decoded
    store.picture(paths[0], decode)
    if not (child := os.fork()):
        store.picture(paths[1], decode)
        os._exit(0)
    os.waitpid(child, 0)
    store.picture(paths[2], decode)
    assert sorted(one.stat().st_size for one in cache.glob("*.idx")) == [56, 112]
    for path in paths:
        expected = ImageReader("pil").with_transforms([])[0](path)
        assert torch.equal(PictureStore("").picture(path, must_not_decode), expected)


def test_a_process_that_is_killed_at_any_write_leaves_a_cache_that_is_right(tmp_path, cache, monkeypatch):
    paths = [file(folder_of(tmp_path, 4), f"{number:02}.jpg") for number in range(4)]
    decode, real = ImageReader("pil")._decoded, picture_store._write_all
    expected = [decode(path, path.read_bytes()) for path in paths]
    for last in range(12):  # of the writes: each in three parts
        parts = iter(range(last + 1))

        def write(opened, data, parts=parts):
            for first in range(0, len(data), -(-len(data) // 3)):
                if next(parts, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                real(opened, data[first:first + -(-len(data) // 3)])

        if not (child := os.fork()):
            monkeypatch.setattr(picture_store, "_write_all", write)
            store = PictureStore(str(last))
            for path in paths:
                store.picture(path, decode)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        store, decoded = PictureStore(str(last)), []
        found = [store.picture(path, lambda *of: decoded.append(of) or decode(*of)) for path in paths]
        assert all(map(torch.equal, found, expected)) and len(decoded) == 4 - (last + 1) // 6


@pytest.fixture
def config(tmp_path):
    """A config file for runs over 40 images; 8 steps an epoch."""
    folder_of(tmp_path, 40)
    size, args = {"args": {"size": 16}}, {"root": str(tmp_path)}
    config = {"name": "kept", "dataset": {"type": "ImageFolder", "args": args},
              "transforms": {"train": [{"type": "RandomResizedCrop", **size}, "RandomHorizontalFlip"],
                             "eval": [{"type": "Resize", **size}, {"type": "CenterCrop", **size}]},
              "data_loader": {"batch_size": 4, "validation_split": 0.2}, "metrics": ["accuracy"],
              "model": {"type": "MLP", "args": {"sizes": [768, 2]}}, "loss": "CrossEntropyLoss",
              "optimizer": {"type": "SGD", "args": {"lr": 0.01}}, "writers": [],
              "trainer": {"args": {"epochs": 3, "log_every": 1}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path / "config.json"


def test_runs_are_the_same_without_a_cache_and_with_a_cold_and_a_warm_one(tmp_path, config, monkeypatch):
    plain = train("-c", config, out=tmp_path / "plain")
    for workers in (0, 2):
        monkeypatch.setenv("SEEDBED_CACHE", str(tmp_path / f"cache{workers}"))
        for number, cache in enumerate(("null", "{}", "{}")):
            other = train("-c", config, f"data_loader.num_workers={workers}", f"dataset.args.cache={cache}",
                          out=tmp_path / f"other{workers}{number}")
            assert_same_run(plain, other)
        assert sum(file.stat().st_size for file in cache_folder().glob("*.idx")) >= 40 * 56  # of a record


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--distributed", "--nproc", "2", "--device", "cpu"]],
                         ids=["one process", "two"])
def test_a_run_with_a_cache_that_is_killed_and_resumed_is_that_without_a_cache(
        tmp_path, config, monkeypatch, options):
    def run(*args, code: int = 0):
        program("train.py", "-q", *args, *options, code=code)

    run("-c", config, "--out", tmp_path / "out", "--run-name", "plain")
    monkeypatch.setenv("CRASH_AT_STEP", "14")  # in the second of three epochs
    run("-c", config, "--out", tmp_path / "out", "--run-name", "killed", "dataset.args.cache={}",
        "data_loader.num_workers=2", "trainer.args.checkpoint_every={steps: 3}",
        code=1 if options else -signal.SIGKILL)
    monkeypatch.delenv("CRASH_AT_STEP")
    plain, killed = (tmp_path / "out" / "kept" / name for name in ("plain", "killed"))
    assert load(killed)["state"]["progress"]["step"] in (9, 12)  # 12 may have been half written
    run("-r", killed)
    assert_same_run(plain, killed)
