"""More mistakes, of those who come from other programs or paste from pages; and what is near and healthy."""
import json
import re

import pytest
import torch

from base import SCHEDULERS
from conftest import PROJECT, needs, score, train
from test_mistakes import GOOD, MODEL, OPTIMIZER, SCHEDULER, refused
from utils.config.signature import Signature
from utils.errors import ConfigError

TWO = "optimizer: {a: {type: Adam, match: '*.weight'}, b: Adam}\n"
NORMALIZE = "[{type: Normalize, args: {mean: [0.3], std: [0.4]}}]"
# What of GOOD is written how instead; in which line, under which key, and with which words that is found.
MISTAKES = [
    # syntax, and signs that look like a space
    ("lr: 0.01", "lr:\u00a00.01", 21, "", "this sign (U+00A0) only looks like a space"),
    ("    lr: 0.01", "\u00a0\u00a0\u00a0\u00a0lr: 0.01", 21, "", "Type a space in its place"),
    ("type: MLP", "type: MLP\u00a0", 12, "", "this sign (U+00A0) only looks like a space"),
    ("batch_size: 30", "batch_size: 30\u200b", 8, "", "(U+200B)"),
    ("metrics: [accuracy]", "metrics: [accuracy,\u00a0top_k_accuracy]", 17, "", "(U+00A0)"),
    ("name: good", "name: good\n---", 2, "", "expected a single document"),
    ("name: good", "- name: good", 2, "", "a line is not indented like its neighbours"),
    ("seed: 1", "seed: 1\n  more: 2", 3, "", "further than the one above"),
    ("seed: 1", "seed: @x", 2, "", "Text that begins with such a sign stands in quotes"),
    ("name: good", "name: *good", 1, "", "stands in quotes"),
    ("metrics: [accuracy]", "metrics: [accuracy}", 17, "", "a quote is missing or one too many"),
    ("metrics: [accuracy]", "metrics:\n- accuracy\n - top_k_accuracy", 18, "metrics.0.type",
     "Write 'top_k_accuracy' alone"),
    ("lr: 0.01", "lr: ${{seed}}", 21, "optimizer.args.lr", "for the signs write $${"),
    ("lr: 0.01", "lr: ${oc.env:LR}", 21, "optimizer.args.lr", "A variable of the environment is ${env:NAME}"),
    # values
    ("lr: 0.01", "lr: 0.01,", 21, "optimizer.args.lr", "Did you mean 0.01?"),
    ("seed: 1", "seed: 1;", 2, "seed", "Did you mean 1?"),
    ("lr: 0.01", "lr: [0.01]", 21, "optimizer.args.lr", "Did you mean 0.01?"),
    ("lr: 0.01", "lr: .inf", 21, "optimizer.args.lr", "inf is no finite number"),
    ("lr: 0.01", "lr: 0.01\n    weight_decay: .inf", 22, "optimizer.args.weight_decay", "no finite number"),
    (OPTIMIZER, "optimizer: {type: SGD, args: {lr: .nan}}\n", 18, "optimizer.args.lr",
     "nan is no finite number"),
    ("betas: [0.9, 0.999]", "betas: {0.9, 0.999}", 22, "optimizer.args.betas", "Did you mean [0.9, 0.999]?"),
    ("betas: [0.9, 0.999]", "betas: [0.9, 1.5]", 22, "optimizer.args.betas",
     "item 1: 1.5 is too large; it must be below 1"),
    ("betas: [0.9, 0.999]", "betas: [0,9, 0,999]", 22, "optimizer.args.betas",
     "it has 4 items; 2 are needed"),
    ("name: good", "name: " + "x" * 300, 1, "name", "200 characters are the most"),
    ("type: Adam\n", "type: 5\n", 19, "optimizer.type",
     "5 is a whole number; a name is needed. There are: "),
    ("type: MLP", "type: [MLP]", 12, "model.type", "['MLP'] is a list; a name is needed"),
    ("metrics: [accuracy]", "metrics: [{type: 5}]", 17, "metrics.0.type", "a name is needed"),
    ("metrics: [accuracy]", "metrics: [null]", 17, "metrics.0",
     "a metric is NAME or {type: NAME, args: {...}}, not null"),
    ("metrics: [accuracy]", "metrics: {accuracy}", 17, "metrics", "Did you mean [accuracy]?"),
    (NORMALIZE, NORMALIZE[1:-1], 6, "transforms.batch", f"Did you mean {NORMALIZE}?"),
    ("mean: [0.3]", "mean: [.nan]", 6, "transforms.batch.0.args.mean", "item 0: nan is no finite number"),
    ("metrics: [accuracy]", "metrics: [{type: top_k_accuracy, args: {k: 0}}]", 17, "metrics.0.args.k",
     "at least 1"),
    ("loss: CrossEntropyLoss", "loss: none", 16, "loss", "'none' is text. For no loss write null"),
    ("loss: CrossEntropyLoss", f"loss: {{type: CrossEntropyLoss, args: {{weight: {[0] * 10}}}}}", 16,
     "loss.args.weight",
     "finite numbers, and not all 0"),
    ("loss: CrossEntropyLoss", f"loss: {{type: CrossEntropyLoss, args: {{weight: [.nan{', 1' * 9}]}}}}", 16,
     "loss.args.weight",
     "finite numbers"),
    ("loss: CrossEntropyLoss", "loss: {type: CrossEntropyLoss, args: {label_smoothing: 2}}", 16,
     "loss.args.label_smoothing",
     "2 is above 1"),
    ("loss: CrossEntropyLoss", "loss: {a: {type: CrossEntropyLoss, scale: .inf}, b: L1Loss}", 16,
     "loss.a.scale",
     "no finite number"),
    # schedules
    ("{step_size: 1}", "{step_size: 1, gamma: -0.5}", 25, "scheduler.args.gamma", "at least 0"),
    ("{step_size: 1}", "{step_size: 1, gamma: .nan}", 25, "scheduler.args.gamma", "no finite number"),
    ("{step_size: 1}", "{step_size: -1}", 25, "scheduler.args.step_size", "at least 1"),
    (SCHEDULER, "scheduler: {type: CosineAnnealingLR, args: {T_max: 0}}\n", 23, "scheduler.args.T_max",
     "at least 1"),
    (SCHEDULER, "scheduler: {type: CosineAnnealingLR, args: {t_max: 9}}\n", 23, "scheduler.args.t_max",
     "Did you mean 'T_max'?"),
    (SCHEDULER, "scheduler: {type: CosineAnnealingLR, args: {eta_min: -1}}\n", 23, "scheduler.args.eta_min",
     "at least 0"),
    (SCHEDULER, "scheduler: {type: MultiStepLR, args: {milestones: 30}}\n", 23, "scheduler.args.milestones",
     "Did you mean [30]?"),
    (SCHEDULER, "scheduler: {type: MultiStepLR, args: {milestones: '30, 60'}}\n", 23,
     "scheduler.args.milestones",
     "Did you mean [30, 60]?"),
    (SCHEDULER, "scheduler: {type: MultiStepLR, args: {milestones: [a]}}\n", 23, "scheduler.args.milestones",
     "item 0: 'a' is text"),
    (SCHEDULER, "scheduler: {type: OneCycleLR, args: {max_lr: -0.1}}\n", 23, "scheduler.args.max_lr",
     "at least 0"),
    (SCHEDULER, "scheduler: {type: ReduceLROnPlateau, args: {patience: -1}}\n", 23, "scheduler.args.patience",
     "at least 0"),
    (SCHEDULER, "scheduler: {type: ReduceLROnPlateau, args: {factor: -1}}\n", 23, "scheduler.args.factor",
     "at least 0"),
    (SCHEDULER, "scheduler: {type: LambdaLR, args: {lr_lambda: 'lambda e: 0.9 ** e'}}\n", 23,
     "scheduler.args.lr_lambda",
     "a config holds none. Register a function that builds it, @SCHEDULERS.register"),
    (SCHEDULER, "scheduler: {type: StepLR, interval: step, args: {step_size: 1}}\n", 23, "scheduler.interval",
     "It is called 'per' here"),
    (OPTIMIZER + SCHEDULER, f"{TWO}scheduler: {{type: StepLR, args: {{step_size: 1}}}}\n", 19, "scheduler",
     "there are several optimizers: a, b. Write it under the name of one: scheduler: {a: BLOCK}"),
    (OPTIMIZER + SCHEDULER, f"{TWO}scheduler: [StepLR]\n", 19, "scheduler", "Write it under the name of one"),
    (OPTIMIZER, "optimizer: {type: AdamW, groups: [{match: 'layers.*', lr: -1}]}\n", 18,
     "optimizer.groups.0.lr", "at least 0"),
    (OPTIMIZER, "optimizer: {type: AdamW, groups: {match: 'layers.*', lr: 1}}\n", 18, "optimizer.groups",
     "a list of rules is needed"),
    (OPTIMIZER + SCHEDULER, "optimizer: {a: {type: Adam, match: []}, b: Adam}\n", 18, "optimizer.a",
     "give each optimizer but one a"),
    # data
    ("type: Digits", "type: MNIST\n  args: {root: x, train: true}", 5, "dataset.args.train",
     "the program passes 'train' itself"),
    ("  type: Digits", "  training: Digits\n  validation: Digits", 4, "dataset.training",
     "Did you mean 'train'?"),
    ("  type: Digits", "  type: data/digits.npz", 4, "dataset.type",
     "A path is an argument of what reads it"),
    ("type: Digits", "type: Digits\n  args: {transform: ToTensor}", 5, "dataset.args.transform",
     "It is called 'transforms' here"),
    ("batch: [{", "train: [{type: Lambda, args: {lambd: 'lambda x: x'}}]\n  batch: [{", 6,
     "transforms.train.0.args.lambd",
     "Register it as a plug-in, under @TRANSFORMS.register"),
    ("batch_size: 30", "batch_size: 30\n  num_workers: 1\n  timeout: 0.000001", 10, "data_loader.timeout",
     "Set it to 60, or more"),
    ("batch_size: 30", "batch_size: 30\n  workers: 3", 9, "data_loader.workers",
     "Did you mean 'num_workers'?"),
    ("batch_size: 30", "batch_size: 30\n  val_batch_size: 3", 9, "data_loader.val_batch_size",
     "Did you mean 'eval_batch_size'?"),
    ("validation_split: 0.1", "folds: 2000", 9, "data_loader.folds", "2000 folds of 1437 samples"),
    ("validation_split: 0.1",
     f"validation_split: 0.1\n  sampler: {{type: Weighted, args: {{class_weights: {[0] * 10}}}}}", 10,
     "data_loader.sampler", "not all 0"),
    # names of other programs
    ("epochs: 1", "epochs: 1\n    amp: true", 30, "trainer.args.amp",
     "Write it as trainer.args.precision: bf16, or fp16"),
    ("writers: []", "fp16: true", 31, "fp16", "Write it as trainer.args.precision"),
    ("epochs: 1", "epochs: 1\n    grad_clip: 1", 30, "trainer.args.grad_clip",
     "Write it as trainer.args.clip_norm"),
    ("writers: []", "limit_train_batches: 1", 31, "limit_train_batches",
     "Write it as data_loader.batches_per_epoch"),
    ("writers: []", "val_check_interval: 1", 31, "val_check_interval", "trainer.args.eval_every"),
    ("writers: []", "fast_dev_run: true", 31, "fast_dev_run", "--check, or --steps N"),
    ("writers: []", "deterministic: true", 31, "deterministic", "All randomness follows from 'seed'"),
    ("writers: []", "overfit_batches: 1", 31, "overfit_batches", "Write it as data_loader.limit, in samples"),
    ("epochs: 1", "epochs: 1\n    logger: true", 30, "trainer.args.logger",
     "Write it as writers: [TensorBoard]"),
    ("epochs: 1", "epochs: 1\n    precision: bf16-mixed", 30, "trainer.args.precision",
     "Did you mean 'bf16'?"),
    ("epochs: 1", "epochs: 1\n    precision: 16-mixed", 30, "trainer.args.precision",
     "Did you mean 'fp16'?"),
    ("writers: []", "max_grad_norm: 1", 31, "max_grad_norm", "Write it as trainer.args.clip_norm"),
    ("writers: []", "gradient_accumulation_steps: 2", 31, "gradient_accumulation_steps",
     "Write it as trainer.args.accumulate"),
    ("epochs: 1", "max_steps: 5", 29, "trainer.args.max_steps", "The length is trainer.args.epochs"),
    ("writers: []", "warmup: 3", 31, "warmup", "LinearLR, and another one, in a SequentialLR"),
    ("writers: []", "checkpoint: x.pt", 31, "checkpoint", "init: [{from: FILE}]"),
    ("writers: []", "distributed: true", 31, "distributed", "for several GPUs --distributed"),
    ("writers: []", "augmentation: []", 31, "augmentation", "It is called 'transforms' here"),
    ("writers: []", "trainer.args.epochs: 3", 31, "trainer.args.epochs", "Dots are for the command line"),
    ("min val/loss", "none", 30, "trainer.args.monitor", "or null"),
    (MODEL, "model: {type: MLP, args: [64, 10]}\n", 11, "model.args",
     "a table of arguments is needed, not [64, 10]"),
    ("metrics: [accuracy]", "metrics: [MeanSquaredError]", 17, "metrics.0",
     "Given to metrics.0: (float32 [30, 10], int64 [30])"),
]


