"""What makes steps cheap must change no number, and what tells where time goes must be right."""
import ctypes
import random
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from types import MethodType

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import LinearLR
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from base import DATASETS, TRAINERS
from base.base_metric import Totals
from conftest import PROJECT, assert_same_run, epochs, program, train
from data_loader.digits import Digits
from logger.feeder import Feeder
from logger.writer import WRITERS, Writer
from trainer.trainer import Trainer
from utils.errors import ConfigError, Interrupted
from utils.random import StepSeeds, derive, scramble
from utils.training import timers
from utils.training.schedule import Schedule
from utils.training.timers import Timers, advice, describe_times
from utils.training.updater import Updater, Window

CPU = torch.device("cpu")


# -- randomness ------------------------------------------------------------------------------------------------------------

def draw() -> tuple:
    return torch.rand(1).item(), random.random(), np.random.rand()


def drawn_in(step: int, seeds: StepSeeds | None = None) -> tuple:
    seeds = seeds or StepSeeds(5, CPU)
    seeds.begin(step)
    values = draw()
    seeds.end(step)
    return values


def quiet_step(seeds: StepSeeds, step: int) -> None:
    seeds.begin(step)
    torch.rand(3)  # of torch's generator, as dropout does
    seeds.end(step)


def test_what_the_first_step_that_draws_draws_depends_on_its_number_alone():
    expected = {step: drawn_in(step) for step in (0, 1, 31, 32, 33, 70)}
    assert len({value for values in expected.values() for value in values}) == 3 * len(expected)
    for step, values in expected.items():
        for first in {0, step - 1, step // 2, 32 * (step // 32)} - {-1}:
            seeds = StepSeeds(5, CPU)
            for number in range(first, step):
                quiet_step(seeds, number)
                if number % 3 == 0:
                    draw()  # between steps, as a dataset does
            assert not seeds.drawn and drawn_in(step, seeds) == values and seeds.drawn


def test_once_a_step_has_drawn_all_are_seeded_anew():
    seeds = StepSeeds(5, CPU)
    drawn_in(3, seeds)
    resumed = StepSeeds(5, CPU, drawn=seeds.drawn)
    values = [drawn_in(step, seeds) for step in range(4, 9)]
    assert values[2:] == [drawn_in(step, resumed) for step in range(6, 9)] and len(set(values)) == 5
    assert values != [drawn_in(step, StepSeeds(6, CPU, drawn=True)) for step in range(4, 9)]


def test_scrambled_numbers_spread():
    seeds = np.array([scramble(seed, number) for seed in range(50) for number in range(-50, 50)], dtype=np.uint64)
    assert len(set(seeds.tolist())) == len(seeds) and max(seeds) < 2**63
    bits = (seeds[:, None] >> np.arange(63, dtype=np.uint64)) & np.uint64(1)
    assert abs(bits.mean(0) - 0.5).max() < 0.03  # four standard deviations of 5,000 coins


@TRAINERS.register
class DrawsInSomeSteps(Trainer):
    """From step 6 on every other step draws from Python's generator, and scales its loss by that."""

    def train_step(self, batch):
        outputs, targets, terms = self.forward(batch)
        scale = 1 + random.random() if self.position.step >= 6 and self.position.step % 2 else 1.0
        self.update(terms["loss"] * scale)
        return terms | {"scale": scale}


@pytest.mark.parametrize("stop", [5, 6, 7, 8])
def test_a_run_whose_steps_begin_to_draw_late_goes_on_with_the_same_bits(small, tmp_path, stop):
    options = ["-c", small, "trainer.type=DrawsInSomeSteps", "transforms.train=[]"]
    with pytest.raises(Interrupted):
        train(*options, "--steps", stop, out=tmp_path / "parts")
    parts = train("-r", tmp_path / "parts/small", out=tmp_path / "parts")
    whole = train(*options, out=tmp_path / "whole")
    assert_same_run(whole, parts)
    assert epochs(whole)[1]["train/scale"] > 1.05


@TRAINERS.register
class NotesWhatItDraws(Trainer):
    """Keeps what its steps draw."""

    def on_train_start(self):
        self.drawn = []  # without that of the preflight
        NotesWhatItDraws.latest = self

    def train_step(self, batch):
        if hasattr(self, "drawn"):
            self.drawn.append(draw())
        return super().train_step(batch)


def test_the_steps_of_a_run_draw_by_its_seed_also_after_a_resume_at_any(small, tmp_path):
    seeds = StepSeeds(derive(7, "step", 0), CPU)
    expected = [drawn_in(step, seeds) for step in range(10)]
    assert drawn_in(0)[1:] == (0.10363830626382298, 0.6122799873609822)  # as in version 1.0.0
    for stop in (1, 4, 5, 9):
        options = ["trainer={type: NotesWhatItDraws, args: {epochs: 2}}", "--run-name", f"at{stop}"]
        with pytest.raises(Interrupted):
            train("-c", small, *options, "--steps", stop, out=tmp_path)
        assert NotesWhatItDraws.latest.drawn == expected[:stop]
        train("-r", tmp_path / "small" / f"at{stop}", out=tmp_path)
        assert NotesWhatItDraws.latest.drawn == expected[stop:]


# -- the optimizer's step ------------------------------------------------------------------------------------------------

def an_updater(optimizer, *schedulers) -> Updater:
    return Updater(optimizer, Schedule(optimizer, schedulers, 1, 100), torch.amp.GradScaler("cpu", enabled=False))


def test_an_optimizers_step_is_seen_by_hooks_by_the_profiler_and_by_what_wraps_it():
    weight, seen = torch.nn.Parameter(torch.ones(2)), []

    def step(optimizer) -> float:
        updater = an_updater(optimizer, (lambda own, length: LinearLR(own), "step"))
        before = weight[0].item()
        updater.update(weight.sum(), Window())
        return before - weight[0].item()

    optimizer = torch.optim.SGD([weight], lr=0.1)
    plain = step(optimizer)
    with torch.profiler.profile() as profile:
        step(torch.optim.SGD([weight], lr=0.1))
    assert "Optimizer.step#SGD.step" in {event.key for event in profile.key_averages()}
    for register in (optimizer.register_step_pre_hook, optimizer.register_step_post_hook,
                     register_optimizer_step_pre_hook, register_optimizer_step_post_hook):
        handle = register(lambda *given: seen.append("hook"))
        step(optimizer)
        handle.remove()
    assert seen == ["hook"] * 4

    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            super().step()
            return super().step()

    assert step(Twice([weight], lr=0.1)) == pytest.approx(2 * plain)
    wrapped = torch.optim.SGD([weight], lr=0.1)
    wrapped.step = MethodType(lambda self: seen.append("wrapped"), wrapped)
    assert step(wrapped) == 0 and seen[-1] == "wrapped"


def test_a_step_opens_no_range_for_a_profiler_that_does_not_run(monkeypatch):
    opened = []
    monkeypatch.setattr(torch.autograd.profiler, "record_function", lambda name: opened.append(name) or nullcontext())
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    updater = an_updater(optimizer, (lambda own, length: LinearLR(own), "step"))
    for _ in range(2):
        updater.update(weight.sum(), Window())
    assert weight[0] < 1 and not opened
    optimizer.step()
    assert opened == ["Optimizer.step#SGD.step"]


# -- totals ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("value, mean", [(torch.tensor([True, False, True, True]), 0.75), (torch.tensor([1, 2, 3, 4]), 2.5),
                                         (torch.tensor([0.5, 1.5, 2.0, 0.0], dtype=torch.float64), 1.0), (3, 3.0),
                                         (torch.tensor(2.0, requires_grad=True), 2.0), (torch.tensor(True), 1.0)])
