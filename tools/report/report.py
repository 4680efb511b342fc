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
from base.weighted_losses import loss_parts
from tools.report.pictures import draw_confusion, draw_mistakes, draw_residuals

MAX_LISTED, MAX_COUNTED = 100, 1000  # classes whose confusion matrix is written as numbers, and counted
_NUM_BINS, _NUM_MISTAKES, _NUM_POINTS, _MAX_ROWS = 15, 16, 5000, 20
# losses of torch over values, and those over labels with the output from which on a label counts as predicted
_OF_VALUES = ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss",
              "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
_OF_LABELS = {"BCEWithLogitsLoss": 0.0, "binary_cross_entropy_with_logits": 0.0,
              "BCELoss": 0.5, "binary_cross_entropy": 0.5}


class Report:
    """Collects what an evaluation sees: `report(outputs, targets, values)` for each batch.

    Args:
        loss: the run's; it tells whether outputs are over classes, over labels of 0 and 1, or values.
        classes: their names, if they have some.
    """

    def __init__(self, loss: Any, classes: Sequence[str] | None = None):
        self.classes, self.to_probabilities = classes, to_probabilities(loss)
        self.losses = [getattr(part, "func", part) for part in loss_parts(loss).values()]
        self.certainty = Certainty()
        self.kind: LabelReport | ResidualReport | None = None

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
                  targets: torch.Tensor) -> "LabelReport | ResidualReport | None":
        if self.to_probabilities:
            is_fit = _are_of_classes(outputs, targets)
            return ClassReport(self._names(outputs.shape[1]), self.to_probabilities) if is_fit else None
        if not outputs.is_floating_point() or outputs.shape != targets.shape:
            return None
        names = {getattr(loss, "__name__", type(loss).__name__) for loss in self.losses}
        binary = bool(((targets == 0) | (targets == 1)).all())
        if thresholds := [_OF_LABELS[name] for name in names if name in _OF_LABELS]:
            is_labels = binary and outputs.ndim <= 2
            return LabelReport(self._names(outputs[0].numel()), thresholds[0]) if is_labels else None
        own = not any(map(_of_torch, self.losses)) and not binary
        is_values = targets.is_floating_point() and (own or names & {*_OF_VALUES})
        return ResidualReport() if is_values else None

    def _names(self, number: int) -> list[str]:
        """The names of as many classes or labels; of a single output for two classes the second one's."""
        classes = self.classes or ()
        classes = classes[1:] if number == 1 and len(classes) == 2 else classes
        return [*map(str, classes if len(classes) == number else range(number))]

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
        """Adds a batch's values; values that are not one per sample `[B]` are left out."""
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.ndim == 1:
                own = value.detach().double()
                sums = np.array([len(own), own.sum().item(), own.square().sum().item()])
                self.sums[name] = self.sums.get(name, 0) + sums

    def standard_errors(self) -> dict[str, float]:
        """By name, for those with two values or more."""
        return {name: math.sqrt(max(squares - total**2 / number, 0) / (number - 1) / number)
                for name, (number, total, squares) in self.sums.items() if number > 1}


def _are_of_classes(outputs: torch.Tensor, targets: torch.Tensor) -> bool:
    """Whether outputs are `[B, K, ...]`, and targets whole numbers `[B, ...]`."""
    fits = outputs.ndim > 1 and targets.shape == outputs.shape[:1] + outputs.shape[2:]
    return fits and not targets.is_floating_point()


def _of_torch(loss: Any) -> bool:
    return getattr(loss, "__module__", "").startswith("torch.")


