"""What a config file means: numbers, inheritance, overrides, and where a value was written."""
import json
import math
import re

import pytest

from base import TRAINERS
from base.run.run_config import keep_arguments, resolve_config
from base.config.validate import validate_config
from conftest import PROJECT, needs
from trainer.trainer import Trainer
from utils.config.loading import load_config, located, override_config, place_of, read_config
from utils.config.values import flatten, value_at
from utils.config.signature import Signature
from utils.config.syntax import COMMAND_LINE, Place, dump_yaml
from utils.errors import ConfigError, Fault

CONFIGS = PROJECT / "configs"
BASE = """\
name: base
model: {type: MLP, args: {sizes: [4, 2], dropout: 0.1}}
loss: CrossEntropyLoss
metrics:
  - accuracy
  - {type: top_k_accuracy, args: {k: 3}}
"""


@pytest.fixture
def write(tmp_path):
    """Writes a file of that name and text; returns its path."""
    def write(name, text):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write


def refused(file, *overrides) -> str:
    """The message with which a config is refused."""
    with pytest.raises(ConfigError) as error:
        load_config(file, list(overrides))
    return str(error.value)


def places_in(file, *overrides) -> dict:
    """Where the values of a config were written, with the names of files instead of their paths."""
    _, places = load_config(file, list(overrides))
    return {path: place.source.replace(f"{file.parent}/", "") for path, place in places.items()}


# -- values --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, value", [
    ("1e-3", 1e-3), ("1E5", 1e5), ("+2e3", 2e3), ("1.5e-3", 1.5e-3), (".5", 0.5), ("-.5", -0.5), ("1.", 1.0), ("0.0", 0.0),
    (".inf", math.inf), ("-.inf", -math.inf), ("1_000", 1000), ("0", 0), ("-7", -7), ("+7", 7), ("0x1F", 31), ("0b101", 5),
    ("010", "010"), ("08", "08"), ("1:30", "1:30"), ("0:01:30", "0:01:30"), ("2024-01-01", "2024-01-01"),
    ("2024-01-01 10:00:00", "2024-01-01 10:00:00"), ("1.2.3", "1.2.3"), ("1e", "1e"), ("inf", "inf"), ("e5", "e5"),
    ("null", None), ("~", None), ("", None), ("true", True), ("off", False), ('"off"', "off"), ('"1e-3"', "1e-3"),
])
def test_plain_yaml_scalars_mean_what_they_look_like(write, text, value):
    config, _ = load_config(write("c.yaml", f"value: {text}\n"))
    assert config == {"value": value} and type(config["value"]) is type(value)


def test_nan_can_be_written(write):
    config, _ = load_config(write("c.yaml", "value: .nan\n"))
    assert math.isnan(config["value"])


NUMBERS = "model: {type: Net, args: {labels: {0: cat, 1: dog}, 2: x}}\n"


def test_keys_of_arguments_that_are_numbers_stay_numbers(write, monkeypatch):
    labels = "{0: cat, 0.5: half, true: yes, no: Norway, '7': seven, on: ${model.args.t.2}}"
    file = write("c.yaml", f"model: {{type: Net, args: {{labels: {labels.replace('${', chr(34) + '${', 1)}, t: {{2: x}}}}}}"
                 .replace("t.2}", 't.2}"'))
    config, places = load_config(file)
    table = config["model"]["args"]["labels"]
    assert table == {0: "cat", 0.5: "half", True: True, "no": "Norway", "7": "seven", "on": "x"}
    assert [type(key) for key in table] == [int, float, bool, str, str, str]
    assert place_of(places, ("model", "args", "labels", 0)) == place_of(places, ("model", "args", "labels", "0"))
    again, _ = load_config(write("again.yaml", dump_yaml({**config, "default_values": {"model.args.t": {2: "x"}}})))
    assert again["model"]["args"]["labels"] == table and "t" not in again["model"]["args"]
    assert flatten(config)["model.args.labels.0"] == value_at(config, "model.args.labels.0") == "cat"
    assert "written twice" in refused(write("twice.yaml", "model: {args: {labels: {1: a, 1: b}}}"))


