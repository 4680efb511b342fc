"""What test.py reports beside the means. The numbers of scikit-learn 1.9 are typed in."""
import json

import numpy as np
import pytest
import torch
from PIL import Image

from base import fit
from conftest import score
from tools.report.pictures import draw_confusion, draw_mistakes
from tools.report.report import Report

TRUE, PREDICTED = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3], [0, 1, 0, 1, 2, 2, 2, 0, 2, 1]


def report_on(outputs, targets, loss=None, classes=None, size: int = 4) -> Report:
    """A report that has seen the samples in batches."""
    report = Report(loss or torch.nn.CrossEntropyLoss(), classes)
    for first in range(0, len(targets), size):
        own = slice(first, first + size)
        classified = outputs.ndim == 2 and targets.ndim == 1
        right = {"accuracy": outputs[own].argmax(1) == targets[own]} if classified else {}
        report(outputs[own], targets[own], right)
    return report


def test_values_of_each_class_are_those_of_scikit_learn():
    outputs = torch.nn.functional.one_hot(torch.tensor(PREDICTED), 4).float()
    found = report_on(outputs, torch.tensor(TRUE), classes=["a", "b", "c", "d"]).as_dict()
    assert found["confusion"] == [[2, 1, 0, 0], [0, 1, 1, 0], [1, 0, 3, 0], [0, 1, 0, 0]]
    rows = [[row[key] for row in found["classes"].values()]
            for key in ("precision", "recall", "f1", "support")]
    assert [*found["classes"]] == ["a", "b", "c", "d"]
    assert rows[0] == pytest.approx([2 / 3, 1 / 3, 3 / 4, 0])
    assert rows[1] == pytest.approx([2 / 3, 1 / 2, 3 / 4, 0])
    assert rows[2] == pytest.approx([2 / 3, 0.4, 3 / 4, 0])
    assert rows[3] == [3, 2, 4, 1]
    assert found["macro_precision"] == 0.4375
    assert found["macro_f1"] == pytest.approx(0.45416666666666666)
    # the deviation of ten values of which six are 1, over the root of ten
    assert found["standard_errors"]["accuracy"] == pytest.approx(np.std([1] * 6 + [0] * 4, ddof=1) / 10**0.5)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    chances = torch.tensor([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    targets = torch.tensor([0] * 7 + [1] * 3 + [0] * 6 + [1] * 4)  # 70 % right at 0.9, 60 % at 0.6
    found = report_on(chances.log(), targets, torch.nn.NLLLoss()).as_dict()
    assert found["calibration_error"] == pytest.approx((0.2 + 0.0) / 2, abs=1e-6)


def test_targets_that_are_ignored_do_not_count_and_pixels_do():
    outputs = torch.zeros(2, 3, 4, 4)
    outputs[:, 1] = 1
    targets = torch.ones(2, 4, 4, dtype=torch.long)
    targets[0] = -100
    found = report_on(outputs, targets).as_dict()
    assert found["confusion"] == [[0, 0, 0], [0, 16, 0], [0, 0, 0]]


def test_values_that_are_predicted_have_r2_and_mean_absolute_error():
    true, predicted = torch.tensor([1.0, 2, 4, 7]), torch.tensor([1.5, 1.5, 4.5, 6])
    found = report_on(predicted, true, torch.nn.MSELoss()).as_dict()
    assert found["r2"] == pytest.approx(0.9166666666666666) and found["mae"] == 0.625


def test_what_is_neither_classes_nor_values_has_no_report():
    assert report_on(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), torch.nn.MSELoss()).kind is None
    report = Report(torch.nn.CrossEntropyLoss())
    report({"logits": 1}, [1], {})
    assert report.as_dict() == {} and report.table() == "" and report.draw(None, "test", None) == []


def test_many_classes_fit_the_terminal_and_the_file(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    names = [f"a class with a very long name, number {number}" for number in range(150)]
    report = report_on(torch.eye(150), torch.arange(150), classes=names)
    lines = report.table().splitlines()
    assert max(map(len, lines)) <= 60 and len(lines) < 30
    assert "confusion" not in report.as_dict() and len(report.as_dict()["classes"]) == 150
    assert draw_confusion(np.eye(150, dtype=int), names).width < 1000  # with some of the names


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit({"name": "scored", "dataset": "Digits", "data_loader": {"validation_split": 0.1},
                "model": {"type": "MLP", "args": {"sizes": [64, 10]}}, "loss": "CrossEntropyLoss",
                "metrics": ["accuracy"], "optimizer": "SGD", "trainer": {"args": {"epochs": 1}}},
               out=tmp_path_factory.mktemp("reported")).run


def test_the_report_agrees_with_the_scores_and_keeps_those_of_other_splits(run):
    score("-r", run, "--split", "val")
    scores = score("-r", run)
    report = scores["report"]["test"]
    confusion = np.array(report["confusion"])
    assert confusion.sum() == 360
    assert confusion.trace() / 360 == pytest.approx(scores["test/accuracy"])
    accuracy = scores["test/accuracy"]
    assert report["standard_errors"]["accuracy"] == pytest.approx((accuracy * (1 - accuracy) / 359) ** 0.5)
    assert scores["report"].keys() == {"val", "test"} and "val/loss" in scores
    assert {file.name for file in run.glob("*.png")} == {
        "test_confusion.png", "test_mistakes.png", "val_confusion.png", "val_mistakes.png"}
    assert Image.open(run / "test_mistakes.png").size == (4 * 152 + 8, 4 * 180 + 20)  # sixteen of them


def test_regression_is_reported_too(tmp_path):
    result = fit({"name": "line", "dataset": "NoisyLine", "model": "Line",
                  "loss": "MSELoss", "optimizer": "SGD", "trainer": {"args": {"epochs": 1}}}, out=tmp_path)
    assert {"r2", "mae"} <= score("-r", result.run)["report"]["test"].keys()
    assert (result.run / "test_residuals.png").exists()
    json.loads((result.run / "test.json").read_text())


def test_labels_of_which_a_sample_has_several_are_classes_and_no_values():
    """The numbers are those of scikit-learn's precision_recall_fscore_support."""
    outputs = torch.tensor([[1.0, -1], [2, 1], [-1, 1], [3, -1]])
    targets = torch.tensor([[1.0, 0], [0, 1], [1, 1], [1, 1]])
    found = report_on(outputs, targets, torch.nn.BCEWithLogitsLoss(), ["red", "blue"]).as_dict()
    rows = [[*found["classes"][name].values()] for name in ("red", "blue")]  # precision, recall, F1, support
    assert rows == [pytest.approx([2 / 3, 2 / 3, 2 / 3, 3]), pytest.approx([1, 2 / 3, 0.8, 3])]
    single = report_on(outputs[:, 0].sigmoid(), targets[:, 0], torch.nn.BCELoss(), ["no", "yes"])
    assert single.as_dict()["classes"] == {"yes": found["classes"]["red"]} and "R2" not in single.table()
    for loss in (torch.nn.BCELoss(), torch.nn.PoissonNLLLoss()):  # of pixels; the outputs are logarithms
        assert report_on(torch.rand(4, 3), torch.rand(4, 3), loss).kind is None


def test_a_vocabulary_needs_no_matrix_and_what_is_not_finite_is_no_error():
    outputs, targets = torch.full((2, 50_000, 3), float("nan")), torch.zeros(2, 3, dtype=torch.long)
    report = report_on(outputs, targets)
    assert report.kind.confusion.nbytes < 10**7 and report.draw(None, "test", None) == []
    assert report.as_dict()["classes"]["0"]["support"] == 6 and "50000 classes" in report.table()


def test_long_names_are_cut_to_the_picture_and_its_title_is_whole():
    two = draw_confusion(np.array([[1760, 211], [211, 1818]]), ["no", "yes"])
    assert two.width > 150  # the title, and not two cells alone
    sample = torch.zeros(1, 8, 8, dtype=torch.uint8)
    assert draw_mistakes([(sample, "a long name " * 9, "98% another")]).width == 4 * 152 + 8
