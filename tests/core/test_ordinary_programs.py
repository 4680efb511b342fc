"""Small programs as users write them: each is set up, makes a step, and is evaluated."""

import dataclasses
import math
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence
from torch.utils.data import Dataset, IterableDataset, default_collate

from base import DATASETS, LOSSES, METRICS, MODELS, TRAINERS, BaseTrainer
from base.config.validate import validate_config
from base.data.nested import on_tensors, to_device
from base.data.sample_count import count_samples
from base.model_inputs import PAIR, choose_inputs, kind_of
from base.run.setup import set_up_training
from conftest import assert_same_run, epochs, score, train
from logger.run_log import SilentRun
from trainer.trainer import Trainer
from utils.errors import ConfigError, Interrupted
from utils.training.progress import accumulation_windows

CPU = torch.device("cpu")
PROGRAMS: dict[str, dict[str, Any]] = {}
Sample = namedtuple("Sample", "image label")
Tokens = namedtuple("Tokens", "ids mask labels")


@dataclasses.dataclass(frozen=True)
class Fields:
    image: Any
    label: Any


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    loss: Any = None


class ModelOutput(OrderedDict):
    """As in transformers: keys that are attributes, too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def update(self, *_):
        raise TypeError("cannot be updated")


class Encoding(UserDict):
    """As transformers' BatchEncoding: `to` takes a device only."""

    def to(self, device):
        self.data = {key: value.to(device) for key, value in self.data.items()}
        return self


