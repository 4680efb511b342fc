"""The first weights of a run, from files of this and of other programs."""
import logging
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn

from base.run.initial_weights import load_initial_weights, read_weights
from conftest import load, score, train
from utils.errors import ConfigError


def make_network() -> nn.Module:
    model = nn.Module()
    model.encoder, model.head = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), nn.Linear(3, 2)
    return model


@pytest.fixture
def weights() -> dict:
    torch.manual_seed(1)
    return make_network().state_dict()


def assert_loaded(model: nn.Module, weights: dict) -> None:
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("content", [
    lambda weights: weights,
    lambda weights: {"state_dict": weights, "epoch": 3, "arch": "resnet"},
    lambda weights: {"model": weights, "args": {"lr": 0.1}},
    lambda weights: {f"module._orig_mod.{name}": value for name, value in weights.items()},
    lambda weights: {"n_averaged": torch.tensor(3),
                     **{f"module.{name}": value for name, value in weights.items()}},
], ids=["bare", "state_dict", "model", "wrapped", "averaged"])
@pytest.mark.parametrize("legacy", [False, True])
def test_the_usual_files_of_weights_are_taken(content, legacy, weights, tmp_path):
    torch.save(content(weights), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    model = make_network()
    assert "9 loaded: encoder.0.weight" in load_initial_weights(model, tmp_path / "w.pth")
    assert_loaded(model, weights)


def test_safetensors_are_read_by_their_library_else_a_line_says_so(weights, tmp_path, monkeypatch):
    (tmp_path / "w.safetensors").touch()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ConfigError, match=r"w\.safetensors: reading it needs .*: pip install safetensors$"):
        read_weights(tmp_path / "w.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "safetensors.torch", SimpleNamespace(load_file=lambda file: weights))
    assert read_weights(tmp_path / "w.safetensors") == (tmp_path / "w.safetensors", weights)


def test_a_part_takes_renamed_weights_and_keeps_what_is_skipped(weights, tmp_path, caplog):
    theirs = {name.replace("encoder.", "backbone."): value for name, value in weights.items()}
    torch.save({**theirs, "fc.weight": torch.zeros(5)}, tmp_path / "w.pth")
    model = make_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with caplog.at_level(logging.INFO):
        load_initial_weights(model, tmp_path / "w.pth", "encoder", {"backbone.": "", "fc.": "0.other."},
                             ["1.running_mean", "1.running_*"])
    after = model.state_dict()
    assert torch.equal(after["encoder.0.weight"], weights["encoder.0.weight"])
    assert torch.equal(after["head.weight"], before["head.weight"])
    text = caplog.text
    assert "w.pth into encoder: 5 of 7 tensors (0 2 of 2, 1 3 of 5)" in text and "2 skipped" in text
    assert "3 unexpected (left out)" in text and "0.other.weight" not in text


def test_tensors_of_another_shape_are_left_out_and_named_with_both_shapes(weights, tmp_path, caplog):
    torch.save({**weights, "head.weight": torch.zeros(7, 3)}, tmp_path / "w.pth")
    with caplog.at_level(logging.DEBUG):
        load_initial_weights(make_network(), tmp_path / "w.pth")
    short, long = (record.getMessage() for record in caplog.records)
    assert "1 mismatched (left out): head.weight [7, 3], not [2, 3]" in short and "encoder.0" not in short
    assert "   8 loaded: encoder.0.weight, encoder.0.bias" in long


class Trusted:
    """What is more than tensors and plain values."""


@pytest.mark.parametrize("content, arguments, said", [
    (lambda w: w, {"into": "encodr"}, r"no part 'encodr'. Did you mean 'encoder'\?"),
    (lambda w: w, {"rename": {"body.": ""}}, r"no name begins with 'body\.'. There are: encoder\.0\.weight"),
    (lambda w: w, {"rename": {"encoder.0.": "encoder.1."}}, "two tensors the name 'encoder.1.weight'"),
    (lambda w: w, {"skip": ["tail.*"]}, r"'tail\.\*' of skip is no name's pattern"),
    (lambda w: {"x": torch.zeros(2)}, {}, "w.pth: no tensor fits the model. It has: x; the model: encoder"),
    (lambda w: {"lr": 3}, {}, "w.pth: holds lr; a state_dict is needed"),
    (lambda w: [1], {}, "w.pth: holds a list; a state_dict is needed"),
    (lambda w: {"state_dict": w, "config": Trusted()}, {},
     r"refused.*more than tensors.*torch\.save\(.*docs/migrate\.md"),
])
@pytest.mark.parametrize("legacy", [False, True])
def test_what_does_not_fit_is_said_in_one_line(content, arguments, said, legacy, weights, tmp_path):
    torch.save(content(weights), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    model = make_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=said) as error:
        load_initial_weights(model, tmp_path / "w.pth", **arguments)
    assert "\n" not in str(error.value)
    assert_loaded(model, before)


@pytest.fixture
def begun(small, tmp_path):
    """A config that begins with the weights of a file, which is tmp_path / "w.pth"."""
    config = yaml.safe_load(small.read_text())
    config["init"] = [{"from": str(tmp_path / "w.pth"), "into": "layers", "rename": {"net.": ""}}]
    config["optimizer"] = {"type": "SGD", "args": {"lr": 1e-9}}
    small.write_text(yaml.safe_dump(config))
    torch.save({"net.1.weight": torch.full((16, 64), 0.5)}, tmp_path / "w.pth")
    return small


def test_init_is_for_step_0_of_a_new_run_alone(begun, tmp_path):
    run = train("-c", begun, "trainer.args.epochs=1", out=tmp_path / "out")
    assert torch.allclose(load(run)["state"]["model"]["layers.1.weight"], torch.tensor(0.5), atol=1e-4)
    (tmp_path / "w.pth").unlink()
    train("-r", run, "trainer.args.epochs=2", out=tmp_path / "out")
    assert "test/loss" in score("-r", run)
    with pytest.raises(ConfigError, match=r"init.*a run under way keeps its init"):
        train("-r", run, "init=null", "trainer.args.epochs=3", out=tmp_path / "out")
    with pytest.raises(ConfigError, match=r"init\.0: .*w\.pth: there is no such file"):
        train("-c", begun, out=tmp_path / "new")


def test_the_command_line_and_the_config_do_not_both_say_where_weights_come_from(begun, tmp_path):
    with pytest.raises(ConfigError, match="init: --init-from is given, too"):
        train("-c", begun, "--init-from", tmp_path / "w.pth", out=tmp_path / "out")
