"""Start something new from this template.

    python new.py project ../MyProject
"""
import argparse
import shutil
from pathlib import Path

from utils.errors import PROJECT, ConfigError, exit_codes

# What belongs to this copy and not to the template; `saved` itself comes along, empty.
_LEFT_BEHIND = shutil.ignore_patterns(".git", "__pycache__", "*.pyc", ".pytest_cache", ".venv", "venv")


def new_project(target: Path) -> None:
    """Copies the template to `target`: without saved runs, downloaded data, git history and virtual environments.

    Raises ConfigError where something is in the way.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} is there already, and not an empty folder. Choose another name.")
    if target.resolve().is_relative_to(PROJECT):
        raise ConfigError(f"{target} lies inside this project. Choose a place beside it, such as ../{target.name}.")
    try:
        shutil.copytree(PROJECT, target, ignore=_ignored, dirs_exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{target}: cannot be made: {error}") from error


def _ignored(folder: str, names: list[str]) -> set[str]:
    left = set(_LEFT_BEHIND(folder, names))
    if Path(folder) == PROJECT:
        left |= {"data"} & set(names)
    if Path(folder) == PROJECT / "saved":
        left |= set(names) - {".gitkeep"}
    return left | {name for name in names if (Path(folder) / name / "pyvenv.cfg").exists()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="new.py", description="Start something new from this template.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="project")
    project = kinds.add_parser("project", help="a clean copy of the template")
    project.add_argument("target", type=Path, help="the new folder, such as ../MyProject")
    args = parser.parse_args()
    with exit_codes():
        new_project(args.target)
        print(f"{args.target} is ready. Next:\n  cd {args.target} && git init\n  python train.py -c configs/digits.yaml")


if __name__ == "__main__":
    main()
