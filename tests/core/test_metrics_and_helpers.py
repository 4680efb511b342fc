"""The small parts: monitor, averaged weights, totals, metrics, derived seeds, times."""
import copy
import logging
import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from base import METRICS
from base.base_metric import Metrics, Totals, as_values
from base.build import build_callable
from conftest import PROJECT
from utils.checkpoint.state import find_unstorable
from utils.errors import ConfigError
from utils.random import derive, permutation, seed_cpu
from utils.training.ema import WeightAverage
from utils.training.monitor import Monitor, parse_monitor
from utils.training.progress import Position, accumulation_windows, parse_duration

CPU = torch.device("cpu")


def watch(monitor: Monitor, values: list[float]) -> list[bool]:
    """Shows the monitor a value an epoch; returns which of them were the best so far."""
    return [monitor.update(value, epoch) for epoch, value in enumerate(values, start=1)]


# -- monitor -------------------------------------------------------------------------------------------------------

def test_a_monitor_knows_the_best_of_the_smallest_and_of_the_largest_values():
    smallest, largest = Monitor("min val/loss"), Monitor("max val/accuracy")
    assert watch(smallest, [3, 4, 2, 2, 1, 5]) == [True, False, True, False, True, False]
    assert watch(largest, [3, 4, 2, 4, 5, 1]) == [True, True, False, False, True, False]
    assert (smallest.best, smallest.best_epoch) == (1, 5) and (largest.best, largest.best_epoch) == (5, 5)


def test_an_improvement_must_exceed_min_delta():
    monitor = Monitor("min val/loss", min_delta=0.5)
    assert watch(monitor, [3.0, 2.75, 2.5, 2.25]) == [True, False, False, True]  # from 3.0, not from the last
    assert watch(Monitor("max val/loss", min_delta=0.5), [1.0, 1.5, 1.75]) == [True, False, True]


@pytest.mark.parametrize("monitor", ["min val/loss", "max val/loss"])
def test_a_nan_never_improves_and_counts_as_a_look_in_vain(monitor):
    watching = Monitor(monitor, patience=2)
    assert watch(watching, [math.nan, 1.0, math.nan]) == [False, True, False] and not watching.exhausted
    assert watch(watching, [math.nan]) == [False] and watching.exhausted
    assert watching.best == 1.0


def test_patience_is_exhausted_by_looks_without_improvement_in_a_row():
    monitor = Monitor("min val/loss", patience=2)
    for value, exhausted in [(3, False), (4, False), (2, False), (2, False), (2, True), (1, False)]:
        monitor.update(value, epoch=1)
        assert monitor.exhausted == exhausted
    patient = Monitor("min val/loss")
    watch(patient, [1] * 1000)
    assert not patient.exhausted


def test_a_monitor_goes_on_from_its_state():
    straight, stopped, resumed = (Monitor("max val/accuracy", patience=3) for _ in range(3))
    values = [0.1, 0.5, 0.4, 0.5, 0.3, 0.6]
    watch(straight, values[:3])
    watch(stopped, values[:3])
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    assert watch(straight, values[3:]) == watch(resumed, values[3:]) == [False, False, True]
    assert straight.state_dict() == resumed.state_dict() and find_unstorable(resumed.state_dict(), "state") is None


def test_patience_of_the_config_counts_not_that_of_the_checkpoint():
    impatient, patient = Monitor("min val/loss", patience=1), Monitor("min val/loss", patience=5)
    watch(impatient, [1, 2])
    patient.load_state_dict(impatient.state_dict())
    assert impatient.exhausted and not patient.exhausted


@pytest.mark.parametrize("monitor", ["max val/loss", "min val/error"])
def test_a_changed_monitor_forgets_the_best_value_and_says_so(monitor, caplog):
    before, now = Monitor("min val/loss", patience=1), Monitor(monitor, patience=1)
    watch(before, [0.1, 0.2])
    with caplog.at_level(logging.WARNING):
        now.load_state_dict(before.state_dict())
    assert monitor in caplog.text and "min val/loss" in caplog.text
    assert not now.exhausted and now.update(5.0, epoch=3)


@pytest.mark.parametrize("text", [
    "", "max", "val/loss", "loss min", "best val/loss", "max accuracy", "Max val/loss", "maxval/loss"])
