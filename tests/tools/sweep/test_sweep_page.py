"""report.html of a sweep: what is on it, its size, when it is written; and what is pooled over folds."""
import csv
import json
import math
import re
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from conftest import PROJECT, program
from sweeps import CONFIG, parsed, search, write
from test_sweep_driver import CHOICES

from tools.sweep.page import page as live
from tools.sweep.page.page import LivePage, write_page
from tools.sweep.page.plots import value_axis
from tools.sweep.plan import read_plan

HOSTILE = '"><script>alert(1)</script><img src=http://example.com/x.png>'
SECTION = f"""
sweep:
  parameters:
    optimizer.type: [SGD, AdamW, '{HOSTILE}']
    optimizer.args.lr: {{from: 1e-4, to: 1.0, scale: log}}
    optimizer.args.momentum: {{when: {{optimizer.type: SGD}}, from: 0.0, to: 0.99}}
  sampler: random
  trials: 20
"""


class Tags(HTMLParser):
    """The tags of a page, and what they link to."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for key, value in attributes if key in ("src", "href", "onload")]


def sweep_of(folder, values, section=SECTION, **config):
    """A plan and its study after trials with these values; a text is the reason of a failure."""
    plan, _ = read_plan(parsed(write(folder, section), folder))
    plan = replace(plan, config={"epochs": 4, "monitor": "min val/loss", "eval_every": 1, **config})
    plan.folder.mkdir(exist_ok=True)
    study = plan.study()
    for number, value in enumerate(values):
        study.apply({"event": "new", "trial": number, "params": plan.params(number, [])})
        run = study.trials[-1].runs[0]
        if isinstance(value, str):
            run.failed = value
        else:
            run.curve = [(epoch, value + 1 / epoch) for epoch in (1, 2, 3)] + [(4, value)]
            run.finished = True
    return plan, study


def test_the_page_shows_trials_pictures_failures_and_the_best_config(tmp_path):
    values = [0.5, 0.3, f"RuntimeError: {HOSTILE}", 0.7, 0.2]
    plan, study = sweep_of(tmp_path, values)
    (plan.folder / "best.yaml").write_text("# of trial 4\nname: small\ndataset: {args: {token: s3cret}}\n")
    (plan.folder / "trial_0004").mkdir()
    record = {"started_s": 1.0, "from_environment": ["dataset.args.token"]}
    (plan.folder / "trial_0004" / "environment.jsonl").write_text(json.dumps(record) + "\n")
    text = write_page(plan, study, "finished", {"optimizer.args.lr": 0.75}).read_text()
    tags = Tags(text)
    assert f"python sweep.py -c {plan.folder}/sweep.yaml --out {tmp_path}<" in text
    assert "token: " in text and "s3cret" not in text
    assert not {"script", "img", "link"} & {*tags.tags} and tags.links == []
    ranks = [[cell for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
             for row in re.findall(r"<tr>(<th scope=row>\d.*?)</tr>", text)]
    assert [(row[0], row[1], row[2]) for row in ranks[:4]] == [
        ("1", "4", "0.2000"), ("2", "1", "0.3000"), ("3", "0", "0.5000"), ("4", "3", "0.7000")]
    for shown in ("75%", "1 trials failed", "RuntimeError: &quot;&gt;&lt;script&gt;", "# of trial 4",
                  "unused", "0.0001 to 1.0, logarithmic", "optimizer.type: SGD", "4 finished"):
        assert shown in text, shown
    with_momentum = sum("optimizer.args.momentum" in trial.params
                        for trial in study.trials if not trial.failed)
    assert text.count("<circle") == 4 * 3 + with_momentum  # the best so far, and a slice for each parameter
    assert text.count('stroke="rgb') == 2 * 4  # parallel coordinates and learning curves


def test_the_best_so_far_falls_at_each_better_trial_only(tmp_path):
    plan, study = sweep_of(tmp_path, [0.5, 0.8, 0.3, 0.4, 0.2])
    text = write_page(plan, study, "running").read_text()
    path = re.search(r'class="l b" d="([^"]+)"', text)[1]
    heights = [int(at) for at in re.findall(r"[,V](\d+)", path)]
    assert len(heights) == 3 and heights == sorted(heights)


def test_values_far_worse_than_the_others_stand_at_the_edge():
    axis = value_axis([0.1, 0.2, 0.3, 0.4, 1e6], 300, 0)
    assert axis.beyond == 1 and axis.place(1e6) == axis.place(0.4) == 0 and axis.place(0.1) == 300
    assert value_axis([0.5], 300, 0).place(0.5) == 150


def test_a_page_of_1000_trials_stays_small_and_takes_little_time(tmp_path):
    keys = "".join(f"    model.args.width_{number}: {{from: 0.0, to: 1.0}}\n" for number in range(12))
    section = f"sweep:\n  parameters:\n{keys}  sampler: random\n  trials: 1000\n"
    plan, study = sweep_of(tmp_path, [math.inf, *(1 / (number + 1) for number in range(999))], section)
    start = time.process_time()
    file = write_page(plan, study, "running")
    assert time.process_time() - start < 2 and file.stat().st_size < 10**6
    assert "are in the ledger" in file.read_text()


def test_while_trials_run_the_page_is_written_after_an_end_and_not_often(tmp_path, monkeypatch):
    plan, study = sweep_of(tmp_path, [0.5, 0.4])
    now, written = [100.0], []
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(live, "write_page", lambda *args: written.append(now[0]))
    page = LivePage(plan)
    for at, event in ((100, ""), (101, "end"), (102, "end"), (130, ""), (131, ""), (200, "")):
        now[0] = float(at)
        page.show(study, event)
    assert written == [101.0, 131.0]


def test_a_sweep_leaves_a_page(tmp_path, capsys):
    assert search(parsed(write(tmp_path, CHOICES), tmp_path, "-q")) == 0
    file = tmp_path / "small" / "report.html"
    assert f"report: {file}" in capsys.readouterr().out and "3 finished" in file.read_text()


@pytest.mark.slow
def test_over_5_folds_and_3_seeds_the_table_is_as_by_hand_and_each_sample_is_there_once(tmp_path):
    config = tmp_path / "small.yaml"
    config.write_text(CONFIG.replace("[64, 10]", "[64, 16, 10]").replace("epochs: 9", "epochs: 2") + (
        "seed: 3\nloss: CrossEntropyLoss\nmetrics: [accuracy]\ndata_loader: {batch_size: 64}\nwriters: []\n"))
    shown = program("sweep.py", "-c", config, "--folds", 5, "--seeds", 3, "--out", tmp_path, "-q",
                    "sweep.run_on={type: processes, parallel: 2}", "sweep.threads_per_trial=1",
                    "trainer.args.monitor=max val/accuracy", cold=True).stdout
    folder, best = tmp_path / "small", {}
    for run in folder.glob("trial_*/metrics.jsonl"):
        lines = map(json.loads, run.read_text().splitlines())
        best[run.parent.name] = max(line["val/accuracy"] for line in lines if "val/accuracy" in line)
    assert len(best) == 15
    line = next(line for line in shown.splitlines() if line.startswith("1  ")).split()
    by_hand = statistics.fmean(best.values()), statistics.stdev(best.values())
    assert line == ["1", "0", "2", *(f"{value:.5g}" for value in by_hand), "15", "finished"]

    with (folder / "out_of_fold.csv").open() as file:
        rows = [*csv.DictReader(file)]
    pooled = json.loads((folder / "out_of_fold.json").read_text())
    for seed in ("3", "4", "5"):
        own = [row for row in rows if row["seed"] == seed]
        assert sorted(int(row["id"]) for row in own) == list(range(pooled["samples"]))
        right = [row["class"] == row["target"] for row in own]
        assert pooled["seeds"][seed]["accuracy"] == pytest.approx(statistics.fmean(right))
        for fold in range(5):  # what the run itself found for its fold, at its best epoch
            part = [row["class"] == row["target"] for row in own if row["fold"] == str(fold)]
            assert statistics.fmean(part) == pytest.approx(best[f"trial_0000_seed{seed}_fold{fold}"])
    confusion = pooled["report"]["confusion"]
    pairs = [(row["target"], row["class"]) for row in rows]
    assert confusion == [[pairs.count((str(true), str(guess))) for guess in range(10)] for true in range(10)]
    page = (folder / "report.html").read_text()
    assert "Confusion, 3 seeds together" in page and f"{pooled['samples']} samples" in page

    before = (folder / "out_of_fold.json").stat().st_mtime_ns
    subprocess.run([sys.executable, "-m", "tools.sweep.folds", str(folder)], cwd=PROJECT, check=True)
    assert (folder / "out_of_fold.json").stat().st_mtime_ns > before
