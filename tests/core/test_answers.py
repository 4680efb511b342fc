"""Small answers: dates in configs, scores with -q, a refused pickle, a missing folder, --list."""
import argparse

import pytest
import torch

from conftest import needs, score, train
from utils.checkpoint.archive import DamagedError, read_archive
from utils.config.loading import load_config, parse_overrides
from utils.config.syntax import dump_yaml, parse_yaml
from utils.errors import ConfigError


@pytest.mark.parametrize("text, value", [
    ("2024_05_01", "2024_05_01"), ("2024-05-01", "2024-05-01"), ("2024_05.01", "2024_05.01"),
    ("1_000", 1000), ("-12_000_000", -12_000_000), ("1_000.5", 1000.5), ("1_0e3", "1_0e3")])
def test_an_underscore_stands_between_thousands_and_a_date_is_text(text, value, small):
    assert repr(parse_yaml(text, "file").value) == repr(value)
    assert parse_overrides([f"name={text}"]).config == {"name": value}
    assert parse_yaml(dump_yaml({"a": value}), "file").value == {"a": value}
    small.write_text(small.read_text().replace("name: small", f"name: {text}"))
    assert load_config(small)[0]["name"] == value


def test_a_quiet_test_prints_its_scores(small, tmp_path, capsys):
    run = train("-c", small, "trainer.args.epochs=1", out=tmp_path)
    capsys.readouterr()
    scores = score("-r", run, "--split", "val")
    assert f"val/accuracy  {scores['val/accuracy']:.6g}" in capsys.readouterr().out


def test_a_refused_pickle_is_named_without_advice_to_trust_it(tmp_path):
    torch.save({"a": argparse.Namespace(b=1)}, tmp_path / "x.pt")
    with pytest.raises(DamagedError, match=r"^refused: .* plain values \(argparse.Namespace\)$"):
        read_archive(tmp_path / "x.pt")


def test_a_missing_folder_of_all_splits_is_reported_once(small, tmp_path):
    needs("data_loader/image_folder.py")
    dataset = f"dataset={{type: ImageFolder, args: {{root: {tmp_path / 'nowhere'}}}}}"
    with pytest.raises(ConfigError) as told:
        train("-c", small, dataset, "data_loader.validation_split=null", out=tmp_path)
    assert str(told.value).count("there is no folder") == 1


def test_list_alone_prints_kinds_and_counts():
    needs("tools/list_names.py")
    from tools.list_names import run_tool
    from utils.cli import KINDS, train_arguments

    lines = run_tool(train_arguments(["--list"])).splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(KINDS)
    assert "of this project" in lines[1] and "any torchvision dataset" in lines[1]
    assert len(run_tool(train_arguments(["--list", "all"])).splitlines()) > 300
