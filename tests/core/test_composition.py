"""Configs made of others: files over files, what is deleted, what refers to another value or to the environment."""
import json

import pytest
import yaml

from base.run.run_config import resolve_config
from conftest import load, program, train
from utils.cli import SHORT_FLAGS, test_arguments as score_arguments, train_arguments
from utils.config.loading import load_config, override_config, place_of, read_config
from utils.config.syntax import COMMAND_LINE, dump_yaml
from utils.errors import ConfigError

BASE = """\
name: base
seed: 3
model: {type: MLP, args: {sizes: [64, 10], dropout: 0.1}}
optimizer: {type: AdamW, args: {lr: 0.01, weight_decay: 0.1}}
scheduler: {type: StepLR, args: {step_size: 3}}
metrics: [accuracy, {type: top_k_accuracy, args: {k: 3}}]
"""


@pytest.fixture
def write(tmp_path):
    """Writes a file of that name and text; returns its path."""
    def write(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    write("base.yaml", BASE)
    return write


def config_of(file, *overrides) -> dict:
    return load_config(file, overrides)[0]


def refused(file, *overrides) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(file, overrides)
    return str(error.value)


# -- files over files ----------------------------------------------------------------------------------------------

def test_of_several_files_the_later_one_wins_and_the_file_itself_wins_over_all(write):
    write("fast.yaml", "seed: 4\noptimizer: {args: {lr: 0.1}}\ntrainer: {args: {epochs: 1}}\n")
    write("more.json", json.dumps({"extends": "fast.yaml", "trainer": {"args": {"log_every": 2}}}))
    config = config_of(write("c.yaml", "extends: [base.yaml, more.json]\nname: c\n"))
    assert config["name"] == "c" and config["seed"] == 4 and config["trainer"] == {"args": {"epochs": 1, "log_every": 2}}
    assert config["optimizer"] == {"type": "AdamW", "args": {"lr": 0.1, "weight_decay": 0.1}}
    assert config_of(write("d.yaml", "extends: [more.json, base.yaml]\n"))["optimizer"]["args"]["lr"] == 0.01


def test_every_file_that_is_broken_or_missing_is_named_at_once(write, tmp_path):
    write("bad.yaml", "name: [1\nseed: 2\n")
    write("circle.yaml", "extends: [missing.yaml, c.yaml]\n")
    message = refused(write("c.yaml", "extends: [bad.yaml, base.yaml, circle.yaml]\n"))
    assert "bad.yaml:2: expected ',' or ']'" in message and "missing.yaml: cannot be read" in message
    assert "circle.yaml:1  extends: " in message and "c.yaml -> circle.yaml -> c.yaml" in message
    message = refused(tmp_path / "c.yaml", "no equals", "seed=[1", "~", "optimizer={lr: 1, lr: 2}")
    for said in ("bad.yaml:2", "'no equals'", "'~'", "optimizer.lr: written twice"):
        assert said in message


def test_the_schema_that_an_editor_is_told_of_is_no_section(write):
    assert "$schema" not in config_of(write("c.json", json.dumps({"$schema": "schema.json", "extends": "base.yaml"})))


def test_an_item_that_a_list_does_not_have_is_told_where_it_was_asked_for(write):
    file = write("c.yaml", "extends: base.yaml\n\nmetrics:\n  5: {args: {k: 2}}\n")
    assert "c.yaml:3  metrics: the list has 2 items; there is no item 5" in refused(file)
    assert refused(write("base.yaml", BASE), "metrics.2=accuracy").startswith(f"{COMMAND_LINE}  metrics: the list has 2 items")


# -- what is deleted -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("child", [
    "extends: base.yaml\n~scheduler:\noptimizer: {args: {~weight_decay: }}\n",
    '{"extends": "base.yaml", "~scheduler": null, "optimizer": {"args": {"~weight_decay": null}}}',
])
def test_a_key_with_a_tilde_deletes_what_is_inherited(write, child):
    file = write("c.json" if child.startswith("{") else "c.yaml", child)
    config, places = load_config(file)
    assert "scheduler" not in config and config["optimizer"] == {"type": "AdamW", "args": {"lr": 0.01}}
    assert ("scheduler", "args", "step_size") not in places and ("optimizer", "args", "weight_decay") not in places
    overridden = config_of(write("base.yaml", BASE), "~optimizer.args.weight_decay", "~scheduler")
    assert overridden == config


def test_what_is_deleted_can_be_written_anew(write):
    config = config_of(write("c.yaml", "extends: base.yaml\noptimizer:\n  ~args:\n  args: {lr: 1}\n"))
    assert config["optimizer"] == {"type": "AdamW", "args": {"lr": 1}}
    config = config_of(write("base.yaml", BASE), "optimizer.args.lr=1", "~optimizer.args")  # deleted first, in any order
    assert config["optimizer"] == {"type": "AdamW", "args": {"lr": 1}}


