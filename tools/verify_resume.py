"""`train.py --verify-resume`: proves that a killed and resumed run ends bit-equal to an unbroken run."""
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path

import torch

from utils.checkpoint.loading import load_checkpoint
from utils.checkpoint.state import bit_equal, flatten_state
from utils.errors import PROJECT, ConfigError, TrainingError
from utils.run_folder import CHECKPOINTS
from utils.training.stop_requests import CRASH_AT_STEP

log = logging.getLogger(__name__)
CAUSES = """Usual causes:
  a dataset or transform that draws from a generator of its own (numpy.random.default_rng(), \
random.Random()), made when
    it was built: draw from torch, random or numpy.random instead, which are seeded for every sample
  something that changes in training and is in no checkpoint: put an object with state_dict and \
load_state_dict into the
    trainer's self.state
  results that depend on the time, on the order of a set, on the process
  an iterable dataset that is not the same when it is read again"""
NOISE = """Two runs without a kill differ, too, so it is not the resume: this training gives other \
numbers every time. Usual
causes: CUDA kernels that are not deterministic (torch.use_deterministic_algorithms(True)), and those \
above."""


def run_tool(args) -> None:
    """Runs `--verify-resume`. Exits with 0 if both runs are equal, else with 1."""
    sys.exit(not verify_resume(*command_lines(args), args.steps or 30))


def command_lines(args) -> tuple[list[str], list[str]]:
    """The arguments for train.py that describe the run to verify, and the ones that describe the machine."""
    start = ["--init-from", str(args.init_from)] if args.init_from else []
    machine = ["--device", args.device] if args.device else []
    machine += ["--release-heap"] * args.release_heap
    machine += ["--distributed"] if args.distributed else []
    machine += [text for option, value in (("--nproc", args.nproc), ("--timeout", args.timeout)) if value
                for text in (option, str(value))]
    return ["-c", str(args.config), *start, *args.overrides], machine


def verify_resume(arguments: list[str], machine: list[str], num_steps: int) -> bool:
    """Trains `num_steps` steps. Trains and resumes a twin that kills itself (SIGKILL). Compares the two.

    All tensors and numbers of both states, and all lines of both metrics.jsonl, must be equal. `arguments`
    for train.py name the config. `machine` is also used for the resume. Logs the verdict and returns it.
    Raises ConfigError or TrainingError if training itself fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, limit = Path(folder), ["--steps", str(num_steps)]
        new = [*arguments, *machine, "trainer.args.log_every=1", "trainer.args.max_time=null", "writers=[]",
               "--out", folder, *limit]
        log.info("1. up to %d steps without a break", num_steps)
        straight = _train(out, "straight", new)
        end = load_checkpoint(straight / CHECKPOINTS / "last.pt")["state"]["progress"]
        num_made = end["step"]

        every, crash = max(num_made // 4, 1), num_made // 2 + 1
        log.info("2. the same, with a checkpoint every %d steps, killed by SIGKILL after step %d", every,
                 crash)
        saving = f"trainer.args.checkpoint_every={{steps: {every}}}"
        twin = _train(out, "twin", [*new, saving], crash_at_step=crash)
        at = load_checkpoint(twin / CHECKPOINTS / "last.pt")["state"]["progress"]
        log.info("3. resumed from step %d: epoch %d, batch %d", at["step"], at["epoch"] + 1, at["batch"])
        _train(out, "twin", ["-r", str(twin), *machine, *limit])

        if not (difference := first_difference(straight, twin)):
            hint = "" if end["epoch"] else ". (No epoch ended in them; more --steps verify evaluation, too.)"
            log.info("PASS: after %d steps every value of the state and every line of metrics.jsonl is "
                     "equal, to the last bit%s", num_made, hint)
            return True
        log.error("FAIL: %s\n%s", difference, CAUSES)
        if first_difference(straight, _train(out, "again", new)):
            log.error(NOISE)
        return False


def _train(out: Path, name: str, arguments: list[str], crash_at_step: int = 0) -> Path:
    """Runs train.py in its own process, which may kill itself. Returns the folder of the run `name`."""
    names = [] if "-r" in arguments else ["--run-name", name]
    crash = {CRASH_AT_STEP: str(crash_at_step)} if crash_at_step else {}
    done = subprocess.run([sys.executable, str(PROJECT / "train.py"), "-q", *arguments, *names],
                          capture_output=True, text=True, env={**os.environ, **crash})
    stderr = done.stderr.strip()
    dead = (done.returncode == -signal.SIGKILL
            or done.returncode == 1 and "was killed by SIGKILL" in stderr)  # this is from a launcher
    if not (dead if crash else done.returncode == 0):
        raise (ConfigError(stderr) if done.returncode == 2
               else TrainingError(f"Training itself fails:\n{stderr}"))
    return next(out.glob(f"*/{name}"))


def first_difference(straight: Path, resumed: Path) -> str | None:
    """The first difference of two runs, in words, or None: in the logged numbers, then in the last state."""
    lines = [(run / "metrics.jsonl").read_text(encoding="utf-8").splitlines() for run in (straight, resumed)]
    for one, other in zip_longest(*lines):
        if one is None or other is None:
            return f"metrics.jsonl has {len(lines[0])} lines without a break, {len(lines[1])} when resumed"
        if one != other:
            where = "metrics.jsonl, " + one.split(", \"epoch")[0]
            return describe_difference(flatten_state(json.loads(one)), flatten_state(json.loads(other)),
                                       where)
    states = [load_checkpoint(run / CHECKPOINTS / "last.pt")["state"] for run in (straight, resumed)]
    return describe_difference(*map(flatten_state, states), "the last state")


def describe_difference(first: dict, second: dict, where: str,
                        about: tuple[str, str] = ("without a break", "when resumed")) -> str | None:
    """The first difference of two tables of `flatten_state`, in words, or None. `about` describes the two."""
    for name in [*first, *(second.keys() - first.keys())]:
        one, other = (side.get(name, "nothing") for side in (first, second))
        if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and one.shape == other.shape:
            if not bit_equal(one, other):
                gap = (one.double() - other.double()).abs().max().item()
                return f"{where}: {name} {list(one.shape)} differs by up to {gap:.3g}"
        elif type(one) is not type(other) or one != other and (
                one == one or other == other):  # NaN is not equal to itself
            return f"{where}: {name} is {one} {about[0]}, {other} {about[1]}"
    return None
