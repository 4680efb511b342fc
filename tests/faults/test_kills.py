"""What is promised here: SIGKILL, at any moment, costs what was done since the last checkpoint, and nothing else.

The run is killed in start-up, steps, validation and saving, alone or with its loader workers; `train.py -r` then goes on
and ends with the bits of a run that nobody disturbed: every leaf of last.pt and best.pt, and metrics.jsonl. Killed before
its first checkpoint, a run is begun again under another name. Loader workers do not outlive a killed run. While a large
state is being saved, last.pt is the old one or the new one, and whole.
"""
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from conftest import copy_project
from harness import (
    BUSY,
    Started,
    assert_bit_identical,
    few_and_many,
    finish,
    half_written,
    look_at,
    moments,
    phase,
    sound_step,
    write_config,
)

TINY = ("model.args.sizes=[64, 16, 10]",)
KILL_AT = Path(__file__).with_name("kill_at.py")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The undisturbed run, by its options; how long it took is in `.seconds`."""
    folder, done = tmp_path_factory.mktemp("straight"), {}

    def undisturbed(*options) -> tuple[Path, float]:
        if options not in done:
            name = f"run{len(done)}"
            took_s = finish("train.py", "-q", "-c", write_config(folder), *options, "--out", folder, "--run-name", name)
            done[options] = folder / "busy" / name, took_s
        return done[options]
    return undisturbed


def kill_and_resume(config: Path, options: tuple, out: Path, name: str, when, kills: int, group: bool) -> tuple:
    """A run that is killed at up to `kills` moments, and then goes on to its end.

    Returns its folder, and what it was at when the kills came; fewer than `kills` where it was finished before.
    """
    phases: list[str] = []
    begun, run = 0, out / "busy" / f"{name}-0"
    while len(phases) < kills:
        there = (run / "checkpoints" / "last.pt").exists()
        if not there:
            run, begun = out / "busy" / f"{name}-{begun}", begun + 1
        new = ["-c", config, *options, "--out", out, "--run-name", run.name]
        before = look_at(run)
        with Started("train.py", "-q", *(["-r", run] if there else new)) as program:
            if not program.kill_after(next(when), group):
                break
            assert program.group_is_gone(), "processes outlived the killed run"
        phases.append(phase(run, before))
    if (run / "checkpoints" / "last.pt").exists():
        finish("train.py", "-q", "-r", run)
    else:
        run = out / "busy" / f"{name}-again"
        finish("train.py", "-q", "-c", config, *options, "--out", out, "--run-name", run.name)
    return run, phases


@pytest.mark.parametrize("kills, kills_a_run, seed, group, options", few_and_many(
    (2, 2, 3, True, (*TINY, "trainer.args.epochs=2", "data_loader.num_workers=2")),
    (20, 1, 1, False, ()), (20, 5, 2, True, ("data_loader.num_workers=2",))))
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path, straight, kills, kills_a_run, seed, group, options):
    same, took_s = straight(*options)
    when, config, at = moments(seed, took_s), write_config(tmp_path), Counter()
    number = 0
    while at.total() < kills:
        number += 1
        most = min(kills_a_run, kills - at.total())
        run, phases = kill_and_resume(config, options, tmp_path, f"run{number}", when, most, group)
        assert_bit_identical(same, run)
        at.update(phases)
    print(f"\n{at.total()} of {at.total()} kills (seed {seed}, {number} runs, undisturbed {took_s:.1f} s) "
          f"ended bit-identical; they fell in {dict(at)}")


@pytest.mark.faults
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("where", ["steps", "validation", "saving"])
def test_a_kill_in_each_phase_ends_with_the_same_bits(tmp_path, straight, where, workers):
    """Not left to chance: the run's own files tell what it is at."""
    options = ("trainer.args.epochs=4", f"data_loader.num_workers={workers}")
    same, _ = straight("trainer.args.epochs=4")
    run, met = tmp_path / "busy" / "run", 0
    for attempt in range(20):
        resume = (run / "checkpoints" / "last.pt").exists()
        new = ["-c", write_config(tmp_path), *options, "--out", tmp_path, "--run-name", run.name]
        before = look_at(run)
        with Started("train.py", "-q", *(["-r", run] if resume else new)) as program:
            program.wait_for(lambda: look_at(run)[0] > before[0] + attempt % 3 and phase(run, before) == where, pause_s=0.0005)
            program.kill(group=attempt % 2 == 0)
        met += phase(run, before) == where
        if met == 3:
            break
        if look_at(run)[0] > 36:  # nearly done: another one
            run = run.with_name(f"run{attempt}")
    assert met == 3, f"only {met} of 20 kills fell in {where}"
    finish("train.py", "-q", "-r", run)
    assert_bit_identical(same, run)
    print(f"\n{met} kills in {where}, {workers} workers, of {attempt + 1} tried: bit-identical")


