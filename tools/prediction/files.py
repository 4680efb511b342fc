"""Predictions as files: written batch by batch into NAME.part, which gets its name when it is whole."""
import csv
import json
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from base.prediction.outputs import CLASS, PROBABILITIES
from utils.errors import ConfigError

_CLASSES = (CLASS, "target")  # values that are numbers of classes
# Red, green, blue of each class; 0 is black. As in PASCAL VOC: the lowest bits of a number decide most.
_COLOURS = [sum((number >> 3 * bit + channel & 1) << 7 - bit for bit in range(3))
            for number in range(256) for channel in range(3)]


def prediction_file(path: Path, classes: Sequence[str] | None = None,
                    top_k: int | None = None, note: str = "") -> "PredictionFile":
    """What writes predictions to `path`: a table (.csv), JSON lines, arrays (.npz) or a folder of PNGs.

    `classes`: their names; without them their numbers are written. `top_k`: how many of the most probable
    classes; None for all. `note`: the end of a message on values that the form cannot hold. Raises
    ConfigError for another suffix, and for a folder that is not empty.
    """
    kinds = {".csv": CsvFile, ".jsonl": JsonLines, ".npz": ArrayFile, "": PictureFolder}
    if path.suffix not in kinds:
        raise ConfigError(f"--out {path}: predictions are written to a .csv, .jsonl or .npz file, or as "
                          "pictures to a folder, which has no suffix")
    if path.is_dir() and (path.suffix or any(path.iterdir())):
        raise ConfigError(f"--out {path}: there is a folder of this name already. Name another one.")
    return kinds[path.suffix](path, classes, top_k, note)


class PredictionFile:
    """A context manager: at its end NAME.part gets its name; after an error it is removed."""

    def __init__(self, path: Path, classes: Sequence[str] | None, top_k: int | None, note: str):
        self.path, self.part = path, path.with_name(f"{path.name}.part")
        self.classes, self.top_k, self.note = classes, top_k, note

    def __enter__(self) -> "PredictionFile":
        self._discard()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.open()
        return self

    def __exit__(self, kind, error, trace):
        try:
            self.close()
            if kind is None:
                os.replace(self.part, self.path)
        finally:
            self._discard()

    def _discard(self) -> None:
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.unlink(missing_ok=True)

    def open(self) -> None:
        """Creates `self.part`."""
        self.file = open(self.part, "w", newline="", encoding="utf-8", errors="surrogateescape")

    def write(self, ids: Sequence[str], values: Mapping[str, np.ndarray]) -> None:
        """Writes a batch: the names of its samples, and values `[B, ...]` by their names."""
        raise NotImplementedError

    def close(self) -> None:
        """All is written."""
        self.file.close()

    def name(self, number: int) -> str:
        """The name of a class."""
        return self.classes[number] if self.classes and 0 <= number < len(self.classes) else str(number)

    def ranked(self, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
        """The `top_k` classes `[B, k]` and their probabilities; None if all are written."""
        if self.top_k is None:
            return None
        if np.ndim(probabilities := values.get(PROBABILITIES)) != 2:
            raise ConfigError("--top-k: there are no probabilities of classes, but "
                              f"{', '.join(values)}.{self.note}")
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :self.top_k]
        return order, np.take_along_axis(probabilities, order, axis=1)

    def describe(self, ids: Sequence[str], values: Mapping[str, np.ndarray]) -> str:
        """A line for each sample of the last batch: its single numbers, or where its values are."""
        lines, chances = [], values.get(PROBABILITIES)
        for place, sample in enumerate(ids):
            numbers = {name: value[place] for name, value in values.items() if value.ndim == 1}
            by_name = _CLASSES if chances is not None else ()
            shown = [f"{name} {self.name(int(number)) if name in by_name else number}"
                     for name, number in numbers.items()]
            shown += [f"probability {chances[place].max():.1%}"] if np.ndim(chances) == 2 else []
            lines.append(f"{sample}: {', '.join(shown) or f'{_shapes(values)} written to {self.path}'}\n")
        return "".join(lines)


class CsvFile(PredictionFile):
    """A line for each sample, a column for each number: `NAME`, or `NAME/0`, `NAME/1`, ... for several."""

    header = None

    def write(self, ids, values):
        columns = {"id": list(ids), **self._columns(values)}
        if self.header is None:
            self.header = list(columns)
            csv.writer(self.file).writerow(self.header)
        csv.writer(self.file).writerows(zip(*columns.values(), strict=True))

    def _columns(self, values: Mapping[str, np.ndarray]) -> dict[str, list]:
        columns, ranked = {}, self.ranked(values)
        for name, value in values.items():
            if value.ndim > 2:
                other = ", or name a FOLDER for pictures" if _pictures(values) else ""
                raise ConfigError(f"{self.path}: '{name}' has the shape {list(value.shape[1:])} for each "
                                  f"sample, and a table holds numbers. Write FILE.npz{other}.{self.note}")
            if name == PROBABILITIES and ranked:
                for place, (numbers, chances) in enumerate(zip(*map(np.transpose, ranked), strict=True), 1):
                    columns[f"class_{place}"] = [*map(self.name, numbers.tolist())]
                    columns[f"probability_{place}"] = chances.tolist()
            elif value.ndim == 2:
                names = [self.name(number) if name == PROBABILITIES else number
                         for number in range(value.shape[1])]
                columns |= {f"{name}/{key}": value[:, number].tolist() for number, key in enumerate(names)}
            else:
                columns[name] = self.labels(name, values)
        return columns

    def labels(self, name: str, values: Mapping[str, np.ndarray]) -> list:
        """The values `[B]` of a name; classes by their names."""
        plain = values[name].tolist()
        by_name = name in _CLASSES and CLASS in values and values[name].dtype.kind in "iu"
        return [*map(self.name, plain)] if by_name else plain


