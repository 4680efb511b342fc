"""Start something new from this template.

    python new.py project ../MyProject
    python new.py --version
"""
import argparse
import configparser
import re
import shutil
from datetime import date
from pathlib import Path

from utils.errors import PROJECT, ConfigError, exit_codes
from utils.git import git

# What belongs to this copy and not to the template; `saved` itself comes along, empty.
_LEFT_BEHIND = shutil.ignore_patterns(".git", "__pycache__", "*.pyc", ".pytest_cache", ".venv", "venv")


def main() -> None:
    args = arguments()
    with exit_codes():
        new_project(args.target)
        first = "python train.py -c configs/digits.yaml"
        print(f"{args.target} is ready. Next:", f"cd {args.target} && git init", first, sep="\n  ")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="new.py", description="Start something new from this template.")
    parser.add_argument("--version", action="version", version=", ".join(f"{key} {value}" for key, value in template().items()))
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="project")
    project = kinds.add_parser("project", help="a clean copy of the template")
    project.add_argument("target", type=Path, help="the new folder, such as ../MyProject")
    return parser.parse_args()


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
        stamp(target)
    except OSError as error:
        raise ConfigError(f"{target}: cannot be made: {error}") from error


def _ignored(folder: str, names: list[str]) -> set[str]:
    left = set(_LEFT_BEHIND(folder, names))
    if Path(folder) == PROJECT:
        left |= {"data"} & set(names)
    if Path(folder) == PROJECT / "saved":
        left |= set(names) - {".gitkeep"}
    return left | {name for name in names if (Path(folder) / name / "pyvenv.cfg").exists()}


def template() -> dict[str, str]:
    """The version of the template; in a copy also when it was made, and of which commit."""
    config = configparser.ConfigParser()
    config.read(PROJECT / "setup.cfg", encoding="utf-8")
    return dict(config["template"])


def stamp(target: Path) -> None:
    """Notes in a copy's setup.cfg when it was made, and of which commit. A copy of a copy keeps the note of the first."""
    if "created" in template():
        return
    commit = git("rev-parse", "--short", "HEAD")
    note = f"created = {date.today()}\n" + (f"commit = {commit}\n" if commit else "")
    text = (target / "setup.cfg").read_text(encoding="utf-8")
    text = re.sub(r"(?<=\[template\]\n)version = .+\n", lambda found: found[0] + note, text)
    (target / "setup.cfg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