def test_a_monitor_is_min_or_max_and_a_name_as_in_the_logs(text):
    with pytest.raises(ValueError, match="max val/accuracy"):
        parse_monitor(text)


# -- averaged weights ----------------------------------------------------------------------------------------------

def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def disturb(network: nn.Module, seed: int) -> None:
    """Changes all parameters and buffers, as a step would."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.add_(torch.randn(tensor.shape)) if tensor.is_floating_point() else tensor.add_(1)


def test_averaged_weights_follow_the_formula_and_buffers_are_copied():
    network, decay = small_network(), 0.4
    average = WeightAverage(network, decay)
    expected = {name: parameter.detach().double() for name, parameter in network.named_parameters()}
    for update in range(1, 9):
        disturb(network, update)
        average.update()
        kept = min(decay, (1 + update) / (10 + update))  # the warm-up: 2/11, 3/12, ...
        for name, parameter in network.named_parameters():
            expected[name] = kept * expected[name] + (1 - kept) * parameter.detach().double()
    averaged = dict(average.model.named_parameters())
    for name, value in expected.items():
        torch.testing.assert_close(averaged[name].double(), value, rtol=1e-5, atol=1e-6)
        assert not torch.equal(averaged[name], network.get_parameter(name))
    for name, buffer in network.named_buffers():
        assert torch.equal(average.model.get_buffer(name), buffer)


def test_averaging_leaves_the_model_as_it_is_and_its_average_for_evaluation():
    network = small_network()
    average = WeightAverage(network, 0.9)
    before = copy.deepcopy(network.state_dict())
    average.update()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    assert not average.model.training and not any(parameter.requires_grad for parameter in average.model.parameters())


def test_averaged_weights_go_on_from_their_state():
    network = small_network()
    straight, resumed = WeightAverage(network, 0.9), WeightAverage(small_network(), 0.9)
    for update in range(3):
        disturb(network, update)
        straight.update()
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    resumed.source = network
    for update in range(3, 6):
        disturb(network, update)
        straight.update()
        resumed.update()
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])


# -- totals --------------------------------------------------------------------------------------------------------

def ragged(seed: int = 0, sizes=(7, 7, 7, 1, 3)) -> list[torch.Tensor]:
    return list(torch.randn(sum(sizes), generator=torch.Generator().manual_seed(seed)).split(list(sizes)))


def test_means_over_ragged_batches_are_means_over_samples():
    batches, totals = ragged(), Totals()
    for values in batches:
        totals.add({"mean": values.mean(), "each": values, "number": float(values.mean())}, len(values))
    expected = torch.cat(batches).double().mean().item()
    assert totals.means() == {name: pytest.approx(expected, abs=1e-6) for name in ("mean", "each", "number")}
    wrong = torch.stack([values.mean() for values in batches]).mean().item()  # the mean of the batches' means
    assert abs(wrong - expected) > 0.01


def test_values_that_come_in_some_batches_only_count_with_their_own_samples():
    totals = Totals()
    totals.add({"always": torch.tensor(1.0)}, 3)
    totals.add({"always": torch.tensor(5.0), "sometimes": torch.tensor([2.0, 4.0])}, 1)
    assert totals.means() == {"always": 2.0, "sometimes": 3.0}


@pytest.mark.parametrize("values, mean", [
    (torch.tensor([True, False, True, True]), 0.75), (torch.tensor([1, 2, 3, 4]), 2.5), (torch.tensor(3), 3.0), (2, 2.0),
    (torch.tensor([[1.0], [2.0]]), 1.5), ([True, False], 0.5), (np.float64(2), 2.0),
    (torch.tensor([0.5, 1.5], requires_grad=True), 1.0), (torch.tensor([1.0, 2.0], dtype=torch.float64), 1.5),
])
def test_values_may_be_of_any_plain_type(values, mean):
    totals = Totals()
    totals.add({"value": values}, 4)
    assert totals.means() == {"value": mean}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_values_of_half_precision_are_summed_in_full(dtype):
    totals = Totals()
    totals.add({"large": torch.full((1001,), 1000.0, dtype=dtype), "one": torch.ones(1001, dtype=dtype)}, 1001)
    assert totals.means() == {"large": 1000.0, "one": 1.0}


def test_a_value_that_is_neither_for_the_batch_nor_for_each_sample_is_refused():
    with pytest.raises(ValueError, match=r"'wide' is float32 \[2, 3\]"):
        Totals().add({"wide": torch.zeros(2, 3)}, 2)
    with pytest.raises(ValueError, match=r"'pair' is \(float32 \[\], int\); a value is one number for the"):
        Totals().add({"pair": (torch.tensor(0.5), 3)}, 2)


def test_it_makes_no_difference_when_or_how_often_the_totals_are_read():
    def total(look):
        totals = Totals()
        for number, values in enumerate(ragged(sizes=(7,) * 40 + (3,))):
            size = 10.0 ** (number % 17 - 8)  # of such different sizes that every rounding shows
            totals.add({"loss": values.mean() * size, "each": values * size}, len(values))
            if look(number):
                totals.recent()
                totals.means()
                state = copy.deepcopy(totals.state_dict())
                totals = Totals()
                totals.load_state_dict(state)
        return totals.means()

    chance = random.Random(0)
    assert total(lambda _: False) == total(lambda _: True) == total(lambda _: chance.random() < 0.3)  # to the last bit


def test_long_sums_do_not_lose_small_values():
    totals = Totals()
    for _ in range(5000):
        totals.add({"loss": torch.tensor(0.1)}, 1)
    totals.add({"loss": torch.tensor(1e6)}, 1)
    assert totals.means()["loss"] == pytest.approx((5000 * torch.tensor(0.1).item() + 1e6) / 5001, rel=1e-12)


def test_recent_means_are_those_since_the_last_look_and_survive_a_restart():
    totals = Totals()
    totals.add({"loss": torch.tensor(1.0)}, 1)
    totals.add({"loss": torch.tensor(4.0)}, 2)
    assert totals.recent() == {"loss": 3.0}
    assert totals.recent() == {}
    totals.add({"loss": torch.tensor(8.0), "late": torch.tensor(1.0)}, 3)
    resumed = Totals()
    resumed.load_state_dict(copy.deepcopy(totals.state_dict()))
    assert resumed.recent() == totals.recent() == {"loss": 8.0, "late": 1.0}
    assert totals.means() == {"loss": 33 / 6, "late": 1.0}
    totals.reset()
    assert totals.means() == totals.recent() == {}
    totals.add({"loss": torch.tensor(2.0)}, 1)
    assert totals.recent() == totals.means() == {"loss": 2.0}


def test_the_state_of_totals_can_be_stored():
    totals = Totals()
    totals.add({"loss": torch.tensor(1.0)}, 1)
    assert find_unstorable(totals.state_dict(), "state") is None


# -- metrics -------------------------------------------------------------------------------------------------------

def built(block, name: str = "metric") -> Metrics:
    return Metrics({name: build_callable(METRICS, block, "metrics.0", CPU)}, CPU)


F1 = {"type": "F1Score", "args": {"task": "multiclass", "num_classes": 3, "average": "macro"}}
LOGITS = torch.randn(23, 3, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(3, (23,), generator=torch.Generator().manual_seed(1))


def macro_f1(predictions, targets) -> float:
    scores = []
    for label in range(3):
        hits = ((predictions == label) & (targets == label)).sum().item()
        scores.append(2 * hits / ((predictions == label).sum() + (targets == label).sum()).item())
    return sum(scores) / len(scores)


def test_a_torchmetrics_class_gives_what_all_samples_together_give():
    metrics, shares = built(F1), []
    for logits, targets in zip(LOGITS.split(7), TARGETS.split(7), strict=True):
        assert metrics(logits, targets) == {}
        shares.append(macro_f1(logits.argmax(1), targets) * len(targets) / len(TARGETS))
    expected = macro_f1(LOGITS.argmax(1), TARGETS)
    assert metrics.compute() == {"metric": pytest.approx(expected, abs=1e-6)}
    assert abs(sum(shares) - expected) > 0.01  # which an average over the batches is not
    metrics.reset()
    metrics(torch.eye(3), torch.arange(3))
    assert metrics.compute() == {"metric": 1.0}


def test_a_torchmetrics_class_goes_on_from_its_state_in_the_middle_of_an_epoch():
    straight, stopped, resumed = built(F1), built(F1), built(F1)
    for metrics in (straight, stopped):
        metrics(LOGITS[:9], TARGETS[:9])
    assert find_unstorable(stopped.state_dict(), "state") is None
    resumed(LOGITS[:2], TARGETS[:2])
    resumed.compute()  # as in preflight; it leaves no trace
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    assert resumed.compute() == stopped.compute()
    for metrics in (straight, resumed):
        metrics(LOGITS[9:], TARGETS[9:])
    assert straight.compute() == resumed.compute() == {"metric": pytest.approx(macro_f1(LOGITS.argmax(1), TARGETS), abs=1e-6)}


def test_two_metrics_from_one_object_do_not_share_their_counts():
    metric = build_callable(METRICS, F1, "metrics.0", CPU)
    train, evaluation = Metrics({"f1": metric}, CPU), Metrics({"f1": metric}, CPU)
    train(torch.eye(3), torch.arange(3))
    evaluation(torch.eye(3), torch.tensor([1, 2, 0]))
    assert train.compute() == {"f1": 1.0} and evaluation.compute() == {"f1": 0.0}


def test_a_metric_with_several_numbers_gives_each_a_name():
    metrics = built({"type": "F1Score", "args": {"task": "multiclass", "num_classes": 3, "average": None}}, "f1")
    metrics(torch.eye(3), torch.tensor([0, 1, 1]))
    assert metrics.compute() == {"f1/0": 1.0, "f1/1": pytest.approx(2 / 3), "f1/2": 0.0}


def test_functions_give_a_value_per_sample_that_averages_exactly():
    blocks = {"accuracy": "accuracy", "top2": {"type": "top_k_accuracy", "args": {"k": 2}}}
    metrics = Metrics({name: METRICS.build(block, f"metrics.{name}") for name, block in blocks.items()}, CPU)
    totals = Totals()
    for logits, targets in zip(LOGITS.split(5), TARGETS.split(5), strict=True):
        values = metrics(logits, targets)
        assert all(value.shape == targets.shape for value in values.values())
        totals.add(values, len(targets))
    best_two = LOGITS.argsort(1, descending=True)[:, :2].tolist()
    assert totals.means() == {
        "accuracy": (LOGITS.argmax(1) == TARGETS).sum().item() / 23,
        "top2": sum(target in two for target, two in zip(TARGETS.tolist(), best_two, strict=True)) / 23}
    assert metrics.compute() == {}


def test_absolute_error_is_a_mean_over_the_values_of_a_sample():
    error = METRICS.build("absolute_error", "metrics.0")
    assert error(torch.zeros(2, 2, 2), torch.tensor([[[1.0, -1], [3, -3]], [[0, 0], [0, 4]]])).tolist() == [2.0, 1.0]


def test_metrics_keep_no_graph():
    outputs = torch.randn(4, 3, requires_grad=True)
    values = Metrics({"sum": lambda outputs, targets: outputs.sum(1)})(outputs, None)
    assert not values["sum"].requires_grad


@pytest.mark.parametrize("args", [{"task": "multiclass"}, {"task": "no such task"}])
def test_a_metric_that_cannot_be_built_is_a_config_error_with_the_reason(args):
    with pytest.raises(ConfigError, match=r"metrics\.0(\.args\.task)?: F1Score could not be built: "):
        built({"type": "F1Score", "args": args})


def test_a_step_returns_named_values_or_the_loss():
    loss = torch.tensor(1.0)
    assert as_values({"a": loss}) == {"a": loss} and as_values(loss) == {"loss": loss}
    with pytest.raises(TypeError, match="'loss'"):
        as_values(None)


class KeepsOutputs:
    """A metric of a user's own, without state_dict."""

    def __init__(self, **others):
        self.outputs, self.others = [], others

    def update(self, outputs, targets):
        self.outputs.append(outputs)

    def compute(self):
        return torch.cat(self.outputs).mean()

    def reset(self):
        self.outputs = []


