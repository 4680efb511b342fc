"""`python runs.py`: runs in a table, ranked, chosen, grouped; and the commands that reproduce one."""
import csv
import io
import json
import math
import os
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from conftest import copy_project, needs

needs("runs.py")
runs = pytest.importorskip("runs")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_run(folder, config=None, best=0.5, epoch=3, state="finished", reason=None, test=None, hour=10,
              minutes=5, scores=None, diff=None, locked=True):
    """Files as a run leaves them; `best` is None where no epoch was one, `state` "killed" has no end."""
    folder.mkdir(parents=True)
    config = {"name": folder.parent.name, "seed": 0, "trainer.args.monitor": "max val/accuracy",
              **(config or {})}
    name = (config["trainer.args.monitor"] or "").partition(" ")[2]
    best = best if best is None else {"name": name, "value": best, "epoch": epoch}
    summary = {"state": "running" if state == "killed" else state, "reason": reason, "epoch": epoch,
               "step": 9, "best": best, "config": config,
               "scores": {"epoch": epoch, "val/loss": 1.0} if scores is None else scores}
    begun = f"2026-01-31T{hour:02}:00:00+00:00"
    start = {"started": begun, "started_s": 1769853600 + 3600 * (hour - 10), "locked": locked,
             "git_commit": COMMIT, "git_diff": diff, "device": "cpu", "num_processes": 1, "num_threads": 1,
             "command": ["python", "train.py"]}
    end = {"ended": f"2026-01-31T{hour:02}:{minutes:02}:00+00:00", "outcome": state, "reason": reason}
    records = [start] if state == "killed" else [start, end]
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "environment.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "config.yaml").write_text("name: unread\n")
    if test:
        (folder / "test.json").write_text(json.dumps({"checkpoint": "best.pt", **test}))
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Runs of every state, two monitors, NaN, none."""
    folder = tmp_path_factory.mktemp("runs") / "saved"
    sgd, small = {"optimizer.type": "SGD", "optimizer.args.lr": 0.1}, {"optimizer.args.lr": 1e-5}
    write_run(folder / "net" / "a", sgd, 0.91, test={"test/accuracy": 0.9}, hour=10)
    write_run(folder / "net" / "b", {**sgd, "seed": 1}, 0.93, 4, "stopped", "SIGTERM", hour=11)
    write_run(folder / "net" / "c", small, 0.97, test={"test/accuracy": 0.95}, hour=12)
    write_run(folder / "net" / "d", small, None, 2, "failed", "loss is not finite", hour=13,
              scores={"val/accuracy": None})
    write_run(folder / "net" / "e", sgd, 0.92, 1, "killed", hour=14)
    write_run(folder / "low" / "f", {"trainer.args.monitor": "min val/loss"}, 0.4, hour=15)
    write_run(folder / "low" / "g", {"trainer.args.monitor": "min val/loss"}, 0.2, hour=16)
    write_run(folder / "low" / "h", {"trainer.args.monitor": None}, None, hour=17)
    os.utime(folder / "net" / "e" / "summary.json", (1769853600 + 4 * 3600 + 90,) * 2)
    return folder


@pytest.fixture
def ask(capsys, saved, monkeypatch):
    """Calls runs.py with arguments, for the runs above, and returns what it prints."""
    monkeypatch.setenv("COLUMNS", "200")  # readline may set it for pytest

    def call(*args, folder=saved) -> str:
        runs.main(runs.arguments([*map(str, args), *([str(folder)] if folder else [])]))
        return capsys.readouterr().out

    return call


def names(printed: str) -> list[str]:
    """The last letters of the runs in a CSV."""
    return [row["run"][-1] for row in csv.DictReader(io.StringIO(printed))]


TABLE = """
run    state                       best        epoch  test/accuracy  monitor           optimizer.type  lr       seed  commit    duration
low/h  finished                    no monitor  -      -              null              -               -        0     01234567  0:05:00
low/g  finished                    0.2000      3      -              min val/loss      -               -        0     01234567  0:05:00
low/f  finished                    0.4000      3      -              min val/loss      -               -        0     01234567  0:05:00
net/e  killed                      0.9200      1      -              max val/accuracy  SGD             0.1      0     01234567  0:01:30
net/d  failed: loss is not finite  nan         -      -              max val/accuracy  -               1.0e-05  0     01234567  0:05:00
net/c  finished                    0.9700      3      0.9500         max val/accuracy  -               1.0e-05  0     01234567  0:05:00
net/b  stopped: SIGTERM            0.9300      4      -              max val/accuracy  SGD             0.1      1     01234567  0:05:00
net/a  finished                    0.9100      3      0.9000         max val/accuracy  SGD             0.1      0     01234567  0:05:00
"""[1:]  # noqa: E501


def test_runs_are_listed_newest_first_with_the_keys_that_differ(ask):
    assert ask() == TABLE + ("These runs have different monitors, whose values cannot be compared: "
                             "max val/accuracy (5), min val/loss (2).\n")


def test_the_best_come_first_by_the_direction_of_each_monitor_then_nan_then_none(ask):
    assert "".join(names(ask("--sort", "best", "--csv", "-"))) == "cbeagfdh"


@pytest.mark.parametrize(("column", "order"), [
    ("test/accuracy", "cahgfedb"), ("lr", "dcebahgf"), ("started", "abcdefgh"), ("seed", "hgfedcab")])
def test_other_columns_sort_runs_too_and_missing_values_come_last(ask, column, order):
    assert "".join(names(ask("--sort", column, "--csv", "-"))) == order


@pytest.mark.parametrize(("conditions", "found"), [
    (["optimizer.args.lr<0.01"], "dc"), (["lr>=0.1", "state=stopped"], "b"), (["lr=1e-1"], "eba"),
    (["best > 0.92"], "cb"), (["best=nan"], "d"), (["reason~finite"], "d"), (["run~low/"], "hgf"),
    (["optimizer.type!=SGD"], "hgfdc"), (["trainer.args.monitor=null"], "h"), (["seed==1"], "b"),
    (["duration<0:02:00"], "e"), (["duration<=90"], "e"), (["started<'2026-01-31 11'"], None),
    (["state<1"], ""), (["state=__import__('os').system('exit 3')"], "")])
def test_conditions_choose_runs(ask, conditions, found):
    chosen = names(ask(*(word for text in conditions for word in ("--where", text)), "--csv", "-"))
    if found is not None:  # else the answer depends on the time zone
        assert "".join(chosen) == found


@pytest.mark.parametrize(("args", "message"), [
    (["--where", "optimiser.args.lr<1"], "--where: no run has a column or config key 'optimiser.args.lr'. "
                                         "Did you mean 'optimizer.args.lr'?"),
    (["--where", "lr"], "--where: 'lr' cannot be read. Write a column, one of < <= > >= = != ~ and a value: "
                        "'optimizer.args.lr<0.01'."),
    (["--sort", "stat"], "--sort: no run has a column or config key 'stat'. Did you mean 'state'?"),
    (["--group", "sed"], "--group: no run has a column or config key 'sed'. Did you mean 'seed'?"),
    (["--where", "duration<1:x"], "--where: '1:x' is no time. Write seconds (5400) or \"h:mm:ss\" "
                                  "(\"1:30:00\")"),
    (["--csv", "missing/runs.csv"], "missing/runs.csv: cannot be written: No such file or directory")])
def test_a_mistake_is_one_line(ask, args, message):
    with pytest.raises(runs.ConfigError) as error:
        ask(*args)
    assert str(error.value) == message


def test_a_folder_without_runs_ends_the_program_with_exit_code_2_and_no_torch_is_loaded(tmp_path, saved):
    code = "import runs, sys; runs.main(runs.arguments(sys.argv[1:])); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, saved], capture_output=True, text=True,
                          env={**os.environ, "COLUMNS": "200"})  # readline may set it for pytest
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 10)
    done = subprocess.run([sys.executable, runs.__file__, tmp_path], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == (
        f"{tmp_path}: there are no runs in it. A run is a folder with summary.json or config.yaml, such as "
        "saved/digits_lenet/2026-01-31_12-00-00.\n")


def test_seeds_and_folds_are_grouped_with_mean_and_deviation_of_finished_runs(ask, tmp_path):
    for lr, values in ((0.1, (0.8, 0.9, 0.7)), (0.01, (0.5, 0.6, None))):
        for seed, value in enumerate(values):
            write_run(tmp_path / f"net_{lr}_{seed}" / "x", {"optimizer.args.lr": lr, "seed": seed}, value,
                      scores={"val/accuracy": value}, test={"test/accuracy": 0.25 * seed}, hour=10 + seed)
    write_run(tmp_path / "net_0.1_0" / "again", {"optimizer.args.lr": 0.1}, 0.8, hour=9)  # counts once
    write_run(tmp_path / "net_0.1_9" / "x", {"optimizer.args.lr": 0.1, "seed": 9}, 0.1, 1, "failed", "x")
    rows = list(csv.DictReader(io.StringIO(ask("--group", "seed", "--sort", "best", "--csv", "-",
                                               folder=tmp_path))))
    first, second = rows
    assert (first["state"], first["seed"]) == ("4 finished, 1 failed", "0, 9, 1, 2")
    assert [float(first[name]) for name in ("best", "best std", "best n")] == pytest.approx([0.8, 0.1, 3])
    assert float(first["test/accuracy std"]) == pytest.approx(0.25)
    assert [float(second[name]) for name in ("best", "best std", "best n", "optimizer.args.lr")] == (
        pytest.approx([0.55, math.sqrt(0.005), 2, 0.01]))
    for fold in range(3):
        write_run(tmp_path / "folds" / str(fold), {"data_loader.fold": fold, "data_loader.folds": 3},
                  [0.2, 0.4, 0.6][fold], hour=18)
    line = ask("--group", "fold", "--where", "run~folds", folder=tmp_path).splitlines()[1]
    assert line.split() == ["folds/2", "3", "finished", "0,", "1,", "2", "0.4000", "0.2000", "3",
                            "0", "01234567"]


def test_a_run_of_1_0_0_is_read_from_its_config_and_metrics(ask, tmp_path):
    run = write_run(tmp_path / "old" / "run", locked=None)
    (run / "summary.json").unlink()
    (run / "environment.jsonl").write_text('{"started_s": 1769853600.0}\n')
    (run / "config.yaml").write_text("name: old\nseed: 7\ntrainer: {args: {monitor: min val/loss}}\n")
    (run / "metrics.jsonl").write_text(
        '{"step": 1, "epoch": 1, "step/loss": 0.1}\n'
        '{"step": 2, "epoch": 1, "train/loss": 1, "val/loss": 3}\n'
        '{"step": 4, "epoch": 2, "train/loss": 1, "val/loss": 2.0}\n'
        '{"step": 6, "epoch": 3, "train/loss": 1, "val/loss": null}\n{"step": 8, "ep')
    assert ask(folder=tmp_path).splitlines()[1].split() == [
        "old/run", "unknown", "2.0000", "2", "7", "-", "-"]


def test_damaged_and_hostile_files_are_shown_and_obeyed_nowhere(ask, tmp_path):
    evil = "<script>alert(1)</script>\x1b[2J\n\u202e\ud800"
    run = write_run(tmp_path / "=1+1" / "x", {"optimizer.args.lr": evil, "loss.args.w": -0.5}, 0.5,
                    state="failed", reason=evil)
    write_run(tmp_path / "net" / "y", {"loss.args.w": [1, 2], "optimizer.args.lr": "@sum"})
    for name, text in (("list", "[1]"), ("cut", '{"state": "fin'), ("deep", "[" * 100_000),
                       ("odd", '{"state": 3, "best": [], "config": {"a": {}}, "scores": 4, "reason": []}')):
        (tmp_path / "bad" / name).mkdir(parents=True)
        (tmp_path / "bad" / name / "summary.json").write_text(text)
    (tmp_path / "bad" / "link").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "bad" / "odd" / "test.json")
    for form in ([], ["--html", "-"], ["--csv", "-"], ["--json"]):
        printed = ask(*form, folder=tmp_path)
        assert not set(printed) & {"\x1b", "\u202e"}
        assert printed.count("bad/") >= 4 and "<script" not in printed or form != ["--html", "-"]
    first = next(csv.DictReader(io.StringIO(ask("--csv", "-", "--where", "run~=1", folder=tmp_path))))
    assert first["run"] == "'=1+1/x"
    rows = [*csv.DictReader(io.StringIO(ask("--csv", "-", folder=tmp_path)))]
    assert {"-0.5", "'@sum"} <= {value for row in rows for value in row.values()}
    HTMLParser().feed(ask("--html", "-", folder=tmp_path))
    start = {"started_s": 1.0, "git_commit": "--upload-pack=touch x", "git_diff": "../../evil.diff",
             "folder": "/tmp/$(touch x)", "device": "cpu; touch x", "command": ["train.py", "--steps", "`x`"]}
    (run / "environment.jsonl").write_text(json.dumps(start))
    lines = ask("show", run, folder=None).splitlines()
    commands = [shlex.split(line) for line in lines[lines.index("reproduce:") + 1:] if line.startswith("  ")]
    assert [words[0] for words in commands] == ["cd", "python", "cmp"]
    assert commands[0] == ["cd", "--", "/tmp/$(touch x)"]
    assert {"--device=cpu; touch x", "--steps=`x`"} <= {*commands[1]}


def test_a_table_fits_the_terminal_and_says_what_it_leaves_out(ask, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = ask("--where", "run~net").splitlines()
    assert max(map(len, lines)) <= 60 and lines[2].startswith("net/d  failed..finite  nan ")
    assert "5 more columns do not fit; --csv and --html have them." in lines


def test_json_has_all_of_a_run_and_compare_puts_runs_side_by_side(ask, saved):
    found = json.loads(ask("--json", "--where", "run=net/d"))
    assert [found[0][key] for key in ("state", "best", "commit", "duration_s")] == [
        "failed", "nan", COMMIT, 300.0]
    assert found[0]["config"]["optimizer.args.lr"] == 1e-5
    lines = ask("compare", saved / "net" / "a", saved / "net" / "c", folder=None).splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines}
    assert table["optimizer.args.lr"] == ["0.1", "1.0e-05"] and table["best"] == ["0.91", "0.97"]
    assert "trainer.args.monitor" not in table


PLUG_IN = """
from torch import nn
from base import MODELS


