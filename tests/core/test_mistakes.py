"""Mistakes as beginners make them: each ends before training, in one message with the place, the key and the mend."""
import re
import shutil

import pytest

from conftest import PROJECT, needs, program, train
from utils.errors import ConfigError

GOOD = """\
name: good
seed: 1
dataset:
  type: Digits
transforms:
  batch: [{type: Normalize, args: {mean: [0.3], std: [0.4]}}]
data_loader:
  batch_size: 30
  validation_split: 0.1
  batches_per_epoch: 2
model:
  type: MLP
  args:
    sizes: [64, 16, 10]
    dropout: 0.1
loss: CrossEntropyLoss
metrics: [accuracy]
optimizer:
  type: Adam
  args:
    lr: 0.01
    betas: [0.9, 0.999]
scheduler:
  type: StepLR
  args: {step_size: 1}
trainer:
  type: Trainer
  args:
    epochs: 1
    monitor: min val/loss
writers: []
"""
MODEL = GOOD[GOOD.index("model:"):GOOD.index("loss:")]
OPTIMIZER = GOOD[GOOD.index("optimizer:"):GOOD.index("scheduler:")]
SCHEDULER = GOOD[GOOD.index("scheduler:"):GOOD.index("trainer:")]
# What of GOOD is written how instead; in which line, under which key, and with which words that is found.
MISTAKES = [
    # a type that is the culprit of all faults below it
    ("  type: Adam\n  args:\n    lr: 0.01\n", "  type: SGD\n  args:\n    eps: 1\n", 19, "optimizer.type",
     "SGD takes none of the arguments that are given: eps, betas. Is it the type that is meant?"),
    # metrics that do not fit the data
    ("[accuracy]", "[accuracy, {type: AUROC, args: {task: binary}}]", 17, "metrics.1",
     "AUROC: One batch of training was tried before the run, and failed: IndexError"),
    ("[accuracy]", "[accuracy, MeanSquaredError]", 17, "metrics.1", "Given to metrics.1: (float32 [30, 10], int64 [30])"),
    ("[accuracy]", "[accuracy, {type: MetricCollection, name: s, args: {metrics: [R2Score]}}]", 17, "metrics.1", "same shape"),
    ("[accuracy]", "[absolute_error]", 17, "metrics.0", "absolute_error: One batch of training was tried"),
    # first weights
    ("loss: Cross", "init: {from: w.pt}\nloss: Cross", 16, "init", "a list or null is needed"),
    ("loss: Cross", "init: [w.pt]\nloss: Cross", 16, "init.0", "'from' is missing"),
    ("loss: Cross", "init: [{from: w.pt, skp: [a]}]\nloss: Cross", 16, "init.0.skp", "Did you mean 'skip'?"),
    ("loss: Cross", "init: [{from: w.pt, skip: a}]\nloss: Cross", 16, "init.0.skip", "a list is needed. Did you mean [a]?"),
    ("loss: Cross", "init: [{from: w.pt, rename: {a: 1}}]\nloss: Cross", 16, "init.0.rename", "1 is a whole number"),
    ("loss: Cross", "init: [{from: nowhere.pt}]\nloss: Cross", 16, "init.0", "there is no such file or folder"),
    # several losses
    ("loss: Cross", "loss: {a: {type: MSELoss, scale: x}, b: L1Loss}\n#", 16, "loss.a.scale", "'x' is text; a number is needed"),
    ("loss: CrossEntropyLoss", "loss: {a: MSELos, b: L1Loss}", 16, "loss.a.type", "Did you mean 'MSELoss'?"),
    ("loss: CrossEntropyLoss", "loss: {type: L1Loss, scale: 2}", 16, "loss.scale", "there is no key 'scale'"),
    ("loss: CrossEntropyLoss", "loss: {loss: L1Loss, b: L1Loss}", 16, "loss.loss", "'loss' cannot name a loss"),
    ("loss: CrossEntropyLoss", "loss: {accuracy: L1Loss, b: L1Loss}", 16, "loss.accuracy", "what other values are called"),
    # phases
    ("type: Adam\n", "type: Adam\n  groups: [{match: '*', frozen: {until: 3}}]\n", 20, "optimizer.groups.0.frozen",
     "true, false or {until_epoch: 3} is needed"),
    ("type: Adam\n", "type: Adam\n  groups: [{match: '*', frozen: {until_epoch: 0}}]\n", 20,
     "optimizer.groups.0.frozen.until_epoch", "at least 1"),
    ("type: Adam\n", "type: Adam\n  groups: [{match: '*', frozen: {until_epoch: 3}}]\n", 18, "optimizer",
     "there are no parameters to train in the first epoch"),
    # a step that fails
    ("type: Adam\n", "type: SparseAdam\n", 18, "optimizer", "SparseAdam is for layers with sparse: true; Adam steps the others"),
    # several optimizers
    ("type: Adam\n", "type: Adam\n  match: '*'\n", 20, "optimizer.match", "is for one of several"),
    (OPTIMIZER + SCHEDULER, "optimizer: {a: {type: Adam, match: 'layers.1.*'}, b: Adam, c: Adam}\n", 18, "optimizer.c",
     "only one takes the rest"),
    (OPTIMIZER + SCHEDULER, "optimizer: {a: {type: Adam, match: 3}, b: Adam}\n", 18, "optimizer.a.match", "3 is a whole number"),
    (OPTIMIZER + SCHEDULER, "optimizer: {a: {type: Adam, match: 'layers.1.*'}, b: {type: SGD, match: ['*.weight']}}\n", 18,
     "optimizer",
     "the parameter layers.1.weight is matched by a and b; one of them steps it"),
    (OPTIMIZER + SCHEDULER, "optimizer: {a: {type: Adam, match: 'layers.1.*'}}\n", 18, "optimizer", "is matched by no optimizer"),
    (OPTIMIZER + SCHEDULER, "optimizer: {a: {type: Adam, match: 'lyers.*'}, b: SGD}\n", 18, "optimizer.a",
     "it matches no parameter"),
    # numbers, switches, nothing, lists, text
    ("lr: 0.01", "lr: 1e-3f", 21, "optimizer.args.lr", "'1e-3f' is text; a number is needed. Did you mean 0.001?"),
    ("lr: 0.01", "lr: 0,01", 21, "optimizer.args.lr", "Did you mean 0.01?"),
    ("lr: 0.01", "lr: '0.01'", 21, "optimizer.args.lr", "Did you mean 0.01?"),
    ("lr: 0.01", "lr: fast", 21, "optimizer.args.lr", "'fast' is text; a number is needed"),
    ("lr: 0.01", "lr:", 21, "optimizer.args.lr", "Nothing stands after the colon"),
    ("lr: 0.01", "lr: -0.01", 21, "optimizer.args.lr", "-0.01 is too small; it must be at least 0"),
    ("lr: 0.01", "lr: .nan", 21, "optimizer.args.lr", "nan is no finite number"),
    ("lr: 0.01", "lr: 0.01\n    weight_decay: -1", 22, "optimizer.args.weight_decay", "at least 0"),
    ("lr: 0.01", "lr: 0.01\n    amsgrad: 'True'", 22, "optimizer.args.amsgrad", "Did you mean true?"),
    ("lr: 0.01", "lr: 0.01\n    amsgrad: 1", 22, "optimizer.args.amsgrad", "Did you mean true?"),
    ("epochs: 1", "epochs: '10'", 29, "trainer.args.epochs", "Did you mean 10?"),
    ("epochs: 1", "epochs: 10.0", 29, "trainer.args.epochs", "Did you mean 10?"),
    ("epochs: 1", "epochs: 1,000", 29, "trainer.args.epochs", "Did you mean 1000?"),
    ("epochs: 1", "epochs: ten", 29, "trainer.args.epochs", "'ten' is text; a whole number is needed"),
    ("epochs: 1", "epochs: 0", 29, "trainer.args.epochs", "at least 1"),
    ("epochs: 1", "epochs: 1\n    early_stop: None", 30, "trainer.args.early_stop", "Did you mean null?"),
    ("epochs: 1", "epochs: 1\n    early_stop: off", 30, "trainer.args.early_stop",
     "YAML reads off as false. For nothing write null"),
    ("epochs: 1", "epochs: 1\n    precision: 16", 30, "trainer.args.precision", "Did you mean 'fp16'?"),
    ("epochs: 1", "epochs: 1\n    precision: half", 30, "trainer.args.precision", "one of 'fp32', 'bf16', 'fp16' is needed"),
    ("epochs: 1", "epochs: 1\n    accumulate: 9223372036854775808", 30, "trainer.args.accumulate", "is too large"),
    ("epochs: 1", "epochs: 1\n    strategy: {type: ddp, args: 5}", 30, "trainer.args.strategy", "a table of arguments"),
    ("epochs: 1", "epochs: 1\n    strategy: {type: {}}", 30, "trainer.args.strategy", "There are: ddp, fsdp"),
    ("epochs: 1", "epochs: 1\n    max_time: 1h", 30, "trainer.args.max_time", "h:mm:ss"),
    ("epochs: 1", "epochs: 1\n    keep_last: 3", 30, "trainer.args.keep_last", "no effect without save_every"),
    ("name: good", "name: 123", 1, "name", "123 is a whole number; text is needed. Did you mean '123'?"),
    ("name: good", "name: my run", 1, "name", "letters, digits"),
    ("seed: 1", "seed: None", 2, "seed", "'None' is text; a whole number is needed"),
    ("seed: 1", "seed: 1e3", 2, "seed", "Did you mean 1000?"),
    ("betas: [0.9, 0.999]", "betas: 0.9, 0.999", 22, "optimizer.args.betas", "a list is needed. Did you mean [0.9, 0.999]?"),
    ("betas: [0.9, 0.999]", "betas: (0.9, 0.999)", 22, "optimizer.args.betas", "Did you mean [0.9, 0.999]?"),
    ("betas: [0.9, 0.999]", "betas: [0.9]", 22, "optimizer.args.betas", "it has 1 items; 2 are needed"),
    ("betas: [0.9, 0.999]", "betas: [0.9, '0.999']", 22, "optimizer.args.betas", "item 1: '0.999' is text"),
    ("sizes: [64, 16, 10]", "sizes: 64 10", 14, "model.args.sizes", "a list is needed. Did you mean [64, 10]?"),
    ("sizes: [64, 16, 10]", "sizes: [64 10]", 14, "model.args.sizes", "item 0: '64 10' is text"),
    ("sizes: [64, 16, 10]", "sizes: [64, 16.5, 10]", 14, "model.args.sizes",
     "item 1: 16.5 is a number; a whole number is needed"),
    ("sizes: [64, 16, 10]", "sizes: [64]", 14, "model.args.sizes", "input and output are needed"),
    ("sizes: [64, 16, 10]", "sizes: [64, 16, 10", 15, "", "from line 14 on"),
    ("dropout: 0.1", "dropout: 10%", 15, "model.args.dropout", "Did you mean 0.1?"),
    ("mean: [0.3]", "mean: 0.3", 6, "transforms.batch.0.args.mean", "Did you mean [0.3]?"),
    ("metrics: [accuracy]", "metrics: accuracy", 17, "metrics",
     "a list of metrics is needed; this is accuracy. Did you mean [accuracy]?"),
    ("batch_size: 30", "batch_size: 30\n  shuffle: 'yes'", 9, "data_loader.shuffle", "Did you mean true?"),
    ("batch_size: 30", "batch_size: 30\n  num_workers: -1", 9, "data_loader.num_workers", "at least 0"),
    ("batch_size: 30", "batch_size: 30\n  num_workers: 1000000", 9, "data_loader.num_workers", "must be below 1000"),
    ("batch_size: 30", "batch_size: 30\n  sampler: WeightedRandomSampler", 9, "data_loader.sampler.type", "Write {type: Weighted"),
    ("batch_size: 30", "batch_size: 30\n  sampler: {type: DistributedSampler}", 9, "data_loader.sampler.type",
     "processes share every batch"),
    ("batch_size: 30", "batch_size: 30\n  sampler: Balance", 9, "data_loader.sampler.type", "Did you mean 'Balanced'?"),
    ("batch_size: 30", "batch_size: 30\n  sampler: {type: Balanced, args: {num_sample: 3}}", 9,
     "data_loader.sampler.args.num_sample", "Did you mean 'num_samples'?"),
    ("batch_size: 30", "batch_size: 30\n  sampler: Weighted", 9, "data_loader.sampler", "class_weights is needed"),
    ("batch_size: 30", "batch_size: 30\n  sampler: {type: Weighted, args: {class_weights: [1, 2]}}", 9,
     "data_loader.sampler", "2 weights for 10 classes"),
    ("batch_size: 30", "batch_size: 30\n  sampler: GroupedByLength", 9, "data_loader.sampler", "does not tell its lengths"),
    ("batch_size: 30", "sampler: Balanced\n  shuffle: false", 9, "data_loader.shuffle", "has no effect beside a sampler"),
    ("batch_size: 30", "folds: 5", 9, "data_loader.validation_split", "Leave one of validation_split and folds out"),
    ("validation_split: 0.1", "folds: 5\n  fold: 5", 10, "data_loader.fold", "5 is none of 5 folds, which are 0 to 4"),
    ("validation_split: 0.1", "folds: 1", 9, "data_loader.folds", "at least 2"),
    ("validation_split: 0.1", "stratify: true", 9, "data_loader.stratify", "no effect without folds"),
    ("validation_split: 0.1", "fold: 3", 9, "data_loader.fold", "no effect without folds"),
    ("validation_split: 0.1", "folds: 5\n  group_by: patients", 10, "data_loader.group_by", "Digits does not tell its patients"),
    ("  batch: [{type", "  joint: 1\n  batch: [{type", 6, "transforms.joint", "Did you mean true?"),
    # names
    ("type: Adam", "type: torch.optim.Adam", 19, "optimizer.type", "Write 'Adam' alone"),
    (OPTIMIZER, "optimizer: Adam lr=0.1\n", 18, "optimizer.type", "Write 'Adam' alone; arguments go under args"),
    (OPTIMIZER, "optimizer: Adam(lr=0.1)\n", 18, "optimizer.type", "Write 'Adam' alone; arguments go under args"),
    ("type: MLP", "type: model.mlp.MLP", 12, "model.type", "Write 'MLP' alone"),
    ("type: MLP", "type: LeNt", 12, "model.type", "no model 'LeNt'. Did you mean 'LeNet'?"),
    ("loss: CrossEntropyLoss", "loss: cross_entropy", 16, "loss.type", "Did you mean 'CrossEntropyLoss'?"),
    ("loss: CrossEntropyLoss", "loss: nll_loss", 16, "loss.type", "Did you mean 'NLLLoss'?"),
    ("metrics: [accuracy]", "metrics: [acc]", 17, "metrics.0.type", "Did you mean 'accuracy'?"),
    ("metrics: [accuracy]", "metrics: [loss]", 17, "metrics.0", "the loss is measured anyway"),
    (SCHEDULER, "scheduler: cosine\n", 23, "scheduler.type", "Did you mean 'CosineAnnealingLR'?"),
    (SCHEDULER, "scheduler: none\n", 23, "scheduler", "For no scheduler write null"),
    ("writers: []", "writers: [tensorboard]", 31, "writers.0.type", "Did you mean 'TensorBoard'?"),
    # blocks
    (MODEL, "model: {LeNet: {num_classes: 10}}\n", 11, "model.LeNet", "Write {type: LeNet, args: {...}}"),
    (MODEL, "model:\n  type: MLP\n  sizes: [64, 10]\n", 13, "model.sizes", "Write it under args"),
    (MODEL, "model:\n  _target_: model.mlp.MLP\n  sizes: [64, 10]\n", 12, "model._target_", "type: MLP"),
    (MODEL, "model:\n  class_path: MLP\n  init_args: {}\n", 12, "model.class_path", "'type' is missing"),
    (MODEL, "model: MLP\n", 11, "model.args", "MLP needs 'sizes'"),
    ("  args:\n    sizes", "  params:\n    sizes", 13, "model.params", "Did you mean 'args'?"),
    ("type: Adam", "type: Adam\n  lr: 0.1", 20, "optimizer.lr", "Write it under args: args: {lr: ...}"),
    ("lr: 0.01", "learning_rate: 0.01", 21, "optimizer.args.learning_rate",
     "Adam has no argument 'learning_rate'. Did you mean 'lr'?"),
    ("  type: Trainer\n  args:\n    epochs: 1\n    monitor: min val/loss", "  epochs: 1", 27, "trainer.epochs",
     "Write it under args"),
    ("epochs: 1", "max_epochs: 1", 29, "trainer.args.max_epochs", "Did you mean 'epochs'?"),
    ("epochs: 1", "epochs: 1\n    patience: 3", 30, "trainer.args.patience", "Write it as trainer.args.early_stop"),
    ("epochs: 1", "epochs: 1\n    save_dir: out", 30, "trainer.args.save_dir", "--out DIR"),
    ("epochs: 1", "epochs: 1\n    batch_size: 3", 30, "trainer.args.batch_size", "Write it as data_loader.batch_size"),
    ("type: Digits", "type: Digits\n  args: {batch_size: 3}", 5, "dataset.args.batch_size",
     "Write it as data_loader.batch_size"),
    ("type: Digits", "type: Digits\n  args: {split: train}", 5, "dataset.args.split",
     "the program passes 'split' itself"),
    ("batch_size: 30", "batch_size: 30\n  limit: 0", 9, "data_loader.limit", "at least 1"),
    ("batch_size: 30", "batch_size: 30\n  drop_last: true\n  limit: 20", 8, "data_loader.batch_size", "30 is more than the 20 samples"),
    ("  type: Digits", "  train: Digits\n  vall: Digits", 5, "dataset.vall", "there is no split 'vall'. Did you mean 'val'?"),
    ("  type: Digits", "  val: Digits", 3, "dataset.train", "is missing: what to train on"),
    ("  type: Digits", "  train: Digits\n  val: Digits", 10, "data_loader.validation_split", "and dataset.val is there"),
    ("  type: Digits", "  train: Digits\n  args: {root: data}", 5, "dataset.args",
     "train have arguments of their own. Write dataset.train.args."),
    ("  type: Digits", "  train: Digits\n  val: {a: Digits, args: {root: data}}", 5, "dataset.val.args",
     "a have arguments of their own. Write dataset.val.a.args."),
    ("  type: Digits", "  train: Digits\n  test: {a/b: Digits}", 5, "dataset.test.a/b", "'a/b' is no name for a set"),
    ("  type: Digits", "  train: Digits\n  test: {one: Digit}", 5, "dataset.test.one.type", "Did you mean 'Digits'?"),
    ("  type: Digits", "  train: {a: Digits, b: Digits}", 4, "dataset.train", "'type' is missing: the name of a dataset"),
    ("type: Digits", "type: FakeData", 3, "dataset", "Write a block for each split"),
    ("batch_size: 30", "type: DataLoader", 8, "data_loader.type", "options stand under data_loader"),
    ("  batch: [{type", "  test: []\n  batch: [{type", 6, "transforms.test", "eval is for val and test"),
    # sections
    ("model:\n", "arch:\n", 11, "arch", "It is called 'model' here"),
    ("scheduler:\n", "lr_scheduler:\n", 23, "lr_scheduler", "It is called 'scheduler' here"),
    ("loss:", "criterion:", 16, "criterion", "It is called 'loss' here"),
    ("data_loader:\n", "dataloader:\n", 7, "dataloader", "It is called 'data_loader' here"),
    ("writers: []", "train: {}", 31, "train", "One dataset gives all splits"),
    ("writers: []", "val: {}", 31, "val", "validation_split"),
    ("writers: []", "callbacks: []", 31, "callbacks", "early_stop"),
    ("writers: []", "n_gpu: 1", 31, "n_gpu", "--device"),
    ("writers: []", "gpus: 2", 31, "gpus", "--distributed"),
    ("writers: []", "device: cuda", 31, "device", "--device cuda"),
    ("writers: []", "epochs: 3", 31, "epochs", "Write it as trainer.args.epochs"),
    ("writers: []", "lr: 0.1", 31, "lr", "Write it as optimizer.args.lr"),
    ("writers: []", "defaults: [x]", 31, "defaults", "It is called 'extends' here"),
    ("writers: []", "wirters: []", 31, "wirters", "Did you mean 'writers'?"),
    ("loss: CrossEntropyLoss\n", "", 1, "loss", "Trainer needs one, such as CrossEntropyLoss"),
    # the whole
    ("min val/loss", "val_loss", 30, "trainer.args.monitor", "Write 'min val/loss' or 'max val/accuracy'"),
    ("min val/loss", "accuracy", 30, "trainer.args.monitor", "Write 'min val/loss' or 'max val/accuracy'"),
    ("min val/loss", "max val/acuracy", 30, "trainer.args.monitor", "Did you mean 'val/accuracy'?"),
    ("validation_split: 0.1", "validation_split: 10%", 9, "data_loader.validation_split", "Did you mean 0.1?"),
    ("validation_split: 0.1", "validation_split: 1.0", 9, "data_loader.validation_split", "neither a part below 1"),
    ("validation_split: 0.1", "validation_split: 0.99999", 9, "data_loader.validation_split", "leaves 0 for training"),
    ("validation_split: 0.1", "validation_split: 2000", 9, "data_loader.validation_split", "a number below 1437"),
    ("  validation_split: 0.1\n", "", 3, "dataset", "set data_loader.validation_split: 0.1"),
    ("validation_split: 0.1", "validation_split: 0", 30, "trainer.args.monitor", "There is no validation"),
    ("batch_size: 30", "batch_size: 5000\n  drop_last: true", 8, "data_loader.batch_size", "more than the 1293 samples"),
    ("batch_size: 30", "batch_size: 1000000000000\n  drop_last: true", 8, "data_loader.batch_size",
     "Set it to 1293 at most, or drop_last to false"),
    ("batch_size: 30", "batch_size: 30\n  on_bad_sample: ignore", 9, "data_loader.on_bad_sample",
     "one of 'error', 'skip' is needed"),
    ("type: Digits", "type: MNIST\n  args: {root: nowhere, download: false}", 5, "dataset.args.download", "nowhere/MNIST/raw"),
    ("type: Digits", "type: ImageFolder\n  args: {root: nowhere}", 5, "dataset.args.root",
     "Images lie in a folder for each split"),
    ("type: Digits", "type: ArrayFiles\n  args: {root: nowhere}", 5, "dataset.args.root",
     "there is no nowhere/train_inputs.npy"),
    ("sizes: [64, 16, 10]", "sizes: [64, 16, 5]", 11, "model", "the labels are 0 to 9: 10 are needed"),
    ("sizes: [64, 16, 10]", "sizes: [784, 16, 10]", 11, "model", "cannot be multiplied"),
    ("sizes: [64, 16, 10]", "sizes: [64, 1000000000000, 10]", 11, "model", "can't allocate memory"),
    (MODEL, "model: {type: LeNet, args: {num_classes: 5, image_size_px: 8}}\n", 11, "model.args.num_classes", "Set it to 10"),
    ("loss: CrossEntropyLoss", "loss: MSELoss", 16, "loss", "which CrossEntropyLoss takes"),
    ("loss: CrossEntropyLoss", "loss: BCEWithLogitsLoss", 16, "loss", "which CrossEntropyLoss takes"),
    ("loss: CrossEntropyLoss", "loss: GaussianNLLLoss", 16, "loss", "missing 1 required positional argument: 'var'"),
    ("loss: CrossEntropyLoss", "loss: {type: CrossEntropyLoss, args: {reduction: none}}", 16, "loss", "reduction: mean"),
    ("loss: CrossEntropyLoss", "loss: {type: CrossEntropyLoss, args: {weight: [1, a]}}", 16, "loss.args.weight",
     "'a' is no number"),
    ("loss: CrossEntropyLoss", "loss: {type: CrossEntropyLoss, args: {weight: [1, 2]}}", 16, "loss", "all 10 classes"),
    ("metrics: [accuracy]", "metrics: [{type: top_k_accuracy, args: {k: 20}}]", 17, "metrics.0", "k out of range"),
    ("metrics: [accuracy]", "metrics: [absolute_error]", 17, "metrics.0", "must match"),
    ("metrics: [accuracy]", "metrics: [F1Score]", 17, "metrics.0.args", "F1Score needs 'task'"),
    ("{step_size: 1}", "{step_size: 0}", 25, "scheduler.args.step_size", "at least 1"),
    # blocks among arguments
    ("transforms:\n", "transforms:\n  train: [{type: RandomApply, args: {transforms: [{type: RandomAffine}]}}]\n", 6,
     "transforms.train.0.args.transforms.0.args", "RandomAffine needs 'degrees'"),
    (MODEL, "model: {type: Sequential, args: {layers: [{type: Linear, args: {in_features: a, out_features: 3}}]}}\n", 11,
     "model.args.layers.0.args.in_features", "'a' is text; a whole number is needed"),
    # references and deletions
    ("seed: 1", "seed: ${sed}", 2, "seed", "Did you mean 'seed'?"),
    ("seed: 1", "seed: ${env:NOT_SET_ANYWHERE}", 2, "seed", "${env:NOT_SET_ANYWHERE,DEFAULT}"),
    ("seed: 1", "seed: ${seed}", 2, "seed", "refers to itself"),
    ("seed: 1", "seed: ${seed", 2, "seed", "is not closed"),
    ("sizes: [64, 16, 10]", "sizes: [64, '${data:classes}']", 14, "model.args.sizes.1", "Did you mean 'num_classes'?"),
    ("sizes: [64, 16, 10]", "sizes: [64, '${data:class_counts}']", 14, "model.args.sizes", "is a list; a whole number"),
    ("lr: 0.01", "lr: x${data:num_classes}", 21, "optimizer.args.lr", "'x10' is text; a number is needed"),
    ("batch_size: 30", "batch_size: ${data:num_classes}", 8, "data_loader.batch_size", "the train dataset is built later"),
    ("name: good", "name: good${data:num_classes}", 1, "name", "the train dataset is built later"),
    ("name: good", "name: ${model}", 1, "name", "is a table"),
    ("name: good", "name: good\n~foo:", 2, "~foo", "nothing inherited to delete"),
    # files and syntax
    ("seed: 1", "seed: 1\nseed: 2", 3, "seed", "written twice"),
    ("name: good", "extends: missing.yaml\nname: good", 1, "extends", "missing.yaml: cannot be read"),
    ("name: good", "extends: c.yaml\nname: good", 1, "extends", "extends itself, by way of c.yaml -> c.yaml"),
    ("  type: MLP", "\ttype: MLP", 12, "", "indented by spaces, not tabs"),
    ("name: good", "name:good", 1, "", "A key ends in a colon and a space"),
    ("    lr: 0.01", "    lr:0.01", 21, "", "A key ends in a colon and a space"),
    ("seed: 1", "seed = 1", 2, "", "A key ends in a colon and a space"),
    ("    lr: 0.01", "  lr: 0.01", 22, "", "indented further"),
    ("name: good", "name: 'good", 1, "", "A quote was opened and not closed"),
    ("sizes: [64, 16, 10]", "sizes: [64, ${seed}, 10]", 14, "", "stands in quotes"),
    ("  type: MLP", "  type: !MLP", 12, "", "plain values"),
]


