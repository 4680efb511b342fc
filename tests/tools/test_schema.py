"""The schema for editors: it is up to date, and takes what the program takes and little else."""
import copy
import itertools
import json

import pytest
from jsonschema import Draft7Validator
from test_config_docs import shipped_things
from test_house import SHIPPED
from test_mistakes import GOOD as TYPICAL, MISTAKES
from test_validate import CONFIGS, GOOD as CHECKED, VALID, paths

import tools.schema
from base.config.validate import validate_config
from conftest import PROJECT, needs
from tools.reference.schema_blocks import LIBRARY
from tools.reference.schema_types import dump
from tools.reference.settable import config_sources
from tools.schema import config_schema
from utils.config.loading import load_config
from utils.config.syntax import parse_yaml
from utils.errors import ConfigError

GOOD = {**CHECKED, "dataset": {"type": "Digits"}}  # which the schema knows
TWO = {**GOOD, "optimizer": {"generator": {"type": "Adam", "args": {"lr": 0.1}}, "discriminator": "SGD"},
       "scheduler": {"generator": [{"type": "StepLR", "args": {"step_size": 3}}], "discriminator": "CosineAnnealingLR"}}
PARTIAL = {"$schema": "schema.json", "extends": "digits.yaml"}


@pytest.fixture(scope="module")
def schema():
    """As `python -m tools.schema` writes it."""
    return json.loads(dump(config_schema(*config_sources())))


@pytest.fixture(scope="module")
def faults(schema):
    """What the schema says of a config, as texts."""
    def said_of(errors):
        for error in errors:
            yield f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
            yield from said_of(error.context)

    return lambda config: list(said_of(Draft7Validator(schema).iter_errors(config)))


def own_part(schema: dict) -> dict:
    """What of a schema does not depend on the libraries that are installed."""
    own = {name: part for name, part in schema["definitions"].items() if not name.startswith(LIBRARY)}
    return {**schema, "definitions": own, "$comment": None}


def test_the_schema_in_configs_is_up_to_date(monkeypatch):
    needs("configs/schema.json")
    monkeypatch.setattr(tools.schema, "own_things", shipped_things)  # a fork's own may wait for it
    schema = json.loads(dump(config_schema(*config_sources())))
    written = json.loads((PROJECT / "configs" / "schema.json").read_text())
    if written["$comment"] != schema["$comment"]:  # other libraries: only the project's part can be compared
        written, schema = own_part(written), own_part(schema)
    changed = sorted(name for name in written["definitions"].keys() | schema["definitions"].keys()
                     if written["definitions"].get(name) != schema["definitions"].get(name))
    assert written == schema, f"run python -m tools.schema > configs/schema.json; it has changed: {changed[:9]}"


def test_the_schema_is_one_and_small_enough_for_an_editor(schema):
    Draft7Validator.check_schema(schema)
    assert all(definition not in ({"allOf": []}, {"enum": []}) for definition in schema["definitions"].values())
    assert len(dump(schema)) < 700_000


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_config_passes(faults, file):
    assert faults(load_config(file)[0]) == []


def test_shipped_configs_tell_editors_of_the_schema():
    needs("configs/mnist.json")
    for name in SHIPPED:
        text = (PROJECT / "configs" / f"{name}.yaml").read_text()
        assert text.startswith("# yaml-language-server: $schema=schema.json\n"), name
    assert json.loads((PROJECT / "configs" / "mnist.json").read_text())["$schema"] == "schema.json"


def test_what_the_program_takes_passes(faults):
    for section, value in VALID:
        assert faults({**GOOD, section: value}) == [], (section, value)
    kept = {"type": "MNIST", "args": {"root": "data/", "device": "cuda"}}
    for config in (GOOD, TWO, {**TWO, "scheduler": {}}, {**GOOD, "trainer": {"args": {"epochs": 2}}, "seed": None},
                   {**GOOD, "dataset": kept, "transforms": None}):
        validate_config(config)
        assert faults(config) == [], config


def test_no_change_of_a_config_that_the_program_takes_is_refused(faults):
    odd = (None, 3, -1.5, True, "x", [], {}, [{}], {"a": 1}, {"type": None}, {"type": "MNIST", "args": 5})
    changes = [(base, path, value) for base in (GOOD, TWO) for path in paths(base) for value in odd]
    for base, path, value in itertools.islice(changes, 3, None, 17):
        config = inner = copy.deepcopy(base)
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        try:
            validate_config(config)
        except ConfigError:
            continue
        assert faults(config) == [], (path, value)


