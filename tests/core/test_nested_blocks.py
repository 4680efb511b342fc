"""Blocks among the arguments of blocks: transforms of transforms, layers of models, parts of losses."""
from collections.abc import Callable, Sequence

import pytest
import torch
import yaml
from torch import nn

from base import LOSSES, MODELS, TRANSFORMS
from base.config.validate import validate_config
from conftest import assert_same_run, load, needs, program, train
from utils.errors import ConfigError, Interrupted


@TRANSFORMS.register
class Either:
    """Applies one of several, by a number that it draws; keeps a table as it is."""

    def __init__(self, transforms: Sequence[Callable], table: dict | None = None, times: int = 1):
        self.transforms, self.table, self.times = transforms, table, times
        assert table is None or table == {"type": "RandomAffine"}

    def __call__(self, image):
        return self.transforms[int(torch.randint(len(self.transforms), ()))](image)


@TRANSFORMS.register
def scaled(image, by: float = 1.0):
    return image * by


@MODELS.register
class Parts(nn.Module):
    def __init__(self, body: nn.Module, act: Callable[[torch.Tensor], torch.Tensor] = torch.relu,
                 last=nn.Identity(), norm: Callable[..., nn.Module] | None = None, kind=nn.ReLU,
                 note: Callable | dict | None = None):
        super().__init__()
        self.body, self.act, self.last, self.extra = body, act, last, (norm, kind, note)

    def forward(self, images):
        return self.last(self.act(self.body(images.flatten(1))))


@LOSSES.register
class Twice(nn.Module):
    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, outputs, targets):
        return 2 * self.loss(outputs, targets)


LAYERS = """{type: Sequential, args: {layers: [
    Flatten, {type: Linear, args: {in_features: 64, out_features: 12}}, ReLU,
    {type: Linear, args: {in_features: 12, out_features: 10}}]}}"""
APPLY = """{type: RandomApply, args: {p: 0.5, transforms: [
    {type: Compose, args: {transforms: [scaled, {type: RandomAffine, args: {degrees: 10}}]}}]}}"""
EITHER = """{type: Either, args: {
    transforms: [scaled, {type: scaled, args: {by: 0.5}}], table: {type: RandomAffine}}}"""
NESTED = [f"transforms.train=[{APPLY}, {EITHER}]",
          f"model={{type: Parts, args: {{body: {LAYERS}, last: {{type: Softmax, args: {{dim: 1}}}}}}}}",
          "loss={type: Twice, args: {loss: {type: CrossEntropyLoss, args: {label_smoothing: 0.1}}}}"]


def test_nested_blocks_train_and_resume_to_the_same_bits(small, tmp_path):
    straight = train("-c", small, *NESTED, "data_loader.num_workers=2", out=tmp_path / "straight")
    with pytest.raises(Interrupted):
        train("-c", small, *NESTED, "--steps", 7, out=tmp_path / "stopped")
    run = next((tmp_path / "stopped").glob("*/*"))
    train("-r", run, "data_loader.num_workers=2", out=tmp_path / "stopped")
    one, two = load(straight), load(run)
    assert {"body.1.weight", "body.3.bias"} < {*one["state"]["model"]}
    for name, value in one["state"]["model"].items():
        assert torch.equal(value, two["state"]["model"][name])
    assert_same_run(run, train("-c", run / "config.yaml", out=tmp_path / "again"))
    inner = one["config"]["transforms"]["train"][1]["args"]["transforms"]
    assert inner == [{"type": "scaled", "args": {"by": 1.0}}, {"type": "scaled", "args": {"by": 0.5}}]
    assert one["config"]["default_values"]["transforms.train.1.args.transforms.0.args.by"] == 1.0


def test_an_argument_gets_blocks_as_its_annotation_or_default_says():
    block = {"type": "ReLU"}
    args = {"body": block, "act": {"type": "GELU"}, "last": block}
    model = MODELS.build({"type": "Parts", "args": args}, "model")
    assert [type(part) for part in (model.body, model.act, model.last)] == [nn.ReLU, nn.GELU, nn.ReLU]
    plain = {name: block for name in ("norm", "kind", "note")}  # factories and tables are passed as they are
    assert MODELS.build({"type": "Parts", "args": {"body": block, **plain}}, "model").extra == (block,) * 3


@pytest.mark.parametrize("override, words", [
    ("transforms.train=[{type: RandomApply, args: {transforms: [{type: RandomAffine, args: {degree: 1}}]}}]",
     "transforms.train.0.args.transforms.0.args.degree: RandomAffine has no argument 'degree'. Did you mean"),
    ("transforms.train=[{type: Compose, args: {transforms: [RandomAfine]}}]",
     "transforms.train.0.args.transforms.0.type: no transform 'RandomAfine'"),
    ("transforms.train=[{type: Compose, args: {transforms: [3]}}]",
     "transforms.train.0.args.transforms.0: a transform is NAME or"),
    ("transforms.train=[{type: Compose, args: {transforms: [BatchRandomCrop]}}]",
     "BatchRandomCrop needs 'size'"),
    ("transforms.batch=[{type: Compose, args: {transforms: [BatchRandomHorizontalFlip]}}]",
     "transforms.batch.0.args.transforms.0: BatchRandomHorizontalFlip augments whole batches"),
    ("transforms.batch=[{type: Compose, args: {transforms: [RandomHorizontalFlip]}}]",
     "transforms.batch.0.args.transforms.0: RandomHorizontalFlip would draw once for a whole batch"),
    ("model={type: Parts, args: {body: {type: Linear, args: {in_features: 64, out_features: ten}}}}",
     "model.args.body.args.out_features: 'ten' is text; a whole number is needed."),
    ("model={type: Sequential, args: {layers: [Flatten, {type: Linear, args: {in_features: 64, "
     "out_features: -1}}]}}",
     "model.args.layers.1: Linear could not be built"),
])
def test_a_mistake_in_a_nested_block_has_its_full_path(small, tmp_path, override, words):
    with pytest.raises(ConfigError) as raised:
        train("-c", small, override, out=tmp_path)
    assert words in str(raised.value) and str(raised.value).startswith("command line")


def test_a_mistake_in_a_nested_block_of_a_file_has_its_line(small, tmp_path):
    config = yaml.safe_load(small.read_text())
    del config["model"]
    small.write_text(f"{yaml.safe_dump(config)}model:\n  type: Sequential\n  args:\n    layers:\n"
                     "    - type: Linear\n      args:\n        in_features: 64\n        out_feature: 10\n")
    words = r"small.yaml:\d+\s+model.args.layers.0.args.out_feature: Linear has no"
    with pytest.raises(ConfigError, match=words):
        train("-c", small, out=tmp_path)


def test_explain_goes_down_to_the_innermost_block(tmp_path):
    needs("tools/explain.py")
    (tmp_path / "c.yaml").write_text("name: x\ntransforms: {train: [{type: RandomApply, args: {transforms: "
                                     "[{type: RandomAffine, args: {degrees: 3}}]}}]}\n")
    key = "transforms.train.0.args.transforms.0.args.degrees"
    asked = program("train.py", "-c", tmp_path / "c.yaml", "--explain", key)
    assert "RandomAffine, torchvision" in asked.stdout and "Range of degrees" in asked.stdout


def test_a_model_of_layers_passes_the_check():
    config = {"name": "x", "dataset": "Digits", "model": yaml.safe_load(LAYERS), "loss": "CrossEntropyLoss",
              "optimizer": {"type": "SGD", "args": {"lr": 0.1}}, "data_loader": {"validation_split": 0.1}}
    assert validate_config(config)["model"]["type"] == "Sequential"