@MODELS.register
class UncommittedNet(nn.Sequential):
    def __init__(self, width: int = 8):
        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.Dropout(0.1), nn.ReLU(), nn.Linear(width, 10))
"""


@pytest.mark.slow
def test_the_printed_commands_reproduce_a_run_with_uncommitted_code_byte_for_byte(tmp_path):
    needs("configs/digits.yaml")
    original, project = tmp_path / "original", tmp_path / "my project"

    def call(*args, folder=project) -> str:
        done = subprocess.run([*map(str, args)], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    copy_project(original)
    (original / "model" / "odd [näme].py").write_text("")
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "x"]):
        call("git", *words, folder=original)
    call("git", "clone", "-q", original, project, folder=original)
    (project / "model" / "uncommitted_net.py").write_text(PLUG_IN)
    for deleted in ("odd [näme].py", "lenet.py"):  # the recorded diff has only their names
        (project / "model" / deleted).unlink()
    (project / "configs" / "mnist.yaml").unlink()
    call(sys.executable, "train.py", "-q", "-c", "configs/digits.yaml", "model={type: UncommittedNet}",
         "trainer.args.epochs=2", "--device", "cpu", "--run-name", "one")
    (project / "model" / "uncommitted_net.py").unlink()
    lines = call(sys.executable, "runs.py", "show", "saved/digits_lenet/one").splitlines()
    printed = "\n".join(line for line in lines[lines.index("reproduce:") + 1:] if line.startswith("  "))
    call("env", f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}", "bash", "-ec", printed,
         folder=tmp_path)
    again = tmp_path / "my project-one" / "saved" / "digits_lenet" / "again"
    assert (again / "metrics.jsonl").read_bytes() == (
        project / "saved" / "digits_lenet" / "one" / "metrics.jsonl").read_bytes()
    assert not (tmp_path / "my project-one" / "model" / "lenet.py").exists()


def test_a_resumed_run_of_an_earlier_version_stands_with_the_unstopped_one(tmp_path, ask):
    write_run(tmp_path / "net" / "a", {"model": "LeNet", "metrics": ["accuracy", "iou"], "loss.args": None})
    write_run(tmp_path / "net" / "b", {"seed": 1, "model.type": "LeNet", "metrics.0": "accuracy",
                                       "metrics.1.type": "iou"}, hour=11)
    assert " 2 finished " in ask("--group", "seed", folder=tmp_path)
    assert "metrics" not in ask(folder=tmp_path)


def test_titles_say_which_key_they_mean_and_writers_have_no_column(tmp_path, ask, monkeypatch):
    short = {"optimizer.args.lr": 0.1, "model.args.width": 8, "data_loader.batch_size": 4}
    whole = {"optimizer.groups.0.lr": 0.3, "optimizer.groups.0.match": "head", "metrics.1.type": "iou",
             "optimizer.only.args.momentum": 0.5, "loss.args.a": 1, "model.args.a": 1,
             "scheduler.per": "step"}
    write_run(tmp_path / "net" / "a", {**short, **whole, "metrics.1.args.k": 3, "writers": ["TensorBoard"]})
    write_run(tmp_path / "net" / "b", {"writers.0": "TensorBoard", "writers.1.type": "Wandb",
                                       "metrics.1.type": "x", "metrics.1.args.k": 3}, hour=11)
    monkeypatch.setenv("COLUMNS", "300")
    header = ask(folder=tmp_path).partition("\n")[0].split()
    assert {*whole, "lr", "width", "batch_size"} < {*header}
    assert not [name for name in header if "writers" in name]
    for columns in range(60, 240, 9):  # a whole key is shown, or not at all
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = ask(folder=tmp_path).splitlines()
        assert {*lines[0].split()[5:]} <= {*header} and max(map(len, lines[:3])) <= columns


def test_groups_do_not_ask_for_the_writers(tmp_path, ask):
    write_run(tmp_path / "net" / "a", {"writers": []})
    write_run(tmp_path / "net" / "b", {"writers": ["TensorBoard"], "seed": 1}, hour=11)
    assert " 2 finished " in ask("--group", "seed", folder=tmp_path)
