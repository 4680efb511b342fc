"""The samplers of a sweep: values within the space, and functions of what is known."""
import importlib.util
import math
import sys
import time
import warnings

import pytest

from tools.sweep.sampling.importance import importance
from tools.sweep.sampling.samplers import Seen, check_sampler, suggest
from tools.sweep.space import Parameter, Space
from utils.errors import ConfigError

needs_optuna = pytest.mark.skipif(not importlib.util.find_spec("optuna"), reason="takes optuna")
SPACE = Space((
    Parameter("optimizer.type", values=("SGD", "AdamW")),
    Parameter("optimizer.args.lr", low=1e-4, high=0.3, log=True),
    Parameter("optimizer.args.momentum", low=0, high=0.99, when={"optimizer.type": "SGD"}),
    Parameter("width", low=8, high=64, step=8, is_integer=True),
    Parameter("dropout", low=0.0, high=0.5, step=0.1),
    Parameter("layers", low=1, high=4, is_integer=True),
    Parameter("samples", low=1, high=1000, log=True, is_integer=True),
    Parameter("fixed", low=3, high=3, is_integer=True),
    Parameter("steps", values=([2, 4], [3], None, True, 1, 1.0))))


def loss(params: dict) -> float:
    return (math.log(params["optimizer.args.lr"]) + 4)**2 + params.get("optimizer.args.momentum", 0.5)


def points(sampler, number: int, seen=(), first: int = 0, seed: int = 7) -> list[Seen]:
    """A search of `number` trials, one after the other."""
    seen = [*seen]
    for k in range(first, number):
        params = suggest(sampler, SPACE, seen, k, seed, False)
        state = "running" if k % 7 == 6 else "paused" if k % 3 == 2 else "finished"
        seen.append(Seen(k, params, state, None if state == "running" else loss(params), 2))
    return seen


def finished(number: int) -> list[Seen]:
    """Trials at random points."""
    chosen = [suggest("random", SPACE, (), k, 7, False) for k in range(number)]
    return [Seen(k, params, "finished", loss(params)) for k, params in enumerate(chosen)]


def within(params: dict) -> bool:
    """Whether a point has all that it needs, and nothing that it may not have."""
    used = [parameter for parameter in SPACE.parameters if SPACE.active(parameter, params)]
    for parameter in used:
        value, listed = params[parameter.key], parameter.listed()
        if listed is not None:
            assert any(type(value) is type(other) and value == other for other in listed), (parameter, value)
        else:
            assert type(value) is (int if parameter.is_integer else float), (parameter, value)
            assert parameter.low <= value <= parameter.high
    return list(params) == [parameter.key for parameter in used]


def test_random_points_are_spread_as_the_space_says():
    chosen = [suggest("random", SPACE, (), k, 3, False) for k in range(3000)]
    assert all(map(within, chosen))
    logs = [math.log(params["optimizer.args.lr"]) for params in chosen]
    low, high = math.log(1e-4), math.log(0.3)
    assert abs(sum(logs) / len(logs) - (low + high) / 2) < 0.1 * (high - low) / 2
    assert abs(sum(log < low + (high - low) / 4 for log in logs) / len(logs) - 0.25) < 0.03
    for key, number in (("width", 8), ("layers", 4), ("dropout", 6), ("optimizer.type", 2)):
        values = [params[key] for params in chosen]
        assert all(abs(values.count(value) / len(values) - 1 / number) < 0.03 for value in values[:50])
    samples = [params["samples"] for params in chosen]
    expected = math.log(31.5 / 0.5) / math.log(1000.5 / 0.5)  # 1 has the room from 0.5 to 1.5
    assert min(samples) == 1 and abs(sum(value <= 31 for value in samples) / len(samples) - expected) < 0.03
    momentum = [params["optimizer.args.momentum"] for params in chosen if params["optimizer.type"] == "SGD"]
    assert abs(sum(momentum) / len(momentum) - 0.495) < 0.03


def test_random_points_depend_on_the_seed_the_number_and_the_key_alone():
    chosen = suggest("random", SPACE, (), 5, 7, False)
    assert chosen == suggest("random", SPACE, points("random", 3), 5, 7, True)
    assert chosen != suggest("random", SPACE, (), 6, 7, False)
    assert chosen != suggest("random", SPACE, (), 5, 8, False)
    fewer = suggest("random", Space(SPACE.parameters[3:]), (), 5, 7, False)
    assert fewer == {key: chosen[key] for key in fewer}
    equal = Space((Parameter("a", low=0.0, high=1.0), Parameter("b", low=0.0, high=1.0)))
    one, other = suggest("random", equal, (), 5, 7, False).values()
    assert one != other


@pytest.mark.parametrize("sampler, said", [
    ("grid", r"sweep.parameters.optimizer.args.lr: a grid takes a list of values, or a range with a step"),
    ({"type": "random", "args": {"seed": 1}}, "sweep.sampler.args: random takes no arguments"),
    ({"type": "tpe", "arguments": {}}, r"sweep.sampler: is neither a name nor a block"),
    ({"type": "tpe", "args": [1]}, r"sweep.sampler: is neither a name nor a block")])
def test_a_sampler_that_does_not_fit_is_refused(sampler, said):
    with pytest.raises(ConfigError, match=said):
        check_sampler(sampler, SPACE)
    check_sampler("grid", Space(tuple(p for p in SPACE.parameters if p.listed() is not None)))