def test_totals_take_whatever_kind_of_number(value, mean):
    totals = Totals()
    totals.add({"it": value}, 4)
    assert totals.estimate("it") == mean and totals.means() == {"it": mean}


# -- where the time goes ---------------------------------------------------------------------------------------------------

def test_laps_belong_to_what_ends_them(monkeypatch):
    moments = iter([7.0, 10.0, 15.0, 17.0, 20.0])  # no clock: another program may have the core
    monkeypatch.setattr(timers.time, "perf_counter", lambda: next(moments))
    laps = Timers()
    for name in ("data wait", "compute", "data wait"):
        laps.record(name)
    assert laps.recent() == {"data wait": 5.0, "compute": 5.0}
    laps.record("saving")
    assert laps.recent() == {"data wait": 0.0, "compute": 0.0, "saving": 3.0}
    assert laps.total_s == {"data wait": 5.0, "compute": 5.0, "saving": 3.0}


def test_shares_are_told_in_words_with_what_would_help():
    assert describe_times({"compute": 6.2, "data wait": 3.1, "saving": 0.5, "logging": 0.2, "other": 0.001}) == (
        "data wait 31 %, compute 62 %, logging 2 %, saving 5 %")
    assert "data_loader.num_workers" in advice({"compute": 6.2, "data wait": 3.1})
    assert "log_every" in advice({"compute": 6.2, "data wait": 1.6, "logging": 2.5})
    assert advice({"compute": 6.2, "data wait": 0.3}) is None and describe_times({}) == ""


@DATASETS.register
class SlowDigits(Digits):
    """Three milliseconds a sample."""

    def __getitem__(self, index):
        time.sleep(0.003)
        return super().__getitem__(index)


def test_a_run_tells_where_its_time_went(small, tmp_path):
    run = train("-c", small, "dataset.type=SlowDigits", "data_loader.validation_split=0", "trainer.args.monitor=null",
                out=tmp_path)
    said = (run / "run.log").read_text()
    assert said.count("(data wait ") == 2 and "%: raise data_loader.num_workers" in said