def test_a_metric_without_state_dict_goes_on_from_its_attributes_or_says_what_it_lacks(caplog):
    before = Metrics({"mean": KeepsOutputs(), "odd": KeepsOutputs(unstorable=object())}, torch.device("cpu"))
    before(torch.tensor([1.0, 2.0]), None)
    state = before.state_dict()
    after = Metrics({"mean": KeepsOutputs(), "odd": KeepsOutputs()}, torch.device("cpu"))
    after.load_state_dict(state)
    assert "train/odd of this epoch lacks the batches before the resume" in caplog.text
    after(torch.tensor([6.0]), None)
    assert after.compute() == {"mean": 3.0, "odd": 6.0}
    assert before.compute()["mean"] == 1.5  # nothing is shared


# -- randomness ----------------------------------------------------------------------------------------------------

def test_derived_seeds_differ_for_every_seed_purpose_and_position():
    positions = [(seed, purpose, *counters) for seed in range(-3, 8) for purpose in ("order", "step", "sample", "order1")
                 for counters in [(), *((i,) for i in range(30)), *((i, j) for i in range(12) for j in range(12))]]
    seeds = {derive(*position) for position in positions}
    assert len(seeds) == len(positions)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_derived_seeds_are_the_same_everywhere_and_for_ever():
    assert derive(0, "order") == 7267664299586512972  # else no earlier run could be resumed
    assert derive(42, "step", 7) == 5215570901038413845