def test_a_file_deletes_what_the_files_before_it_say(write):
    write("plain.yaml", "~scheduler:\n")
    assert "scheduler" not in config_of(write("c.yaml", "extends: [base.yaml, plain.yaml]\n"))


def test_deleting_what_is_not_there_is_a_mistake_with_a_place(write):
    message = refused(write("c.yaml", "extends: base.yaml\n~schedular:\nmodel: {args: {~depth: }}\nmetrics: [{~type: }]\n"))
    lines = message.splitlines()
    assert len(lines) == 3 and all("nothing inherited to delete" in line for line in lines)
    assert [line.split()[0].rpartition("/")[2] for line in lines] == ["c.yaml:2", "c.yaml:3", "c.yaml:4"]
    assert f"{COMMAND_LINE}  ~nothing" in refused(write("base.yaml", BASE), "~nothing")


# -- references ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, value", [
    ('"${seed}"', 3), ("${seed}", 3), ("seed ${seed}, ${model.type}", "seed 3, MLP"), ('"${model.args.sizes}"', [64, 10]),
    ('"${model.args.sizes.0}"', 64), ('"${metrics.1.args.k}"', 3), ('"${metrics.0.type}"', "accuracy"),
    ('"${optimizer}"', {"type": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.1}}), ('"$${seed}"', "${seed}"),
    ("a$${b}c${seed}", "a${b}c3"), ('"$$${seed}"', "$${seed}"), ("$5", "$5"), ('"${trainer.type}"', "Trainer"),
    ("${loss}", None),
    ("is ${loss} ${data_loader.shuffle}", "is null false"), ("${other}", 3),
    ('{a: ["${seed}"]}', {"a": [3]}),
])
def test_a_reference_takes_the_value_of_another_key(write, text, value):
    file = write("c.yaml", f"extends: base.yaml\nnote: {text}\nother: ${{seed}}\ndata_loader: {{shuffle: false}}\n")
    config = config_of(file)
    assert config["note"] == value and type(config["note"]) is type(value)


def test_a_reference_sees_the_config_with_all_its_overrides(write):
    file = write("c.yaml", "extends: base.yaml\nname: run_${seed}\n")
    assert config_of(file, "seed=9")["name"] == "run_9"
    assert config_of(file, "name=${model.type}_${optimizer.args.lr}", "optimizer.args.lr=1e-4")["name"] == "MLP_0.0001"


@pytest.mark.parametrize("text, set_to, value", [
    ("${env:SEED}", "7", 7), ("${env:SEED,5}", None, 5), ("${env:SEED, 1e-3}", None, 1e-3), ("${env:SEED,}", None, ""),
    ("${env:SEED,data/a b}", None, "data/a b"), ("in ${env:SEED,x}", "7", "in 7"), ("${env:SEED}", "010", "010"),
    ("${env:SEED}", "True", True), ("${env:SEED}", "null", None), ("${env:SEED}", "a: [b # c", "a: [b # c"),
    ("${env:SEED}", "${seed}", "${seed}"), ("${env:SEED}", "", ""),
])
def test_a_reference_to_the_environment_takes_its_value_or_the_default(write, monkeypatch, text, set_to, value):
    monkeypatch.delenv("SEED", raising=False)
    if set_to is not None:
        monkeypatch.setenv("SEED", set_to)
    config = config_of(write("c.yaml", f"extends: base.yaml\nnote: \"{text}\"\n"))
    assert config["note"] == value and type(config["note"]) is type(value)


@pytest.mark.parametrize("text, said", [
    ('"${sed}"', "there is no 'sed' in this config. Did you mean 'seed'?"), ('"${model.args.depth}"', "no 'model.args.depth'"),
    ('"${env:NOT_THERE}"', "the environment has no NOT_THERE. Set it, or write a default: ${env:NOT_THERE,DEFAULT}"),
    ('"${note}"', "refers to itself, by way of note -> note"), ('"${model} or not"', "is a table: it cannot stand within text"),
    ('"${other}"', "refers to itself, by way of note -> other -> note"), ('"${seed"', "is not closed"),
    ('"${}"', "there is no ''"), ('"a ${model.args.sizes}"', "is a list"), ("{a: {b: \"${note}\"}}", "by way of"),
])
def test_a_reference_that_leads_nowhere_is_a_mistake_with_a_place_and_a_mend(write, text, said):
    message = refused(write("c.yaml", f"extends: base.yaml\n\nnote: {text}\nother: \"${{note}}\"\n"))
    assert "c.yaml:3  note" in message and said in message