class Graph:
    """An object of a user's own."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def to(self, device):
        self.x, self.y = self.x.to(device), self.y.to(device)


def vector(index: int) -> torch.Tensor:
    return torch.arange(4.0).roll(index)


def label(index: int) -> torch.Tensor:
    return torch.tensor(index % 3)


def image(index: int, size: int = 8) -> torch.Tensor:
    return torch.rand(3, size, size, generator=torch.Generator().manual_seed(index))


class Samples(Dataset):
    def __init__(self, program: dict):
        self.sample = program["sample"]
        if "collate" in program:
            self.collate_fn = program["collate"]

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return self.sample(index)


class Stream(IterableDataset):
    def __init__(self, program: dict):
        self.sample = program["sample"]

    def __iter__(self):
        return map(self.sample, range(5))


class Guest:
    """A dataset that is no torch Dataset, such as those of Hugging Face's datasets."""

    def __init__(self, program: dict):
        self.rows = [program["sample"](index) for index in range(5)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        assert isinstance(index, int)
        return self.rows[index]

    def __getitems__(self, indices):
        return [self[index] for index in indices]


@DATASETS.register
def ordinary_data(split: str, program: str):
    return PROGRAMS[program].get("dataset", Samples)(PROGRAMS[program])


@MODELS.register
def ordinary_model(program: str):
    return PROGRAMS[program]["model"]()


@LOSSES.register
def ordinary_loss(outputs, targets, program: str):
    return PROGRAMS[program]["loss"](outputs, targets)


@METRICS.register
def ordinary_metric(outputs, targets, program: str):
    return PROGRAMS[program]["metric"](outputs, targets)


def model(forward, *layers: nn.Module, **others):
    """The class of a model with this `forward`, as one of a user's files has it."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(*(layers or [nn.Linear(4, 3)]))
            for name, value in others.items():
                (
                    setattr(self, name, value)
                    if not isinstance(value, torch.Tensor)
                    else self.register_buffer(name, value)
                )

    Model.forward = forward
    return Model


def given(name: str, sample=None, built=None, loss: Any = "CrossEntropyLoss", **others) -> None:
    PROGRAMS[name] = {
        "sample": sample or (lambda index: (vector(index), label(index))),
        "model": built or (lambda: nn.Linear(4, 3)),
        "loss": loss,
        **others,
    }


def config_of(name: str) -> dict:
    program, args = PROGRAMS[name], {"program": name}
    loss = {"type": "ordinary_loss", "args": args} if callable(program["loss"]) else program["loss"]
    metrics = (
        [{"type": "ordinary_metric", "args": args}] * ("metric" in program) + program.get("metrics", [])
    )
    block = {
        "type": program.get("trainer", "Trainer"),
        "args": {"monitor": None, "epochs": 1, **program.get("trainer_args", {})},
    }
    dataset = {split: {"type": "ordinary_data", "args": args} for split in ("train", "val", "test")}
    return {
        "name": "ordinary",
        "seed": 3,
        "dataset": dataset,
        "data_loader": {"batch_size": 3, "shuffle": False},
        "model": {"type": "ordinary_model", "args": args},
        "loss": loss,
        "metrics": metrics,
        "optimizer": program.get("optimizer", {"type": "SGD", "args": {"lr": 0.1}}),
        "trainer": block,
        "writers": [],
    }


def tried(name: str, tmp_path) -> tuple[BaseTrainer, dict]:
    """The trainer after the preflight and a step, and the means of the step and of an evaluation."""
    trainer = set_up_training(validate_config(config_of(name), {}), None, CPU, tmp_path).trainer
    trainer.use_run(SilentRun(bars=False))
    before = [weight.clone() for weight in trainer.unwrapped_model.parameters()]
    windows = accumulation_windows(trainer.data.batches("train"), trainer.accumulate)
    trainer.set_mode(training=True)
    assert trainer.optimizer_step(next(windows))
    assert any(
        not torch.equal(*pair) for pair in zip(before, trainer.unwrapped_model.parameters(), strict=True)
    )
    found = trainer.totals.means() | trainer.metrics.compute()
    return trainer, {f"train/{key}": value for key, value in found.items()} | trainer.evaluate("val")


# -- batches -------------------------------------------------------------------------------------------------


def by_key(self, image):
    return self.net(image)


def two(self, a, b):
    return self.net(a + b)


def ragged(self, sequences):
    return torch.stack([self.net(each).mean(0) for each in sequences])


def packed(self, sequences: PackedSequence):
    padded, lengths = pad_packed_sequence(sequences, batch_first=True)
    return self.net(padded).sum(1) / lengths[:, None]


def columns(batch):
    return tuple(map(list, zip(*batch, strict=True)))


given("a pair")
given("a list from its own collate function", collate=default_collate)
given("a dict", lambda i: {"image": vector(i), "label": label(i)}, model(by_key), metrics=["accuracy"])
given("a dict whose keys are no names of arguments", lambda i: {"pixels": vector(i), "y": label(i)})
given("a dict with an id", lambda i: {"image": vector(i), "target": label(i), "id": i}, model(by_key))
given(
    "a dict for a model with **kwargs",
    lambda i: {"a": vector(i), "b": vector(i), "labels": label(i)},
    model(lambda self, **inputs: self.net(inputs["a"] + inputs["b"])),
)
given(
    "a dict that the model takes as it is",
    lambda i: {"image": vector(i), "label": label(i)},
    model(lambda self, batch: self.net(batch["image"])),
)
given(
    "a dict with its targets for the model",
    lambda i: {"a": vector(i), "targets": label(i)},
    model(lambda self, a, targets=None: self.net(a) + 0 * targets[:, None]),
)
given("inputs in a dict", lambda i: ({"a": vector(i), "b": vector(i)}, label(i)), model(two))
given(
    "inputs in a dict that the model takes as it is",
    lambda i: ({"a": vector(i), "b": vector(i)}, label(i)),
    model(lambda self, inputs: self.net(inputs["a"] + inputs["b"])),
)
given("inputs in a tuple", lambda i: ((vector(i), vector(i)), label(i)), model(two))
given(
    "inputs in a tuple that the model takes as it is",
    lambda i: ((vector(i), vector(i)), label(i)),
    model(lambda self, pair: self.net(pair[0] + pair[1])),
)
given("three in a batch, two for the model", lambda i: (vector(i), vector(i), label(i)), model(two))
given(
    "three in a batch, two for the loss",
    lambda i: (vector(i), label(i), 1.0),
    None,
    lambda outputs, targets: (F.cross_entropy(outputs, targets[0], reduction="none") * targets[1]).mean(),
)
given(
    "inputs and targets both for the model",
    None,
    model(lambda self, x, labels: F.cross_entropy(self.net(x), labels)),
    None,
)
given("a namedtuple", lambda i: Sample(vector(i), label(i)))
given(
    "a namedtuple of three",
    lambda i: Tokens(vector(i), torch.ones(4), label(i)),
    model(lambda self, ids, mask=None: self.net(ids * mask)),
)
given(
    "a dataclass",
    lambda i: Fields(vector(i), label(i)),
    model(by_key),
    collate=lambda batch: Fields(
        torch.stack([each.image for each in batch]), torch.stack([each.label for each in batch])
    ),
)
given("one tensor", vector, model(lambda self, x: self.net(x), nn.Linear(4, 4)), "MSELoss")
given("a tuple of one", lambda i: (vector(i),), lambda: nn.Linear(4, 4), "MSELoss")
given(
    "packed sequences",
    lambda i: (torch.ones(i % 2 + 2, 4), label(i)),
    model(packed),
    collate=lambda batch: (
        pack_sequence([x for x, _ in batch], enforce_sorted=False),
        torch.stack([y for _, y in batch]),
    ),
)
given(
    "ragged sequences",
    lambda i: (torch.ones(i % 3 + 1, 4), label(i)),
    model(ragged),
    collate=lambda batch: ([x for x, _ in batch], torch.stack([y for _, y in batch])),
)
given(
    "a list of samples",
    lambda i: {"image": vector(i), "label": label(i)},
    model(lambda self, samples: self.net(torch.stack([each["image"] for each in samples]))),
    lambda outputs, samples: F.cross_entropy(outputs, torch.stack([each["label"] for each in samples])),
    collate=list,
)
given(
    "an object",
    lambda i: (vector(i), label(i)),
    model(lambda self, graph: self.net(graph.x)),
    collate=lambda batch: Graph(*default_collate(batch)),
)
given(
    "what a tokenizer gives",
    lambda i: {"input_ids": vector(i), "labels": label(i)},
    model(
        lambda self, input_ids=None, labels=None: Output(
            self.net(input_ids), F.cross_entropy(self.net(input_ids), labels)
        )
    ),
    None,
    metrics=["accuracy"],
    collate=lambda batch: Encoding(default_collate(batch)),
)
given(
    "a dataset that is no Dataset",
    lambda i: {"image": vector(i), "label": label(i)},
    model(by_key),
    dataset=Guest,
)
given("a stream of dicts", lambda i: {"image": vector(i), "label": label(i)}, model(by_key), dataset=Stream)

# -- outputs and losses --------------------------------------------------------------------------------------

given(
    "a model that returns a dict",
    built=model(lambda self, x: {"logits": self.net(x), "features": x}),
    metrics=["accuracy"],
)
given(
    "a model whose loss is among its outputs",
    lambda i: {"x": vector(i), "label": label(i)},
    model(lambda self, x, labels: ModelOutput(loss=F.cross_entropy(self.net(x), labels), logits=self.net(x))),
    None,
    metrics=["accuracy"],
)
given(
    "a model that returns logits and loss",
    None,
    model(lambda self, x, targets=None: (self.net(x), F.cross_entropy(self.net(x), targets))),
    None,
    metrics=["accuracy"],
)
given(
    "a model that returns (logits, None) without targets",
    None,
    model(lambda self, x, targets=None: (self.net(x), None)),
    lambda outputs, targets: F.cross_entropy(outputs[0], targets),
)
given(
    "a model that returns a dataclass", built=model(lambda self, x: Output(self.net(x))), metrics=["accuracy"]
)
given(
    "a segmentation model of torchvision",
    lambda i: (image(i), torch.full((8, 8), i % 3)),
    model(lambda self, x: OrderedDict(out=self.net(x), aux=self.net(x)), nn.Conv2d(3, 3, 1)),
    metrics=["accuracy", {"type": "JaccardIndex", "args": {"task": "multiclass", "num_classes": 3}}],
)
given(
    "a loss and a metric of the whole output, beside others",
    built=model(lambda self, x: {"logits": self.net(x), "features": x}),
    loss=lambda outputs, targets: F.cross_entropy(outputs["logits"], targets) + outputs["features"].mean(),
    metric=lambda outputs, targets: (outputs["logits"].argmax(1) == targets).float(),
    metrics=["accuracy"],
)
given("an index after the label", lambda i: (vector(i), label(i), i), metrics=["accuracy"])
given(
    "a variational autoencoder",
    vector,
    model(lambda self, x: {"mean": self.net(x), "image": x}, nn.Linear(4, 4)),
    lambda outputs, _: {
        "reconstruction": (outputs["mean"] - outputs["image"]).square().mean(),
        "kl": outputs["mean"].mean(),
    },
)
given(
    "a loss with logs",
    loss=lambda outputs, targets: (
        F.cross_entropy(outputs, targets),
        {"entropy": outputs.softmax(1).mean(), "share": 0.5},
    ),
)
given(
    "several losses, one with logs",
    loss={
        "plain": "CrossEntropyLoss",
        "own": {"type": "ordinary_loss", "scale": 0.5, "args": {"program": "a loss with logs"}},
    },
)
given(
    "a loss of three arguments",
    lambda i: (vector(i), (vector(i)[:3], torch.ones(3))),
    None,
    "GaussianNLLLoss",
)
given("metrics of a batch", metric=lambda outputs, targets: (outputs.argmax(1) == targets).float().mean())
given(
    "metrics of torchmetrics", metrics=[{"type": "F1Score", "args": {"task": "multiclass", "num_classes": 3}}]
)
given(
    "two optimizers",
    built=model(lambda self, x: self.head(self.net(x)), nn.Linear(4, 4), head=nn.Linear(4, 3)),
    trainer="OrdinaryTwo",
    optimizer={"net": {"type": "SGD", "args": {"lr": 0.1}}, "head": {"type": "Adam"}},
)
given(
    "a hidden state in an attribute",
    built=model(
        lambda self, x: setattr(self, "hidden", self.net(x).detach()) or self.net(x) + self.hidden,
        hidden=None,
    ),
)
given(
    "a memory bank in a buffer",
    built=model(
        lambda self, x: self.net(x) + self.bank.copy_(self.net(x).detach().mean(0)), bank=torch.zeros(3)
    ),
)


@TRAINERS.register
class OrdinaryTwo(Trainer):
    def train_step(self, batch):
        outputs, targets, terms = self.forward(batch)
        assert (self.epoch, self.step) == (0, self.position.step) and self.loss is not None
        self.update(terms["loss"], "net", "head")
        return terms | self.metrics(outputs, targets)


# -- torchvision ---------------------------------------------------------------------------------------------


def detector():
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

    backbone = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4))
    backbone.out_channels = 4
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((8,),), ((1.0,),)),
        min_size=32,
        max_size=32,
        box_head=nn.Sequential(nn.Flatten(), nn.Linear(4 * 49, 8)),
        box_predictor=FastRCNNPredictor(8, 2),
    )


def segmenter():
    from torchvision.models import mobilenet_v2
    from torchvision.models.segmentation.deeplabv3 import DeepLabV3
    from torchvision.models.segmentation.fcn import FCNHead

    features = mobilenet_v2(width_mult=0.1).features[:2]
    return DeepLabV3(model(lambda self, x: OrderedDict(out=self.net(x)), features)(), FCNHead(8, 3))


def torchvision_programs() -> None:
    def boxes(index):
        return image(index, 32), {"boxes": torch.tensor([[4.0, 4, 20, 20]]), "labels": torch.tensor([1])}

    given("detection", boxes, detector, None, collate=columns)
    given(
        "segmentation",
        lambda i: (image(i), image(i)[0].round().long()),
        segmenter,
        lambda outputs, masks: F.cross_entropy(outputs["out"], masks),
    )

    def classifier(name, **others):
        from torchvision.models import get_model

        return lambda: get_model(name, num_classes=3, **others)

    given(
        "classification",
        lambda i: (image(i, 32), label(i)),
        classifier("squeezenet1_1"),
        metrics=["accuracy"],
    )


torchvision_programs()


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_ordinary_program_trains_and_is_evaluated(name, tmp_path):
    if name in ("detection", "segmentation", "classification"):
        pytest.importorskip("torchvision")
    _, values = tried(name, tmp_path)
    assert math.isfinite(values["train/loss"]) and (name == "detection" or math.isfinite(values["val/loss"]))
    if PROGRAMS[name].get("metrics") == ["accuracy"]:
        assert {"train/accuracy", "val/accuracy"} <= values.keys()


def weights_after_a_step(name: str, tmp_path) -> list[torch.Tensor]:
    return list(tried(name, tmp_path)[0].unwrapped_model.parameters())


@pytest.mark.parametrize(
    "name",
    [
        "a dict",
        "a dataclass",
        "a namedtuple",
        "a stream of dicts",
        "a dataset that is no Dataset",
        "a model that returns a dict",
        "a model whose loss is among its outputs",
        "a model that returns logits and loss",
        "three in a batch, two for the loss",
    ],
)
def test_the_shape_of_a_batch_or_an_output_changes_no_number(name, tmp_path):
    for weight, other in zip(
        weights_after_a_step(name, tmp_path), weights_after_a_step("a pair", tmp_path), strict=True
    ):
        assert torch.equal(weight, other)


def test_logs_of_a_loss_are_means_over_samples(tmp_path):
    trainer, values = tried("a loss with logs", tmp_path)
    assert values["train/share"] == values["val/share"] == 0.5
    data, net = torch.stack([vector(i) for i in range(5)]), trainer.unwrapped_model
    with torch.no_grad():  # over batches of three and of two
        wanted = (3 * net(data[:3]).softmax(1).mean() + 2 * net(data[3:]).softmax(1).mean()) / 5
    assert values["val/entropy"] == pytest.approx(wanted.item(), rel=1e-6)
    assert values["val/loss"] == pytest.approx(
        F.cross_entropy(net(data), torch.stack([*map(label, range(5))])).item(), rel=1e-6
    )
    several = tried("several losses, one with logs", tmp_path)[1]
    assert several["val/share"] == 0.5 and several["val/loss"] == pytest.approx(
        several["val/plain"] + several["val/own"] / 2
    )


# -- what is chosen ------------------------------------------------------------------------------------------

X, Y = torch.ones(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    "forward, batch, has_loss, wanted",
    [
        (lambda x: 0, (X, Y), True, "model(batch[0]), loss(outputs, batch[1])"),
        (lambda x, labels=None: 0, [X, Y], True, "model(batch[0]), loss(outputs, batch[1])"),
        (
            lambda x, labels=None: 0,
            [X, Y],
            False,
            "model(batch[0], labels=batch[1]), loss(outputs, batch[1])",
        ),
        (
            lambda images, targets=None: 0,
            ([X], [{}]),
            False,
            "model(batch[0], targets=batch[1]), loss(outputs, batch[1])",
        ),
        (lambda x: 0, ({"x": X}, Y), True, "model(x=batch[0]['x']), loss(outputs, batch[1])"),
        (lambda x: 0, ({"x": X, "z": X}, Y), True, "model(batch[0]), loss(outputs, batch[1])"),
        (lambda x, mask: 0, (X, X, Y), True, "model(batch[0], batch[1]), loss(outputs, batch[2])"),
        (
            lambda x, mask, y: 0,
            (X, X, Y),
            True,
            "model(batch[0], batch[1], batch[2]), loss(outputs, batch[2])",
        ),
        (lambda x: 0, (X, Y, Y), True, "model(batch[0]), loss(outputs, batch[1:])"),
        (lambda x: 0, {"x": X, "label": Y}, True, "model(x=batch['x']), loss(outputs, batch['label'])"),
        (
            lambda x, label=None: 0,
            {"x": X, "label": Y},
            True,
            "model(x=batch['x'], label=batch['label']), loss(outputs, batch['label'])",
        ),
        (
            lambda x, labels=None: 0,
            {"x": X, "label": Y},
            False,
            "model(x=batch['x'], labels=batch['label']), loss(outputs, batch['label'])",
        ),
        (
            lambda x: 0,
            {"x": X, "index": Y, "target": Y},
            True,
            "model(x=batch['x']), loss(outputs, batch['target'])",
        ),
        (
            lambda inputs: 0,
            {"image": X, "label": Y},
            True,
            "model(batch['image']), loss(outputs, batch['label'])",
        ),
        (lambda batch: 0, {"image": X, "label": Y}, True, "model(batch), loss(outputs, batch['label'])"),
        (lambda a, b: 0, {"a": X, "label": Y}, True, "model(batch), loss(outputs, batch['label'])"),
        (lambda x: 0, pack_sequence([X]), True, "model(batch), loss(outputs, batch)"),
        (lambda x: 0, [{"image": X}] * 3, True, "model(batch), loss(outputs, batch)"),
        (lambda x: 0, X, True, "model(batch), loss(outputs, batch)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_signature_of_the_model_decides_what_it_is_given(forward, batch, has_loss, wanted):
    assert str(choose_inputs(forward, batch, has_loss)) == wanted


def test_a_loss_of_one_target_is_given_the_first_of_several():
    takes_image = choose_inputs(lambda image: 0, (X, Y, Y), True, 1)
    assert str(takes_image) == "model(batch[0]), loss(outputs, batch[1])"
    assert str(choose_inputs(lambda image: 0, (X, Y, Y), True, 2)).endswith("loss(outputs, batch[1:])")
    assert str(choose_inputs(lambda image: 0, (X,), True, 1)).endswith("loss(outputs, batch[0])")


def test_batches_of_one_kind_are_taken_alike():
    assert choose_inputs(nn.Linear(3, 3).forward, (X, Y)) == PAIR
    samples = [{"image": X}] * 3
    assert kind_of(samples) == kind_of(samples[:2]) != kind_of([X, Y]) != kind_of((X, Y))
    assert kind_of({"a": X}) != kind_of({"b": X}) and kind_of(({"a": X}, Y)) != kind_of((X, Y))


@pytest.mark.parametrize(
    "name, key, said",
    [
        (
            "batch for another model",
            "model",
            "{a: float32 [3, 4], label: int64 [3]} was taken as model(batch), loss(",
        ),
        ("loss without targets", "loss", "was taken as model(batch[0]), loss(outputs, batch[1])"),
        ("loss of a cut graph", "loss", "it does not depend on any weight that is trained"),
        ("two outputs for a loss of one", "loss", "The model returned (float32 [3, 3], float32 [3, 4]). "),
        ("text in a loss", "loss", "it returned {loss: float32 [], of: str}. A loss returns a scalar"),
        (
            "loss of a tuple",
            "loss",
            "it returned (float32 [], float32 [3, 3]). A loss returns a scalar tensor, {",
        ),
        (
            "no loss",
            "loss",
            "is missing: Trainer needs one, such as CrossEntropyLoss, unless the output of the model",
        ),
    ],
)
def test_what_does_not_fit_ends_before_training_with_the_way_out(name, key, said, tmp_path):
    given("batch for another model", lambda i: {"a": vector(i), "label": label(i)}, model(two))
    given("loss without targets", loss=lambda outputs: outputs.mean())
    given("loss of a cut graph", loss=lambda outputs, targets: F.cross_entropy(outputs, targets).item())
    given("two outputs for a loss of one", built=model(lambda self, x: (self.net(x), x)))
    given("text in a loss", loss=lambda outputs, targets: {"loss": outputs.mean(), "of": "means"})
    given("loss of a tuple", loss=lambda outputs, targets: (F.cross_entropy(outputs, targets), outputs))
    given("no loss", loss=None)
    with pytest.raises(ConfigError) as error:
        tried(name, tmp_path)
    message = str(error.value)
    assert message.startswith(f"{key}: ") and said in message
    assert said.startswith(("is", "it ")) or "override `forward(batch)` of Trainer" in message


def test_a_dataset_is_anything_with_a_length_and_items(tmp_path):
    given("a dataset that is none", dataset=lambda program: 3)
    with pytest.raises(ConfigError, match="ordinary_data gives a int"):
        tried("a dataset that is none", tmp_path)


# -- runs ----------------------------------------------------------------------------------------------------


def write_config(tmp_path, name: str, **options):
    import yaml

    config = config_of(name) | options
    config["trainer"]["args"] |= {"epochs": 3, "ema": 0.5, "log_every": 1, "accumulate": 2}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "c.yaml"


@pytest.mark.parametrize("name", ["a dict", "a model whose loss is among its outputs", "a list of samples"])
def test_a_run_on_dicts_resumes_to_the_same_bits_and_is_scored(name, tmp_path):
    config = write_config(tmp_path, name, data_loader={"batch_size": 2})
    straight = train("-c", config, "trainer.args.monitor=min val/loss", out=tmp_path / "a")
    with pytest.raises(Interrupted):
        train("-c", config, "trainer.args.monitor=min val/loss", "--steps", 3, out=tmp_path / "b")
    run = max((tmp_path / "b").glob("*/*"))
    train("-r", run, out=tmp_path / "b")
    assert_same_run(straight, run)
    scores = score("-r", straight)
    best = min(line["val/loss"] for line in epochs(straight))
    assert scores["test/loss"] == pytest.approx(best)  # the splits hold the same samples


def test_the_loss_among_outputs_is_no_prediction(tmp_path):
    batch = torch.ones(3, 4), torch.tensor([0, 1, 2])
    for name in ("a model that returns logits and loss", "a model whose loss is among its outputs"):
        trainer = tried(name, tmp_path)[0]
        if "returns" in name:
            assert [*trainer.predict_step(batch)] == ["output"]
        else:
            assert [*trainer.predict_step({"x": batch[0], "label": batch[1]})] == ["output"]


def test_a_detector_without_a_loss_in_evaluation_is_scored_without_numbers(tmp_path):
    given("a detector", None, model(lambda self, x, y=None: (
        {"box": F.cross_entropy(self.net(x), y)} if self.training else [{"scores": row} for row in x])), None)
    config = write_config(tmp_path, "a detector")
    with pytest.raises(ConfigError, match="Evaluation on val gives no values: add metrics, or monitor a tr"):
        train("-c", config, "trainer.args.monitor=min val/loss", out=tmp_path)
    run = train("-c", config, "trainer.args.monitor=min train/loss", out=tmp_path)
    assert not [name for name in score("-r", run) if "/" in name]


def test_a_compiled_model_takes_a_dict_by_name(tmp_path):
    given(
        "a compiled model",
        lambda i: {"image": vector(i), "label": label(i)},
        model(by_key),
        trainer_args={"compile": True},
    )
    with torch.compiler.set_stance("force_eager"):
        compiled = weights_after_a_step("a compiled model", tmp_path)
    assert all(map(torch.equal, compiled, weights_after_a_step("a pair", tmp_path)))


def test_a_run_of_version_1_0_0_is_handed_batches_as_before():
    from base.config.complete_config import complete_config
    from utils.checkpoint import format_1

    config = config_of("a pair")
    assert complete_config(config, former=format_1.DEFAULTS).config["trainer"]["args"]["unpack"] is False
    assert complete_config(config).complete["trainer"]["args"]["unpack"] is True


def test_a_model_keeps_its_whole_inputs_without_unpack(tmp_path):
    given(
        "a model of 1.0.0",
        lambda i: ({"x": vector(i)}, label(i)),
        model(lambda self, x: {"logits": self.net(x["x"])}),
        lambda outputs, targets: F.cross_entropy(outputs["logits"], targets),
        metric=lambda outputs, targets: (outputs["logits"].argmax(1) == targets).float(),
        trainer_args={"unpack": False},
    )
    assert math.isfinite(tried("a model of 1.0.0", tmp_path)[1]["val/ordinary_metric"])


def test_epoch_and_step_are_the_trainers_unless_it_has_its_own(tmp_path):
    trainer = tried("a pair", tmp_path)[0]
    assert (trainer.epoch, trainer.step) == (0, 1)
    trainer.step = "of a subclass"
    assert trainer.step == "of a subclass" and trainer.position.step == 1


# -- on the way to a device ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Slotted:
    __slots__ = ("a", "b")
    a: Any
    b: int


NESTED = {
    "dict": {"a": X},
    "OrderedDict": OrderedDict(a=X),
    "UserDict": UserDict({"a": X}),
    "proxy": MappingProxyType({"a": X}),
    "defaultdict": defaultdict(list, a=X),
    "ModelOutput": ModelOutput(a=X),
    "namedtuple": Sample(X, [X, "text"]),
    "frozen": Fields(X, {"b": X}),
    "slots": Slotted(X, 3),
    "list": [X, (X,)],
    "packed": pack_sequence([X]),
}


@pytest.mark.parametrize("name", NESTED)
def test_what_holds_tensors_keeps_its_type_on_the_way_to_a_device(name):
    value = NESTED[name]
    moved = to_device(value, torch.device("meta"))  # stands for an accelerator
    assert type(moved) is type(value) and moved is not value
    found = []
    on_tensors((moved,), lambda tensor: found.append(getattr(tensor, "data", tensor).device.type))
    assert found and set(found) == {"meta"}
    on_tensors((value,), lambda tensor: found.append(getattr(tensor, "data", tensor).device.type))
    assert "cpu" in found and (name != "defaultdict" or moved["new"] == [])


def test_an_object_moves_itself():
    graph, encoding = Graph(X, Y), Encoding({"a": X})
    moved, encoded = to_device((graph, encoding), torch.device("meta"))
    assert moved is graph and graph.x.device.type == "meta" and encoded["a"].device.type == "meta"


@pytest.mark.parametrize(
    "batch, number",
    [
        (pack_sequence([X, X]), 2),
        ((pack_sequence([X, X, X]), pack_sequence([Y, Y, Y])), 3),
        (Fields(torch.ones(4, 2), torch.ones(4)), 4),
        (UserDict(x=torch.ones(4, 2), y=torch.ones(4)), 4),
        ((torch.ones(2), Fields(torch.ones(2), torch.ones(2))), 2),
    ],
    ids=str,
)
def test_the_samples_of_such_a_batch_are_counted(batch, number):
    assert count_samples(batch, 9) == number


# -- transformers --------------------------------------------------------------------------------------------

def bert():
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8}
    return BertForSequenceClassification(
        BertConfig(**sizes, num_hidden_layers=1, num_attention_heads=2, num_labels=3)
    )


def tokens(index: int) -> dict:
    ids = torch.arange(index, index + 4)
    return {"input_ids": ids, "attention_mask": torch.ones(4), "label": label(index)}


@pytest.mark.parametrize("loss", [None, "CrossEntropyLoss"])
def test_a_model_of_transformers_trains_with_its_own_loss_or_another(loss, tmp_path):
    pytest.importorskip("transformers")
    given("transformers", tokens, bert, loss, metrics=["accuracy"])
    values = tried("transformers", tmp_path)[1]
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy"} <= values.keys()


def test_a_dataset_and_a_collator_of_hugging_face_train(tmp_path):
    transformers, datasets, tokenizers = map(pytest.importorskip, ("transformers", "datasets", "tokenizers"))
    ids, mask = [[1, 2, 3], [1, 2], [3]], [[1, 1, 1], [1, 1], [1]]
    rows = {"input_ids": ids, "attention_mask": mask, "label": [0, 1, 2]}

    class Padded:
        def __init__(self, program):
            self.rows = datasets.Dataset.from_dict(rows)
            words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"p": 0}))
            tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="p")
            self.collate_fn = transformers.DataCollatorWithPadding(tokenizer)

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, index):
            return self.rows[index]

    padded = {name: [row + [0] * (3 - len(row)) for row in rows[name]] for name in [*rows][:2]}
    made = datasets.Dataset.from_dict(rows | padded).with_format("torch")
    given("datasets", built=bert, loss=None, dataset=lambda program: made)
    given("collator", built=bert, loss=None, dataset=Padded)
    for name in ("datasets", "collator"):
        assert tried(name, tmp_path)[1].keys() == {"train/loss", "val/loss"}
