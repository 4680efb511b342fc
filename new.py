"""Create a plug-in with its config and its test, or a new project.

    python new.py model MyNet                  # or config, dataset, loss, metric, sampler, trainer, ...
    python new.py project ../MyProject         # a clean copy of the template
    python new.py project ../MyProject --bare  # without the examples
    python new.py upgrade                      # brings a newer template into this project (docs/upgrade.md)
    python new.py --version
"""
import argparse
import ast
import configparser
import functools
import keyword
import re
import shutil
import sys
from datetime import date
from pathlib import Path

from scaffolds.upgrade.versions import public_address
from utils.config.registry import FOLDERS
from utils.errors import PROJECT, ConfigError, exit_codes
from utils.git import git

SCAFFOLDS = PROJECT / "scaffolds"
NEXT = {"configs": "python train.py -c", "tests": "python -m pytest"}  # the command for a new file, by folder
LISTS = ("python -m tools.schema > configs/schema.json",  # these update the lists of all names
         "python -m tools.config_docs > docs/config.md")
# A bare project lacks these examples, and files that only examples need. A test that uses one of them calls
# `needs`, and is skipped without it.
EXAMPLES = (
    ".ci", "benchmarks", "requirements-bench.txt", "tests/benchmarks",
    "configs/cifar10_resnet.yaml", "configs/digits.yaml", "configs/digits_gan.yaml",
    "configs/digits_sweep.yaml", "configs/linear_regression.yaml",
    "configs/mnist.json", "configs/mnist.yaml", "configs/schema.json", "docs/config.md",
    "model/cifar_resnet.py", "model/digits_gan.py", "model/lenet.py", "model/linear_regression.py",
    "data_loader/line.py", "trainer/gan_trainer.py",
)
# What is about the template itself: no copy has it.
TEMPLATE_ONLY = (".github", "CONTRIBUTING.md")
# These belong to this copy, not to the template. The folder `saved` is copied empty.
_LEFT_BEHIND = shutil.ignore_patterns(
    ".git", "__pycache__", "*.pyc", "*.egg-info", ".pytest_cache", ".hypothesis", ".venv", "venv")


def main() -> None:
    args = arguments()
    with exit_codes():
        if args.kind == "upgrade":
            from scaffolds.upgrade.upgrade import upgrade

            sys.exit(upgrade(Path.cwd(), PROJECT, args.source, args.to, args.dry_run, args.yes))
        elif args.kind == "project":
            new_project(args.target, args.bare)
            has_examples = (args.target / "configs" / "digits.yaml").exists()
            first = "python train.py -c configs/digits.yaml" if has_examples else "python new.py model MyNet"
            if "source" not in template(args.target):
                print("It does not know where the template is, since this copy has no remote with a URL. "
                      "To upgrade it later: python new.py upgrade --from PATH|URL")
            print(f"{args.target} is ready. Next:", f"cd {args.target} && git init", first, sep="\n  ")
        else:
            files = new_files(args.kind, args.name)
            commands = [f"{NEXT[file.parts[0]]} {file}" for file in files if file.parts[0] in NEXT]
            print("Written:", *files, sep="\n  ")
            warn_of_library(args.kind, args.name)
            lists = LISTS if (PROJECT / "tools").is_dir() else ()
            print("Next:", *commands, *lists, sep="\n  ")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="new.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version",
                        version=", ".join(f"{key} {value}" for key, value in template().items()))
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    project = kinds.add_parser("project", help="a clean copy of the template")
    project.add_argument("target", type=Path, help="the new folder, such as ../MyProject")
    project.add_argument("--bare", action="store_true", help="leave out the examples")
    newer = kinds.add_parser("upgrade", help="a newer template for the project in this folder")
    newer.add_argument("--from", dest="source", metavar="PATH|URL",
                       help="the template's repository (where this project came from)")
    newer.add_argument("--to", metavar="VERSION", help="a version or a commit (the newest)")
    newer.add_argument("--dry-run", action="store_true", help="print what would change, and change nothing")
    newer.add_argument("--yes", action="store_true", help="do not ask: for scripts")
    for tree in sorted(SCAFFOLDS.iterdir()):
        if (tree / "configs").is_dir() and not tree.name.endswith("_function"):
            what = ("a config with every setting" if tree.name == "config"
                    else f"a {tree.name}, with its config")
            lower = "; in lower case it is a function" if _of_function(tree.name).exists() else ""
            kinds.add_parser(tree.name, help=f"{what}, and its test").add_argument(
                "name", help=f"what configs call it{lower}")
    return parser.parse_args()


