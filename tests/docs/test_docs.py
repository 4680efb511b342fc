"""What the pages show is true: every block of code and every command of README.md and docs/*.md is run.

Each page has a copy of the project to itself, and goes through its blocks from top to bottom:

python, yaml   A first line such as `# model/my_net.py` names the file that the block is written to. Other python is executed.
               All configs are checked when the page has been through, with all its plug-ins there; one without a name is a part
               of a config, such as the section `trainer`, and is checked as a change to configs/digits.yaml.
bash           is run by bash, until a line fails. A comment that says `exit code 2` tells that the line has to end so. The
               pages in AS_WRITTEN run just as they are; elsewhere SHORTER is added to trainings. (The README's first command
               runs as it is in tests/core/test_train.py.) What cannot run here is in NOT_RUN, with the reason; what needs a
               library that is not installed is in NEEDED. No placeholders.
text           is shown, not run. Right below a bash block it is what that block prints: each line has to be among the printed
               ones, where any number stands for any other, and `...` for what was left out.

Nothing else may stand in a fence. In the text, files and options that are named have to exist, and commands to be understood.
"""
import collections
import functools
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from typing import NamedTuple

import pytest

from conftest import PROJECT, copy_project, needs, program
from utils import cli

PAGES = ["README.md", *sorted(f"docs/{file.name}" for file in PROJECT.glob("docs/*.md"))]
BY_ITSELF = pytest.mark.parametrize("page", ["README.md", *(pytest.param(page, marks=pytest.mark.slow) for page in PAGES[1:])])
AS_WRITTEN = ("docs/tutorial.md", "docs/recipes.md")
SHORTER = "trainer.args.epochs=2"  # or, of trainings that say how many epochs they take:
SHORTER_EPOCHS = "data_loader.batches_per_epoch=2"
NOT_RUN = {  # parts of a line that begin so
    r"pip install ": "takes the network",
    r"git clone ": "takes the network: the page's copy of the project stands for it",
    r"python (\.\./seedbed/)?new\.py upgrade": "takes a project of an older version: tests/scaffolds/test_upgrade.py",
    r"git reset ": "takes a merge back that was not made",
    r"docker ": "takes Docker",
    r"cd ": "leads to where the page's blocks are run anyway",
    r"tensorboard ": "serves until it is ended",
    r"python -m pytest -n auto$": "is what runs these lines",
    r"torchrun --nnodes 2 ": "takes two machines",
    r"sbatch ": "takes a Slurm cluster",
    r"ray (get-auth-token|start|stop)\b": "takes Ray, and machines: tests/tools/sweep/test_ray_executor.py has nodes",
    r"python sweep\.py .*type: ray": "takes Ray: tests/tools/sweep/test_ray_sweep.py runs one",
    r"python train\.py .*--distributed(?!.*--device cpu)": "takes GPUs",
    r"python -m tools\.consolidate ": "takes a run with the strategy fsdp: tests/distributed/test_fsdp.py has one",
}
NEEDED = {"timm_": "timm", "sentences": "transformers"}  # parts of a name of a config, and the library that it needs
PLACEHOLDERS = re.compile(r"\b(CONFIG|RUN|PATH|NAME|DIR|FILE|HOST|ID|N|CHECKPOINT|EXPERIMENT|PORT)\b")
# of tensorboard, torchrun, docker, git, benchmarks
FOREIGN_OPTIONS = {"--abort", "--backend-store-uri", "--build-arg", "--data", "--ipc", "--job", "--logdir",
                   "--pytorch-template", "--rdzv-id", "--rounds", "--shm-size", "--threads", "--time", "--user"}
FOREIGN_FILES = {"model/model.py", "model/loss.py", "model/metric.py", "configs/mine.yaml"}  # of the reader, before and after
CHECK = """
import sys
from base.config.validate import validate_config
from utils.config.loading import load_config, merge
for file in sys.argv[1:]:
    config, places = load_config(file)
    if "sweep" in config:
        from tools.sweep.section import read_section
        read_section(config.pop("sweep"))
    validate_config(config if "name" in config else merge(load_config("configs/digits.yaml")[0], config), places)
"""


class Block(NamedTuple):
    """A fenced block: its language, what is in it, the line it begins in, whether it stands right below another."""

    language: str
    text: str
    line: int
    below: bool


class Report(NamedTuple):
    """What became of a page: how many blocks or lines of which sort, what went wrong, which files its copy has in the end."""

    counts: collections.Counter
    faults: list[str]
    files: set[str]


