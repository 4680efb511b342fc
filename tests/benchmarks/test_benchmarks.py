"""Benchmarks keep running and keep their fields; the figures themselves are not what is tested."""
import importlib
import json
import re
import shutil

import pytest

from conftest import PROJECT, program

harness = pytest.importorskip("benchmarks.harness", reason="a fork may do without benchmarks")
COMPARISONS = ("distributed", "gpu", "memory", "mnist_epoch", "peers", "picture_recipes", "pictures", "saving", "startup",
               "step_overhead")


def measured(name, *args, cwd) -> dict:
    """What a benchmark writes as JSON, in one round of one thread, started from another folder."""
    program(PROJECT / "benchmarks" / f"{name}.py", "--rounds", 1, "--threads", 1, "--json", "out.json", *args, cwd=cwd)
    return json.loads((cwd / "out.json").read_text())


@pytest.mark.slow
def test_the_cost_of_a_step_is_measured_in_processes_of_their_own(tmp_path):
    document = measured("step_overhead", "--steps", 40, "--contestants", "bare,template", cwd=tmp_path)
    assert {"command", "date", "machine", "versions", "rounds", "medians", "ratios", "differences"} <= document.keys()
    assert document["machine"]["threads"] == 1 and {"python", "torch"} <= document["versions"].keys()
    for name in ("bare", "template"):
        assert {"us_per_step", "faults_per_step", "peak_rss_mib"} == document["medians"][name].keys()
        assert document["medians"][name]["us_per_step"] > 0
    assert [(pair["of"], pair["to"]) for pair in document["differences"]] == [("template", "bare")]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_the_time_to_the_first_answer_is_measured(tmp_path):
    document = measured("startup", "--contestants", "python,help", cwd=tmp_path)
    assert 0 < document["medians"]["python"]["wall_s"] < document["medians"]["help"]["wall_s"]


@pytest.mark.slow
def test_the_cost_of_a_save_is_measured_and_nothing_is_left_behind(tmp_path):
    sizes = ("--millions", 1, "--saves", 1, "--steps", 1)
    document = measured("saving", *sizes, "--contestants", "background,foreground", cwd=tmp_path)
    assert all({"held_s", "lost_s"} <= values.keys() for values in document["medians"].values())
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.slow
def test_recipes_over_pictures_are_run_by_both_versions(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    sizes, names = ("--images", 64, "--epochs", 2), "crop,crop_before,crop_turned"
    document = measured("picture_recipes", *sizes, "--contestants", names, "--against", PROJECT, cwd=tmp_path)
    assert all(values["epoch_s"] > 0 and 0 <= values["train_accuracy"] <= 1 for values in document["medians"].values())
    assert [(pair["of"], pair["to"]) for pair in document["ratios"]] == 2 * [("crop", "crop_before"), ("crop_turned", "crop")]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_the_pages_of_tensorboard_begin_with_the_losses(tmp_path):
    pytest.importorskip("websockets")
    program(PROJECT / "benchmarks" / "tensorboard_pages.py", "--epochs", 3, "--out", tmp_path / "pages")
    assert {"custom_scalars_1400.png", "hparams_900.png"} < {path.name for path in (tmp_path / "pages").iterdir()}


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_comparison_has_a_command_and_its_contestants_are_explained(name):
    module = importlib.import_module(f"benchmarks.{name}")
    comparison, device = module.COMPARISON, ["--device", "cpu"] if name == "gpu" else []
    assert comparison.name == name and f"python benchmarks/{name}.py" in module.__doc__
    assert comparison.parse(device).contestants == list(comparison.contestants)
    compared = {end for pair in (*comparison.ratios, *comparison.differences) for end in pair[1:]}
    assert compared <= comparison.contestants.keys()
    assert {pair[0] for pair in (*comparison.ratios, *comparison.differences)} <= comparison.fields.keys()
    assert re.search(rf"\b{name}\.py\b", (PROJECT / "benchmarks" / "README.md").read_text())


class Recorded(harness.Comparison):
    """Runs nothing: `b` takes twice as long as `a`, every round takes longer, `c` is not installed."""

    def run_contestant(self, name, args, argv):
        self.order = [*getattr(self, "order", []), name]
        return {"note": "not installed"} if name == "c" else {"s": (2 if name == "b" else 1) * float(len(self.order))}


def test_contestants_take_turns_and_ratios_are_those_within_a_round():
    comparison = Recorded("speed", "", dict.fromkeys("abc"), {"s": "seconds"}, ratios=[("s", "b", "a"), ("s", "c", "a")])
    document = comparison.measure(comparison.parse(["--rounds", "3"]), [])
    assert comparison.order == list("abc" "bca" "cab")
    assert document["ratios"] == [{"field": "s", "of": "b", "to": "a", "median": 2.25, "min": 4 / 3, "max": 4.0,
                                   "mean": pytest.approx(91 / 36), "deviation": pytest.approx(1.35486, abs=1e-5)}]
    assert document["medians"] == {"a": {"s": 6.0}, "b": {"s": 8.0}, "c": {"note": "not installed"}}
    assert "not installed" in harness.table(document) and "seconds: b / a" in harness.table(document)


def test_a_contestant_that_is_unknown_is_named(tmp_path):
    done = program(PROJECT / "benchmarks" / "memory.py", "--contestants", "bare,tempalte", cwd=tmp_path, code=2)
    assert "tempalte" in done.stderr and "template" in done.stderr


def test_a_pair_of_which_one_is_missing_is_left_out():
    assert harness.paired([{"a": {"s": 1.0}}], [("s", "a", "b")], lambda one, other: one / other) == []


def test_the_structure_of_a_step_is_what_the_design_says():
    done = program("benchmarks/structure.py")
    figures = json.loads(done.stdout)
    assert figures["frames above optimizer.step"] == len(figures["the frames of a step"]) == 7
    assert figures["the path leaves the loop's file and comes back"] == 1
    assert figures["engine files from one step to the next"] < len(figures["the files of a step"]) < 30
    assert 5 < figures["files that a save enters"] < 16 and figures["functions over 40 lines"] == []
