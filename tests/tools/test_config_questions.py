"""What can be asked instead of a run: --explain, --print-config, --list, --diff."""
import json
import re
from types import SimpleNamespace

import pytest
import yaml

from base.registries import KINDS
from conftest import PROJECT, needs, program, train
from train import main
from utils.cli import KINDS as PLURALS, train_arguments
from utils.config.loading import load_config
from utils.config.sections import with_defaults
from utils.errors import ConfigError
from utils.run_record import starts_of


@pytest.fixture
def ask(capsys):
    """`python train.py ARGS`, in this process; returns what it prints."""
    def ask(*args):
        main(train_arguments([*map(str, args)]))
        return capsys.readouterr().out

    return ask


@pytest.fixture
def chained(tmp_path):
    """Two files, one over the other."""
    (tmp_path / "base.yaml").write_text("name: base\ndataset: Digits\nmodel: {type: MLP, args: {sizes: [64, 10]}}\n"
                                        "loss: CrossEntropyLoss\noptimizer:\n  type: AdamW\n  args:\n    lr: 0.01\n")
    (tmp_path / "c.yaml").write_text("extends: base.yaml\nseed: 5\noptimizer:\n  args: {lr: 0.1, weight_decay: '${seed}'}\n")
    return tmp_path / "c.yaml"


def rows(text: str) -> dict[str, str]:
    """The rows that --explain prints."""
    return dict(re.match(r"  (.+?)  +(.*)", line).groups() for line in text.splitlines()[1:])


# -- --explain -----------------------------------------------------------------------------------------------------

def test_explain_tells_the_value_where_it_comes_from_and_who_takes_it(ask, chained):
    text = ask("-c", chained, "--explain", "optimizer.args.lr", "--lr", "0.5")
    found = rows(text)
    assert text.startswith("optimizer.args.lr\n") and found["value"] == "0.5" and found["from"] == "command line"
    assert re.search(r"instead of +0\.1, \S*c\.yaml:4\n +instead of +0\.01, \S*base\.yaml:8\n", text)
    assert re.fullmatch(r"\S*base\.yaml, then \S*c\.yaml, then command line", found["read from"])
    assert found["taken by"].startswith("AdamW, torch.optim") and "learning rate" in found["is"]
    assert found["takes"] == "a number" and found["default"] == "0.001"


@pytest.mark.parametrize("key, expected", [
    ("optimizer.args.weight_decay", {"value": "5", "from": "c.yaml:4", "written as": "${seed}"}),
    ("trainer.args.clip_norm", {"value": "not set", "taken by": "Trainer, trainer/trainer.py:", "takes": "a number or null",
                                "default": "null", "is": "largest norm"}),
    ("model.args.sizes", {"value": "[64, 10]", "from": "base.yaml:3", "taken by": "MLP, model/mlp.py:", "takes": "a list",
                          "default": "it has to be given"}),
    ("model", {"names": "MLP, model/mlp.py:", "takes": "MLP(sizes, dropout=0.0)"}),
    ("loss.type", {"value": "CrossEntropyLoss"}),
    ("model.args.size", {"value": "not set", "but": "it has no argument 'size'. Did you mean 'sizes'?"}),
    ("data_loader.num_workers", {"value": "not set", "taken by": "DataSplits", "takes": "a whole number", "default": "0"}),
    ("data_loader.shuffle", {"default": "true"}), ("optimizer.groups", {"is": "Parameters with options of their own"}),
    ("optimizer.args.params", {"but": "the program fills this in"}),
    ("scheduler.per", {"can name": "any torch.optim.lr_scheduler"}),
    ("metrics", {"value": "[]", "from": "default"}), ("transforms.batch", {"is": "Whole batches"}),
    ("seed", {"seed": "The source of all randomness", "value": "5", "from": "c.yaml:2"}),
    ("writers.0", {"names": "TensorBoard"}),
    ("trainer", {"names": "Trainer, trainer/trainer.py", "from": "default"}), ("transforms.nonsense.0", {"value": "not set"}),
])
def test_explain_answers_for_every_kind_of_key(ask, chained, key, expected):
    found = rows(ask("-c", chained, "--explain", key))
    for what, said in expected.items():
        assert said in found[what], (what, found)