# -- a plug-in ---------------------------------------------------------------------------------------------

def new_files(kind: str, name: str) -> list[Path]:
    """Writes a new `kind` called `name`, a config that trains with it, and its test. Returns the files.

    Raises ConfigError and writes nothing if `name` is no valid name or is taken, or if a file exists already.
    """
    files = scaffold(kind, name)
    refuse_registered(kind, name, set().union(*map(registered, files.values())))
    if taken := [taken for file in files for taken in there_already(file)]:
        raise ConfigError(f"{', '.join(taken)}: there already, and nothing is overwritten. Choose another "
                          "name.")
    written = []
    try:
        for file, text in files.items():
            (PROJECT / file).parent.mkdir(exist_ok=True)
            with open(PROJECT / file, "x", encoding="utf-8") as opened:
                written.append(PROJECT / file)
                opened.write(text)
    except OSError as error:
        for file in written:
            file.unlink()
        raise ConfigError(f"nothing is written, since one file cannot be: {error}") from error
    return list(files)


def there_already(file: Path) -> list[str]:
    """The file, if it exists. For a test, also tests of this name in other folders, which confuse pytest."""
    found = [PROJECT / file, *((PROJECT / "tests").rglob(file.name) if file.parts[0] == "tests" else ())]
    return sorted({str(path.relative_to(PROJECT)) for path in found if path.exists()})


def scaffold(kind: str, name: str) -> dict[Path, str]:
    """The files of `scaffolds/KIND` by their new paths, with `MyNet` for Example and `my_net` for example.

    Raises ConfigError if `name` is no valid name.
    """
    # insert _ before each capital that begins a word: HTTPServer becomes http_server
    file_name = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", name).lower()
    if not name.isidentifier() or keyword.iskeyword(name) or keyword.iskeyword(file_name):
        raise ConfigError(f"'{name}' cannot be the name of a {kind}: letters, digits and _ are needed, as in "
                          "MyNet or my_loss, and no word of Python's own.")
    if (kind, name) == ("metric", "loss"):
        raise ConfigError("'loss' is what the loss is called in the logs. Choose another name.")
    tree = _of_function(kind) if name.islower() and _of_function(kind).exists() else SCAFFOLDS / kind
    texts = {str(file.relative_to(tree)): file.read_text() for file in sorted(tree.glob("*/*.*"))}
    if any(map(registered, texts.values())) and name in set().union(*map(used, texts.values())):
        raise ConfigError(f"'{name}' is something else in the code that would be written. Choose another "
                          "name.")
    named = functools.partial(re.sub, "Example|example",
                              lambda found: name if found[0] == "Example" else file_name)
    return {Path(named(file)): named(text) for file, text in texts.items()}


def _of_function(kind: str) -> Path:
    """The folder with the scaffold of a function, if the kind has one."""
    return SCAFFOLDS / f"{kind}_function"


def refuse_registered(kind: str, name: str, names: set[tuple[str, str]]) -> None:
    """Raises ConfigError if the project already registers one of `names`."""
    for folder in FOLDERS:
        for file in sorted((PROJECT / folder).rglob("*.py")):
            if names & registered(file.read_bytes()):
                raise ConfigError(f"there is a {kind} '{name}' already, in {file.relative_to(PROJECT)}. "
                                  "Choose another name.")


def warn_of_library(kind: str, name: str) -> None:
    """Prints a warning if a library has something of this kind and name, too."""
    from base.registries import KINDS

    for library in [library for registry in KINDS.values() if registry.kind == kind
                    for library in registry.libraries if name in library.members()]:
        print(f"warning: '{name}' is also {library.label}. In configs it is now this project's own.")


def registered(code: str | bytes) -> set[tuple[str, str]]:
    """The (registry, name) pairs of a file: `@MODELS.register class MyNet` gives ("MODELS", "MyNet")."""
    return {(decorator.value.id, node.name)
            for node in _nodes(code) if isinstance(node, (ast.ClassDef, ast.FunctionDef))
            for decorator in node.decorator_list
            if isinstance(decorator, ast.Attribute) and decorator.attr == "register"
            and isinstance(decorator.value, ast.Name)}


