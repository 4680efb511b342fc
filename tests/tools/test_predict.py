"""Predictions for splits and files: those of the scores, written whole or not at all."""
import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from base import DATASETS, LOSSES, MODELS, TRAINERS, TRANSFORMS, ArrayDataset, fit
from base import load as load_predictor
from conftest import PROJECT, needs, program, score, train
from data_loader.digits import Digits
from tools.prediction.batches import file_predictions
from tools.prediction.files import prediction_file
from trainer.trainer import Trainer
from utils.errors import ConfigError


@TRANSFORMS.register
class UpsideDownForPrediction:
    """Flips what has rows."""

    def __call__(self, image):
        return image.flip(-2)


@DATASETS.register
class NamedForPrediction(ArrayDataset):
    """Without files to read, with class names and ids."""

    classes = ["even", "odd"]

    def __init__(self, split: str):
        values = torch.randn(40, 4, generator=torch.Generator().manual_seed(len(split)))
        self.ids = [f"{split}-{number}" for number in range(40)]
        super().__init__(values, (values.sum(1) > 0).long())


@DATASETS.register
class NoiseForPrediction(ArrayDataset):
    """Random images uint8 `[N, *shape]` of ten classes."""

    def __init__(self, split: str, shape: list[int]):
        generator = torch.Generator().manual_seed(len(split))
        super().__init__(torch.randint(256, (50, *shape), generator=generator).byte(), torch.arange(50) % 10)


@TRAINERS.register
class DrawsForPrediction(Trainer):
    """Predicts pictures."""

    def predict_step(self, batch):
        return {"picture": batch[0], "brightness": batch[0].mean((1, 2, 3))}


@TRAINERS.register
class OneForAllForPrediction(Trainer):
    """Predicts a number for the whole batch."""

    def predict_step(self, batch):
        return {"mean": batch[0].float().mean()}


@TRAINERS.register
class TimeFirstForPrediction(Trainer):
    """Predicts what CTCLoss takes, which is not `[B, ...]`."""

    def predict_step(self, batch):
        return {"letters": torch.zeros(100, len(batch[0]), 4)}