def test_explain_of_a_chain_of_schedulers_is_about_the_one_that_was_asked_for(ask, chained):
    inner = "[LinearLR, {type: StepLR, args: {step_size: 3}}]"
    scheduler = f"scheduler={{type: SequentialLR, args: {{milestones: [2], schedulers: {inner}}}}}"
    found = rows(ask("-c", chained, scheduler, "--explain", "scheduler.args.schedulers.1.args.step_size"))
    assert found["value"] == "3" and found["taken by"].startswith("StepLR")
    assert rows(ask("-c", chained, scheduler, "--explain", "scheduler.args.milestones"))["taken by"].startswith("SequentialLR")


def test_explain_needs_no_config_for_what_has_a_default(ask):
    assert rows(ask("--explain", "trainer.args.epochs"))["default"] == "10"


@pytest.mark.parametrize("key, said", [
    ("lr", "Did you mean optimizer.args.lr?"), ("optimiser.args.lr", "Did you mean 'optimizer'?"), ("", "Sections: name, seed"),
])
def test_explain_of_what_is_no_section_tells_the_nearest(chained, key, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        main(train_arguments(["-c", str(chained), "--explain", key] if key else ["-c", str(chained), "--explain", "."]))


def test_what_needs_no_registry_is_answered_without_loading_torch(chained):
    for arguments in (["--explain", "name"], ["--print-config", "--origins"]):
        done = program("-X", "importtime", "train.py", "-c", chained, *arguments)
        assert "base.yaml:1" in done.stdout and " torch" not in done.stderr


# -- --print-config ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("origins", [[], ["--origins"]])
@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10_resnet", "digits_gan"])
def test_the_printed_config_is_the_config(ask, tmp_path, name, origins):
    needs(f"configs/{name}.yaml")
    file = PROJECT / "configs" / f"{name}.yaml"
    (tmp_path / "printed.yaml").write_text(ask("-c", file, "--print-config", *origins, "note=" + "many words " * 30))
    config, _ = load_config(file, ["note=" + "many words " * 30])
    assert load_config(tmp_path / "printed.yaml")[0] == with_defaults(config)


def test_origins_stand_behind_every_value(ask, chained):
    lines = ask("-c", chained, "--print-config", "--origins", "trainer.args.epochs=3").splitlines()
    for value, where in [("name: base", r"base\.yaml:1"), ("lr: 0.1", r"c\.yaml:4"), ("epochs: 3", "command line"),
                         ("- 64", r"base\.yaml:3"), ("type: Trainer", "default"), ("- TensorBoard", "default")]:
        assert any(re.fullmatch(rf" *{re.escape(value)} +# (\S*/)?{where}", line) for line in lines), (value, lines)


# -- --list --------------------------------------------------------------------------------------------------------

def test_a_list_has_the_projects_own_first_each_with_a_line_on_what_it_is(ask):
    needs("model/lenet.py")
    text = ask("--list", "models")
    assert text.startswith("models of this project, in model/:\n")
    assert re.search(r"^  LeNet +Two convolutions", text, re.MULTILINE)
    places = [text.index(f"\n{part}") for part in ("  LeNet ", "models: any torchvision model", "  resnet18 ", "  Linear ")]
    assert places == sorted(places) and "losses of this project" not in text


def test_everything_can_be_listed_and_all_that_is_listed_can_be_named(ask):
    text, kind = ask("--list", "all"), None
    named = 0
    for line in text.splitlines():
        if header := re.match(r"(\w+)(?: of this project|: any)", line):
            kind = dict(zip(PLURALS, KINDS.values(), strict=True))[header[1]]
        elif line:
            kind.get(line.split()[0])
            named += 1
    assert named > 400 and all(f"{plural} of this project" in text for plural in PLURALS)


# -- --diff --------------------------------------------------------------------------------------------------------

def test_the_difference_of_two_configs_is_what_is_not_the_same_in_them(ask, chained):
    assert "do not differ" in ask("--diff", chained, chained)
    lines = ask("--diff", chained.parent / "base.yaml", chained).splitlines()
    found = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert found == {"seed": ["0", "5"], "optimizer.args.lr": ["0.01", "0.1"], "optimizer.args.weight_decay": ["-", "5"]}


def test_the_difference_of_two_runs_tells_what_came_out(ask, small, tmp_path):
    one = train("-c", small, "trainer.args.epochs=1", "--run-name", "one", out=tmp_path)
    train("-c", small, "trainer.args.epochs=1", "optimizer.args.lr=0.5", "--run-name", "two", out=tmp_path)
    text = ask("--diff", one, tmp_path / "small")  # an experiment is its newest run
    assert re.search(r"^optimizer\.args\.lr +0\.01 +0\.5$", text, re.MULTILINE)
    assert re.search(r"^val/loss +\d\S* +\d\S*$", text, re.MULTILINE) and "torch " not in text
    lines = ask("--diff", small, one).splitlines()  # a run has every default in its config
    assert [line.split() for line in lines[1:]] == [["trainer.args.epochs", "2", "1"]]
    record, = starts_of(one)
    (one / "environment.jsonl").write_text(json.dumps({**record, "packages": {"torch": "1.0"}}) + "\n")
    text = ask("--diff", one, tmp_path / "small")
    assert re.search(r"^torch +1\.0 ", text, re.MULTILINE)
    assert re.search(r"^state +killed +finished$", text, re.MULTILINE)
    with pytest.raises(ConfigError, match="neither a config file nor a run"):
        ask("--diff", one, tmp_path / "small/one/checkpoints")


def test_runs_are_compared_at_their_best_epochs(ask, tmp_path):
    runs = []
    for name, values, monitor in (("a", [0.5, 0.9, 0.7], "max val/acc"), ("b", [0.9, 0.6, 0.6], "max val/acc"),
                                  ("c", [0.1, 0.2, 0.4], None)):
        runs.append(tmp_path / name)
        runs[-1].mkdir()
        trainer = {"type": "Trainer", "args": {"monitor": monitor}}
        (runs[-1] / "config.yaml").write_text(yaml.safe_dump({"name": "x", "trainer": trainer}))
        lines = [{"epoch": i, "train/loss": i, "val/acc": value} for i, value in enumerate(values, 1)]
        (runs[-1] / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = [re.split(" {2,}", line.strip()) for line in ask("--diff", *runs).splitlines()]
    assert found[0] == [str(run) for run in runs] and ["train/loss", "2", "1", "3"] in found
    assert ["val/acc", "0.9", "0.9", "0.4"] in found
    assert found[-1] == ["best epoch", "2, by max val/acc", "1, by max val/acc",
                         "3, the last one; there is no monitor"]
    assert ["val/acc", "0.9", "0.9"] in [re.split(" {2,}", line) for line in ask("--diff", *runs[:2]).splitlines()]
    same = ask("--diff", runs[0], runs[0]).splitlines()
    assert "do not differ" in same[0] and same[1:] == ["val/acc  0.9", "best epoch  2, by max val/acc"]


def test_an_answer_that_nobody_reads_to_its_end_is_no_error(monkeypatch, chained):
    def broken(*args, **kwargs):
        raise BrokenPipeError

    closed = []
    monkeypatch.setattr("builtins.print", broken)
    monkeypatch.setattr("os.dup2", lambda *files: closed.append(files))
    monkeypatch.setattr("sys.stdout", SimpleNamespace(fileno=lambda: 1))
    main(train_arguments(["-c", str(chained), "--print-config"]))
    assert closed


# -- together with other options -----------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, said", [
    (["--print-config"], "name a config"), (["--origins", "-c", "c.yaml"], "--origins goes with"),
    (["--list", "modles"], "choose from"), (["--list", "-c", "c.yaml"], "take no config"),
    (["--explain", "seed", "seed=3"], "name a config"), (["--explain", "seed", "-r", "saved/x"], "answer from configs"),
    (["--print-config", "--check", "-c", "c.yaml"], "not allowed with"), (["--diff", "a.yaml"], "expected 2 arguments or more"),
    (["--check"], "nothing to do"), (["--check", "-c", "c.yaml", "--distributed"], "in one process"),
    (["--check", "-c", "c.yaml", "--out", "x"], "make no run"),
])
def test_options_that_do_not_go_together_are_refused(capsys, arguments, said):
    with pytest.raises(SystemExit) as error:
        train_arguments(arguments)
    assert error.value.code == 2 and said in capsys.readouterr().err
