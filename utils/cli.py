"""The command lines of train.py, test.py, predict.py. Imports no heavy packages: --help answers at once."""
import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import PROJECT, printable
from utils.training.progress import parse_duration

# Short flags for config values that change often; add your own. `--lr 0.01` means `optimizer.args.lr=0.01`.
SHORT_FLAGS = {"--lr": "optimizer.args.lr", "--bs": "data_loader.batch_size",
               "--epochs": "trainer.args.epochs"}
KINDS = ("datasets", "transforms", "models", "losses", "metrics", "optimizers", "schedulers",
         "trainers", "writers", "samplers")

_OVERRIDES = ("config values to override, such as optimizer.args.lr=0.01 (read as YAML), "
              "or to delete, such as '~scheduler'")
_TARGET = "a checkpoint, a run folder, or an experiment folder (its newest run)"


class Tool(NamedTuple):
    """A flag of train.py that a module of tools/ handles; the module has a function `run_tool`.

    `stage` says when and with which arguments it is called:
      config   instead of a run: `run_tool(args, reading)` returns the text to print; better without torch
      command  instead of a run: `run_tool(args)` starts train.py itself
      memory   instead of a run: `run_tool(args, setup, config)`, after the optimizers are built
      trainer  instead of a run: `run_tool(args, setup, config)`, after the preflight and the resume
      run      with a run: `run_tool(args, trainer, run)` returns what `trainer.train` takes as its profiler
    `setup`: a TrainingSetup. `value`: the keyword arguments of argparse for the flag's value.
    """

    flag: str
    module: str
    stage: str
    help: str
    value: dict[str, Any] = {"action": "store_true"}

    @property
    def name(self) -> str:
        """The name of the flag among the parsed arguments."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def file(self) -> Path:
        """The file of the module. A fork may have deleted it."""
        return PROJECT / f"{self.module.replace('.', '/')}.py"


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number above 0")
    return int(text)


def _num_profiled(text: str) -> int:
    if "=" in text:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of steps: "
                                         "put overrides before it, or write --profile 10")
    return _positive(text)


TOOLS = (
    Tool("--verify-resume", "tools.verify_resume", "command",
         "prove that a run of this config, killed and resumed, ends with the same bits as one that was not; "
         "takes --steps N steps (30); with --distributed all of its processes are killed"),
    Tool("--find-lr", "tools.find_lr", "trainer",
         "no run: train some steps while the learning rate rises, draw the loss, suggest a learning rate"),
    Tool("--find-batch-size", "tools.find_batch_size", "memory",
         "no run: find the largest batch that fits in the GPU's memory"),
    Tool("--profile", "tools.profile", "run",
         "record this number of steps of the first epoch (10), after some to warm up, as a trace in "
         "the run's folder for TensorBoard and Perfetto",
         {"type": _num_profiled, "nargs": "?", "const": 10, "metavar": "STEPS"}),
    Tool("--check", "tools.check", "trainer",
         "no run: build all of it, try a batch, look for usual mistakes, estimate time, memory and disk"),
    Tool("--explain", "tools.explain", "config",
         "print what a key is, who takes it, where its value comes from", {"metavar": "KEY"}),
    Tool("--print-config", "tools.print_config", "config", "print the config that a run would have"),
    Tool("--list", "tools.list_names", "config", f"print what a config can name: all, or {', '.join(KINDS)}",
         {"choices": ("kinds", "all", *KINDS), "nargs": "?", "const": "kinds", "metavar": "KIND"}),
    Tool("--diff", "tools.diff", "config", "print how configs, or the best epochs of runs, differ",
         {"type": Path, "nargs": "+", "metavar": "A B"}),
)


class Rule(NamedTuple):
    """The `options` have no effect with an option that it `excludes`, or without any that it `needs`."""

    options: set[str]
    why: str
    needs: set[str] = frozenset()
    excludes: set[str] = frozenset()

    def forbids(self, given: set[str]) -> bool:
        """Whether the options that were given break the rule."""
        return bool(given & self.options and (given & self.excludes or self.needs and not given & self.needs))


_QUESTIONS = {tool.name for tool in TOOLS if tool.stage == "config"}
_TRIALS = {tool.name for tool in TOOLS if tool.stage in ("memory", "trainer")}
_OF_A_RUN = {"steps", "until_epoch", "out", "run_name"}
# The first rule that is broken is reported.
_RULES = (
    Rule({"origins"}, "--origins goes with --print-config", needs={"print_config"}),
    Rule({"writers"}, "--writers goes with --check", needs={"check"}),
    Rule(_QUESTIONS, "--explain, --print-config, --list and --diff answer from configs: "
                     "-c CONFIG and overrides go with them",
         excludes={"resume", "auto", "init_from", "distributed", "device", *_OF_A_RUN}),
    Rule({"list", "diff"}, "--list and --diff take no config and no overrides",
         excludes={"config", "overrides"}),
    Rule({"print_config", "explain with overrides"}, "name a config, -c CONFIG", needs={"config"}),
    Rule({"files"}, "a config is named with -c: -c {files}", needs={"config"}),
    Rule({"command line"}, "nothing to do: give a config (-c configs/digits.yaml) "
                           "or a run to continue (-r saved/digits_lenet)",
         needs={"config", "resume", "auto", *_QUESTIONS}),
    Rule({"auto"}, "--resume auto looks for runs of a config's experiment: name it with -c",
         needs={"config"}),
    Rule({"resume"}, "--resume continues a run in its folder; --init-from and --run-name are for new runs",
         excludes={"init_from", "run_name"}),
    Rule({"nproc", "max_restarts", "timeout"}, "--nproc, --max-restarts and --timeout go with --distributed",
         needs={"distributed"}),
    Rule({"verify_resume"}, "--verify-resume resumes what it has killed itself: leave --max-restarts out",
         excludes={"max_restarts"}),
    Rule({"verify_resume"}, "--verify-resume takes a config, -c CONFIG, and makes runs of its own",
         needs={"config"}, excludes={"resume", "auto", "run_name", "until_epoch"}),
    Rule(_TRIALS, "--check, --find-lr and --find-batch-size make no run, in one process: --distributed, "
                  "--steps, --until-epoch, --out, --run-name and -r auto do not go with them",
         excludes={"distributed", "auto", *_OF_A_RUN}),
)


def train_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses train.py's arguments. A mistake ends the program with exit code 2. `tool`: the Tool or None."""
    parser = argparse.ArgumentParser(
        prog="train.py", description="Train a model from a config, or continue a run.", allow_abbrev=False,
        epilog="python train.py -c configs/digits.yaml trainer.args.epochs=3")
    parser.add_argument("-c", "--config", type=Path, metavar="CONFIG", help="the experiment, YAML or JSON")
    parser.add_argument("-r", "--resume", type=Path, metavar="PATH",
                        help=f"continue {_TARGET}; with -c, 'auto': the experiment's newest unfinished run, "
                             "or else a new one")
    parser.add_argument("--init-from", type=Path, metavar="PATH", help=f"begin with the weights of {_TARGET}")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where runs are kept (saved/)")
    parser.add_argument("--run-name", metavar="NAME", help="the run's folder; by default the time it starts")
    parser.add_argument("--steps", type=_positive, metavar="N",
                        help="save and end after the run's optimizer step N")
    parser.add_argument("--until-epoch", type=_positive, metavar="E",
                        help="end as soon as the run's epoch E is evaluated and saved")
    _add_tools(parser)
    _add_processes(parser).add_argument(
        "--max-restarts", type=_count, metavar="N",
        help="how often to start all of them again, from the newest checkpoint, when one has died (0)")
    args = _parse(parser, argv)
    args.tool = next((tool for tool in TOOLS if getattr(args, tool.name) not in (None, False)), None)
    _refuse_what_has_no_effect(parser, args)
    args.out = args.out or Path("saved")
    return args