@pytest.mark.parametrize("override, labels", [
    ("model.args.labels.1=wolf", {0: "cat", 1: "wolf"}), ("model.args.labels.2=emu", {0: "cat", 1: "dog", 2: "emu"}),
    ("model.args.labels={2: emu}", {0: "cat", 1: "dog", 2: "emu"}), ("~model.args.labels.0", {1: "dog"})])
def test_overrides_reach_keys_that_are_numbers(write, override, labels):
    config, _ = load_config(write("c.yaml", NUMBERS), [override])
    assert config["model"]["args"] == {"labels": labels, "2": "x"}  # arguments are words


def test_text_becomes_the_numbers_that_an_argument_asks_for_as_keys():
    def net(labels: dict[int, str] | None = None, words: dict[str, int] | None = None, table: dict | None = None):
        pass

    given = {name: {"0": 1, "a": 2} for name in ("labels", "words", "table")}
    assert Signature(net).convert(given) == {**given, "labels": {0: 1, "a": 2}}


def test_keys_are_text_whatever_they_look_like(write):
    config, _ = load_config(write("c.yaml", "on: 1\n2: two\nnull: 3\n1e-3: 4\n"))
    assert config == {"on": 1, "2": "two", "null": 3, "1e-3": 4}


def test_anchors_are_shared_and_what_is_written_beside_them_wins(write):
    config, _ = load_config(write("c.yaml", "a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, y: 3}\n"))
    assert config == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}, "c": {"x": 1, "y": 3}}


def test_yaml_and_json_hold_the_same(write):
    config = {"name": "x", "lr": 1e-3, "steps": [1, -2.5, 1e22], "on": True, "none": None, "text": ["1e-3", "off", "010", ""],
              "nested": {"empty": {}, "list": [], "deep": [{"a": {"b": "ü \"quoted\" \\ /"}}]}}
    for indent in (None, 2, "\t"):
        assert load_config(write("c.json", json.dumps(config, indent=indent)))[0] == config
    assert load_config(write("c.yaml", dump_yaml(config)))[0] == config


def test_json_may_have_tabs_between_its_tokens_and_escapes_in_its_text(write):
    config, _ = load_config(write("c.json", '{\t"a":\t[1,\t2],\n\t"b": "tab\\there", "c": 1E5}'))
    assert config == {"a": [1, 2], "b": "tab\there", "c": 1e5} and type(config["c"]) is float


def test_json_escapes_of_characters_beyond_the_first_plane_are_one_character(write):
    config, _ = load_config(write("c.json", json.dumps({"name": "seedling \U0001F331"})))  # writes \ud83c\udf31
    assert config == {"name": "seedling \U0001F331"}
    assert load_config(write("c.yaml", dump_yaml(config)))[0] == config


def test_mnist_is_the_same_experiment_in_both_formats():
    needs("configs/mnist.yaml", "configs/mnist.json")
    assert load_config(CONFIGS / "mnist.yaml")[0] == load_config(CONFIGS / "mnist.json")[0]


@pytest.mark.parametrize("value", [
    "1e-3", "off", "NO", "010", "1:30", "2024-01-01", "null", "~", "", ".inf", "1_000", "0x1F", "=", "<<", "- a", "a: b", "# c",
    "a\nb", " a ", "\t", "@x", "!x", "*x", "é", "\U0001F331", "x" * 300, "many words " * 30, "\\n", "\x07",
    None, True, 0, -1, 10**30, 1e-3, 1e-7, 1e22, 1.0, -0.0, math.inf, -math.inf, 5e-324,
    [], {}, [[]], [{}], [None, "null"], {"on": 1, "1": "1", "null": None, "": 0, "a.b": 2, "k" * 200: 3},
], ids=lambda value: repr(value)[:24])
def test_dumped_yaml_reads_back_equal(write, value):
    config = {"value": value, "list": [value], "table": {"inner": value}}
    back, _ = load_config(write("c.yaml", dump_yaml(config)))
    assert repr(back) == repr(config)  # repr, since 1 == 1.0 == True