def refused(*arguments, out) -> str:
    """The message with which the program refuses its arguments, before it has begun a run."""
    with pytest.raises(ConfigError) as error:
        train(*arguments, out=out)
    assert not out.exists() and "Traceback" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("written, instead, line, key, said", MISTAKES, ids=lambda value: str(value)[:40].replace("\n", " "))
def test_a_mistake_in_a_file_is_told_with_line_key_and_mend(written, instead, line, key, said, tmp_path, monkeypatch):
    assert GOOD.count(written) >= 1
    if "LeN" in instead:
        needs("model/lenet.py")
    (tmp_path / "c.yaml").write_text(GOOD.replace(written, instead, 1))
    monkeypatch.chdir(tmp_path)
    message = refused("-c", "c.yaml", out=tmp_path / "out")
    place = rf"^c\.yaml:{line}\s+{re.escape(key)}: " if key else rf"^c\.yaml:{line}: "
    found = re.search(place, message, re.MULTILINE)
    assert found and said in message[found.end():], message


def test_the_config_that_they_are_made_in_is_a_good_one(tmp_path):
    (tmp_path / "c.yaml").write_text(GOOD)
    assert train("-c", tmp_path / "c.yaml", out=tmp_path / "out").is_dir()


# -- JSON, the command line, paths -------------------------------------------------------------------------------------