@pytest.mark.faults
@pytest.mark.parametrize("seed", [5])
def test_a_kill_before_any_action_on_a_file_ends_with_the_same_bits(tmp_path, straight, seed):
    """kill_at.py runs train.py and ends it, by SIGKILL, before its n-th opening, linking, renaming or removing of a file.

    So no moment is too short to be hit, such as the one when best.pt is new and last.pt is old.
    """
    options = (*TINY, "trainer.args.epochs=2", "trainer.args.keep_last=1")
    same, _ = straight(*options)
    config, out = write_config(tmp_path), tmp_path
    new = ("train.py", "-q", "-c", config, *options, "--out", out, "--run-name")
    log = tmp_path / "actions"
    (out / "busy").mkdir()  # else only the first run makes it
    finish(KILL_AT, 0, log, *new, "counted")
    killed, wrong, generator = Counter(), {}, random.Random(seed)
    for number, action in enumerate(actions := log.read_text().splitlines(), start=1):
        if action.endswith("metrics.jsonl") and generator.random() > 0.1:
            continue  # one line is much like the other
        run = out / "busy" / f"at{number}"
        again = run.with_name(f"{run.name}-again")
        with Started(KILL_AT, number, log, *new, run.name) as program:
            assert program.end() == -9, program.said
        killed[action.split()[0]] += 1
        there = (run / "checkpoints" / "last.pt").exists()
        finish(*(["train.py", "-q", "-r", run] if there else [*new, again.name]))
        try:
            assert_bit_identical(same, run if there else again)
        except AssertionError as error:
            wrong[f"{number}: {action.replace(str(out), '')}"] = f"{error} {half_written(run)}"
    print(f"\nkilled before {killed.total()} of {len(actions)} actions on files, {dict(killed)}: "
          f"{killed.total() - len(wrong)} ended bit-identical, not so: {wrong}")
    assert killed["os.rename"] > 4 and killed["os.link"] > 4 and not wrong


LARGE = BUSY
for old, new in {"type: MLP": "type: Large", "sizes: [64, 4096, 1024, 10], dropout: 0.2": "width: 10000000",
                 "{type: Adam, args: {lr: 0.001}}": "{type: SGD, args: {lr: 0.001, momentum: 0.9}}", "ema: 0.9, ": "",
                 "batches_per_epoch: 24": "batches_per_epoch: 2", "epochs: 6": "epochs: 12"}.items():
    assert old in LARGE
    LARGE = LARGE.replace(old, new)
PLUG_IN = '''
import torch
from torch import nn
from base import MODELS

@MODELS.register
class Large(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.table = nn.Parameter(torch.randn(width) * 1e-3)
        self.last = nn.Linear(64, 10)

    def forward(self, images):
        return self.last(images.flatten(1)) + self.table.sum()
'''


@pytest.mark.faults
@pytest.mark.parametrize("seed", [7])
def test_kills_during_the_save_of_a_large_state_leave_a_whole_checkpoint(tmp_path, seed):
    """A plug-in of 40 MB in a fork of the project, so 80 MB a checkpoint with its momentum, killed while it is written.

    After each kill last.pt is whole, not older than before, and goes on; in the end no temporary file is left and the
    result is that of the undisturbed run.
    """
    project, out, kills = tmp_path / "fork", tmp_path / "out", 20
    copy_project(project)
    (project / "model" / "large.py").write_text(PLUG_IN)
    new = ["train.py", "-q", "-c", write_config(tmp_path, LARGE), "--out", out, "--run-name"]
    started = []
    with Started(*new, "straight", cwd=project) as program:
        straight, run = out / "busy" / "straight", out / "busy" / "run0"
        while program.process.poll() is None:  # how long a save takes
            if half_written(straight):
                began = time.monotonic()
                while half_written(straight):
                    time.sleep(0.001)
                started.append(time.monotonic() - began)
            time.sleep(0.001)
        assert program.end() == 0, program.said
    save_s, generator = sum(started) / len(started), random.Random(seed)
    step, halves, done, finished = -1, 0, 0, 0
    while done < kills:
        there = (run / "checkpoints" / "last.pt").exists()
        with Started(*(["train.py", "-q", "-r", run] if there else [*new, run.name]), cwd=project) as program:
            try:
                old = half_written(run)  # of the kill before
                for _ in range(generator.randrange(1, 4)):  # not always the first save
                    program.wait_for(lambda: half_written(run) - old, pause_s=0.001)
                    time.sleep(delay := generator.uniform(0, 1.2 * save_s))
                killed = program.kill(group=done % 2 == 0)
            except AssertionError:
                assert program.process.returncode == 0, program.said  # it was at its end
                killed = False
        if not killed:
            assert_bit_identical(straight, run)
            finished, run, step = finished + 1, run.with_name(f"run{finished + 1}"), -1
            continue
        done += 1
        halves += bool(half_written(run))
        if (run / "checkpoints" / "last.pt").exists():
            assert (now := sound_step(run)) >= step, f"from step {step} back to {now}, after a delay of {delay:.3f} s"
            step = now
        else:
            assert step == -1
            run = run.with_name(f"{run.name}-again{done}")
    finish("train.py", "-q", "-r", run, cwd=project) if step >= 0 else finish(*new, run.name, cwd=project)
    assert_bit_identical(straight, run)
    assert halves, "no kill fell into a save"
    size_mb = (run / "checkpoints" / "last.pt").stat().st_size / 1e6
    print(f"\n{done} of {done} kills while {size_mb:.0f} MB were saved (in {save_s:.3f} s; seed {seed}) left a whole last.pt; "
          f"{halves} of them a half-written file, {finished + 1} runs ended bit-identical")