# -- broken files --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, text", [
    ("c.yaml", "name: x\nmodel:\n  type: A\n  args: {}\n  type: B\n"), ("c.yaml", "name: x\nmodel: {type: A,\n  type: B}\n"),
    ("c.json", '{"name": "x",\n"model": {"type": "A",\n"type": "B"}}'),
])
def test_a_duplicate_key_is_an_error_that_names_file_line_and_key(write, name, text):
    lines = [number for number, line in enumerate(text.splitlines(), start=1) if "type" in line]
    message = refused(write(name, text))
    assert int(re.search(rf"{name}:(\d+) ", message).group(1)) in lines
    assert "model.type" in message and "twice" in message


@pytest.mark.parametrize("name, text, line", [
    ("c.yaml", "name: x\nmodel: [1\nloss: y\n", 3), ("c.yaml", 'name: x\nloss: "y\n', 2), ("c.yaml", "name: x\n loss: y\n", 2),
    ("c.yaml", "name: x\nloss: @y\n", 2), ("c.yaml", "name: x\nloss: *nobody\n", 2), ("c.yaml", "name: x\n---\nloss: y\n", 2),
    ("c.json", '{"name": "x",\n"loss": "y",}', 2), ("c.json", '{"name": "x"\n"loss": "y"}', 2), ("c.json", "{'name': 'x'}", 1),
    ("c.json", "", 1),
])
def test_broken_syntax_is_one_error_that_names_the_line(write, name, text, line):
    assert f"{name}:{line}:" in refused(write(name, text))


def test_a_yaml_file_indented_by_tabs_is_told_so(write):
    message = refused(write("c.yaml", "name: x\nmodel:\n\ttype: LeNet\n"))
    assert "c.yaml:3" in message and "tabs" in message


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text", "3"])
def test_a_file_that_is_no_table_of_sections_is_refused(write, text):
    assert "c.yaml" in refused(write("c.yaml", text))


@pytest.mark.parametrize("text", ["name: a\x00b", "name: a\x07b"])
def test_control_characters_are_refused_by_name_of_the_file(write, text):
    assert "c.yaml" in refused(write("c.yaml", text))


def test_a_file_that_is_missing_or_no_text_is_refused_by_name(write, tmp_path):
    write("there.yaml", "name: x")
    message = refused(tmp_path / "their.yaml")
    assert "their.yaml" in message and "there.yaml" in message  # what there is instead
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00a")
    assert "binary.yaml" in refused(tmp_path / "binary.yaml")


@pytest.mark.parametrize("value", [
    "!!python/object/apply:os.system ['touch {marker}']", "!!python/object/new:os.system ['touch {marker}']",
    "!!python/name:os.system", "!!python/module:os", "!!python/object:pathlib.Path {{}}", "!!python/tuple [1, 2]",
    "!Custom {{a: 1}}", "!Custom [1]", "!Custom text", "!!binary aGk=", "!!timestamp 2024-01-01", "!!set {{a, b}}",
])
def test_tags_that_ask_for_objects_are_refused_and_run_nothing(write, tmp_path, value):
    marker = tmp_path / "marker"
    file = write("c.yaml", f"name: x\nmodel: {value.format(marker=marker)}\n")
    assert "c.yaml:2" in refused(file)
    assert "command line" in refused(write("good.yaml", "name: x\n"), f"model={value.format(marker=marker)}")
    assert not marker.exists()


