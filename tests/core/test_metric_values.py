"""What a metric computes: names of its numbers, files of its arrays, and one that does not fit."""
import re
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from base import DATASETS, METRICS
from base.base_metric import Metrics
from base.metric_values import class_names, flatten
from conftest import assert_same_run, epochs, load, score, train
from utils.config.suggestions import list_briefly
from utils.errors import ConfigError, Interrupted

Scores = namedtuple("Scores", "mean worst")
OF_DIGITS = "task: multiclass, num_classes: 10"
RECALL = f"type: Recall, args: {{{OF_DIGITS}, average: null}}"
F1 = f"type: F1Score, args: {{{OF_DIGITS}, average: macro}}"
COLLECTION = f"{{type: MetricCollection, name: scores, args: {{metrics: [{{{F1}}}, {{{RECALL}}}]}}}}"
CONFUSION = f"{{type: ConfusionMatrix, name: confusion, args: {{{OF_DIGITS}}}}}"
CLASSES = ["cat", "dog", "cow"]


def of_classes(name: str, *numbers: float) -> dict[str, float]:
    return dict(zip([f"{name}/{each}" for each in CLASSES], numbers, strict=True))


@DATASETS.register
class NamedDigits(DATASETS.get("Digits")):
    classes = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@METRICS.register
class Gives:
    """Computes a value of any kind."""

    def __init__(self, kind: str = "number"):
        self.kind = kind

    def update(self, outputs, targets):
        pass

    def reset(self):
        pass

    def compute(self):
        return {"number": 1, "text": {"inner": "good"}, "object": object(), "complex": torch.tensor(1j),
                "set": {1, 2}, "texts": ["a", "b"]}[self.kind]


@pytest.mark.parametrize("value, expected", [
    (torch.tensor(0.5, requires_grad=True), {"m": 0.5}), (np.float32(0.5), {"m": 0.5}), (True, {"m": 1.0}),
    (torch.tensor(0.5, dtype=torch.bfloat16), {"m": 0.5}),
    (torch.tensor([0.5, 1]), {"m/0": 0.5, "m/1": 1.0}), ([1, torch.tensor(2)], {"m/0": 1.0, "m/1": 2.0}),
    (torch.tensor([1.0, 2, 3]), of_classes("m", 1, 2, 3)), ((1, 2, 3), of_classes("m", 1, 2, 3)),
    ({"map": 0.5, "of": {"each": np.array([1, 2, 3])}}, {"m/map": 0.5, **of_classes("m/of/each", 1, 2, 3)}),
    (Scores(0.5, torch.tensor(0.25)), {"m/mean": 0.5, "m/worst": 0.25}),
    ([{"a": 1}, {"a": 2}], {"m/0/a": 1.0, "m/1/a": 2.0}),
    ((torch.tensor(0.5), torch.tensor([1.0, 2])), {"m/0": 0.5, "m/1/0": 1.0, "m/1/1": 2.0}),
    ((torch.ones(3), torch.zeros(3)), of_classes("m/0", 1, 1, 1) | of_classes("m/1", 0, 0, 0)),
    ([], {}), (torch.zeros(0), {}), ({}, {}),
])
def test_all_numbers_of_a_metric_get_a_name(value, expected):
    assert flatten("m", value, CLASSES) == expected


def test_no_value_is_a_nan():
    assert np.isnan([*flatten("m", {"a": None, "b": [None]}).values()]).all()


@pytest.mark.parametrize("value, expected", [
    (torch.eye(3, dtype=torch.int64), {"m": [3, 3]}),
    ({"matrix": np.ones((2, 2)), "sum": 4}, {"m/matrix": [2, 2]}),
    ((torch.ones(5), torch.ones(5), torch.ones(4)), {"m/0": [5], "m/1": [5], "m/2": [4]}),
    (([torch.ones(5), torch.ones(2)], [torch.ones(7)]), {"m/0/0": [5], "m/0/1": [2], "m/1/0": [7]}),
    (torch.ones(1001), {"m": [1001]}),
])
def test_matrices_and_curves_stay_arrays(value, expected):
    found = flatten("m", value, CLASSES)
    arrays = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    assert {name: [*array.shape] for name, array in arrays.items()} == expected


def test_names_of_classes_are_those_of_the_dataset_if_they_differ():
    named = NamedDigits("train")
    assert class_names(named) == class_names(Subset(Subset(named, [1, 2]), [0])) == NamedDigits.classes
    plain = TensorDataset(torch.zeros(2))
    assert class_names(plain) == []
    plain.classes = ["a", "a"]
    assert class_names(plain) == []
    plain.classes = (3, 7)
    assert class_names(plain) == ["3", "7"]


@pytest.mark.parametrize("kind, said", [
    ("text", "'Gives/inner' is no number: 'good' (str)"), ("object", "'Gives' is no number: <object object"),
    ("complex", "'Gives' is no number: tensor"), ("set", "'Gives' is no number: {1, 2} (set)"),
    ("texts", "'Gives/0' is no number: 'a' (str)")])
def test_a_metric_that_computes_no_numbers_is_named_at_its_line(kind, said, small, tmp_path):
    text = small.read_text().replace(
        "metrics: [accuracy]", f"metrics:\n- accuracy\n- {{type: Gives, args: {{kind: {kind}}}}}")
    small.write_text(text)
    with pytest.raises(ConfigError) as told:
        train("-c", small, out=tmp_path)
    line = text[:text.index("- {type: Gives")].count("\n") + 1
    assert (f"small.yaml:{line}  metrics.1: Gives.compute() gives what is not logged: {said}"
            in str(told.value))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a collection, a matrix and names of classes, and one that was stopped and resumed."""
    folder = tmp_path_factory.mktemp("values")
    (folder / "c.yaml").write_text(f"""