def blocks_of(page: str) -> list[Block]:
    text = (PROJECT / page).read_text()
    return [Block(found[1], found[2], text[:found.start()].count("\n") + 1, text[:found.start()].endswith("```\n\n"))
            for found in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", text, flags=re.MULTILINE)]


def prose_of(page: str) -> str:
    text = re.sub(r"^```.*\n(?:.*\n)*?```$", "", (PROJECT / page).read_text(), flags=re.MULTILINE)
    if page == "docs/neighbours.md":  # the first column names what other projects have
        text = re.sub(r"^\|[^|]*\|", "|", text, flags=re.MULTILINE)
    return text


def file_of(block: Block) -> str | None:
    """The file that the first line names."""
    found = re.match(r"# ([\w./-]+\.\w+)\n", block.text)
    return found[1] if found else None


def commands_of(block: Block) -> list[str]:
    """The lines of a bash block; what goes on after a backslash, or to a loop's end, is one."""
    lines, depth = [], 0
    for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
        if lines and depth:
            lines[-1] += "\n" + line
        elif line.strip():
            lines.append(line)
        depth += len(re.findall(r"\bdo\b", line)) - len(re.findall(r"\bdone\b", line))
    return lines


def parts_of(line: str) -> list[str]:
    """The commands of a line, which `&&` joins, without its comment."""
    return line.partition("  #")[0].strip().split(" && ")


def not_run(part: str) -> str | None:
    """The key in NOT_RUN of a command, if it has one."""
    return next((start for start in NOT_RUN if re.match(start, part)), None)


def missing_library(part: str) -> str | None:
    """The library that a command needs and that is not installed."""
    return next((library for name, library in NEEDED.items() if name in part and not find_spec(library)), None)


def shorter(command: str) -> str:
    """A training that takes less time; any other command as it is."""
    if command.startswith("python sweep.py "):  # by a python that is the parent of what it starts: a warm one is not
        less = command.replace("--folds 5 --seeds 3", "--folds 2").replace("python", sys.executable, 1)
        return f"{less} {SHORTER} sweep.trials=2 sweep.repeat.seeds=1"
    if not command.startswith("python train.py ") or re.search(r"--(find|check|explain|print-config|list|diff|steps|until-epoch)", command):
        return command
    more = SHORTER_EPOCHS if "epochs" in command else SHORTER if "-c " in command else ""
    return f"{command} {more}"


class Copy:
    """A copy of the project in which the blocks of a page are run."""

    def __init__(self, page: str, folder, tools):
        self.page, self.folder, self.tools = page, folder, tools
        self.counts: collections.Counter = collections.Counter()
        self.faults: list[str] = []
        self.configs: dict[str, int] = {}  # files, and the lines of their blocks
        self.output: str | None = None  # of the bash block before

    def bash(self, script: str, *args: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PATH": f"{self.tools}:{os.environ['PATH']}", "PYTHONWARNINGS": "ignore",
                       "COLUMNS": "200"}  # readline may set it for pytest
        return subprocess.run(["bash", "-c", script, "bash", *args], cwd=self.folder, env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)

    def fault(self, block_line: int, message: str) -> None:
        self.faults.append(f"{self.page}:{block_line}: {message}")

    def run(self) -> Report:
        for block in blocks_of(self.page):
            output, self.output = self.output if block.below else None, None
            getattr(self, f"run_{block.language}", self.run_unknown)(block, output)
        if self.configs:
            done = self.bash('python -c "$@"', CHECK, *self.configs)
            if done.returncode:
                self.fault(min(self.configs.values()), f"of its configs {list(self.configs)}:\n{done.stdout}")
        files = {str(file.relative_to(self.folder)) for file in self.folder.rglob("*")}
        return Report(self.counts, self.faults, files)

    def run_unknown(self, block: Block, output) -> None:
        self.fault(block.line, f"'{block.language}' is none of python, yaml, bash, text")

    def run_python(self, block: Block, output) -> None:
        if file := file_of(block):
            return self.write(file, block)
        self.counts["executed"] += 1
        done = self.bash('python -c "$@"', block.text)
        if done.returncode:
            self.fault(block.line, done.stdout)

    def run_yaml(self, block: Block, output) -> None:
        file = file_of(block) or f"configs/of_line_{block.line}.yaml"
        self.configs[file] = block.line
        self.write(file, block)

    def write(self, file: str, block: Block) -> None:
        self.counts["written"] += 1
        (self.folder / file).parent.mkdir(exist_ok=True)
        (self.folder / file).write_text(block.text)

    def run_text(self, block: Block, output: str | None) -> None:
        self.counts["shown"] += 1
        if output is None:
            return
        printed = [plain(line) for line in output.splitlines()]
        for line in filter(None, map(plain, block.text.splitlines())):
            pattern = ".*".join(map(re.escape, line.split("...")))
            if not any(re.fullmatch(pattern, other) for other in printed):
                self.fault(block.line, f"shown, but not printed: {line}\n{output}")

    def run_bash(self, block: Block, output) -> None:
        script = ["set -e"]
        for line in commands_of(block):
            script.append(self.runnable(line, block))
        done = self.bash("\n".join(script))
        self.output = done.stdout
        if done.returncode:
            self.fault(block.line, f"exit code {done.returncode} of\n{script[-1]}\n{done.stdout}")

    def runnable(self, line: str, block: Block) -> str:
        """A line of a bash block as it is run: without what cannot run, with its exit code looked at."""
        parts = []
        for part in parts_of(line):
            if not_run(part) or missing_library(part):
                self.counts["not run"] += 1
            else:
                self.counts["run"] += 1
                parts.append(part if self.page in AS_WRITTEN else shorter(part))
        if PLACEHOLDERS.search(" ".join(parts)):
            self.fault(block.line, f"a name that stands for another: {line}")
        if code := re.search(r"  #.*exit code (\d+)", line):
            return f'code=0; {" && ".join(parts)} || code=$?; [ $code = {code[1]} ]'
        return " && ".join(parts) or "true"


def plain(line: str) -> str:
    """A line of which only the words count: one number or time is as good as another."""
    return " ".join(re.sub(r"\d+(?:[.,:_-]\d+)*(?:e[+-]?\d+)?", "0", line).split())


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """A function that runs a page, once; its programs are forked from one that has imported the libraries."""
    needs("new.py", "configs/digits.yaml", "benchmarks/README.md", "launch/slurm.sh", "tools/schema.py")
    folder = tmp_path_factory.mktemp("docs")
    server = [sys.executable, "-u", PROJECT / "tests" / "warm_python.py", folder / "socket"]
    (folder / "tools").mkdir()
    (folder / "tools" / "python").write_text(f'#!/bin/sh\nexec {shlex.join(map(str, [server[0], "-SE", *server[2:]]))} "$@"\n')
    (folder / "tools" / "python").chmod(0o755)

    @functools.cache
    def run(page: str) -> Report:
        copy = folder / page.replace("/", "_")
        copy_project(copy)
        return Copy(page, copy, folder / "tools").run()

    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(server, **pipes) as warm:
        assert warm.stdout.readline() == "ready\n"
        yield run
        warm.stdin.close()


@BY_ITSELF
def test_all_that_a_page_shows_runs(reports, page):
    counts, faults, _ = reports(page)
    print(page, dict(counts))
    assert not faults, "\n".join(faults)
    blocks = [block for block in blocks_of(page) if block.language != "bash"]
    assert counts["written"] + counts["executed"] + counts["shown"] == len(blocks)
    lines = [line for block in blocks_of(page) if block.language == "bash" for line in commands_of(block)]
    assert counts["run"] + counts["not run"] == sum(len(parts_of(line)) for line in lines)


@functools.cache
def options() -> frozenset[str]:
    """Those that the programs have."""
    helps = [program(*command.split(), "--help", cold=True).stdout
             for command in ("train.py", "test.py", "predict.py", "new.py", "new.py project", "new.py upgrade",
                             "runs.py", "sweep.py", "-m tools.export")]
    return frozenset(re.findall(r"--[a-z][a-z-]+", "".join(helps)))


@BY_ITSELF
def test_files_options_and_commands_that_a_page_names_are_there(reports, page):
    spans = re.findall(r"`([^`]+)`", prose_of(page))
    named = {name for span in spans for name in re.findall(r"(?<![\w/.])\w+/[\w/-]+\.(?:py|yaml|json|md|sh)\b", span)
             if (PROJECT / name.partition("/")[0]).is_dir() and not name.startswith("saved/")}
    assert sorted(name for name in named - FOREIGN_FILES - reports(page).files if not (PROJECT / name).exists()) == []
    used = {option for span in spans for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", span)}
    assert sorted(used - options() - FOREIGN_OPTIONS) == []
    for span in spans:
        for command, parse in (("python train.py ", cli.train_arguments), ("python test.py ", cli.test_arguments)):
            if span.startswith(command) and re.search(" (-c|-r) ", span) and "$(" not in span and "[" not in span:
                parse(shlex.split(" ".join(span.split()).removeprefix(command)))


def test_whatever_is_not_run_stands_on_a_page():
    needs("new.py", "configs/digits.yaml")
    blocks = [block for page in PAGES for block in blocks_of(page) if block.language == "bash"]
    parts = [part for block in blocks for line in commands_of(block) for part in parts_of(line)]
    assert {not_run(part) for part in parts} - {None} == NOT_RUN.keys()


def test_the_extra_dev_is_requirements_dev():
    needs("pyproject.toml", "requirements-dev.txt")
    extra = re.search(r"^dev = \[(.*?)\]$", (PROJECT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)[1]
    names = (PROJECT / "requirements-dev.txt").read_text().split("\n")
    assert re.findall(r'"(.+?)"', extra) == [name for name in names if name and not name.startswith("-r")]