@pytest.mark.parametrize("text", ["a: &a {b: *a}", "a: &a [*a]", "a: " + "[" * 60 + "]" * 60])
def test_a_config_that_contains_itself_is_refused(write, text):
    assert "nested too deeply" in refused(write("c.yaml", text))


# -- extends -------------------------------------------------------------------------------------------------------

def test_extends_inherits_and_what_is_written_in_the_file_wins(write):
    write("base.yaml", BASE)
    config, _ = load_config(write("c.yaml", "extends: base.yaml\nname: mine\nseed: 1\n"))
    assert config == {**load_config(write("base.yaml", BASE))[0], "name": "mine", "seed": 1}


def test_extends_takes_a_list_of_which_the_later_wins(write):
    write("a.yaml", "x: a\nonly_a: 1\nargs: {p: a, q: a}\n")
    write("b.json", '{"x": "b", "only_b": 1, "args": {"q": "b"}}')
    config, _ = load_config(write("c.yaml", "extends: [a.yaml, b.json]\nown: 1\n"))
    assert config == {"x": "b", "only_a": 1, "only_b": 1, "own": 1, "args": {"p": "a", "q": "b"}}


def test_extends_goes_on_from_file_to_file_each_relative_to_its_own_folder(write, tmp_path):
    (tmp_path / "deep").mkdir()
    write("deep/grandparent.yaml", "x: 1\ny: 1\nz: 1\n")
    write("deep/parent.yaml", "extends: grandparent.yaml\ny: 2\nz: 2\n")
    config, _ = load_config(write("c.yaml", "extends: deep/parent.yaml\nz: 3\n"))
    assert config == {"x": 1, "y": 2, "z": 3}


def test_one_file_may_be_inherited_along_two_ways(write):
    write("root.yaml", "x: 1\n")
    write("a.yaml", "extends: root.yaml\na: 1\n")
    write("b.yaml", "extends: root.yaml\nb: 1\n")
    assert load_config(write("c.yaml", "extends: [a.yaml, b.yaml]\n"))[0] == {"x": 1, "a": 1, "b": 1}


def test_a_circle_of_extends_is_an_error_that_names_its_files(write):
    write("a.yaml", "extends: b.yaml\n")
    message = refused(write("b.yaml", "extends: a.yaml\n"))
    assert "a.yaml" in message and "b.yaml" in message and "itself" in message
    assert "itself" in refused(write("own.yaml", "extends: own.yaml\n"))


def test_a_missing_parent_is_an_error_that_names_parent_and_child(write):
    message = refused(write("c.yaml", "extends: nowhere.yaml\n"))
    assert "nowhere.yaml" in message and "c.yaml" in message


@pytest.mark.parametrize("value", ["3", "{a: 1}", "[base.yaml, 3]"])
def test_extends_of_anything_but_file_names_is_an_error(write, value):
    write("base.yaml", BASE)
    assert "c.yaml:2" in refused(write("c.yaml", f"name: x\nextends: {value}\n"))


@pytest.mark.parametrize("written, model", [
    ("{type: LeNet, args: {width: 8}}", {"type": "LeNet", "args": {"width": 8}}),  # another type: replaced whole
    ("LeNet", {"type": "LeNet"}),
    ("{type: MLP, args: {dropout: 0.5}}", {"type": "MLP", "args": {"sizes": [4, 2], "dropout": 0.5}}),  # the same: merged
    ("{args: {dropout: 0.5}}", {"type": "MLP", "args": {"sizes": [4, 2], "dropout": 0.5}}),
    ("MLP", {"type": "MLP", "args": {"sizes": [4, 2], "dropout": 0.1}}),
    ("{args: {sizes: [8]}}", {"type": "MLP", "args": {"sizes": [8], "dropout": 0.1}}),  # a list is replaced
    ("null", None),
])
def test_a_block_of_another_type_replaces_and_one_of_the_same_type_merges(write, written, model):
    write("base.yaml", BASE)
    assert load_config(write("c.yaml", f"extends: base.yaml\nmodel: {written}\n"))[0]["model"] == model