JSON = """\
{"name": "good", "dataset": "Digits",
 "model": {"type": "MLP",
  "args": {"sizes": [64, 10]}},
 "optimizer": "Adam"}
"""


@pytest.mark.parametrize("written, instead, line, said", [
    ('"Adam"}', '"Adam",}', 4, "A comma before a closing bracket is one too many"),
    ('"Adam"}', '"Adam"', 5, "The file ends in the middle"),
    ('"Adam"}', '"Adam"}}', 4, "a bracket is one too many"),
    ('"Adam"', "'Adam'", 4, "Text stands in double quotes"),
    ('"Adam"', "None", 4, "JSON writes true, false, null"),
    (' "optimizer"', ' // of the weights\n "optimizer"', 4, "JSON has no comments"),
    (' "optimizer"', " optimizer", 4, "double quotes"),
    ('[64, 10]', '[64, .5]', 3, "A number begins with a digit"),
    ('"Digits",', '"Digits"', 2, "A comma, a colon or a quote is missing"),
    ('"Digits",', '"Digits,', 1, "A quote is not closed on its line"),
])
def test_broken_json_is_told_with_its_line_and_the_mend(written, instead, line, said, tmp_path, monkeypatch):
    (tmp_path / "c.json").write_text(JSON.replace(written, instead))
    monkeypatch.chdir(tmp_path)
    message = refused("-c", "c.json", out=tmp_path / "out")
    assert message.startswith(f"c.json:{line}: ") and said in message and message.splitlines()[-1].strip() == "^"


