"""Files to predict from, which belong to no dataset, and what the samples of a dataset are called."""
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import Dataset, Subset

from base.data.bad_samples import sample_file
from base.prediction.inputs import as_batch
from utils.errors import ConfigError, describe_error
from utils.random import derive, seed_cpu


class FileBatch(NamedTuple):
    """Inputs of several files in one batch: `data`, None if there is none; `ids` are their paths.

    `errors`: of the files that could not be read, by their paths.
    """

    data: Any
    ids: list[str]
    errors: dict[str, str]


class InputFiles(Dataset):
    """Files as inputs: samples (path, input, error). Either the input or the error is None.

    Args:
        files: their paths.
        read: gives the input in a file, transformed.
        section: the config's dataset, whose class makes the batches.
    """

    def __init__(self, files: Sequence[Path], read: Callable[[Path], Any], section: Any):
        self.files, self.read, self.section = files, read, section

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[str, Any, str | None]:
        file = self.files[number]
        seed_cpu(derive(0, "input", number))
        try:
            return str(file), self.read(file), None
        except Exception as error:  # of any reader, for files that hold anything
            return str(file), None, describe_error(error)

    def collate(self, samples: list[tuple]) -> FileBatch:
        """A batch of the files that could be read. Raises ConfigError for inputs of different sizes."""
        inputs = {file: sample for file, sample, error in samples if error is None}
        errors = {file: error for file, _, error in samples if error is not None}
        try:
            data = as_batch([*inputs.values()], self.section) if inputs else None
        except RuntimeError as error:
            raise ConfigError("the inputs make no batch, as those of different sizes do not. One by one: "
                              f"data_loader.eval_batch_size=1. ({str(error).splitlines()[0]})") from error
        return FileBatch(data, [*inputs], errors)


def input_files(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths`, and all files in the folders among them, in order of their names.

    Hidden ones are left out. Raises ConfigError for a path that does not exist, and if there is no file.
    """
    files, paths = [], list(paths)
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: there is no such file or folder")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        files += [file for file in inside if file.is_file() and not file.name.startswith(".")]
    if not files:
        raise ConfigError(f"{', '.join(map(str, paths))}: holds no files")
    return files


def sample_ids(dataset: Any, indices: Iterable[int]) -> list[str]:
    """What a dataset calls some of its samples: its `ids`, the paths of their files, or their indices."""
    if isinstance(dataset, Subset):
        return sample_ids(dataset.dataset, [int(dataset.indices[index]) for index in indices])
    if (names := getattr(dataset, "ids", None)) is not None:
        return [str(names[index]) for index in indices]
    return [sample_file(dataset, index) or str(index) for index in indices]