# -- the heap --------------------------------------------------------------------------------------------------------------

FAULTS = """
import resource, sys, torch
from utils.heap import keep_heap
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_heap()
def step():
    kept = [torch.ones(1_000_000) for _ in range(8)]  # 4 MB each: by itself glibc asks the system for every one
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's heap")
def test_a_kept_heap_has_no_page_faults():
    faults = {how: float(subprocess.run([sys.executable, "-c", FAULTS, how], cwd=PROJECT, capture_output=True, text=True,
                                        check=True, env={"MALLOC_MMAP_THRESHOLD_": "131072", "PATH": ""}).stdout)
              for how in ("keep", "leave")}
    assert faults["keep"] < 5 and faults["leave"] > 1000


def test_the_heap_can_be_released():
    assert "--release-heap" in program("train.py", "--help", cold=True).stdout


# -- writers ---------------------------------------------------------------------------------------------------------------

class Remembering(Writer):
    """Keeps what it is told, and by whom."""

    def __init__(self, fails_at: int | None = None, error: type = ZeroDivisionError):
        self.calls, self.threads, self.fails_at, self.error = [], set(), fails_at, error
        self.may_begin = threading.Event()
        self.may_begin.set()

    def scalars(self, values, step):
        assert self.may_begin.wait(60)
        if step == self.fails_at:
            raise self.error("no")
        self.calls.append(step)
        self.threads.add(threading.current_thread())

    def close(self):
        self.calls.append("closed")


def test_writers_are_told_everything_in_order_while_nobody_waits():
    writer = Remembering()
    feeder = Feeder([writer])
    writer.may_begin.clear()
    for step in range(100):
        feeder.send("scalars", {}, step)
    assert writer.calls == []
    writer.may_begin.set()
    feeder.close()
    assert writer.calls == [*range(100), "closed"] and threading.current_thread() not in writer.threads
    feeder.close()  # once more does nothing


def test_a_writer_that_has_worked_is_left_out_with_a_warning_that_the_end_repeats(caplog):
    broken, refusing, sound = Remembering(fails_at=1), Remembering(fails_at=0, error=OSError), Remembering()
    feeder = Feeder([broken, refusing, sound])
    for step in range(3):
        feeder.send("scalars", {}, step)
        feeder.send("histograms", {}, step)  # of Writer, which does nothing
    feeder.close()
    assert broken.calls == [0] and refusing.calls == [] and sound.calls == [0, 1, 2, "closed"]
    said = [record.message for record in caplog.records]
    assert len(said) == 4 and "Remembering: scalars: ZeroDivisionError: no" in said[1]
    assert [text.split(": ")[0] for text in said[2:]] == ["Left out before the end of the run"] * 2


@pytest.mark.parametrize("resumed", [False, True])
def test_the_first_call_of_a_writer_is_a_mistake_in_a_new_run_and_a_warning_at_a_resume(caplog, resumed):
    feeder = Feeder([Remembering(), Remembering(fails_at=0)], resumed)
    feeder.send("hparams", {})  # of Writer: no call
    feeder.send("scalars", {}, 0)
    mistake = pytest.raises(ConfigError, match=r"writers\.1: Remembering failed in its first call, of scalars: Zero")
    with nullcontext() if resumed else mistake:
        feeder.close()
    assert ("continues without this writer" in caplog.text) == resumed


@WRITERS.register
class BreaksDown(Writer):
    """Fails at the first number."""

    def scalars(self, values, step):
        raise ZeroDivisionError("of the writer's own")


def test_what_ends_a_run_is_not_hidden_by_a_writer_that_breaks_down_too(small, tmp_path):
    with pytest.raises(Interrupted, match="step 1 is done"):
        train("-c", small, "writers=[BreaksDown]", "trainer.args.log_every=1", "--steps", 1, out=tmp_path)


def test_a_broken_writer_ends_a_new_run_and_no_resumed_one(small, tmp_path, capfd):
    with pytest.raises(ConfigError, match="writers.*BreaksDown failed in its first call.*of the writer's own"):
        train("-c", small, "writers=[BreaksDown]", out=tmp_path)
    with pytest.raises(Interrupted):
        train("-c", small, "writers=[]", "--steps", 3, "--run-name", "sound", out=tmp_path)
    run = tmp_path / "small" / "sound"
    train("-r", run, "writers=[BreaksDown, NotBuilt]", out=tmp_path)
    assert "NotBuilt could not be built" in (log := (run / "run.log").read_text() + capfd.readouterr().err)
    assert log.count("BreaksDown: scalars: ZeroDivisionError") >= 2


@WRITERS.register
class NotBuilt(Writer):
    """Its service does not answer."""

    def __init__(self, folder, start_step):
        raise RuntimeError("no server")
