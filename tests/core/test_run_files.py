"""A run writes into its own folder only, also if a stranger has put links there."""
import pytest

from conftest import score, train
from utils.errors import ConfigError


def test_a_link_in_a_run_folder_is_replaced_and_its_target_stays(small, tmp_path):
    run = train("-c", small, "trainer.args.epochs=1", out=tmp_path / "saved")
    secret = tmp_path / "bashrc"
    secret.write_text("# my settings\n")
    names = ["config.yaml", "metrics.jsonl", "run.log", "environment.jsonl"]
    for name in names:
        (run / name).unlink()
    for name in (*names, "test.json"):
        (run / name).symlink_to(secret)
    score("-r", run)
    assert secret.read_text() == "# my settings\n" and not (run / "test.json").is_symlink()
    train("-r", run, "trainer.args.epochs=2", out=tmp_path / "saved")
    assert secret.read_text() == "# my settings\n"
    assert [name for name in names if (run / name).is_symlink()] == []


def test_a_run_whose_checkpoints_are_a_link_is_scored_but_not_continued(small, tmp_path):
    run = train("-c", small, "trainer.args.epochs=1", out=tmp_path / "saved")
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.glob("elsewhere/*"))
    assert score("-r", run)["epoch"] == 1
    with pytest.raises(ConfigError, match="checkpoints: is a link"):
        train("-r", run, "trainer.args.epochs=2", out=tmp_path / "saved")
    assert sorted(tmp_path.glob("elsewhere/*")) == before