@pytest.mark.parametrize("section, value, said", [
    ("modle", "LeNet", "'modle' does not match"), ("model", "LeNt", "model: 'LeNt'"), ("model", None, "model: None"),
    ("model", "MLP", "'MLP' is not of type 'object'"), ("model", {"type": "MLP"}, "'args' is a required property"),
    ("model", {"args": {}}, "'type' is a required property"), ("model", {"type": "LeNet", "arg": {}}, "model: "),
    ("model", {"type": "LeNet", "args": {"widht": 3}}, "'widht' does not match"),
    ("model", {"type": "Linear", "args": {"in_features": 3}}, "model.args: "),
    ("model", {"type": "LeNet", "args": {"dropout": "much"}}, "model.args.dropout: 'much'"),
    ("dataset", "FakeData", "dataset: 'FakeData'"), ("dataset", {"type": "CIFAR10", "args": {"train": True}}, "'train'"),
    ("metrics", "accuracy", "metrics: 'accuracy'"), ("metrics", [{"type": "accuracy", "args": {"outputs": 1}}], "metrics.0"),
    ("transforms", {"trian": []}, "'trian'"), ("transforms", {"train": [{"type": "RandomCrop"}]}, "transforms.train.0"),
    ("data_loader", {"batch_size": 0}, "data_loader.batch_size: 0"), ("data_loader", {"seed": 1}, "'seed'"),
    ("optimizer", {"type": "AdamW", "args": {"learning_rate": 1}}, "'learning_rate'"), ("optimizer", {}, "optimizer: {}"),
    ("optimizer", {"type": "AdamW", "args": {"params": []}}, "'params'"), ("optimizer", {"one": "Adm"}, "optimizer.one: 'Adm'"),
    ("optimizer", {"type": "AdamW", "groups": [{"lr": 1}]}, "optimizer.groups"),
    ("optimizer", {"type": "AdamW", "groups": [{"match": "*", "rl": 1}]}, "'rl'"),
    ("scheduler", "StepLR", "scheduler: 'StepLR'"), ("scheduler", {"type": "CosineAnnealingLR", "per": "batch"}, "scheduler"),
    ("scheduler", {"type": "SequentialLR", "args": {"schedulers": ["LinarLR"], "milestones": [1]}}, "schedulers.0: 'LinarLR'"),
    ("trainer", {"args": {"epochs": "ten"}}, "trainer.args.epochs: 'ten'"), ("trainer", {"args": {"epoch": 1}}, "'epoch'"),
    ("trainer", {"type": "Trainer", "args": {"ema": 1.0}}, "trainer.args.ema: 1.0"),
    ("trainer", {"args": {"precision": "fp17"}}, "trainer.args.precision: 'fp17'"), ("seed", "x", "seed: 'x'"),
])
def test_a_visible_mistake_is_marked(faults, section, value, said):
    if isinstance(value, dict) and value.get("type") == "LeNet":
        needs("model/lenet.py")
    with pytest.raises(ConfigError):
        validate_config({**GOOD, section: value})
    assert any(said in fault for fault in faults({**GOOD, section: value})), faults({**GOOD, section: value})


# Of the mistakes in tests/core/test_mistakes.py that are told before anything is built: what only more than one key, another file or
# a parser of its own shows, and numbers that are whole for JSON.
NOT_MARKED = {
    "epochs: 10.0", "accumulate: 9223372036854775808", "strategy: {type: ddp, args: 5}", "strategy: {type: {}}", "max_time: 1h",
    "keep_last: 3", "name: my run", "seed: 1e3", "val_loss", "accuracy", "validation_split: 1.0", "seed: ${sed}",
    "loss: {type: CrossEntropyLoss, args: {weight: [1, a]}}", "seed: ${env:NOT_SET_ANYWHERE}", "seed: ${seed}", "seed: ${seed",
    "name: ${model}", "~foo:", "val: Digits", "test: {a/b: Digits}",
    "loss: {type: L1Loss, scale: 2}", "loss: {accuracy: L1Loss, b: L1Loss}",
    "loss: {loss: L1Loss, b: L1Loss}", "match: '*'",
    "optimizer: {a: {type: Adam, match: 'layers.1.*'}, b: Adam, c: Adam}",
    "batch_size: ${data:num_classes}", "sizes: [64, '${data:class_counts}']",
    "sizes: [64, '${data:classes}']", "lr: x${data:num_classes}", "name: good${data:num_classes}",
    "shuffle: false", "fold: 3", "stratify: true", "folds: 5", "fold: 5",
    "lr: -0.01", "lr: .nan", "weight_decay: -1", "{step_size: 0}",  # ranges that a library's annotations lack
}


