"""A report on a split that is scored: classes or residuals, and how certain the means are."""
import heapq
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from base.prediction.outputs import to_probabilities
from tools.report.pictures import draw_confusion, draw_mistakes, draw_residuals

MAX_LISTED = 100  # classes whose confusion matrix is written as numbers
_NUM_BINS, _NUM_MISTAKES, _NUM_POINTS, _MAX_ROWS = 15, 16, 5000, 20


class Report:
    """Collects what an evaluation sees: `report(outputs, targets, values)` for each batch.

    Args:
        loss: the run's; it tells whether outputs are over classes.
        classes: their names, if they have some.
    """

    def __init__(self, loss: Any, classes: Sequence[str] | None = None):
        self.classes, self.to_probabilities = classes, to_probabilities(loss)
        self.certainty = Certainty()
        self.kind: ClassReport | ResidualReport | None = None

    def __call__(self, outputs: Any, targets: Any, values: Mapping[str, Any]) -> None:
        """Adds a batch: outputs and targets as metrics get them, and the values of metrics `[B]`."""
        self.certainty.add(values)
        if not (isinstance(outputs, torch.Tensor) and isinstance(targets, torch.Tensor)):
            return
        if self.kind is None:
            self.kind = self._kind_for(outputs, targets)
        if self.kind:
            self.kind.add(outputs.detach(), targets)

    def _kind_for(self, outputs: torch.Tensor,
                  targets: torch.Tensor) -> "ClassReport | ResidualReport | None":
        if self.to_probabilities and outputs.ndim > 1 and not targets.is_floating_point() and (
                targets.shape == outputs.shape[:1] + outputs.shape[2:]):
            return ClassReport(outputs.shape[1], self.to_probabilities, self.classes)
        if not self.to_probabilities and outputs.is_floating_point() and targets.is_floating_point() and (
                outputs.shape == targets.shape):
            return ResidualReport()
        return None

    def as_dict(self) -> dict[str, Any]:
        """The numbers, for test.json; empty if there is nothing to report."""
        errors = self.certainty.standard_errors()
        return {**({"standard_errors": errors} if errors else {}),
                **(self.kind.as_dict() if self.kind else {})}

    def table(self) -> str:
        """The numbers as lines that fit the terminal; empty if there is nothing to report."""
        errors = [f"  {name} ± {error:.2g} (standard error)"
                  for name, error in self.certainty.standard_errors().items()]
        return "\n".join([*errors, *(self.kind.lines() if self.kind else [])])

    def draw(self, folder: Path, split: str, read: Callable[[int], Any] | None) -> list[Path]:
        """Draws pictures into a folder; returns their files. `read` gives a sample by its place."""
        name = split.replace("/", "_")
        return self.kind.draw(folder, name, read) if self.kind else []


class Certainty:
    """Standard errors of means over samples, from the values of each sample."""

    def __init__(self):
        self.sums: dict[str, np.ndarray] = {}  # number of values, their sum, the sum of their squares

    def add(self, values: Mapping[str, Any]) -> None:
        """Adds a batch's values; those that are not one per sample `[B]` are left out."""
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.ndim == 1:
                own = value.detach().double()
                sums = np.array([len(own), own.sum().item(), own.square().sum().item()])
                self.sums[name] = self.sums.get(name, 0) + sums

    def standard_errors(self) -> dict[str, float]:
        """By name, for those with two values or more."""
        return {name: math.sqrt(max(squares - total**2 / number, 0) / (number - 1) / number)
                for name, (number, total, squares) in self.sums.items() if number > 1}


