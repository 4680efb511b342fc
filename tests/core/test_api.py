"""Training and predicting from Python: what the programs do, with exceptions in place of exit codes."""
import json
import logging
import re

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from base import DATASETS, MODELS, fit, load
from base.curves import draw_curves
from conftest import assert_same_run, train
from data_loader.digits import Digits
from utils.errors import ConfigError

CONFIG = {"name": "from_python", "dataset": "Digits",
          "data_loader": {"batch_size": 64, "validation_split": 0.1},
          "model": {"type": "MLP", "args": {"sizes": [64, 10]}}, "loss": "CrossEntropyLoss",
          "optimizer": {"type": "SGD", "args": {"lr": 0.1}},
          "trainer": {"args": {"epochs": 2, "monitor": "min val/loss", "log_every": 5}}}

TEXTS = {**CONFIG, "dataset": "TextsForApi", "model": "BagForApi"}


@DATASETS.register
class TextsForApi(torch.utils.data.Dataset):
    """Rows of tokens of several lengths; `top` is above all of them."""

    def __init__(self, split: str, top: int = 20):
        self.tokens = [torch.arange(1, 3 + number % 5) * 19 % top for number in range(20)]

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index], "label": index % 2}

    @staticmethod
    def collate_fn(samples):
        tokens = pad_sequence([sample["input_ids"] for sample in samples], batch_first=True)
        labels = {"label": torch.tensor([sample["label"] for sample in samples])}
        return {"input_ids": tokens, "attention_mask": (tokens > 0).float(), **labels}


@MODELS.register
class BagForApi(torch.nn.Module):
    """Scores of two classes from the mean of embeddings."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(20, 2)

    def forward(self, input_ids, attention_mask):
        return (self.embedding(input_ids) * attention_mask[..., None]).mean(1)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return fit(TEXTS, out=tmp_path_factory.mktemp("texts")).run


def test_a_predictor_takes_samples_and_collated_batches_in_mappings(texts, caplog):
    predictor, dataset = load(texts), TextsForApi("test")
    samples = [dataset[number] for number in range(5)]
    batch = dataset.collate_fn(samples)
    expected = predictor.model(batch["input_ids"], batch["attention_mask"]).softmax(1)
    assert torch.equal(predictor(samples)["probabilities"], expected)
    assert torch.equal(predictor(batch)["probabilities"], expected)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    masked = [{"input_ids": tokens, "attention_mask": torch.ones(3)} for tokens in torch.ones(2, 3).long()]
    assert len(predictor(masked)["class"]) == 2 and "'label'" in caplog.text  # stacked, as they can be
    assert len(predictor(masked[0])["class"]) == 1
    odd = [{"input_ids": torch.ones(length).long()} for length in (2, 3)]
    with pytest.raises(ConfigError, match="^dataset: TextsForApi.collate_fn failed: KeyError: 'label'"):
        predictor(odd)


def test_a_failed_prediction_is_one_error_without_a_logged_traceback(texts, caplog):
    with pytest.raises(ConfigError, match="^model: prediction failed"):
        load(texts)({"input_ids": torch.full((2, 3), 59), "attention_mask": torch.ones(2, 3)})
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    with pytest.raises(ConfigError, match="The embedding has 20 rows; input_ids goes up to 57.$"):
        fit(TEXTS, ["dataset.args.top=60"], out=texts.parent / "wrong")


def test_how_a_batch_is_taken_is_logged_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    fit(TEXTS, out=tmp_path)
    assert caplog.text.count("a batch is taken as model(") == 1


def test_fit_trains_as_the_program_does(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    program = train("-c", tmp_path / "config.json", "trainer.args.epochs=3", out=tmp_path / "program")
    result = fit(CONFIG, ["trainer.args.epochs=3"], out=tmp_path / "python", run_name="mine")
    assert result.run == tmp_path / "python" / "from_python" / "mine"
    assert_same_run(program, result.run)
    assert result.history["epoch"] == [1, 2, 3] and len(result.history["val/loss"]) == 3
    assert result.best == {"name": "val/loss", "value": min(result.history["val/loss"]), "epoch": 3}
    assert "epoch 3/3" in (result.run / "run.log").read_text()
    files = [getattr(handler, "baseFilename", "") for handler in logging.getLogger().handlers]
    assert not any(file.startswith(str(result.run)) for file in files)  # closed


def test_fit_goes_on_with_a_run(tmp_path):
    whole = fit(CONFIG, ["trainer.args.epochs=3"], out=tmp_path / "whole")
    begun = fit(CONFIG, ["trainer.args.epochs=2"], out=tmp_path / "begun")
    again = fit(CONFIG, ["trainer.args.epochs=3"], out=tmp_path / "begun", resume=begun.run)
    assert again.run == begun.run
    assert_same_run(whole.run, again.run)


def test_mistakes_are_exceptions_with_the_text_of_the_command_line(tmp_path):
    with pytest.raises(ConfigError, match=r"config +model.args.size: MLP has no argument 'size'.*'sizes'"):
        fit({**CONFIG, "model": {"type": "MLP", "args": {"size": [64, 10]}}}, out=tmp_path)
    with pytest.raises(ConfigError, match="neither a run"):
        load(tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_the_curves_of_a_result_are_drawn(tmp_path):
    result = fit(CONFIG, out=tmp_path)
    drawn = result._repr_html_()
    assert drawn.count("<svg") == 1 and drawn.count("<polyline") == 2 and "val" in drawn
    result.history["val/loss"] = [None, float("nan")]
    assert result._repr_html_().count("<polyline") == 2  # nothing to draw is no error
    sets = draw_curves({"epoch": [1], "train/loss": [1.0], "val/a/loss": [2.0], "val/b/loss": [3.0]})
    assert len({*re.findall(r'stroke="(#\w+)"', sets)}) == 3  # a colour for each set
    points = re.findall('points="(.*?)"', sets)
    assert all(len(pairs.split()) == 2 for pairs in points)  # of one epoch a dot, which needs two points


def test_a_class_that_is_defined_again_is_the_one_that_counts(tmp_path):
    """As in a notebook, whose cells run again."""
    for width in (4, 8):
        class DefinedAgain(torch.nn.Module):
            """A model."""

            def __init__(self, width: int = width):
                super().__init__()
                self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, width),
                                                  torch.nn.Linear(width, 10))

            def forward(self, images):
                return self.layers(images)

        DefinedAgain.__module__ = "__main__"
        MODELS.register(DefinedAgain)
        result = fit({**CONFIG, "model": "DefinedAgain"}, out=tmp_path)
        assert result.trainer.unwrapped_model.layers[1].out_features == width
    assert len(load(result.run)(Digits("test").images[:3])["class"]) == 3


def test_a_predictor_scores_with_averaged_weights_in_eval_mode(tmp_path):
    result = fit(CONFIG, ["trainer.args.ema=0.9", "model.args.dropout=0.5"], out=tmp_path)
    predictor, images = load(result.run), Digits("test").images
    assert torch.equal(predictor.model.state_dict()["layers.1.weight"],
                       predictor.checkpoint.state["ema"]["model"]["layers.1.weight"])
    first, second = predictor(images[:40]), predictor(images[:40])  # dropout is off
    assert torch.equal(first["probabilities"], second["probabilities"])
    assert predictor.trainer.evaluate("test")["test/loss"] > 0
    assert torch.equal(predictor(images[:40])["class"], first["class"])  # evaluation leaves training mode
    assert predictor([]) == {}