def test_an_unquoted_reference_within_brackets_is_told_to_be_quoted(write):
    message = refused(write("c.yaml", "extends: base.yaml\nmodel: {args: {dropout: ${seed}}}\n"))
    assert "c.yaml:2" in message and 'stands in quotes: "${seed}"' in message and message.endswith("^")


def test_a_saved_config_holds_values_and_keeps_them(write, small, tmp_path, monkeypatch):
    monkeypatch.setenv("HIDDEN", "12")
    file = write("c.yaml", "extends: small.yaml\nname: run_${seed}\n"
                           "model: {args: {sizes: [64, \"${env:HIDDEN}\", 10]}}\ntrainer: {args: {epochs: 1}}\n")
    run = train("-c", file, out=tmp_path)
    assert run.parent.name == "run_7" and load(run)["config"]["model"]["args"]["sizes"] == [64, 12, 10]
    monkeypatch.delenv("HIDDEN")
    assert config_of(run / "config.yaml")["model"]["args"]["sizes"] == [64, 12, 10]
    assert yaml.safe_load((run / "config.yaml").read_text()) == load(run)["config"]
    train("-r", run, "trainer.args.epochs=${seed}", "seed=7", out=tmp_path)  # an override may refer; the run's config is done
    assert load(run)["state"]["progress"]["epoch"] == 7


def test_text_that_looks_like_a_reference_survives_a_checkpoint_and_config_yaml(tmp_path):
    config = {"name": "${seed} $${x}", "list": ["${"]}
    (tmp_path / "c.yaml").write_text(dump_yaml(config))
    assert config_of(tmp_path / "c.yaml") == config
    assert override_config(config, "last.pt", ["seed=${name}"]).config == {**config, "seed": "${seed} $${x}"}


def test_an_override_resolves_nothing_of_the_checkpoint_beside_it(monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    config = {"model": {"type": "MLP", "args": {"a": "${env:SECRET}", "b": [{"c": "${env:SECRET}"}]}}, "loss": "${env:SECRET}"}
    overrides = ["model.args.d=1", "model.args.b.0.e=${seed}", "loss.args.x=2"]
    reading = override_config(config, "last.pt", overrides)
    assert "hunter2" not in str(reading.config) and reading.config["model"]["args"]["b"][0]["e"] == 0
    assert place_of(reading.places, ("model", "args", "a")).source == "last.pt"
    assert place_of(reading.places, ("model", "args", "d")).source == COMMAND_LINE


# -- overrides -----------------------------------------------------------------------------------------------------

def test_flags_of_ones_own_are_short_for_overrides_and_these_win(write):
    assert SHORT_FLAGS["--lr"] == "optimizer.args.lr" and SHORT_FLAGS["--bs"] == "data_loader.batch_size"
    args = train_arguments(["-c", "c.yaml", "--lr", "0.5", "seed=1", "--bs", "8"])
    assert args.overrides == ["optimizer.args.lr=0.5", "data_loader.batch_size=8", "seed=1"]
    assert config_of(write("base.yaml", BASE), *args.overrides)["optimizer"]["args"]["lr"] == 0.5
    args = train_arguments(["-c", "c.yaml", "--lr", "0.5", "optimizer.args.lr=0.1"])
    assert config_of(write("base.yaml", BASE), *args.overrides)["optimizer"]["args"]["lr"] == 0.1
    assert score_arguments(["-r", "run", "--bs", "4"]).overrides == ["data_loader.batch_size=4"]


def test_faults_of_reading_and_of_names_and_values_are_told_together(write):
    file = write("c.yaml", "extends: base.yaml\nname: x\nname: y\ndataset: Digits\nmodel: LeNt\nloss: '${los}'\n")
    reading = read_config(file, ["trainer.args.epochs=ten", "~nothing"])
    with pytest.raises(ConfigError) as error:
        resolve_config(reading, None, [])
    lines = str(error.value).splitlines()
    found = [tuple(line.rpartition("/")[2].replace(COMMAND_LINE, "line").split()[:2]) for line in lines]
    assert {("c.yaml:3", "name:"), ("c.yaml:5", "model.type:"), ("c.yaml:6", "loss:"), ("line", "~nothing:"),
            ("line", "trainer.args.epochs:")} <= set(found)


def test_broken_syntax_is_answered_without_loading_torch(write):
    file = write("c.yaml", "name: x\nmodel:\n\ttype: LeNet\n")
    done = program("-X", "importtime", "train.py", "-c", file, code=2)
    assert "c.yaml:3: " in done.stderr and "spaces, not tabs" in done.stderr and " torch" not in done.stderr