def test_arguments_join_a_block_that_was_written_as_a_bare_name(write):
    write("base.yaml", BASE)
    config, _ = load_config(write("c.yaml", "extends: base.yaml\nloss: {args: {label_smoothing: 0.1}}\n"))
    assert config["loss"] == {"type": "CrossEntropyLoss", "args": {"label_smoothing": 0.1}}
    config, _ = load_config(write("c.yaml", "extends: base.yaml\nloss: {type: MSELoss, args: {reduction: sum}}\n"))
    assert config["loss"] == {"type": "MSELoss", "args": {"reduction": "sum"}}


# -- overrides -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("overrides, section, value", [
    (["name=other"], "name", "other"), (["seed=1e-3"], "seed", 1e-3), (["note=a=b"], "note", "a=b"), (["name="], "name", None),
    (["model.args.dropout=0.5"], "model", {"type": "MLP", "args": {"sizes": [4, 2], "dropout": 0.5}}),
    (["model.args.sizes=[8, 4]", "model.args.dropout=0"], "model", {"type": "MLP", "args": {"sizes": [8, 4], "dropout": 0}}),
    (["model={type: LeNet, args: {width: 8}}"], "model", {"type": "LeNet", "args": {"width": 8}}),
    (["model=LeNet"], "model", {"type": "LeNet"}), (["model.type=LeNet"], "model", {"type": "LeNet"}),
    (["model=LeNet", "model.args.width=8"], "model", {"type": "LeNet", "args": {"width": 8}}),
    (["model.type=LeNet", "model.args.width=8"], "model", {"type": "LeNet", "args": {"width": 8}}),
    (["model.args={sizes: [1]}"], "model", {"type": "MLP", "args": {"sizes": [1], "dropout": 0.1}}),
    (["loss.args.label_smoothing=0.1"], "loss", {"type": "CrossEntropyLoss", "args": {"label_smoothing": 0.1}}),
    (["loss=MSELoss"], "loss", "MSELoss"), (["loss=null"], "loss", None),
    (["metrics.1.args.k=5"], "metrics", ["accuracy", {"type": "top_k_accuracy", "args": {"k": 5}}]),
    (["metrics.0.name=acc"], "metrics", [{"type": "accuracy", "name": "acc"}, {"type": "top_k_accuracy", "args": {"k": 3}}]),
    (["metrics.1=absolute_error"], "metrics", ["accuracy", {"type": "absolute_error"}]),
    (["metrics.0=absolute_error", "metrics.1.args.k=5"], "metrics",
     ["absolute_error", {"type": "top_k_accuracy", "args": {"k": 5}}]),
    (["metrics=[accuracy]"], "metrics", ["accuracy"]), (["name=a", "name=b"], "name", "b"),
    (["new.deep.key=1", "new.deep.other=[1, {a: b}]"], "new", {"deep": {"key": 1, "other": [1, {"a": "b"}]}}),
])
def test_overrides_reach_everything(write, overrides, section, value):
    file = write("c.yaml", BASE)
    before, after = load_config(file)[0], load_config(file, overrides)[0]
    assert after[section] == value
    assert {k: v for k, v in after.items() if k != section} == {k: v for k, v in before.items() if k != section}


def test_an_override_reaches_into_a_list_that_an_earlier_one_wrote(write):
    config, _ = load_config(write("c.yaml", BASE), ["metrics=[top_k_accuracy]", "metrics.0.args.k=2"])
    assert config["metrics"] == [{"type": "top_k_accuracy", "args": {"k": 2}}]


@pytest.mark.parametrize("override", ["name", "=3", "a..b=3", ".a=3", "a.=3", "--epochs", "name: x"])
def test_a_malformed_override_is_an_error_that_shows_it_and_how_it_should_look(write, override):
    message = refused(write("c.yaml", BASE), override)
    assert f"'{override}'" in message and "optimizer.args.lr=0.01" in message