@TRAINERS.register
class SqueezesForPrediction(Trainer):
    """Predicts without an axis for a single sample."""

    def predict_step(self, batch):
        return {"brightness": batch[0].mean((1, 2, 3)).squeeze()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model of the digits that sees them upside down."""
    folder = tmp_path_factory.mktemp("predicted")
    config = folder / "config.yaml"
    config.write_text("""
name: predicted
dataset: Digits
transforms: {eval: [UpsideDownForPrediction], train: [UpsideDownForPrediction]}
data_loader: {batch_size: 64, validation_split: 0.1}
model: {type: MLP, args: {sizes: [64, 32, 10]}}
loss: CrossEntropyLoss
metrics: [accuracy]
optimizer: {type: AdamW, args: {lr: 0.01}}
trainer: {args: {epochs: 2, monitor: min val/loss}}
""")
    return train("-c", config, out=folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The first ten test digits as files, and one that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, image in enumerate(Digits("test").images[:10]):
        Image.fromarray(image[0].numpy()).save(folder / f"{number}.png")
    return folder


def predict(*args, quiet=True) -> int:
    """`python predict.py ARGS`, in this process."""
    from predict import main
    from utils.cli import predict_arguments

    return main(predict_arguments([*["--quiet"] * quiet, *map(str, args)]))


def rows(file) -> list[dict]:
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def test_predictions_of_a_split_are_those_of_the_scores(run, tmp_path):
    scores = score("-r", run, "--predictions", tmp_path / "scored.csv")
    assert predict("-r", run, "--split", "test") == 0
    assert (run / "predictions_test.csv").read_bytes() == (tmp_path / "scored.csv").read_bytes()
    found = rows(run / "predictions_test.csv")
    assert [row["id"] for row in found] == [str(number) for number in range(360)]
    right = [row["class"] == row["target"] for row in found]
    assert sum(right) / 360 == pytest.approx(scores["test/accuracy"], abs=1e-9)
    likely = [-np.log(float(row[f"probabilities/{row['target']}"])) for row in found]
    assert np.mean(likely) == pytest.approx(scores["test/loss"], rel=1e-4)


def test_files_give_the_numbers_of_the_same_samples_by_the_transforms_of_evaluation(run, pictures, tmp_path):
    predict("-r", run, "--split", "test", "--out", tmp_path / "split.npz")
    assert predict("-r", run, pictures, "--out", tmp_path / "files.npz", "data_loader.num_workers=2") == 0
    split, files = np.load(tmp_path / "split.npz"), np.load(tmp_path / "files.npz")
    assert [name.rsplit("/")[-1] for name in files["id"]] == [f"{number}.png" for number in range(10)]
    assert np.allclose(files["probabilities"], split["probabilities"][:10], atol=1e-6)
    predictor = load_predictor(run)
    images = Digits("test").images[:10]
    for inputs in (images, images.numpy(), [pictures / f"{number}.png" for number in range(10)]):
        assert np.allclose(predictor(inputs)["probabilities"], files["probabilities"], atol=1e-6)
    upright = load_predictor(run, ["transforms.eval=[]"])
    assert not np.allclose(upright(images)["probabilities"], files["probabilities"], atol=1e-2)
    opened = [Image.open(pictures / f"{number}.png") for number in range(10)]
    assert torch.equal(upright(opened)["probabilities"], upright(images)["probabilities"])


def test_a_file_that_cannot_be_read_is_named_and_left_out(run, pictures, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    shutil.copy(pictures / "3.png", tmp_path / "in")
    (tmp_path / "in" / "broken.png").write_text("no picture")
    (tmp_path / "in" / ".hidden").write_text("")
    # the folder of the inputs may get the predictions, too
    assert predict("-r", run, tmp_path / "in", "--out", tmp_path / "in" / "o.jsonl", "--top-k", 3) == 1
    said = capsys.readouterr().err
    assert f"{tmp_path / 'in' / 'broken.png'}: cannot be read: UnidentifiedImageError" in said
    assert "1 of 2 files could not be read" in said
    [line] = map(json.loads, (tmp_path / "in" / "o.jsonl").read_text().splitlines())
    assert line["id"].endswith("3.png") and len(line["top"]) == 3 and line["top"][0][0] == line["class"]
    assert line["top"][0][1] >= line["top"][1][1] >= line["top"][2][1]


def test_no_worker_is_left_that_the_program_would_wait_for_after_an_error(run, pictures):
    predictor = load_predictor(run, ["data_loader.num_workers=2", "data_loader.eval_batch_size=2"])
    predictions = file_predictions(predictor, sorted(pictures.glob("?.png")))
    assert next(predictions).ids and len(multiprocessing.active_children()) == 2
    predictor.trainer.data.close()  # as at the end of the program
    assert not multiprocessing.active_children()


def test_folders_of_images_give_names_of_classes_also_for_odd_files(tmp_path):
    for split in ("train", "test"):
        for number, name in enumerate(("cat, shorthaired", "Dogge größer")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            pixels = np.random.default_rng(number).integers(0, 90, (8, 12, 12, 3), dtype=np.uint8)
            pixels[..., number] += 150
            for place, image in enumerate(pixels):
                Image.fromarray(image).save(tmp_path / "data" / split / name / f"{place}.png")
    small = [{"type": "Resize", "args": {"size": [8, 8]}}]
    config = {"name": "folders",
              "dataset": {"type": "ImageFolder", "args": {"root": str(tmp_path / "data")}},
              "transforms": {"train": small, "eval": small},
              "data_loader": {"batch_size": 4, "validation_split": 0.25},
              "model": {"type": "MLP", "args": {"sizes": [192, 2]}}, "loss": "CrossEntropyLoss",
              "optimizer": {"type": "AdamW", "args": {"lr": 0.01}}, "trainer": {"args": {"epochs": 4}}}
    run = fit(config, out=tmp_path / "runs").run
    predict("-r", run, "--split", "test", "--out", tmp_path / "split.csv")
    for row in rows(tmp_path / "split.csv"):
        assert row["class"] == row["target"] == row["id"].split("/")[-2]
    shutil.move(tmp_path / "data" / "test", tmp_path / "in")
    shutil.rmtree(tmp_path / "data")
    one, other = (Image.open(tmp_path / "in" / name / "0.png")
                  for name in ("cat, shorthaired", "Dogge größer"))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    one.save(tmp_path / "in" / "a.jpg", exif=exif)
    other.convert("RGBA").save(tmp_path / "in" / "b.png")
    shutil.copy(tmp_path / "in" / "b.png", os.fsencode(tmp_path / "in") + b"/c\xff.png")  # not UTF-8
    assert predict("-r", run, tmp_path / "in", "--out", tmp_path / "files.csv") == 0
    with open(tmp_path / "files.csv", newline="", errors="surrogateescape") as opened:
        found = {os.path.relpath(row["id"], tmp_path / "in"): row["class"] for row in csv.DictReader(opened)}
    assert [found.pop(name) for name in ("a.jpg", "b.png")] == ["cat, shorthaired", "Dogge größer"]
    assert found.pop("c\udcff.png") == "Dogge größer" and len(found) == 16
    assert all(name.split("/")[0] == predicted for name, predicted in found.items())


def test_the_training_data_need_not_be_there_for_files(tmp_path):
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}_inputs.npy", np.random.default_rng(0).normal(size=(20, 3)).astype("f4"))
        np.save(tmp_path / f"{split}_targets.npy", np.arange(20) % 2)
    config = {"name": "arrays", "dataset": {"type": "ArrayFiles", "args": {"root": str(tmp_path)}},
              "data_loader": {"validation_split": 0.2}, "model": {"type": "MLP", "args": {"sizes": [3, 2]}},
              "loss": "CrossEntropyLoss", "optimizer": "SGD", "trainer": {"args": {"epochs": 1}}}
    result = fit(config, out=tmp_path / "runs")
    np.save(tmp_path / "one.npy", np.ones(3, "f4"))
    for file in tmp_path.glob("t*.npy"):
        file.unlink()
    assert predict("-r", result.run, tmp_path / "one.npy", "--out", tmp_path / "o.csv") == 0
    assert rows(tmp_path / "o.csv")[0]["class"] in ("0", "1")


def test_a_dataset_names_its_classes_and_samples_and_says_what_files_need(tmp_path, run):
    config = {"name": "named", "dataset": "NamedForPrediction",
              "model": {"type": "MLP", "args": {"sizes": [4, 2]}},
              "loss": "CrossEntropyLoss", "optimizer": "SGD", "trainer": {"args": {"epochs": 1}}}
    result = fit(config, out=tmp_path)
    assert load_predictor(result.run).classes == ["even", "odd"]
    predict("-r", result.run, "--split", "test", "--out", tmp_path / "o.csv")
    found = rows(tmp_path / "o.csv")
    assert found[7]["id"] == "test-7" and {row["class"] for row in found} <= {"even", "odd"}
    assert found[0].keys() == {"id", "target", "class", "probabilities/even", "probabilities/odd"}
    with pytest.raises(ConfigError, match=r"NamedForPrediction has no read_input.*--split test dataset.args"):
        predict("-r", result.run, tmp_path / "o.csv")


def test_pictures_are_written_as_files(run, tmp_path):
    pictures = "trainer.type=DrawsForPrediction"
    predict("-r", run, pictures, "--split", "test", "--out", tmp_path / "drawn")
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert len(drawn) == 360 and drawn[5].name == "000005_5.png"
    shown = np.asarray(Image.open(drawn[5]))
    assert np.array_equal(shown, Digits("test").images[5, 0].flip(0).numpy())  # as the model gets it
    with pytest.raises(ConfigError, match="a folder of this name already"):
        predict("-r", run, pictures, "--split", "test", "--out", tmp_path / "drawn")
    with pytest.raises(ConfigError, match=r"has the shape \[1, 8, 8\].*Write FILE.npz, or name a FOLDER"):
        predict("-r", run, pictures, "--split", "test", "--out", tmp_path / "drawn.csv")
    with pytest.raises(ConfigError, match=r"pictures.*class \[\], probabilities \[10\]. Write FILE.csv.$"):
        predict("-r", run, "--split", "test", "--out", tmp_path / "none")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["drawn"]  # nothing unfinished is left


@LOSSES.register
def loss_for_prediction(outputs, targets):
    """No CrossEntropyLoss, for class maps [B, 4, 8, 8]."""
    return outputs.square().mean() + targets.float().mean()


@MODELS.register
class MapsForPrediction(torch.nn.Conv2d):
    """Logits of four classes for each pixel."""

    def __init__(self):
        super().__init__(1, 4, 1)


@TRAINERS.register
class ClassMapsForPrediction(Trainer):
    """Predicts the class of each pixel."""

    def predict_step(self, batch):
        return {"class": self.model(batch[0]).argmax(1)}


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """A segmentation model with a loss of its own."""
    config = {"name": "maps", "dataset": "Digits", "data_loader": {"validation_split": 0.1},
              "model": "MapsForPrediction", "loss": "loss_for_prediction", "optimizer": "SGD",
              "trainer": {"args": {"epochs": 1}}}
    return fit(config, out=tmp_path_factory.mktemp("maps")).run


def test_a_form_that_cannot_hold_the_outputs_names_one_that_can_and_the_loss_as_the_reason(maps, tmp_path):
    reason = r"The loss is not CrossEntropyLoss.*write predict_step \(docs/predict.md"
    with pytest.raises(ConfigError, match=rf"output \[4, 8, 8\]. Write FILE.npz. {reason}"):
        predict("-r", maps, "--split", "test", "--out", tmp_path / "masks")
    with pytest.raises(ConfigError, match=rf"Write FILE.npz. {reason}"):
        predict("-r", maps, "--split", "test", "--out", tmp_path / "p.csv")
    predict("-r", maps, "--split", "test", "--out", tmp_path / "p.npz")
    assert np.load(tmp_path / "p.npz")["output"].shape == (360, 4, 8, 8)


def test_class_maps_are_pictures_with_a_palette_and_other_forms_name_one(maps, pictures, tmp_path, capsys):
    own = (maps, "trainer.type=ClassMapsForPrediction")
    for write in (lambda: predict("-r", *own, "--split", "test", "--out", tmp_path / "t.csv"),
                  lambda: score("-r", *own, "--predictions", tmp_path / "t.csv")):
        with pytest.raises(ConfigError, match=r"Write FILE.npz, or name a FOLDER for pictures.$"):
            write()
    predict("-r", *own, pictures, "--out", tmp_path / "t.npz", "data_loader.eval_batch_size=3", quiet=False)
    said = capsys.readouterr().out
    predict("-r", *own, pictures, "--out", tmp_path / "t", "data_loader.eval_batch_size=3", quiet=False)
    said += capsys.readouterr().out
    file = tmp_path / "t" / "000009_9.png"
    assert f"{pictures / '9.png'}: class written to {file}\n" in said
    assert f"{pictures / '9.png'}: class [8, 8] written to {tmp_path / 't.npz'}\n" in said
    image = Image.open(file)
    assert image.mode == "P" and np.array_equal(image, np.load(tmp_path / "t.npz")["class"][9])
    colours = np.array(image.getpalette()).reshape(-1, 3)
    assert colours[:2].tolist() == [[0, 0, 0], [128, 0, 0]]


def test_what_is_not_whole_has_not_the_files_name(tmp_path):
    """Killed in the middle, it has no name; after an error nothing is left."""
    values = {"class": np.zeros(2, np.int64), "probabilities": np.eye(2, dtype=np.float32)}
    for name in ("a.csv", "a.jsonl", "a.npz"):
        with pytest.raises(RuntimeError):
            with prediction_file(tmp_path / name) as file:
                file.write(["x", "y"], values)
                assert not (tmp_path / name).exists() and (tmp_path / f"{name}.part").exists()
                raise RuntimeError
        assert [*tmp_path.iterdir()] == []
        with prediction_file(tmp_path / name) as file:
            file.write(["x", "y"], values)
            file.write(["z"], {key: value[:1] for key, value in values.items()})
        assert [file.name for file in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


@pytest.mark.parametrize("args, message", [
    (["--split", "tst"], "--split tst: the dataset has no such split. Did you mean 'test'?"),
    (["nowhere.png"], "nowhere.png: there is no such file or folder"),
    (["--split", "test", "--top-k", 2, "trainer.type=DrawsForPrediction"],
     "--top-k: there are no probabilities of classes, but target, picture, brightness"),
    (["--split", "test", "--out", "a.txt"], "--out a.txt: predictions are written to a .csv, .jsonl or .npz"),
    (["--split", "test", "trainer.type=OneForAllForPrediction"],
     r"trainer: predict_step gives 'mean' [] for 64 samples. A value for each of them"),
    (["--split", "test", "trainer.type=TimeFirstForPrediction"],
     r"trainer: predict_step gives 'letters' [100, 64, 4] for 64 samples. A value for each of them"),
    (["--split", "test", "trainer.type=BaseTrainer"], "trainer"),
])
def test_mistakes_are_told(run, args, message):
    with pytest.raises(ConfigError) as caught:
        predict("-r", run, *args)
    assert message in str(caught.value)


def test_a_single_sample_may_lack_its_axis(run, tmp_path):
    found = []
    for size in (1, 64):
        options = ["trainer.type=SqueezesForPrediction", f"data_loader.eval_batch_size={size}"]
        predict("-r", run, "--split", "test", "--out", tmp_path / f"{size}.npz", *options)
        found.append(np.load(tmp_path / f"{size}.npz")["brightness"])
    assert len(found[0]) > 64 and np.array_equal(*found)


def test_predictions_that_cannot_be_written_are_refused_before_the_scores(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "evaluate", lambda *_: pytest.fail("scored"))
    for args, message in ((["a.txt"], "--out a.txt"), (["a.csv", "--split", "all"], "a file of one split")):
        with pytest.raises(ConfigError, match=message):
            score("-r", run, "--predictions", *args)


@pytest.mark.parametrize("name", ["digits", *(pytest.param(name, marks=pytest.mark.slow) for name in (
    "mnist.yaml", "mnist.json", "cifar10_resnet"))])
def test_predictions_of_shipped_classifiers_are_those_that_are_scored(name, tmp_path):
    file = PROJECT / "configs" / (name if "." in name else f"{name}.yaml")
    needs(file.relative_to(PROJECT))
    shape = {"digits": None, "cifar10_resnet": [3, 32, 32]}.get(name, [1, 28, 28])
    noise = [f"dataset={{type: NoiseForPrediction, args: {{shape: {shape}}}}}", "transforms.train=[]"]
    run = fit(file, [*(noise if shape else []), "trainer.args.epochs=1", "scheduler=null",
                     "data_loader.batch_size=16", "data_loader.validation_split=0.2"], out=tmp_path).run
    predict("-r", run, "--split", "test", "--out", tmp_path / "o.npz")
    trainer, scored = load_predictor(run).trainer, []
    trainer.eval_metrics.watch(lambda outputs, targets, values: scored.append((outputs, targets)))
    trainer.evaluate("test")
    logits, targets = (torch.cat(part) for part in zip(*scored, strict=True))
    predicted = np.load(tmp_path / "o.npz")
    assert np.array_equal(predicted["class"], logits.argmax(1)) and len(logits) >= 50
    assert np.array_equal(predicted["target"], targets)
    assert np.allclose(predicted["probabilities"], logits.softmax(1), atol=1e-6)


def test_files_or_a_split_are_needed(run):
    for args in ([], ["--split", "test", "x.png"]):
        program("predict.py", "-r", run, *args, code=2)


# Predicts for generated images; prints the most memory that it had, in KB.
MANY = """
import resource, sys, torch
from base import DATASETS, fit

@DATASETS.register
class GeneratedForPrediction(torch.utils.data.Dataset):
    def __init__(self, split: str, num_samples: int = 100):
        self.num_samples = num_samples
    def __len__(self):
        return self.num_samples
    def __getitem__(self, index):
        return torch.full((3, 32, 32), float(index % 7)), index % 10

config = {"name": "many", "dataset": "GeneratedForPrediction",
          "model": {"type": "MLP", "args": {"sizes": [3072, 10]}},
          "loss": "CrossEntropyLoss", "optimizer": "SGD", "trainer": {"args": {"epochs": 1}}}
run = fit(config, out=sys.argv[1]).run
from predict import main
from utils.cli import predict_arguments
main(predict_arguments(["-q", "-r", str(run), "--split", "test", "--out", sys.argv[2],
                        f"dataset.args.num_samples={sys.argv[3]}"]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_memory_does_not_grow_with_the_number_of_samples(kind, tmp_path):
    peaks = [int(program("-c", MANY, tmp_path, tmp_path / f"{number}.{kind}", number).stdout.split()[-1])
             for number in (2_000, 20_000)]
    assert peaks[1] - peaks[0] < 50_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_what_is_killed_in_the_middle_has_not_the_files_name(kind, tmp_path):
    out = tmp_path / f"o.{kind}"
    args = [sys.executable, "-c", MANY, str(tmp_path / "run"), str(out), "200000"]
    process = subprocess.Popen(args, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (part := out.with_name(f"{out.name}.part")).exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert part.exists() and not out.exists()
    program("-c", MANY, tmp_path / "run", out, 100)
    assert out.exists() and not part.exists()


@pytest.mark.slow
def test_two_processes_predict_each_sample_once(run, pictures, tmp_path):
    # other processes have no transform of this file
    plain = ("-r", run, "transforms.eval=[]", "transforms.train=[]")
    two = (*plain, "--distributed", "--nproc", 2)
    program("predict.py", *two, "--split", "test", "--out", tmp_path / "2.csv", "data_loader.batch_size=77")
    predict(*plain, "--split", "test", "--out", tmp_path / "1.csv")
    one, several = rows(tmp_path / "1.csv"), rows(tmp_path / "2.csv")
    assert [(row["id"], row["class"]) for row in one] == [(row["id"], row["class"]) for row in several]
    (tmp_path / "broken.png").write_text("no picture")
    done = program("predict.py", *two, pictures, tmp_path / "broken.png", "--out", tmp_path / "files.csv",
                   "data_loader.batch_size=4", code=1)
    assert len(rows(tmp_path / "files.csv")) == 10 and done.stderr.count("cannot be read") == 1