def _add_processes(parser: argparse.ArgumentParser) -> Any:
    several = parser.add_argument_group("several processes", "see docs/distributed.md")
    several.add_argument("--distributed", action="store_true", help="use a process for each GPU of this "
                         "machine, or join the processes that torchrun has started")
    several.add_argument("--nproc", type=_positive, metavar="N",
                         help="how many processes (a GPU each; on the CPU needed)")
    several.add_argument("--timeout", type=_seconds, metavar="T",
                         help="how long a process may keep the others waiting, in seconds or h:mm:ss (5:00)")
    return several


def _add_tools(parser: argparse.ArgumentParser) -> None:
    present = [tool for tool in TOOLS if tool.file.exists()]
    # argparse fails for a group without options
    exclusive = parser.add_mutually_exclusive_group() if present else parser
    for tool in TOOLS:
        if tool in present:
            exclusive.add_argument(tool.flag, help=tool.help, **tool.value)
        else:  # the flag gives an error that names the missing file
            parser.add_argument(tool.flag, help=argparse.SUPPRESS, **tool.value)
    flags = {tool.flag for tool in present}
    for option, flag, text in (("--origins", "--print-config", "where each value was written"),
                               ("--writers", "--check", "build also the writers that talk to a service")):
        parser.add_argument(option, action="store_true",
                            help=f"with {flag}: {text}" if flag in flags else argparse.SUPPRESS)