@pytest.mark.parametrize("written, instead, line, key, said", MISTAKES,
                         ids=lambda value: str(value)[:40].replace("\n", " "))
def test_another_mistake_in_a_file_is_told_there(written, instead, line, key, said, tmp_path, monkeypatch):
    assert GOOD.count(written) >= 1
    if instead.endswith("[MeanSquaredError]"):
        pytest.importorskip("torchmetrics")
    (tmp_path / "c.yaml").write_text(GOOD.replace(written, instead, 1), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    message = refused("-c", "c.yaml", out=tmp_path / "out")
    place = rf"^c\.yaml:{line}\s+{re.escape(key)}: " if key else rf"^c\.yaml:{line}: "
    found = re.search(place, message, re.MULTILINE)
    assert found and said in message[found.end():], message


@pytest.mark.parametrize("overrides, place, said", [
    (["scheduler=None"], "command line  scheduler: ", "'None' is text. For no scheduler write null"),
    (["optimizer.args.lr=1\u00a0"], "command line: ", "(U+00A0) only looks like a space"),
    (["extends=base.yaml"], "command line  extends: ", "It stands in a config file"),
    (["model.args.sizes.7=65"], "command line  model.args.sizes: ",
     "the list has 3 items; there is no item 7"),
    (["trainer..epochs=3"], "command line: ", "Overrides look like optimizer.args.lr=0.01"),
    (["transforms.train.0.type=RandomCrop"], "command line  transforms.train: ",
     "a list of transforms is needed"),
    (["--run-name", ""], "--run-name: ", "letters, digits"),
    (["--init-from", "c.yaml"], "c.yaml: ", "or is no file of torch.save"),
    (["--init-from", "hello.pt"], "hello.pt: ", "is damaged, or no file of weights"),
    (["-c", "hello.pt"], "hello.pt: ", "A checkpoint goes with -r"),
    (["-c", "c.yam"], "c.yam: cannot be read: ", "Did you mean 'c.yaml'? Configs in .: c.yaml."),
])
def test_another_mistake_on_the_command_line_is_told_there(overrides, place, said, tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text(GOOD)
    (tmp_path / "hello.pt").write_bytes(b"hello\xff" if overrides[0] == "-c" else b"hello")
    monkeypatch.chdir(tmp_path)
    message = refused("-c", "c.yaml", *overrides, out=tmp_path / "out")
    assert any(line.startswith(place) and said in line for line in message.splitlines()), message


# -- what is near a mistake, and healthy


@SCHEDULERS.register
def rate_of_mine(optimizer, gamma: float = 0.5, step_size: int = 1):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda number: 0.9 ** number)


LINEAR = "{type: Linear, args: {in_features: 64, out_features: 10}}"
HEALTHY = f"""\
name: near
dataset: {{type: Digits}}
transforms: {{train: []}}
data_loader:
  {{batch_size: 30, validation_split: 0.1, batches_per_epoch: 1, num_workers: 1, timeout: 60}}
model: {{type: Sequential, args: {{layers: [Flatten, {LINEAR}]}}}}
loss:  # a\u00a0b:\u00a0c
  {{type: CrossEntropyLoss, args: {{weight: [0, 1, 1, 1, 1, 1, 1, 1, 1, 5], label_smoothing: 1.0}}}}
metrics: [{{type: top_k_accuracy, args: {{k: 1}}}}]
optimizer:
  a: {{type: SGD, args: {{lr: 0, weight_decay: 0}}, match: '*.weight'}}
  b: {{type: Adam, args: {{betas: [0.0, 0.9]}}}}
scheduler:
  a: {{type: rate_of_mine, args: {{gamma: -1, step_size: 0}}}}
  b: {{type: StepLR, args: {{step_size: 1, gamma: 0}}}}
trainer: {{args: {{epochs: 1, monitor: min  val/loss, log_images_every: 0}}}}
writers: []
"""


def test_what_is_near_these_mistakes_trains(tmp_path):
    """Values on the borders, a library's names in plug-ins, odd signs in comments."""
    (tmp_path / "c.yaml").write_text(HEALTHY, encoding="utf-8")
    assert train("-c", tmp_path / "c.yaml", out=tmp_path / "out").is_dir()


@pytest.mark.parametrize("kind, arguments", [
    ("MultiStepLR", {"milestones": [1, 5], "gamma": 2.0}), ("StepLR", {"step_size": 1, "gamma": 0}),
    ("CosineAnnealingLR", {"T_max": 1, "eta_min": 0}),
    ("OneCycleLR", {"max_lr": [0.1, 0.2], "total_steps": 5}),
    ("CyclicLR", {"base_lr": 0, "max_lr": 0.1}),
    ("ReduceLROnPlateau", {"patience": 0, "factor": 0, "min_lr": [0.0]}),
    ("LinearLR", {"total_iters": 0}),
])
def test_the_ranges_of_library_arguments_hold_their_borders(kind, arguments):
    assert Signature(getattr(torch.optim.lr_scheduler, kind), ["optimizer"]).faults(arguments) == []


@pytest.mark.parametrize("overrides, said", [
    (["trainer.args.epochs=2", "--epochs", "1"],
     "command line  trainer.args.epochs: given 2 times. The last one counts."),
    (["data_loader.prefetch_factor=2", "data_loader.persistent_workers=true"],
     "data_loader: prefetch_factor, persistent_workers: no effect, as num_workers is 0"),
])
def test_what_has_no_effect_and_does_no_harm_is_a_warning(overrides, said, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(GOOD)
    train("-c", tmp_path / "c.yaml", *overrides, out=tmp_path / "out")
    assert said in capsys.readouterr().err
    train("-c", tmp_path / "c.yaml", "trainer.args.epochs=1", "optimizer.args.lr=0.1", out=tmp_path / "out")
    assert not capsys.readouterr().err


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    (out / "c.yaml").write_text(GOOD)
    return train("-c", out / "c.yaml", out=out / "saved")


@pytest.mark.parametrize("arguments, said", [
    (["--split", "tst"], "--split tst: the dataset has no such split. Did you mean 'test'?"),
    (["--device", "gpu"], "--device: there is no device 'gpu'. Choose cpu, cuda, cuda:N or mps."),
    (["metrics=[acc]"], "command line  metrics.0.type: no metric 'acc'. Did you mean 'accuracy'?"),
    (["data_loader.batch_size=0"],
     "command line  data_loader.batch_size: 0 is too small; it must be at least 1"),
    (["sed=3"], "command line  sed: there is no such section. Did you mean 'seed'?"),
])
def test_a_mistake_for_test_py_is_told_there(arguments, said, a_run):
    with pytest.raises(ConfigError, match=re.escape(said)):
        score("-r", a_run, *arguments)


@pytest.mark.parametrize("arguments, said", [
    (["seed=7"],
     "command line  seed: was 1 when the run began, and cannot become 7: a run under way keeps its seed."),
    (["optimizer.groups=[{match: '*.bias', frozen: true}]"],
     "optimizer.groups.0.frozen: was not set when the run began, and cannot become true"),
    (["~optimizer.args.lr"], "optimizer.args.lr: was 0.01 when the run began, and cannot be left out"),
    (["trainer.args.epochs=x"], "command line  trainer.args.epochs: 'x' is text"),
    (["~scheduler.args.gama"], "nothing inherited to delete"),
])
def test_a_mistake_in_a_resume_is_told_there(arguments, said, a_run, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(said)):
        train("-r", a_run, *arguments, out=tmp_path / "out")
    assert json.loads((a_run / "summary.json").read_text())


@pytest.mark.parametrize("arguments, said", [
    (["model", "3x"], "'3x' cannot be the name of a model"),
    (["config", "x/y"], "'x/y' cannot be the name of a config"),
    (["project", "."], "is there already, and not an empty folder"),
    (["modl", "X"], "invalid choice: 'modl'"),
])
def test_a_mistake_for_new_py_ends_with_code_2(arguments, said, monkeypatch, capsys):
    needs("new.py")
    from new import main
    monkeypatch.setattr("sys.argv", ["new.py", *arguments])
    monkeypatch.chdir(PROJECT)
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2 and said in capsys.readouterr().err