class ClassReport:
    """Confusion matrix, what follows from it, calibration, and the most confident mistakes."""

    def __init__(self, num_classes: int, probabilities: Callable, classes: Sequence[str] | None):
        self.to_probabilities = probabilities
        self.names = [*map(str, classes if classes and len(classes) == num_classes else range(num_classes))]
        self.confusion = np.zeros((num_classes, num_classes), np.int64)  # [true, predicted]
        self.bins = np.zeros((3, _NUM_BINS))  # of confidence: samples, sum of confidence, correct ones
        self.mistakes: list[tuple[float, int, int, int]] = []  # a heap: confidence, -place, true, predicted
        self.seen = 0

    def add(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Outputs `[B, K, ...]`, targets int `[B, ...]`; other numbers than 0 to K - 1 do not count."""
        confidence, predicted = (part.cpu().numpy() for part in self.to_probabilities(outputs).max(1))
        true, number = targets.cpu().numpy(), len(self.names)
        known = (true >= 0) & (true < number)
        pairs = true[known] * number + predicted[known]
        self.confusion += np.bincount(pairs, minlength=number**2).reshape(number, number)
        correct, sure = (true == predicted)[known], confidence[known].astype(np.float64)
        places = np.minimum((sure * _NUM_BINS).astype(np.int64), _NUM_BINS - 1)
        self.bins += [np.bincount(places, weights, _NUM_BINS)
                      for weights in (np.ones(len(sure)), sure, correct)]
        wrong = np.flatnonzero(known & (true != predicted)) if true.ndim == 1 else ()
        for place in wrong:
            mistake = (float(confidence[place]), -self.seen - int(place), int(true[place]),
                       int(predicted[place]))
            push = heapq.heappush if len(self.mistakes) < _NUM_MISTAKES else heapq.heappushpop
            push(self.mistakes, mistake)
        self.seen += len(true)

    def per_class(self) -> dict[str, np.ndarray]:
        """Precision, recall, F1 and support of each class, `[K]`; 0 where there is nothing to divide by."""
        hits, support, chosen = self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0)
        return {"precision": hits / np.maximum(chosen, 1), "recall": hits / np.maximum(support, 1),
                "f1": 2 * hits / np.maximum(support + chosen, 1), "support": support}

    def calibration_error(self) -> float:
        """The mean gap between confidence and accuracy, over 15 bins of confidence (Guo et al. 2017)."""
        number, sure, correct = self.bins
        return float(np.abs(sure - correct).sum() / max(number.sum(), 1))

    def as_dict(self) -> dict[str, Any]:
        """The numbers, by the names of the classes."""
        columns = self.per_class()
        rows = {name: {key: value[number].item() for key, value in columns.items()}
                for number, name in enumerate(self.names)}
        means = {f"macro_{key}": float(columns[key].mean()) for key in ("precision", "recall", "f1")}
        listed = len(self.names) <= MAX_LISTED
        return {"classes": rows, **means, "calibration_error": self.calibration_error(),
                **({"confusion": self.confusion.tolist()} if listed else {})}

    def lines(self) -> list[str]:
        """A table of the classes, of many those with the lowest F1."""
        columns, room = self.per_class(), shutil.get_terminal_size().columns
        order = sorted(range(len(self.names)), key=columns["f1"].tolist().__getitem__)[:_MAX_ROWS]
        many = len(self.names) > _MAX_ROWS
        width = max(8, min(max(map(len, self.names)), room - 42))
        lines = [f"  {'class':<{width}} {'precision':>9} {'recall':>9} {'f1':>9} {'support':>9}"]
        for number in order if many else range(len(self.names)):
            values = " ".join(f"{columns[key][number]:9.4f}" for key in ("precision", "recall", "f1"))
            lines.append(f"  {self.names[number][:width]:<{width}} {values} {columns['support'][number]:9d}")
        more = f"  ({len(self.names)} classes, those with the lowest F1; test.json has all)"
        return [*lines, *([more] if many else []), f"  calibration error {self.calibration_error():.4f}"]

    def draw(self, folder: Path, name: str, read: Callable[[int], Any] | None) -> list[Path]:
        """The confusion matrix, and where the samples are pictures the most confident mistakes."""
        files = [folder / f"{name}_confusion.png"]
        draw_confusion(self.confusion, self.names).save(files[0])
        if read and self.mistakes:
            names, found = self.names, sorted(self.mistakes, reverse=True)
            shown = [(read(-place), f"true {names[true]}", f"not {names[predicted]} ({confidence:.0%})")
                     for confidence, place, true, predicted in found]
            if picture := draw_mistakes(shown):
                files.append(folder / f"{name}_mistakes.png")
                picture.save(files[-1])
        return files


class ResidualReport:
    """R2 and the mean absolute error of values that are predicted, and a picture of them."""

    def __init__(self):
        self.number, self.sums, self.points = 0, np.zeros(4), np.empty((0, 2))

    def add(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Outputs and targets of one shape, `[B, ...]`."""
        predicted, true = (part.cpu().double().numpy().ravel() for part in (outputs, targets))
        wrong = predicted - true
        self.number += len(true)
        self.sums += [true.sum(), (true**2).sum(), (wrong**2).sum(), np.abs(wrong).sum()]
        room = _NUM_POINTS - len(self.points)
        self.points = np.concatenate([self.points, np.stack([true, predicted], 1)[:room]])

    def as_dict(self) -> dict[str, Any]:
        """The numbers; R2 is 0 for targets that are all equal."""
        total, squares, wrong_squares, wrong = self.sums.tolist()
        spread = squares - total**2 / self.number
        return {"r2": 1 - wrong_squares / spread if spread > 0 else 0.0, "mae": wrong / self.number}

    def lines(self) -> list[str]:
        """R2 and the mean absolute error."""
        values = self.as_dict()
        return [f"  R2 {values['r2']:.4f}, mean absolute error {values['mae']:.4g}"]

    def draw(self, folder: Path, name: str, read: Callable[[int], Any] | None) -> list[Path]:
        """Predicted against true values."""
        file = folder / f"{name}_residuals.png"
        draw_residuals(self.points).save(file)
        return [file]