@pytest.mark.parametrize("name, text, line, key, said", [
    ("c.json", JSON.replace('"sizes"', '"size"'), 3, "model.args.size", "Did you mean 'sizes'?"),
    ("c.json", JSON.replace('"Adam"', '"Adam", "name": "twice"'), 4, "name", "written twice"),
    ("c.yaml", f"{GOOD}extends: base.yaml\n", 2, "optimizer.args.learning_rate", "Did you mean 'lr'?"),
    ("c.yaml", f"{GOOD}extends: c.json\n", 3, "model.args.size", "Did you mean 'sizes'?"),
])
def test_a_mistake_is_told_in_json_and_in_what_is_extended(name, text, line, key, said, tmp_path, monkeypatch):
    (tmp_path / "base.yaml").write_text("optimizer:\n  {type: Adam, args: {learning_rate: 0.1}}\n")
    (tmp_path / "c.json").write_text(JSON.replace('"sizes"', '"size"'))
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    file = re.search(r"extends: (\S+)", text)[1] if "extends" in text else name
    message = refused("-c", name, out=tmp_path / "out")
    assert re.search(rf"^{file}:{line}\s+{key}: .*{re.escape(said)}", message, re.MULTILINE), message


@pytest.mark.parametrize("overrides, place, said", [
    (["trainer.args.epochs=ten"], "command line  trainer.args.epochs: ", "'ten' is text; a whole number is needed"),
    (["trainer.args.epochs=1,000"], "command line  trainer.args.epochs: ", "Did you mean 1000?"),
    (["trainer.epochs=3"], "command line  trainer.epochs: ", "Write it under args"),
    (["optimizer.lr=0.1"], "command line  optimizer.lr: ", "Write it under args"),
    (["lr=0.1"], "command line  lr: ", "Write it as optimizer.args.lr"),
    (["batch_size=3"], "command line  batch_size: ", "Write it as data_loader.batch_size"),
    (["model.type=LeNt"], "command line  model.type: ", "Did you mean 'LeNet'?"),
    (["metrics.3=accuracy"], "command line  metrics: ", "the list has 1 items; there is no item 3"),
    (["metrics=accuracy"], "command line  metrics: ", "Did you mean [accuracy]?"),
    (["model={type: MLP, args: {sizes: [64, 10}}"], "command line: ", "A comma, a bracket or a quote"),
    (["~trainer.args.epoch"], "command line  trainer.args.~epoch: ", "nothing inherited to delete"),
    (["seed=${env:NOT_SET_ANYWHERE}"], "command line  seed: ", "the environment has no NOT_SET_ANYWHERE"),
    (["--lr", "fast"], "command line  optimizer.args.lr: ", "'fast' is text; a number is needed"),
    (["lr"], "command line: ", "Overrides look like optimizer.args.lr=0.01"),
    (["optimizer.args.lr:0.1"], "command line: ", "Overrides look like optimizer.args.lr=0.01"),
    (["--device", "gpu"], "--device: ", "Choose cpu, cuda, cuda:N or mps"),
    (["--run-name", "a/b"], "--run-name: ", "no slashes"),
    (["--init-from", "nowhere"], "nowhere: ", "there is no such file or folder"),
])
def test_a_mistake_on_the_command_line_is_told_there(overrides, place, said, tmp_path, monkeypatch):
    if "LeNet" in said:
        needs("model/lenet.py")
    (tmp_path / "c.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    message = refused("-c", "c.yaml", *overrides, out=tmp_path / "out")
    assert any(line.startswith(place) and said in line for line in message.splitlines()), message


@pytest.mark.parametrize("arguments, said", [
    (["-c", "configs"], ["configs: cannot be read: Is a directory", "digits.yaml"]),
    (["-c", "configs/digit.yaml"], ["configs/digit.yaml: cannot be read: No such file", "Did you mean 'digits.yaml'?"]),
    (["-c", "data_loader/digits.npz"], ["data_loader/digits.npz: is not UTF-8 text"]),
    (["-c", "train.py"], ["train.py:"]),
    (["-r", "saved/nowhere"], ["saved/nowhere: there is no such file or folder"]),
    (["-r", "configs"], ["configs: neither a run, with checkpoints/ in it, nor an experiment"]),
    (["-r", "configs/digits.yaml"], ["configs/digits.yaml"]),
])
def test_a_path_that_leads_nowhere_is_named_with_what_is_there(arguments, said, tmp_path, monkeypatch):
    needs("configs/digits.yaml")
    monkeypatch.chdir(PROJECT)
    message = refused(*arguments, out=tmp_path / "out")
    assert all(part in message for part in said), message


@pytest.mark.parametrize("arguments, said", [
    ([], "nothing to do: give a config"), (["mine.yaml"], "a config is named with -c: -c mine.yaml"),
    (["-c", "c.yaml", "--epoch", "3"], "--epoch"),
    (["-c", "c.yaml", "--steps", "0"], "'0' is no whole number above 0"),
    (["-c", "c.yaml", "--until-epoch", "0"], "'0' is no whole number above 0"),
    (["-c", "c.yaml", "--check", "--until-epoch", "1"], "--until-epoch, --out, --run-name and -r auto do not"),
    (["-c", "c.yaml", "--nproc", "2"], "go with --distributed"),
    (["-r", "saved/x", "--run-name", "new"], "are for new runs"),
])
def test_a_mistake_in_the_options_ends_with_code_2(arguments, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as leaving:
        train(*arguments, out=tmp_path / "out")
    assert leaving.value.code == 2 and said in capsys.readouterr().err


# -- plug-ins, and exit codes ------------------------------------------------------------------------------------------

PLUG_INS = {
    "model/unfinished.py": "from base import MODELS\n\n@MODELS.register\nclass Unfinished(:\n    pass\n",
    "model/needy.py": "import nowhere_to_be_found\n",
    "model/half.py": "from base import MODELS\n\n@MODELS.register\nclass Half:\n    pass\n\n1 / 0\n",
    "model/empty.py": "from base import MODELS\n\n@MODELS.register\nclass Empty:\n    pass\n",
    "model/fails.py": "from torch import nn\nfrom base import MODELS\n\n@MODELS.register\nclass Fails(nn.Module):\n"
                      "    def __init__(self, width: int):\n        super().__init__()\n        raise KeyError('no weights')\n",
    "model/forgotten.py": "from torch import nn\n\nclass Forgotten(nn.Module):\n    pass\n",
    "model/called.py": "from base import LOSSES\n\n@LOSSES.register()\ndef called(outputs, targets):\n    pass\n",
    "model/losses.py": "from base import LOSSES\n\n@LOSSES.register\ndef hits(outputs, targets):\n"
                       "    return (outputs.argmax(1) == targets).float().mean()\n",
    "data_loader/fixed.py": "from torch.utils.data import Dataset\nfrom base import DATASETS\n\n@DATASETS.register\n"
                            "class Fixed(Dataset):\n    pass\n",
}
SEVERAL = """
import sys
from train import main
from utils.cli import train_arguments
from utils.errors import exit_codes
for line in sys.argv[1].splitlines():
    try:
        with exit_codes():
            main(train_arguments(["-q", "-c", "c.yaml", "--out", "out", *line.split("|")]))
    except SystemExit as leaving:
        print(f"exit code {leaving.code}", file=sys.stderr)
"""


def test_mistakes_in_plug_ins_end_with_code_2_and_their_own_line(tmp_path):
    for folder in ("base", "model", "data_loader", "trainer", "logger", "utils"):
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "train.py", tmp_path)
    for file, text in {**PLUG_INS, "c.yaml": GOOD}.items():
        (tmp_path / file).write_text(text)
    expected = {
        "model=Unfinished": r"no model 'Unfinished'.*could not be imported: SyntaxError: .*\(model/unfinished.py:4\)",
        "model=Needy": r"could not be imported: ModuleNotFoundError: .*nowhere_to_be_found.* \(model/needy.py:1\)",
        "model=Half": r"model.type: model/half.py could not be imported: ZeroDivisionError: .* \(model/half.py:7\)",
        "model=Forgotten": "no model 'Forgotten'. model/forgotten.py has it, but not under @MODELS.register",
        "loss=called": r"model/called.py has it, but could not be imported.*TypeError: register takes .*without parentheses.*model/called.py:3",
        "model=Empty": "model: Empty gives a Empty; a model is a torch.nn",
        "model={type: Fails, args: {width: 3}}": r"Fails could not be built: KeyError: 'no weights' \(model/fails.py:8\)",
        "model={type: Fails, args: {width: wide}}": "model.args.width: 'wide' is text; a whole number is needed",
        "loss=hits": "loss: it does not depend on any weight",
        "dataset=Fixed": "dataset: Fixed is not told which split to give",
        "model.args.dropout=2": "dropout probability has to be between 0 and 1",
        "optimizer.args.lr=0,1": "optimizer.args.lr: '0,1' is text; a number is needed. Did you mean 0.1?",
    }
    done = program("-c", SEVERAL, "\n".join(expected), cwd=tmp_path)
    *messages, rest = re.split(r"exit code 2\n", done.stderr)
    assert len(messages) == len(expected) and not rest and "Traceback" not in done.stderr, done.stderr
    for message, said in zip(messages, expected.values(), strict=True):
        assert re.search(said, message, re.DOTALL), message
    assert not (tmp_path / "out").exists()