def _refuse_what_has_no_effect(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    given = {"command line", *(name for name, value in vars(args).items() if value)}
    files = [text for text in args.overrides if text.endswith((".yaml", ".yml", ".json")) and "=" not in text]
    if str(args.resume) == "auto":
        given = given - {"resume"} | {"auto"}
    if {"explain", "overrides"} <= given:
        given.add("explain with overrides")
    if files:
        given.add("files")
    if args.diff and len(args.diff) < 2:
        parser.error("argument --diff: expected 2 arguments or more")
    if args.tool and not args.tool.file.exists():
        parser.error(f"{args.tool.flag}: this project has no {args.tool.file.relative_to(PROJECT)}")
    for rule in _RULES:
        if rule.forbids(given):
            parser.error(rule.why.format(files=" ".join(files)))


def print_answer(text: str) -> None:
    """Prints a text. Its reader, such as `head`, may stop before the end."""
    try:
        print(printable(text), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def test_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses test.py's arguments. A mistake ends the program with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="test.py", description="Score a checkpoint on a split of its dataset.", allow_abbrev=False,
        epilog="python test.py -r saved/digits_lenet")
    parser.add_argument("-r", "--resume", type=Path, metavar="PATH", required=True,
                        help=f"{_TARGET}; best.pt unless said otherwise")
    parser.add_argument("--split", default="test",
                        help="what to evaluate: test, val, train, the name of one of their sets, or all, "
                        "which is val and test (test)")
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="write a prediction for each "
                        "sample, too, as predict.py does")
    parser.add_argument("--writers", action="store_true",
                        help="send the scores also to writers that talk to a service")
    args = _parse(parser, argv)
    if args.predictions:
        _require_prediction(parser)
    return args


def predict_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses predict.py's arguments. A mistake ends the program with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="predict.py", description="Predict from a checkpoint, for files or for a split of its dataset.",
        allow_abbrev=False, epilog="python predict.py -r saved/digits_lenet picture.png")
    parser.add_argument("-r", "--resume", type=Path, metavar="PATH", required=True,
                        help=f"{_TARGET}; best.pt unless said otherwise")
    parser.add_argument("--split", help="predict for a split (test, val, train) or one of their sets")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a .csv, .jsonl or .npz file, or a folder "
                        "for pictures; by default predictions_SPLIT.csv in the run's folder")
    parser.add_argument("--top-k", type=_positive, metavar="K", help="write the K most probable classes only")
    _add_processes(parser)
    args = _parse(parser, argv, "FILE, FOLDER or ")
    _require_prediction(parser)
    args.inputs = [Path(text) for text in args.overrides if not _is_override(text)]
    args.overrides = [text for text in args.overrides if _is_override(text)]
    if bool(args.inputs) == bool(args.split):
        parser.error("name files or folders, or --split test" if not args.inputs else
                     "files and --split do not go together")
    return args


def _require_prediction(parser: argparse.ArgumentParser) -> None:
    if not (PROJECT / "tools" / "prediction").is_dir():
        parser.error("this project has no tools/prediction, which writes predictions")


def _is_override(text: str) -> bool:
    return text.startswith("~") or "=" in text and not Path(text).exists()


def _count(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _seconds(text: str) -> float:
    try:
        value = float(text) if ":" not in text else float(parse_duration(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no time: {error}") from error
    if not 0 < value < 10**7:
        raise argparse.ArgumentTypeError(f"'{text}' is no time above 0")
    return value


def _parse(parser: argparse.ArgumentParser, argv: list[str] | None, files: str = "") -> argparse.Namespace:
    """Adds the options of both programs and parses the arguments."""
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:N or mps (the best there is)")
    parser.add_argument("--cache", metavar="DIR", help="where datasets with an argument `cache` keep what "
                        "they have decoded (SEEDBED_CACHE, or ~/.cache/seedbed)")
    parser.add_argument("--release-heap", action="store_true", help="give the memory of each step back to "
                        "the system, as malloc does by itself: slower on the CPU")
    parser.add_argument("-q", "--quiet", action="store_true", help="warnings and errors only")
    parser.add_argument("-v", "--verbose", action="store_true", help="more messages, and tracebacks")
    for flag, key in SHORT_FLAGS.items():
        parser.add_argument(flag, dest="flags", action="append", default=[], metavar="VALUE",
                            type=f"{key}={{}}".format, help=f"short for {key}=VALUE")
    parser.add_argument("overrides", nargs="*", metavar=f"{files}key.path=value",
                        help=f"{files and 'what to predict for; '}{_OVERRIDES}")
    args = parser.parse_intermixed_args(argv)
    if args.cache:
        os.environ["SEEDBED_CACHE"] = os.path.abspath(args.cache)  # for the processes that it starts, too
    args.overrides = [*args.flags, *args.overrides]
    return args


def log_level(args: argparse.Namespace) -> int:
    """The console's log level for `--quiet` and `--verbose`."""
    return logging.WARNING if args.quiet else logging.DEBUG if args.verbose else logging.INFO