class LabelReport:
    """Precision, recall, F1 and support of labels. A sample may have several.

    Args:
        names: those of the labels.
        threshold: the output above which a label counts as predicted.
    """

    def __init__(self, names: Sequence[str], threshold: float):
        self.names, self.threshold = names, threshold
        self.counts = np.zeros((3, len(names)), np.int64)  # right ones, true ones, predicted ones

    def add(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Outputs and targets (0 or 1) of one shape, `[B, K]`; or `[B]` for a single label."""
        predicted, true = ((part.cpu().numpy() > bound).reshape(len(part), -1)
                           for part, bound in ((outputs, self.threshold), (targets, 0.5)))
        self.counts += [part.sum(0) for part in (true & predicted, true, predicted)]

    def per_class(self) -> dict[str, np.ndarray]:
        """Precision, recall, F1 and support of each class, `[K]`; 0 where there is nothing to divide by."""
        hits, support, chosen = self.counts
        return {"precision": hits / np.maximum(chosen, 1), "recall": hits / np.maximum(support, 1),
                "f1": 2 * hits / np.maximum(support + chosen, 1), "support": support}

    def as_dict(self) -> dict[str, Any]:
        """The numbers, by the names of the classes."""
        columns = self.per_class()
        rows = {name: {key: value[number].item() for key, value in columns.items()}
                for number, name in enumerate(self.names)}
        return {"classes": rows, **{f"macro_{key}": float(columns[key].mean())
                                    for key in ("precision", "recall", "f1")}}

    def lines(self) -> list[str]:
        """A table of the classes, of many those with the lowest F1."""
        columns, room = self.per_class(), shutil.get_terminal_size().columns
        many, order = len(self.names) > _MAX_ROWS, range(len(self.names))
        shown = sorted(order, key=columns["f1"].tolist().__getitem__)[:_MAX_ROWS] if many else order
        width = max(8, min(max(map(len, self.names)), room - 42))
        lines = [f"  {'class':<{width}} {'precision':>9} {'recall':>9} {'f1':>9} {'support':>9}"]
        for number in shown:
            values = " ".join(f"{columns[key][number]:9.4f}" for key in ("precision", "recall", "f1"))
            lines.append(f"  {self.names[number][:width]:<{width}} {values} {columns['support'][number]:9d}")
        more = f"  ({len(self.names)} classes, those with the lowest F1; test.json has all)"
        return [*lines, *([more] if many else [])]

    def draw(self, folder: Path, name: str, read: Callable[[int], Any] | None) -> list[Path]:
        """Draws nothing."""
        return []


class ClassReport(LabelReport):
    """Adds the confusion matrix of up to 1000 classes, calibration, and the most confident mistakes.

    Args:
        names: those of the classes.
        probabilities: makes probabilities of outputs.
    """

    def __init__(self, names: Sequence[str], probabilities: Callable):
        super().__init__(names, 0.0)
        self.to_probabilities = probabilities
        self.confusion = np.zeros((min(len(names), MAX_COUNTED),) * 2, np.int64)  # [true, predicted]
        self.bins = np.zeros((3, _NUM_BINS))  # of confidence: samples, sum of confidence, correct ones
        self.mistakes: list[tuple[float, int, int, int]] = []  # a heap: confidence, -place, true, predicted
        self.seen = 0

    def add(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Outputs `[B, K, ...]`, targets int `[B, ...]`; other numbers than 0 to K - 1 do not count."""
        sure, predicted = (part.cpu().numpy() for part in self.to_probabilities(outputs).max(1))
        true, number, sure = targets.cpu().numpy(), len(self.names), np.nan_to_num(sure)
        known = (true >= 0) & (true < number)
        wrong = np.flatnonzero(known & (true != predicted)) if true.ndim == 1 else ()
        for place in wrong:
            mistake = float(sure[place]), -self.seen - int(place), int(true[place]), int(predicted[place])
            push = heapq.heappush if len(self.mistakes) < _NUM_MISTAKES else heapq.heappushpop
            push(self.mistakes, mistake)
        self.seen += len(true)
        true, predicted, sure = true[known], predicted[known], sure[known].astype(np.float64)
        correct = true == predicted
        self.counts += [np.bincount(part, minlength=number) for part in (true[correct], true, predicted)]
        if number <= MAX_COUNTED:
            pairs = np.bincount(true * number + predicted, minlength=number**2)
            self.confusion += pairs.reshape(number, number)
        places = np.minimum((sure * _NUM_BINS).astype(np.int64), _NUM_BINS - 1)
        self.bins += [np.bincount(places, weights, _NUM_BINS)
                      for weights in (np.ones(len(sure)), sure, correct)]

    def calibration_error(self) -> float:
        """The mean gap between confidence and accuracy, over 15 bins of confidence (Guo et al. 2017)."""
        number, sure, correct = self.bins
        return float(np.abs(sure - correct).sum() / max(number.sum(), 1))

    def as_dict(self) -> dict[str, Any]:
        """The numbers, by the names of the classes."""
        listed = {"confusion": self.confusion.tolist()} if len(self.names) <= MAX_LISTED else {}
        return {**super().as_dict(), "calibration_error": self.calibration_error(), **listed}

    def lines(self) -> list[str]:
        """The table, and the calibration error."""
        return [*super().lines(), f"  calibration error {self.calibration_error():.4f}"]

    def draw(self, folder: Path, name: str, read: Callable[[int], Any] | None) -> list[Path]:
        """The confusion matrix, and where the samples are pictures the most confident mistakes."""
        files = []
        if len(self.names) <= MAX_COUNTED:
            files.append(folder / f"{name}_confusion.png")
            draw_confusion(self.confusion, self.names).save(files[-1])
        if read and self.mistakes:
            names, found = self.names, sorted(self.mistakes, reverse=True)
            shown = [(read(-place), names[true], f"{confidence:.0%} {names[predicted]}")
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