def test_without_optuna_a_line_says_how_to_get_it_and_there_is_no_importance(monkeypatch):
    trials = finished(20)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match="'tpe' needs the package optuna: pip install optuna"):
        check_sampler("tpe", SPACE)
    assert importance(SPACE, trials, False) is None
    check_sampler("random", SPACE)


@needs_optuna
@pytest.mark.slow
@pytest.mark.parametrize("sampler, said", [
    ("tpes", "no sampler 'tpes'. Did you mean 'tpe'?"), ("nsgaii", "no sampler 'nsgaii'"),
    ("CmaEsSampler", "keeps notes in a study of its own"), ("BruteForceSampler", "cannot search this space"),
    ({"type": "tpe", "args": {"multivariat": True}}, "args.multivariat: .*Did you mean 'multivariate'"),
    ({"type": "tpe", "args": {"n_startup_trials": "x"}}, "args.n_startup_trials: 'x' is text"),
    ({"type": "tpe", "args": {"seed": 1}}, "filled in by the program"),
    ({"type": "tpe", "args": {"group": True, "multivariate": False}}, "TPESampler: .*can only be enabled")])
def test_a_sampler_of_optuna_that_does_not_fit_is_refused(sampler, said):
    with pytest.raises(ConfigError, match=said):
        check_sampler(sampler, SPACE)


@needs_optuna
@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", {"type": "RandomSampler"},
                                     {"type": "TPESampler", "args": {"n_startup_trials": 3, "group": True}}])
def test_a_search_that_is_begun_again_anywhere_suggests_the_same(sampler):
    check_sampler(sampler, SPACE)
    whole = points(sampler, 30)
    assert all(within(trial.params) for trial in whole)
    for stop in (4, 17, 29):
        assert points(sampler, 30, whole[:stop], stop) == whole


@needs_optuna
@pytest.mark.slow
def test_tpe_suggests_what_a_living_study_with_the_same_seeds_does():
    """A study of Optuna's own, with the same distributions, asked with a new sampler for each trial."""
    import optuna

    from tools.sweep.sampling.samplers import derive_seed

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = Space((Parameter("kind", values=("a", "b")), Parameter("lr", low=1e-4, high=0.3, log=True),
                   Parameter("momentum", low=0.0, high=0.9, when={"kind": "a"})))
    study, seen = optuna.create_study(direction="minimize"), []
    for number in range(40):
        study.sampler = optuna.samplers.TPESampler(seed=derive_seed(5, number, "sampler") % 2**32)
        trial = study.ask()
        expected = {"kind": ("a", "b")[int(trial.suggest_categorical("kind", ["0", "1"]))],
                    "lr": trial.suggest_float("lr", 1e-4, 0.3, log=True)}
        if expected["kind"] == "a":
            expected["momentum"] = trial.suggest_float("momentum", 0.0, 0.9)
        assert suggest("tpe", space, seen, number, 5, False) == expected, number
        value = (math.log(expected["lr"]) + 4)**2 + expected.get("momentum", 0.5)
        study.tell(trial, value)
        seen.append(Seen(number, expected, "finished", value, 4))


@needs_optuna
@pytest.mark.slow
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("state", ["finished", "paused"])
def test_tpe_comes_closer_to_the_best_than_chance_also_from_paused_trials(maximize, state):
    sign, ends = -1 if maximize else 1, {}
    for sampler in ("tpe", "random"):
        seen = []
        for k in range(45):
            params = suggest(sampler, SPACE, seen, k, 7, maximize)
            seen.append(Seen(k, params, state, sign * loss(params), 2))
        ends[sampler] = sum(loss(trial.params) for trial in seen[20:]) / 25
    assert ends["tpe"] < 0.5 * ends["random"], ends


@needs_optuna
@pytest.mark.slow
def test_trials_that_the_space_does_not_know_any_more_are_left_out():
    seen = points("random", 20)
    other = [Seen(30, {**seen[0].params, "width": 7}, "finished", 0.0),
             Seen(31, {"gone": 1}, "finished", 0.0),
             Seen(32, {**seen[0].params, "optimizer.args.lr": "much"}, "finished", 0.0),
             Seen(33, {**seen[0].params, "steps": False}, "finished", 0.0),
             Seen(34, seen[0].params, "finished", math.nan)]
    assert suggest("tpe", SPACE, [*seen, *other], 40, 7, False) == suggest("tpe", SPACE, seen, 40, 7, False)


@needs_optuna
@pytest.mark.slow
def test_of_a_thousand_trials_the_next_is_suggested_within_a_fifth_of_a_second():
    seen = points("random", 1000)
    times = []
    for _ in range(5):
        begun = time.process_time()
        suggest("tpe", SPACE, seen, 1000, 7, False)
        times.append(time.process_time() - begun)
    assert min(times) < 0.2, times


@needs_optuna
@pytest.mark.slow
def test_the_importance_names_what_decides_the_result():
    known = finished(200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts = importance(SPACE, known, False)
    assert next(iter(parts)) == "optimizer.args.lr" and parts["optimizer.args.lr"] > 0.5
    assert abs(sum(parts.values()) - 1) < 1e-6
    assert importance(SPACE, known[:9], False) is None
    paused = [Seen(trial.number, trial.params, "paused", trial.value, 1) for trial in known]
    assert importance(SPACE, paused, False) is None
    equal = [Seen(trial.number, trial.params, "finished", 1.0) for trial in known]
    assert importance(SPACE, equal, False) is None
    assert importance(SPACE, [*known, Seen(300, known[0].params, "finished", math.nan)], False) == parts
