"""The two commands as processes: exit codes, messages, signals, files that are damaged or hostile."""
import os
import pickle
import re
import signal
import zipfile

import pytest
import torch
from faults.harness import Started, look_at

from conftest import PROJECT, assert_same_run, needs, program, train
from utils.errors import ConfigError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two epochs on the line."""
    needs("configs/linear_regression.yaml")
    out = tmp_path_factory.mktemp("saved")
    return train("-c", PROJECT / "configs/linear_regression.yaml", "trainer.args.epochs=2", "writers=[]", out=out)


@pytest.mark.parametrize("script, text", [("train.py", "--init-from"), ("test.py", "--split")])
def test_help_answers_without_loading_torch(script, text):
    done = program("-X", "importtime", script, "--help")
    assert text in done.stdout and "torch" not in done.stderr


@pytest.mark.parametrize("arguments, message", [
    (["-c", "configs/digits.yaml", "model.type=LeNt"], "model.type: no model 'LeNt'. Did you mean 'LeNet'?"),
    (["-c", "configs/digits.yaml", "metrics.1.args.k=20", "--out", "{tmp}"], "metrics.1: top_k_accuracy: One batch of training was tried"),
    (["-c", "configs/digits.yaml", "--out", "/proc/nowhere"], "cannot be made"),
    ([], "nothing to do"),
])
def test_a_users_mistake_is_one_message_and_exit_code_2(arguments, message, tmp_path):
    needs("configs/digits.yaml")
    done = program("train.py", *[argument.format(tmp=tmp_path) for argument in arguments], code=2)
    assert message in done.stderr and not list(tmp_path.glob("*/*/checkpoints/*"))


@pytest.mark.parametrize("arguments, message", [
    (["-c", "configs/nope.yaml"], "configs/nope.yaml: cannot be read"),
    (["-c", "configs/digits.yaml", "--device", "cuda:77"], "cuda:77"),
    (["-c", "configs/digits.yaml", "model.args.image_size_px=9"], "model/lenet.py:"),
    (["-c", "configs/digits.yaml", "data_loader.validation_split=null"], "data_loader.validation_split"),
    (["-c", "configs/digits.yaml", "--run-name", "a/b"], "--run-name"),
    (["-r", "saved/nowhere"], "no such file or folder"),
    (["-r", "tests"], "neither a run"),
    (["-c", "configs/digits.yaml", "lr"], "Overrides look like"),
])
def test_a_users_mistake_leaves_nothing_behind(arguments, message, tmp_path):
    needs("configs/digits.yaml")
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(*arguments, out=tmp_path)
    assert not list(tmp_path.glob("*/*/checkpoints/*"))


def test_where_mnist_cannot_be_downloaded_the_folder_for_its_files_is_named(tmp_path):
    needs("configs/mnist.yaml")
    options = [f"dataset.args.root={tmp_path}", "dataset.args.download=false"]
    done = program("train.py", "-c", "configs/mnist.yaml", *options, code=2)
    assert f"{tmp_path}/MNIST/raw" in done.stderr and "train-images-idx3-ubyte.gz" in done.stderr


class Evil:
    """Unpickling one makes a file."""

    def __reduce__(self):
        return os.system, ("touch " + os.environ["EVIL_FILE"],)


@pytest.mark.parametrize("make", ["pickle", "zip", "truncated", "flipped", "foreign", "format"])
def test_damaged_and_hostile_checkpoints_are_refused_and_run_no_code(run, tmp_path, monkeypatch, make):
    monkeypatch.setenv("EVIL_FILE", str(tmp_path / "ran"))
    bad, good = tmp_path / "bad.pt", (run / "checkpoints" / "last.pt").read_bytes()
    content = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    if make == "pickle":
        bad.write_bytes(pickle.dumps(Evil()))
    elif make == "zip":
        torch.save({**content, "state": {**content["state"], "evil": Evil()}}, bad)
    elif make == "truncated":
        bad.write_bytes(good[: len(good) // 2])
    elif make == "flipped":
        with zipfile.ZipFile(run / "checkpoints" / "last.pt") as archive:
            record = next(info for info in archive.infolist() if "/data/" in info.filename and info.file_size)
        padding = int.from_bytes(good[record.header_offset + 28 : record.header_offset + 30], "little")
        at = record.header_offset + 30 + len(record.filename) + padding  # the first byte of a weight
        bad.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:])
    else:
        torch.save({"state": {}} if make == "foreign" else {**content, "format": 99}, bad)
    done = program("test.py", "-r", bad, code=2)
    assert "bad.pt" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "ran").exists()


def test_the_config_inside_a_strangers_checkpoint_can_name_nothing_dangerous(run, tmp_path):
    content = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    content["config"]["model"] = {"type": "os.system", "args": {"command": f"touch {tmp_path / 'ran'}"}}
    torch.save(content, tmp_path / "bad.pt")
    done = program("test.py", "-r", tmp_path / "bad.pt", code=2)
    assert "no model 'os.system'" in done.stderr and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, pytest.param(signal.SIGUSR1, marks=pytest.mark.faults)])
def test_a_signal_writes_a_checkpoint_and_the_resumed_run_ends_with_the_same_bits(small, tmp_path, undisturbed, number):
    options = ["-q", "-c", small, "trainer.args.epochs=40", "data_loader.num_workers=2"]
    run = tmp_path / "small" / "stopped"
    with Started("train.py", *options, "--out", tmp_path, "--run-name", "stopped") as program:
        program.wait_for(lambda: look_at(run)[0] >= 5)
        os.killpg(program.process.pid, number)  # to the whole group, loader workers included
        assert program.end() == 128 + number
        assert "Traceback" not in program.said
    assert 0 < torch.load(run / "checkpoints" / "last.pt", weights_only=True)["state"]["progress"]["step"] < 200
    train("-r", run, "data_loader.num_workers=0", out=tmp_path)
    assert_same_run(undisturbed("trainer.args.epochs=40"), run)


def test_a_loss_that_is_not_finite_ends_with_exit_code_1_and_advice(small, tmp_path):
    done = program("train.py", "-c", small, "optimizer={type: SGD, args: {lr: 1e30}}", "--out", tmp_path, code=1)
    assert "learning rate" in done.stderr and "epoch 1" in done.stderr


def test_the_summary_and_the_closing_block_tell_what_was_built_and_what_to_do_next(small, tmp_path, capfd):
    done = program("train.py", "-c", small, "--out", tmp_path, "--run-name", "one", cold=True)
    for text in ("MLP: 1,210 parameters", "train 1,397 | val 40", "device: ", "epoch 2/2", "tensorboard --logdir", "checkpoints/best.pt",
                 f"python test.py -r {tmp_path}/small/one", f"python train.py -r {tmp_path}/small/one trainer.args.epochs=4"):
        assert text in done.stdout, text
    scored = program("test.py", "-r", tmp_path / "small")
    assert "test/accuracy" in scored.stdout
    capfd.readouterr()
    train("-c", small, "--run-name", "two", out=tmp_path)  # which is quiet
    assert capfd.readouterr().out == "" and "epoch 2/2" in (tmp_path / "small" / "two" / "run.log").read_text()
    with pytest.raises(ConfigError, match="there already"):
        train("-c", small, "--run-name", "two", out=tmp_path)
