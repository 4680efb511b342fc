"""Run folders, `saved/<name>/<run>/`: making a new one, finding an old one."""
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from utils.checkpoint.loading import step_of
from utils.errors import ConfigError
from utils.run_files import file_stamp
from utils.run_record import RECORD, starts_of

CHECKPOINTS = "checkpoints"


def folder_name_fault(name: str) -> str | None:
    """Why `name` is not valid for an experiment or a run; None if it is."""
    if not re.fullmatch(r"\w[\w.+=-]*", name):
        return f"{name!r} names a folder: letters, digits and _ . + = - only, no slashes"
    if len(name.encode()) > 200:
        return f"{name[:20]!r}... names a folder, and is too long: 200 characters are the most"


def new_run(out: Path, name: str, run_name: str | None, suffix: str = "") -> Path:
    """Makes and returns `out/name/run_name`. The default run name is the start time and the suffix.

    Reuses a folder that an earlier start left without a checkpoint. Raises ConfigError if the run exists
    already or the folder cannot be made.
    """
    if run_name is not None and (fault := folder_name_fault(run_name)):
        raise ConfigError(f"--run-name: {fault}")
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    numbered = (f"{stamp}-{i}{suffix}" for i in range(2, 100))
    candidates = [run_name] if run_name else [f"{stamp}{suffix}", *numbered]
    for candidate in candidates:
        run = out / name / candidate
        try:
            run.mkdir(parents=True)
            return run
        except FileExistsError:
            if run_name:
                require_unused(run)
                return run
        except OSError as error:
            raise ConfigError(f"{run}: cannot be made: {error.strerror}. "
                              "Choose another folder with --out.") from error
    raise ConfigError(f"{run} is there already: too many runs began in this second")


def require_unused(run: Path) -> None:
    """Raises ConfigError if a run has begun to train."""
    if any(run.glob(f"{CHECKPOINTS}/*.pt")) or (run / "metrics.jsonl").exists():
        raise ConfigError(f"{run} is there already. Continue it with: python train.py -r {run}\n"
                          "or choose another --run-name.")


def find_checkpoints(path: Path, prefer: tuple[str, ...]) -> Iterator[Path]:
    """Yields the checkpoints that `path` can mean: a file, those of a run, or of an experiment's newest run.

    In a run the names in `prefer` come first, then most steps first. A ConfigError lists what is there.
    """
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        near = next(parent for parent in path.absolute().parents if parent.is_dir())
        others = ", ".join(sorted(p.name for p in near.iterdir() if not p.name.startswith("."))[:10])
        raise ConfigError(f"{path}: there is no such file or folder. In {near}: {others or 'nothing'}")
    run = (path.parent if path.name == CHECKPOINTS else
           path if (path / CHECKPOINTS).is_dir() else newest_run(path))
    there = set((run / CHECKPOINTS).glob("*.pt"))
    if not there:
        raise ConfigError(f"{run / CHECKPOINTS}: holds no checkpoint")
    preferred = [run / CHECKPOINTS / name for name in prefer if run / CHECKPOINTS / name in there]
    yield from preferred
    yield from sorted(there - {*preferred}, key=lambda file: (-step_of(file), file.name))  # often unused


def list_runs(experiment: Path) -> list[Path]:
    """The runs of an experiment that hold checkpoints, newest start first."""
    runs = {file.parent.parent for file in experiment.glob(f"*/{CHECKPOINTS}/*.pt")}
    return sorted(runs, key=lambda run: (_start_time(run), run.name), reverse=True)


def newest_run(experiment: Path) -> Path:
    """The run of an experiment that started last. Raises ConfigError if there is none."""
    runs = list_runs(experiment)
    if not runs:
        inner = sorted({str(file.parents[2]) for file in experiment.glob(f"*/*/{CHECKPOINTS}/*.pt")})
        hint = f" Did you mean one of these? {', '.join(inner)}" if inner else ""
        raise ConfigError(f"{experiment}: neither a run, with {CHECKPOINTS}/ in it, "
                          f"nor an experiment with runs.{hint}")
    return runs[0]


def run_of(checkpoint: Path) -> Path | None:
    """The run folder of a checkpoint; None if the checkpoint was moved out of its run."""
    folder = checkpoint.absolute().parent
    if folder.name != CHECKPOINTS:
        return None
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else folder.parent


def run_of_launch(experiment: Path, launch: str) -> Path | None:
    """The run that processes of this launch have started or resumed; None if they have not got that far."""
    ours = {file.parent: start["started_s"] for file in experiment.glob(f"*/{RECORD}")
            for start in starts_of(file.parent)[-1:] if start.get("launch") == launch}
    return max(ours, key=ours.get, default=None)  # an earlier launch may have had the same name


def has_saved(run: Path, launch: str) -> bool:
    """Whether this launch has written a last.pt: it differs from the one at the launch's first start."""
    found = next((start.get("last_checkpoint") for start in starts_of(run)
                  if start.get("launch") == launch), None)
    return file_stamp(run / CHECKPOINTS / "last.pt") != found


def _start_time(run: Path) -> float:
    starts = starts_of(run)
    return starts[0]["started_s"] if starts else run.stat().st_mtime