@pytest.mark.parametrize("override", ["model=[1", "model={a: 1, a: 2}", "model=a: b: c", 'model="', "metrics.2=accuracy"])
def test_an_override_with_a_broken_value_is_an_error_of_the_command_line(write, override):
    assert refused(write("c.yaml", BASE), override).startswith("command line")


# -- places --------------------------------------------------------------------------------------------------------

def test_every_value_knows_the_line_it_was_written_on(write):
    places = places_in(write("c.yaml", BASE))
    assert places[("name",)] == "c.yaml:1" and places[("model", "args", "sizes", "1")] == "c.yaml:2"
    assert places[("metrics", "0")] == "c.yaml:5" and places[("metrics", "1", "args", "k")] == "c.yaml:6"
    places = places_in(write("c.json", '{\n"model": {\n\t"type": "MLP",\n\t"args": {"sizes": [\n1]}}}'))
    assert places[("model", "type")] == "c.json:3" and places[("model", "args", "sizes", "0")] == "c.json:5"


def test_places_follow_values_across_files_and_the_command_line(write):
    write("base.yaml", BASE)
    places = places_in(write("c.yaml", "extends: base.yaml\nmodel:\n  args:\n    dropout: 0.5\n"), "name=x", "a.b=1")
    assert places[("model", "type")] == "base.yaml:2" and places[("model", "args", "dropout")] == "c.yaml:4"
    assert places[("name",)] == places[("a", "b")] == COMMAND_LINE


def test_the_place_of_what_is_missing_is_that_of_the_nearest_key_above(write):
    _, places = load_config(write("c.yaml", BASE))
    assert place_of(places, ("model", "args", "missing")).source.endswith("c.yaml:2")
    assert place_of(places, ("missing",)).source.endswith("c.yaml:1")


GOOD = BASE + "dataset: Digits\noptimizer: AdamW\n"


@pytest.mark.parametrize("child, overrides, key, place", [
    ("model: {type: MLP, args: {dropuot: 0.1}}", [], "model.args.dropuot", "c.yaml:2"),
    ("\nmodel: LeNe", [], "model.type", "c.yaml:3"),  # a bare name over a block: the base's 'type' is not to blame
    ("model: {type: CIFARResNet, args: {width: 16}}\nloss:\n  CrossEntropy", [], "loss.type", "c.yaml:4"),
    ("model: Linear", [], "model.args", "c.yaml:2"),  # 'in_features' is missing here, not in the base's args
    ("metrics:\n  - accuracy\n  - acuracy", [], "metrics.1.type", "c.yaml:4"),
    ("", ["model=LeNe"], "model.type", COMMAND_LINE), ("", ["model.type=LeNe"], "model.type", COMMAND_LINE),
    ("", ["model=Linear"], "model.args", COMMAND_LINE),
    ("", ["model.args.sizes=3"], "model.args.sizes", COMMAND_LINE),
    ("", ["metrics.1.args.k=many"], "metrics.1.args.k", COMMAND_LINE),
    ("", ["metrics.0=acuracy"], "metrics.0.type", COMMAND_LINE),
    ("", ["metrics=[acuracy]"], "metrics.0.type", COMMAND_LINE), ("", ["modle=LeNet"], "modle", COMMAND_LINE),
    ("", ["seed=fast"], "seed", COMMAND_LINE),
])
def test_a_fault_is_reported_where_it_was_written(write, child, overrides, key, place):
    write("base.yaml", GOOD)
    config, places = load_config(write("c.yaml", f"extends: base.yaml\n{child}\n"), overrides)
    with pytest.raises(ConfigError) as error:
        validate_config(config, places)
    assert re.search(rf"^\S*{place}\s+{key}:", str(error.value), re.MULTILINE), str(error.value)


