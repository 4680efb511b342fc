"""What new.py writes runs as it is, and it writes nothing where something is in the way."""
import ast
import inspect
import re

import pytest

from base.base_data_loader import PROVIDED, DataSplits
from base.trainer_options import TrainerOptions
from conftest import PROJECT, program
from utils.config.loading import load_config
from utils.config.sections import SECTIONS
from utils.errors import ConfigError

new = pytest.importorskip("new", reason="a fork may do without new.py")
TREES = sorted(tree.name for tree in new.SCAFFOLDS.iterdir() if (tree / "configs").is_dir())


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A bare project."""
    folder = tmp_path_factory.mktemp("bare") / "Blank"
    new.new_project(folder, bare=True)
    return folder


@pytest.fixture
def in_bare(bare, monkeypatch):
    """What new.py writes goes into the bare project."""
    monkeypatch.setattr(new, "PROJECT", bare)
    return bare


def files_in(folder):
    return {file for file in folder.rglob("*") if "__pycache__" not in file.parts}


# -- plug-ins ------------------------------------------------------------------------------------------------------

def test_every_scaffold_passes_its_own_test_in_a_bare_project(in_bare):
    tests = ["tests/core/test_house.py"]
    for tree in TREES:
        kind, is_function = tree.removesuffix("_function"), tree.endswith("_function")
        files = new.new_files(kind, f"own_{kind}_function" if is_function else f"Own{kind.title()}")
        assert f"configs/own_{tree}.yaml" in map(str, files)
        tests += [str(file) for file in files if file.parts[0] == "tests"]
    assert len(tests) == len(TREES) + 1
    assert "failed" not in program("-m", "pytest", "-p", "no:cacheprovider", *tests, cwd=in_bare).stdout


def test_what_was_written_and_what_to_do_next_is_printed(bare):
    done = program("new.py", "model", "UNet3D", cwd=bare)
    assert done.stdout.split("\n") == [
        "Written:", "  configs/u_net3d.yaml", "  model/u_net3d.py", "  tests/test_u_net3d.py",
        "Next:", "  python train.py -c configs/u_net3d.yaml", "  python -m pytest tests/test_u_net3d.py",
        "  python -m tools.schema > configs/schema.json", "  python -m tools.config_docs > docs/config.md", ""]
    assert program("new.py", "model", "UNet3D", cwd=bare, code=2).stderr.count("\n") == 1


def test_a_name_of_a_library_is_used_with_a_warning(bare):
    done = program("new.py", "model", "ReLU", cwd=bare)
    assert done.stdout.count("warning") == 1 and done.stderr == ""
    assert "warning: 'ReLU' is also any torch.nn module. In configs it is now this project's own." in done.stdout
    assert "warning" not in program("new.py", "config", "ReLU6", cwd=bare).stdout
    assert "a number" in program("-c", "from base import MODELS; print('a number', MODELS.get('ReLU').__module__)",
                                 cwd=bare).stdout.replace("model.re_lu", "a number")


@pytest.mark.parametrize("kind, name, message", [
    ("model", "MLP", "there is a model 'MLP' already, in model/mlp.py"),
    ("metric", "accuracy", "there is a metric 'accuracy' already, in model/metrics.py"),
    ("writer", "TensorBoard", "there is a writer 'TensorBoard' already, in logger/tensorboard.py"),
    ("model", "Metrics", "model/metrics.py: there already"), ("config", "config", "tests/core/test_config.py: there already"),
    ("model", "my-net", "'my-net' cannot be the name of a model"), ("loss", "", "cannot be"), ("loss", "3d", "cannot be"),
    ("trainer", "../Up", "cannot be"), ("transform", "a.b", "cannot be"), ("dataset", "class", "cannot be"),
    ("model", "Lambda", "cannot be"),  # its module, lambda, could not be imported
    ("metric", "loss", "what the loss is called"),
    ("loss", "torch", "'torch' is something else"), ("metric", "train", "'train' is something else"),
    ("transform", "grey", "'grey' is something else"),
])
def test_a_name_that_is_none_or_is_taken_is_refused_and_nothing_is_written(in_bare, kind, name, message):
    before = files_in(in_bare)
    with pytest.raises(ConfigError, match=re.escape(message)):
        new.new_files(kind, name)
    assert files_in(in_bare) == before


@pytest.mark.parametrize("name, is_seen", [("Half", True), ("Hidden", False)])
def test_all_files_are_written_or_none(in_bare, name, is_seen):
    obstacle = in_bare / f"tests/test_{name.lower()}.py"
    if is_seen:
        obstacle.touch()
    else:
        obstacle.symlink_to("nowhere")
    before = files_in(in_bare)
    with pytest.raises(ConfigError, match=f"test_{name.lower()}.py"):
        new.new_files("model", name)
    assert files_in(in_bare) == before
    obstacle.unlink()


def test_a_broken_file_of_the_project_is_no_obstacle(in_bare):
    (in_bare / "model" / "broken.py").write_text("def half_a_file(:\n")
    assert len(new.new_files("model", "Whole")) == 3


def test_the_config_with_every_setting_has_every_setting_at_its_default():
    config, _ = load_config(new.SCAFFOLDS / "config" / "configs" / "example.yaml")
    assert config.keys() == SECTIONS.keys()
    of_one = {*SECTIONS["optimizer"].keys} - {"match"}  # for one of several; it stands in a comment
    assert config["optimizer"].keys() == {"type", "args", *of_one}
    assert config["data_loader"].keys() == defaults(DataSplits).keys() - {*PROVIDED}
    settings = defaults(TrainerOptions)
    assert settings.pop("max_nan_steps")  # goes with on_nan: skip alone, and stands in a comment
    assert config["trainer"] == {"type": "Trainer", "args": {"unpack": True, **settings}}


def defaults(thing) -> dict:
    return {name: parameter.default for name, parameter in inspect.signature(thing).parameters.items()}


# -- projects ------------------------------------------------------------------------------------------------------

def test_a_new_project_is_clean_keeps_the_licence_and_refuses_to_overwrite(tmp_path):
    target = tmp_path / "New"
    said = program("new.py", "project", target).stdout
    assert ("To upgrade it later: python new.py upgrade --from" in said) == ("source" not in new.template(target))
    names = {path.name for path in target.iterdir()}
    assert {"LICENSE", "README.md", "train.py", "setup.cfg", "saved", "tests", "launch", "docs", "scaffolds"} <= names
    assert ".git" not in names and not [name for name in new.TEMPLATE_ONLY if (target / name).exists()]
    assert 'name = "new"' in (target / "pyproject.toml").read_text()
    assert [path.name for path in (target / "saved").iterdir()] == [".gitkeep"]
    assert "there already" in program("new.py", "project", target, code=2).stderr
    assert "inside this project" in program("new.py", "project", "inner", code=2).stderr


def test_a_copy_says_when_it_was_made_of_which_version_and_so_does_a_copy_of_it(in_bare, tmp_path, monkeypatch):
    stamp = new.template()
    assert re.fullmatch(r"\d+\.\d+\.\d+", stamp["version"]) and re.fullmatch(r"\d{4}-\d\d-\d\d", stamp["created"])
    new.new_project(tmp_path / "second", bare=True)
    assert (tmp_path / "second" / "README.md").read_text().startswith("# second\n")
    assert (tmp_path / "second" / "TEMPLATE.md").read_text() == (in_bare / "TEMPLATE.md").read_text()
    monkeypatch.setattr(new, "PROJECT", tmp_path / "second")
    assert new.template() == stamp
    said = program("new.py", "--version", cwd=tmp_path / "second").stdout
    assert said.startswith(f"version {stamp['version']}, created {stamp['created']}")


@pytest.mark.parametrize("origin, source", [
    ("https://me:secret@x.org/seedbed.git", "source = https://x.org/seedbed.git\n"),
    ("git@x.org:seedbed.git", "source = git@x.org:seedbed.git\n"), ("/home/me/seedbed", ""), (None, "")])
def test_a_copy_notes_the_templates_address_without_passwords_and_folders(origin, source, tmp_path, monkeypatch):
    (tmp_path / "setup.cfg").write_text("[template]\nversion = 1.1.0\n")
    monkeypatch.setattr(new, "template", lambda: {"version": "1.1.0"})
    monkeypatch.setattr(new, "git", lambda *command: origin if command[0] == "remote" else "0123456")
    new.stamp(tmp_path)
    assert (tmp_path / "setup.cfg").read_text().endswith(f"commit = 0123456\n{source}")


def test_a_copy_leaves_out_what_commands_wrote_beside_the_programs(tmp_path, monkeypatch):
    template, answers = tmp_path / "template", {"new.py": "new.py", "-z": "a.csv\0masks/\0model/\0logger/own.py"}
    for name in ("a.csv", "masks/0.png", "model/own.py", "logger/own.py", "new.py"):
        (template / name).parent.mkdir(parents=True, exist_ok=True)
        (template / name).touch()
    (template / "setup.cfg").write_text("[template]\nversion = 1.1.0\ncreated = 2026-01-01\n")
    monkeypatch.setattr(new, "PROJECT", template)
    monkeypatch.setattr(new, "git", lambda *command: answers.get(command[-1]))
    new.new_project(tmp_path / "tracked")
    assert {file.name for file in files_in(tmp_path / "tracked") if file.is_file()} == {"new.py", "own.py", "setup.cfg"}
    assert (tmp_path / "tracked" / "logger" / "own.py").exists() and (tmp_path / "tracked" / "model" / "own.py").exists()
    answers.clear()  # without git all is copied
    new.new_project(tmp_path / "plain")
    assert (tmp_path / "plain" / "a.csv").exists() and (tmp_path / "plain" / "masks" / "0.png").exists()


def test_a_bare_project_is_without_the_examples_and_has_a_readme_of_its_own(bare):
    assert not [name for name in new.EXAMPLES if (bare / name).exists()]
    assert (bare / "README.md").read_text().startswith("# Blank\n")
    if "created" not in new.template():  # a copy may have thrown some out
        assert [name for name in new.EXAMPLES if not (PROJECT / name).exists()] == []


def test_tests_that_take_an_example_say_so():
    example = re.compile("|".join(re.escape(name) for name in new.EXAMPLES if re.match(r"configs/(?!schema)", name)))
    for file in (PROJECT / "tests").rglob("test_*.py"):
        for node in ast.parse(file.read_text()).body:
            text = ast.unparse(node) if isinstance(node, ast.FunctionDef) else ""
            assert "needs(" in text or not example.search(text), f"{file}: {node.name}"