class JsonLines(CsvFile):
    """An object for each sample. `top` are its most probable classes, `[[NAME, probability], ...]`."""

    def write(self, ids, values):
        ranked, columns = self.ranked(values), {"id": list(ids)}
        for name, value in values.items():
            if name == PROBABILITIES and ranked:
                columns["top"] = [[[self.name(number), chance] for number, chance in zip(*row, strict=True)]
                                  for row in zip(*(part.tolist() for part in ranked), strict=True)]
            elif name == PROBABILITIES and value.ndim == 2:
                columns[name] = [{self.name(number): chance for number, chance in enumerate(row)}
                                 for row in value.tolist()]
            else:
                columns[name] = self.labels(name, values) if value.ndim == 1 else value.tolist()
        for row in zip(*columns.values(), strict=True):
            self.file.write(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n")


class ArrayFile(PredictionFile):
    """Arrays `[N, ...]` by their names, and `id`, `classes`: `np.load(FILE)`. Not held in memory."""

    def open(self):
        self.part.mkdir()
        self.files, self.kinds, self.ids = {}, {}, []

    def write(self, ids, values):
        if ranked := self.ranked(values):
            values = {**values, "top": ranked[0], PROBABILITIES: ranked[1]}
        for name, value in values.items():
            kind = value.dtype, value.shape[1:]
            if self.kinds.setdefault(name, kind) != kind:
                raise ConfigError(f"{self.path}: '{name}' has the shape {list(kind[1])} for one sample and "
                                  f"{list(self.kinds[name][1])} for another, and an array has one. Write "
                                  "FILE.jsonl.")
            if name not in self.files:
                self.files[name] = open(self.part / f"{len(self.files)}.raw", "wb")
            self.files[name].write(np.ascontiguousarray(value).tobytes())
        self.ids += ids

    def close(self):
        for file in self.files.values():
            file.close()
        whole = self.part.with_name(f"{self.part.name}.zip")
        with zipfile.ZipFile(whole, "w") as archive:
            for name, file in self.files.items():
                dtype, shape = self.kinds[name]
                with (archive.open(f"{name}.npy", "w", force_zip64=True) as entry,
                      open(file.name, "rb") as raw):
                    np.lib.format.write_array_header_2_0(entry, {
                        "descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False,
                        "shape": (len(self.ids), *shape)})
                    shutil.copyfileobj(raw, entry, 2**20)
            for name, texts in (("id", self.ids), ("classes", self.classes)):
                if texts is not None:
                    with archive.open(f"{name}.npy", "w") as entry:
                        np.save(entry, np.array(texts, dtype=str), allow_pickle=False)
        shutil.rmtree(self.part)
        os.replace(whole, self.part)


class PictureFolder(PredictionFile):
    """A PNG for each sample and each value that is a picture: `[C, H, W]` in [0, 1], or classes `[H, W]`.

    Pixels of classes are their numbers; a palette shows them as colours.
    """

    def open(self):
        self.part.mkdir()
        self.number = 0

    def write(self, ids, values):
        pictures = _pictures(values)
        if not pictures:
            form = "FILE.npz" if any(value.ndim > 2 for value in values.values()) else "FILE.csv"
            raise ConfigError(f"{self.path}: a folder takes pictures, [C, H, W] with one or three channels, "
                              f"or classes [H, W]; there are {_shapes(values)}. Write {form}.{self.note}")
        for place, sample in enumerate(ids):
            for name, file in self._names(self.number + place, sample, pictures).items():
                _to_image(pictures[name][place]).save(self.part / file)
        self.number += len(ids)

    def describe(self, ids, values):
        pictures = _pictures(values)
        return "".join(f"{sample}: {name} written to {self.path / file}\n"
                       for number, sample in enumerate(ids, self.number - len(ids))
                       for name, file in self._names(number, sample, pictures).items())

    def _names(self, number: int, sample: str, pictures: Mapping[str, np.ndarray]) -> dict[str, str]:
        """The file of each picture of a sample."""
        return {name: f"{number:06d}_{Path(sample).stem}{f'_{name}' if len(pictures) > 1 else ''}.png"
                for name in pictures}

    def close(self):
        """Nothing is open."""


def _shapes(values: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {list(value.shape[1:])}" for name, value in values.items())


def _pictures(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in values.items() if _is_picture(value)}


def _is_picture(value: np.ndarray) -> bool:
    if value.ndim == 4 and value.shape[1] in (1, 3):
        return value.dtype.kind == "f" or value.dtype == np.uint8
    return value.ndim == 3 and value.dtype.kind in "iu" and value.max(initial=0) < 256


def _to_image(value: np.ndarray) -> Image.Image:
    value = ((value.clip(0, 1) * 255).round() if value.dtype.kind == "f" else value).astype(np.uint8)
    if value.ndim == 2:
        image = Image.fromarray(value)
        image.putpalette(_COLOURS)  # without one, a viewer shows the classes 0, 1, 2, ... as black
        return image
    return Image.fromarray(value[0] if len(value) == 1 else value.transpose(1, 2, 0))