name: values
seed: 7
dataset: NamedDigits
data_loader: {{batch_size: 30, validation_split: 40, batches_per_epoch: 5}}
model: {{type: MLP, args: {{sizes: [64, 16, 10]}}}}
loss: CrossEntropyLoss
metrics: [accuracy, {COLLECTION}, {CONFUSION}]
optimizer: {{type: Adam, args: {{lr: 0.01}}}}
trainer: {{type: Trainer, args: {{epochs: 2, log_every: 2, monitor: max val/scores/MulticlassRecall/three}}}}
writers: []
""")
    whole = train("-c", folder / "c.yaml", "--run-name", "whole", out=folder)
    with pytest.raises(Interrupted):
        train("-c", folder / "c.yaml", "--run-name", "stopped", "--steps", "7", out=folder)
    stopped = train("-r", whole.with_name("stopped"), out=folder)
    return whole, stopped


def test_a_collection_and_a_value_of_each_class_are_logged_and_monitored_and_resume_exactly(run):
    whole, stopped = run
    assert_same_run(whole, stopped)
    last = epochs(whole)[-1]
    recalls = [last[f"val/scores/MulticlassRecall/{name}"] for name in NamedDigits.classes]
    confusion = np.load(whole / "metrics" / "val_confusion_epoch0002.npz")["val/confusion"]
    assert recalls == pytest.approx((np.diag(confusion) / confusion.sum(1).clip(1)).tolist())
    assert load(whole)["state"]["monitor"]["best"] == max(
        line["val/scores/MulticlassRecall/three"] for line in epochs(whole))
    assert np.load(whole / "metrics" / "train_confusion_epoch0002.npz")["train/confusion"].sum() == 150
    assert confusion.sum() == 40 and not any("confusion" in name for name in last)
    assert ((stopped / "metrics" / "train_confusion_epoch0002.npz").read_bytes()
            == (whole / "metrics" / "train_confusion_epoch0002.npz").read_bytes())


def test_the_console_has_one_line_for_many_values_and_the_log_names_the_file_once(run):
    text = (run[0] / "run.log").read_text()
    assert re.search(r"\| val/scores MulticlassF1Score 0\.\d+ \| val/scores/MulticlassRecall 10 values, see "
                     r"metrics.jsonl: min 0\.\d+ mean 0\.\d+ max \d\.\d+ \| lr", text)
    assert text.count("val/confusion is no number: see") == 1
    assert "three" not in text.partition("epoch 1/2")[2].partition("\n")[0]


def test_a_score_of_a_checkpoint_has_the_same_names_and_files(run):
    scores = score("-r", run[0] / "checkpoints" / "last.pt", "--split", "val")
    last = epochs(run[0])[-1]
    assert {name: scores[name] for name in last if name.startswith("val/")} == pytest.approx(
        {name: value for name, value in last.items() if name.startswith("val/")})
    score("-r", run[0], "--split", "test")
    assert np.load(next((run[0] / "metrics").glob("test_confusion_*.npz")))["test/confusion"].sum() > 100


def test_an_unknown_monitor_lists_names_briefly(small, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'val/scores/MulticlassRecall/four'.*") as told:
        train("-c", small, "dataset=NamedDigits", f"metrics=[{COLLECTION}]",
              "trainer.args.monitor=max val/scores/MulticlassRecall/for", out=tmp_path)
    group = "val/scores/MulticlassRecall"
    assert f"{group}/zero, {group}/one, ... (10 of {group})" in str(told.value)
    assert list_briefly(["val/a", *(f"val/b/{i}" for i in range(8))]).count(",") == 8


def test_a_run_of_an_earlier_version_keeps_its_monitor(small, tmp_path):
    options = [f"metrics=[{{{RECALL}, name: recall}}]",
               "trainer.args.monitor=max val/recall_3"]  # the name that it had then
    with pytest.raises(Interrupted):
        train("-c", small, *options, "--run-name", "old", "--steps", 7, out=tmp_path)
    run = tmp_path / "small" / "old"
    assert "val/recall/3" in epochs(run)[0]
    train("-r", run, out=tmp_path)
    assert epochs(run)[-1].keys() == epochs(run)[0].keys() and load(run)["state"]["monitor"]["best_epoch"]


def test_the_first_batch_does_not_decide_which_members_of_a_collection_share_their_counts():
    from torchmetrics import MetricCollection
    from torchmetrics.classification import BinaryAccuracy

    both = MetricCollection({"low": BinaryAccuracy(0.5), "high": BinaryAccuracy(0.9)})
    metrics = Metrics({"scores": both})
    metrics(torch.tensor([0.0, 1, 1]), torch.tensor([0, 1, 1]))  # both are right
    metrics(torch.tensor([0.75]), torch.tensor([1]))
    assert metrics.compute() == {"scores/low": 1.0, "scores/high": 0.75}


def test_accuracy_of_pixels_and_tokens_is_a_share_of_each_sample():
    accuracy = METRICS.get("accuracy")
    pixels, tokens = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 7)
    classes = torch.randint(3, (2, 4, 5))
    expected = [(pixels[i].argmax(0) == classes[i]).sum().item() / 20 for i in (0, 1)]
    assert accuracy(pixels, classes).tolist() == pytest.approx(expected)
    assert accuracy(pixels, pixels.softmax(1)).tolist() == [1.0, 1.0]
    assert accuracy(tokens, tokens.argmax(1)).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"class numbers \[2, 4, 5\]; these are \[2, 1, 4, 5\]"):
        accuracy(pixels, classes.unsqueeze(1))