def test_typical_mistakes_are_marked_where_a_schema_can_see_them(faults):
    not_marked, num_marked = set(), 0
    for written, instead, *_ in MISTAKES:
        try:
            config = parse_yaml(TYPICAL.replace(written, instead, 1), "c.yaml").value
        except ConfigError:  # broken syntax
            continue
        marked = faults(config)
        num_marked += bool(marked)
        try:
            validate_config({key: value for key, value in config.items() if key != "extends"})
        except ConfigError:
            not_marked |= set() if marked else {instead.splitlines()[-1].strip() if instead else ""}
    assert not_marked == NOT_MARKED and num_marked > 70


def test_what_is_required_may_be_inherited(faults):
    assert faults({}) and not faults(PARTIAL)
    assert [fault for fault in faults({"name": "x"}) if "'optimizer' is a required property" in fault]
    for section, value in {"model": {"args": {"anything": 1}}, "optimizer": {"args": {"lr": 1}}, "trainer": {"args": {"x": 1}},
                           "scheduler": {"type": "StepLR"}, "metrics": {"0": {"args": {"k": 5}}}}.items():
        assert faults({**PARTIAL, section: value}) == [], section
    assert faults({**PARTIAL, "model": {"type": "LeNet", "args": {"widht": 3}}})
    assert faults({**PARTIAL, "metrics": [{"args": {"k": 5}}]})  # a list is inherited whole or not at all


@pytest.mark.parametrize("dataset", [
    {"train": "FakeData", "val": {"type": "CIFAR10", "args": {"root": "d", "train": True}}, "test": None},
    {"train": "Digits", "val": {"a": {"type": "Digits", "args": {"split": "test"}}, "b": "${dataset.train}", "c": None}}])
def test_blocks_by_split_may_say_their_split_themselves(faults, dataset):
    assert faults({**GOOD, "dataset": dataset}) == []
    known = {key: part for key, part in dataset.items() if "$" not in str(part)}
    validate_config({**GOOD, "dataset": known, "data_loader": {}})


@pytest.mark.parametrize("dataset, said", [
    ({"val": "Digits"}, "'train' is a required property"), ({"train": "Digits", "vall": "Digits"}, "'vall' does not match"),
    ({"train": "Digits", "val": {"a": "Digts"}}, "dataset.val.a: 'Digts'"),
    ({"train": "Digits", "val": {"a": "Digits", "args": {}}}, "dataset.val: "),
    ({"train": "ArrayFiles"}, "dataset.train: 'ArrayFiles' is not of type 'object'")])
def test_mistakes_in_blocks_by_split_are_marked(faults, dataset, said):
    with pytest.raises(ConfigError):
        validate_config({**GOOD, "dataset": dataset})
    assert any(said in fault for fault in faults({**GOOD, "dataset": dataset})), faults({**GOOD, "dataset": dataset})


def test_a_reference_may_stand_for_anything_and_a_tilde_takes_a_key_away(faults):
    assert not faults({
        "name": "${env:USER}", "seed": "${env:SEED,1}", "dataset": "${x}", "transforms": {"train": "${transforms.eval}"},
        "data_loader": {"batch_size": "${trainer.args.epochs}", "shuffle": "${env:SHUFFLE}"},
        "model": {"type": "${env:MODEL,LeNet}", "args": "${loss.args}"}, "metrics": ["${env:METRIC}"],
        "optimizer": {"type": "SGD", "args": {"lr": "${seed}"}, "groups": [{"match": "${x}", "lr": "${seed}"}]},
        "trainer": {"args": {"precision": "${env:PRECISION,bf16}", "checkpoint_every": "${x}"}}})
    assert not faults({**PARTIAL, "~scheduler": None, "model": {"~args": None}, "trainer": {"args": {"~ema": None}}})
    assert faults({**PARTIAL, "~scheduler": 3})


def test_editors_offer_the_projects_own_names_first_each_with_what_it_is(schema):
    needs("model/lenet.py")
    first, second = schema["definitions"]["model"]["anyOf"][:2]
    assert (first["$ref"], second["$ref"]) == ("#/definitions/own.model.names", "#/definitions/library.model.names")
    names = schema["definitions"]["own.model.names"]
    assert names["enumDescriptions"][names["enum"].index("LeNet")].startswith("Two convolutions")
    trainer = schema["definitions"]["own.trainer:Trainer"]["properties"]
    assert trainer["epochs"]["default"] == 10 and "train" in trainer["epochs"]["description"]
    assert not trainer.keys() & {"model", "seed", "device"}  # the program's own
