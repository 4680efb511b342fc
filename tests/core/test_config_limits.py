"""Configs that were written to do harm: endless ones, and names that a terminal or a shell would obey."""
import logging
import os
import time
from contextlib import suppress

import pytest

from base.config.validate import validate_config
from conftest import PROJECT
from logger.console import setup_logging
from utils.config.loading import load_config, override_config
from utils.errors import ConfigError, exit_codes

CONFIG = (PROJECT / "configs/digits.yaml").read_text(encoding="utf-8")


def refused(file, text: str | None = None) -> str:
    """The message with which a config is refused, on one line and within a second."""
    if text is not None:
        file.write_text(text, encoding="utf-8")
    started = time.process_time()
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert time.process_time() - started < 2 and "\n" not in str(error.value) and len(str(error.value)) < 500
    return str(error.value)


def chained(first: str, later: str) -> str:
    """A table of ten values, each with ten aliases of the one before."""
    lines = [f"a{i}: &a{i} " + later.format(", ".join([f"*a{i - 1}"] * 10)) for i in range(1, 10)]
    return "\n".join([f"a0: &a0 {first}", *lines])


NESTED = "".join(f"<<: [&m{i} {{" for i in range(9, 0, -1)) + "x: 1" + "".join(
    "}" + f", *m{i}" * 9 + "]" for i in range(1, 10))


@pytest.mark.parametrize("text", [
    chained("[x]", "[{}]"), "a: &a [*a, *a, *a]",
    f"a: &a {'x' * 10_000}\nb: [{'*a, ' * 1000}]", chained("[x]", "[{}]").replace("\n", "\nb") + "\n"])
def test_aliases_that_repeat_without_end_are_refused(tmp_path, text):
    assert "c.yaml:" in refused(tmp_path / "c.yaml", text)


@pytest.mark.parametrize("text", [chained("{x: 1}", "{{<<: [{}]}}"), "{" + NESTED + "}"])
def test_merges_of_merges_come_to_an_end(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    started = time.process_time()
    with suppress(ConfigError):  # older versions of PyYAML repeat each key
        assert load_config(tmp_path / "c.yaml")[0]
    assert time.process_time() - started < 2


def test_aliases_may_repeat_what_a_config_needs(tmp_path):
    (tmp_path / "c.yaml").write_text("a: &a {x: [1, 2, 3], text: some words}\nb: [" + "*a, " * 1000 + "]")
    assert load_config(tmp_path / "c.yaml")[0]["b"][999]["x"] == [1, 2, 3]


@pytest.mark.parametrize("first, later, last", [("", "${%s}", "xxxxxxxxxx"), ("[", "'${%s}', ", "[1, 2]")])
def test_references_that_stand_for_ever_more_are_refused(tmp_path, first, later, last):
    values = [later % f"b{i + 1}" * 10 for i in range(9)]
    lines = [f"b{i}: " + (f"[{value}]" if first else f"'{value}'") for i, value in enumerate(values)]
    text = "\n".join([*lines, f"b9: {last}"])
    assert "references stand for more than" in refused(tmp_path / "c.yaml", text)
    many = "\n".join(f"b{i}: '${{b{i + 1}}}'" for i in range(300)) + "\nb300: 1"
    with pytest.raises(ConfigError, match="more than 50 references"):
        (tmp_path / "c.yaml").write_text(many)
        load_config(tmp_path / "c.yaml")


def test_what_is_no_file_of_a_sensible_size_is_not_read(tmp_path):
    for there in ("/dev/zero", "/dev/stdin", "pipe"):
        os.path.exists(tmp_path / "pipe") or os.mkfifo(tmp_path / "pipe")
        message = refused(tmp_path / "c.yaml", f"extends: {there}")
        assert "no regular file" in message or not os.path.exists(there)
    (tmp_path / "big.yaml").write_bytes(b"# " + b"x" * 10**7)
    assert "larger than 10 MB" in refused(tmp_path / "big.yaml")
    assert "nested too deeply" in refused(tmp_path / "deep.yaml", "a: " + "[" * 100_000)
    assert "nested too deeply" in refused(tmp_path / "deep.json", '{"a": ' + "[" * 100_000)


def test_files_that_extend_ever_more_files_are_refused(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.yaml").write_text(f"extends: [{f'{number + 1}.yaml, ' * 5}]")
    (tmp_path / "4.yaml").write_text("seed: 1")
    with pytest.raises(ConfigError, match="extends at most 100 files"):
        load_config(tmp_path / "0.yaml")


ESCAPE = "\x1b[2J\u202e\x9b"


def test_control_characters_of_a_config_reach_neither_terminal_nor_log(tmp_path, capsys):
    file = tmp_path / "c.json"
    escaped = ESCAPE.encode("unicode_escape").decode().replace("\\x", "\\u00")
    file.write_text(f'{{"name": "x", "model": {{"type": "A{escaped}\\nmodel: fine"}}, '
                    f'"k{escaped}\\nERROR": 1}}')
    config, places = load_config(file)
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        for logs in (False, True):
            if logs:
                setup_logging()
            with pytest.raises(SystemExit), exit_codes():
                validate_config(config, places)
            with pytest.raises(SystemExit), exit_codes():
                raise ConfigError(f"a library says: {ESCAPE}")
            shown = "".join(capsys.readouterr())
            assert "\\x1b[2J" in shown and not any(sign in shown for sign in ESCAPE if sign not in "[2J")
            assert all("\nmodel" not in line and "\nERROR" not in line for line in [shown])
    finally:
        root.handlers = before
        logging.captureWarnings(False)


@pytest.mark.parametrize("name, fine", [
    ("top-5 acc (%)", True), ("f1@0.5", True), ("Genauigkeit für Ä", True), ("val/iou[2]", True),
    ("$(touch x)", False), ("`ls`", False), ("a; ls", False), ("a\nb", False), ("<b>", False), ("-x", False)])
def test_the_name_of_a_metric_is_harmless(tmp_path, name, fine):
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    config, _ = load_config(tmp_path / "c.yaml")
    config["metrics"] = [{"type": "accuracy", "name": name}]
    if fine:
        validate_config(config)
    else:
        with pytest.raises(ConfigError, match=r"metrics\.0\.name: .* names values in logs"):
            validate_config(config)


def test_the_config_of_a_checkpoint_is_never_interpolated(monkeypatch):
    monkeypatch.setenv("SECRET", "1234")
    config = {"name": "x", "model": {"type": "MLP", "args": {"a": "${env:SECRET}", "b": "${name}"}}}
    reading = override_config(config, "last.pt", ["seed=${env:SECRET}"])
    assert reading.config == {**config, "seed": 1234}
