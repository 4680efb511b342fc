"""After an upgrade: what a project's own files need, and what the changelog says of them."""
import re

import pytest

from conftest import PROJECT, needs

own_side = pytest.importorskip("scaffolds.upgrade.own_side", reason="a fork may do without it")


def test_configs_with_keys_that_are_gone_and_former_imports_are_named_with_what_to_write(tmp_path):
    (tmp_path / "old.yaml").write_text(OLD_CONFIG)
    (tmp_path / "net.py").write_text("import torch\nfrom base.augmentation import per_sample\n")
    first, = own_side.faults_of(tmp_path / "old.yaml")
    assert f"{tmp_path / 'old.yaml'}:8  trainer.args.on_oom: " in first
    assert "halve data_loader.batch_size" in first
    assert own_side.former_imports(tmp_path / "net.py") == [
        f"{tmp_path / 'net.py'}:2: base.augmentation is now base.data.augmentation"]


def test_the_changelog_has_a_commit_for_each_older_version_and_says_what_owners_do():
    needs("CHANGELOG.md", "setup.cfg")
    from scaffolds.upgrade.versions import stamp_of, your_side_of

    changelog = (PROJECT / "CHANGELOG.md").read_text()
    newest, *older = re.findall(r"(?m)^\| ([\d.]+) \| (.+) \|$", changelog)
    assert newest[0] == stamp_of((PROJECT / "setup.cfg").read_text())["version"]
    assert ("1.0.0", "6e655fa") in older and all(re.fullmatch("[0-9a-f]{7,40}", value) for _, value in older)
    assert re.findall(r"(?m)^## ([\d.]+)", changelog) == [newest[0], *(version for version, _ in older)][:-1]
    assert len(your_side_of(changelog)) > 10


OLD_CONFIG = """name: old
dataset: Digits
data_loader: {batch_size: 64, validation_split: 0.1}
model: {type: MLP, args: {sizes: [64, 10]}}
loss: CrossEntropyLoss
optimizer: SGD
trainer:
  args: {epochs: 1, on_oom: split}
"""