def test_seeding_reaches_all_generators():
    def draw(seed):
        seed_cpu(seed)
        return torch.rand(1).item(), random.random(), np.random.rand()

    once, other = draw(derive(0, "a")), draw(derive(0, "b"))
    assert draw(derive(0, "a")) == once and not set(once) & set(other)


def test_a_permutation_follows_from_its_seed_and_disturbs_nothing():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    order = permutation(5, 50)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(order.sort().values, torch.arange(50))
    assert torch.equal(order, permutation(5, 50)) and not torch.equal(order, permutation(6, 50))


# -- progress ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, expected", [
    (90, 90), (0.5, 0.5), (None, None), ("1:30", 90.0), ("0:01:30", 90.0), ("1:30:00", 5400.0), ("100:00:00", 360000.0),
    ("00:00:07", 7.0),
])
def test_times_are_seconds_or_hours_minutes_seconds(text, expected):
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "90", "1h", "1:2:3:4", "1:x", ":30", "1:", "-1:30", "1:-30", "1.5:00", "1:30.5"])
def test_text_that_is_no_time_is_told_how_to_write_one(text):
    with pytest.raises(ValueError, match=f"'{text}'.*h:mm:ss"):
        parse_duration(text)


@pytest.mark.parametrize("number, size, expected", [
    (6, 2, [[0, 1], [2, 3], [4, 5]]), (5, 2, [[0, 1], [2, 3], [4]]), (3, 1, [[0], [1], [2]]), (2, 5, [[0, 1]]), (0, 2, []),
])
def test_windows_are_lists_of_batches_of_which_the_last_may_be_shorter(number, size, expected):
    assert list(accumulation_windows(range(number), size)) == expected


def test_a_position_goes_on_from_its_state():
    position, resumed = Position(), Position()
    position.advance(2)
    position.next_epoch()
    position.advance(3)
    resumed.load_state_dict(position.state_dict())
    assert (resumed.epoch, resumed.batch, resumed.step) == (1, 3, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads of a process")
def test_a_writer_that_computes_starts_no_second_team_of_threads():
    """OpenMP would start one for a large tensor, and it would slow down every later step."""
    code = """
import os, sys, threading, torch
sys.path.insert(0, sys.argv[1])
from logger.feeder import Feeder
from logger.writer import Writer
class Computes(Writer):
    def histograms(self, tensors, step):
        self.result = tensors["weight"].float().exp()
        done.set()
done = threading.Event()
torch.set_num_threads(4)
torch.ones(4_000_000).exp()  # the main thread's team
before = len(os.listdir("/proc/self/task"))
feeder = Feeder([Computes(None)])
feeder.send("histograms", {"weight": torch.ones(4_000_000, dtype=torch.bfloat16)}, 0)
assert done.wait(60)
print(len(os.listdir("/proc/self/task")) - before, torch.get_num_threads())
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code, PROJECT], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["1", "4"], done.stdout + done.stderr  # the writers' thread alone