def test_plain_tuples_of_path_and_message_are_taken_as_faults():
    error = ConfigError.of([(("optimizer", "args", "lr"), "it is too high"), Fault((), "it is odd")])
    assert str(error) == "optimizer.args.lr: it is too high\nit is odd"
    with pytest.raises(ConfigError, match="^mine.yaml:3  optimizer.args.lr: it is too high\n"):
        with located({("optimizer", "args", "lr"): Place("mine.yaml:3"), (): Place("mine.yaml:1")}):
            raise error


# -- another type --------------------------------------------------------------------------------------------------

FULL = """\
name: base
seed: 3
dataset: Digits
model: {type: MLP, args: {sizes: [64, 10]}}
loss: CrossEntropyLoss
metrics: [{type: top_k_accuracy, name: mine, args: {k: 3}}]
optimizer: {type: AdamW, args: {lr: 0.5, weight_decay: 0.2, amsgrad: true}, decay_bias_and_norm: false}
scheduler: {type: StepLR, args: {step_size: '${seed}', gamma: 0.5}, per: step}
trainer: {type: Trainer, args: {epochs: 3, monitor: max val/mine}}
"""


@pytest.mark.parametrize("override, section, block, dropped", [
    ("optimizer.type=SGD", "optimizer", {"args": {"lr": 0.5, "weight_decay": 0.2}, "decay_bias_and_norm": False},
     "AdamW: amsgrad."),
    ("scheduler.type=MultiStepLR", "scheduler", {"args": {"gamma": 0.5}, "per": "step"}, "StepLR: step_size."),
    ("trainer.type=Other", "trainer", {"args": {"epochs": 3, "monitor": "max val/mine"}}, ""),
    ("metrics.0.type=accuracy", "metrics", {"name": "mine"}, "top_k_accuracy: k.")])
@pytest.mark.parametrize("resumed", [False, True])
def test_an_override_of_a_type_keeps_what_the_new_one_takes_and_names_the_rest(
        write, caplog, override, section, block, dropped, resumed):
    @TRAINERS.register
    class Other(Trainer):
        pass

    file = write("c.yaml", FULL)
    reading = read_config(file, [override])
    if resumed:
        reading = override_config(load_config(file)[0], "last.pt", [override])
    config = keep_arguments(reading).config
    given = config[section][0] if section == "metrics" else config[section]
    assert given == {"type": override.split("=")[1], **block}
    assert caplog.text.count("They are dropped") == bool(dropped) and dropped in caplog.text
    assert reading.config != config and (resumed or keep_arguments(reading).places)


@pytest.mark.parametrize("args", ["[1]", "5", "word"])
def test_arguments_that_are_no_table_are_a_mistake_beside_another_type_too(write, args):
    with pytest.raises(ConfigError, match="optimizer.args: a table of arguments is needed"):
        resolve_config(read_config(write("c.yaml", FULL), ["optimizer.type=SGD", f"optimizer.args={args}"]), None, [])


def test_an_argument_that_a_step_size_refers_to_is_kept_as_a_value(write):
    reading = keep_arguments(read_config(write("c.yaml", FULL), ["scheduler.type=StepLR", "seed=5"]))
    assert reading.config["scheduler"]["args"]["step_size"] == 5
    arguments = ["optimizer.type=RAdam", "optimizer.args.lr=0.1"]
    reading = keep_arguments(read_config(write("c.yaml", FULL), arguments))
    assert reading.config["optimizer"]["args"] == {"lr": 0.1, "weight_decay": 0.2}
    assert reading.places[("optimizer", "args", "weight_decay")].source.endswith("c.yaml:7")


def test_a_run_with_another_type_keeps_the_arguments(write):
    reading = read_config(write("c.yaml", FULL), ["optimizer.type=SGD"])
    assert resolve_config(reading, None, []).config["optimizer"]["args"] == {"lr": 0.5, "weight_decay": 0.2}