def used(code: str) -> set[str]:
    """The names that a file binds by an import or an assignment."""
    aliases = [node for node in _nodes(code) if isinstance(node, ast.alias)]
    names = [node for node in _nodes(code) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return {alias.asname or alias.name for alias in aliases} | {name.id for name in names}


def _nodes(code: str | bytes) -> list[ast.AST]:
    try:
        return list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError):  # a config, or a broken file: training reports it
        return []


# -- a project ---------------------------------------------------------------------------------------------

def new_project(target: Path, bare: bool = False) -> None:
    """Copies the template to `target`, without saved runs, downloads, git history and virtual environments.

    Files and folders beside this program that git does not have are left out, too.

    A bare copy has no examples. It has a short README, and the template's README as TEMPLATE.md. Raises
    ConfigError if `target` is not free or not outside this project.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} is there already, and not an empty folder. Choose another name.")
    if target.resolve().is_relative_to(PROJECT):
        raise ConfigError(f"{target} lies inside this project. Choose a place beside it, such as "
                          f"../{target.name}.")
    try:
        shutil.copytree(PROJECT, target, ignore=functools.partial(_ignored, bare), dirs_exist_ok=True)
        stamp(target)
        rename(target)
        if bare:
            if not (target / "TEMPLATE.md").exists():  # it exists in a copy of a bare project
                manual = (target / "README.md").read_text(encoding="utf-8")
                note = "> The template's own page. The examples that it names are not here."
                (target / "TEMPLATE.md").write_text(f"{note}\n\n{manual}", encoding="utf-8")
            text = (SCAFFOLDS / "bare_readme.md").read_text()
            (target / "README.md").write_text(text.replace("Example", target.resolve().name),
                                              encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{target}: cannot be made: {error}") from error


def _ignored(bare: bool, folder: str, names: list[str]) -> set[str]:
    left, room = set(_LEFT_BEHIND(folder, names)), Path(folder).relative_to(PROJECT)
    if Path(folder) == PROJECT:
        left |= {"data"} & set(names) | _untracked()
    if Path(folder) == PROJECT / "saved":
        left |= set(names) - {".gitkeep"}
    unwanted = (*TEMPLATE_ONLY, *EXAMPLES) if bare else TEMPLATE_ONLY
    left |= {name for name in names if (room / name).as_posix() in unwanted}
    return left | {name for name in names if (Path(folder) / name / "pyvenv.cfg").exists()}


def _untracked() -> set[str]:
    """Names beside this file that git does not have, such as predictions; no folders of plug-ins or tests."""
    if not git("ls-files", "--", "new.py"):
        return set()  # the template has no repository, or is not added to it yet
    listed = (git("ls-files", "--others", "--directory", "-z") or "").split("\0")
    return {name.removesuffix("/") for name in listed if name} - {*FOLDERS, "configs", "tests"}


def template(project: Path | None = None) -> dict[str, str]:
    """The version of the template. In a copy, also the date and the commit of the copy, and the address."""
    config = configparser.ConfigParser()
    config.read((project or PROJECT) / "setup.cfg", encoding="utf-8")
    return dict(config["template"])


def stamp(target: Path) -> None:
    """Writes date and commit of a copy to its setup.cfg. A copy of a copy keeps the first note."""
    if "created" in template():
        return
    commit = git("rev-parse", "--short", "HEAD")
    source = public_address(git("remote", "get-url", "origin") or "")
    note = f"created = {date.today()}\n" + (f"commit = {commit}\n" if commit else "")
    note += f"source = {source}\n" if source else ""
    text = (target / "setup.cfg").read_text(encoding="utf-8")
    text = re.sub(r"(?<=\[template\]\n)version = .+\n", lambda found: found[0] + note, text)
    (target / "setup.cfg").write_text(text, encoding="utf-8")


def rename(target: Path) -> None:
    """Gives a copy the name of its folder, where pip and uv show one."""
    file = target / "pyproject.toml"
    name = re.sub("[^a-z0-9]+", "-", target.resolve().name.lower()).strip("-")
    if file.exists() and name:
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub('(?m)^name = "seedbed"$', f'name = "{name}"', text), encoding="utf-8")


if __name__ == "__main__":
    main()
