"""`${data:NAME}` in a config: values that the train dataset gives; kept, compared, refused."""
import pytest
import torch
import yaml

from base import DATASETS, MODELS, ArrayDataset
from base.run.data_values import enter_data_values
from base.run.run_config import resolve_config
from conftest import assert_same_run, load, needs, program, score, train
from utils.config.loading import read_config
from utils.errors import ConfigError, Interrupted

DATA = {}
LABELS = torch.arange(120).remainder(4)


@DATASETS.register
class Counted(ArrayDataset):
    """Its attributes are those of DATA; its labels too, or 0 to 3. It counts how often it is built."""

    built = 0

    def __init__(self, split: str = "train"):
        Counted.built += 1
        labels = DATA.get("labels", LABELS) if split == "train" else LABELS[:20]
        super().__init__(torch.rand(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(1)), labels)
        self.width, self.title = 16, "x ${seed}"
        vars(self).update(DATA)


@DATASETS.register
class Untargeted(torch.utils.data.Dataset):
    def __init__(self, split: str):
        self.broken = None

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.zeros(1, 8, 8), index % 2


@MODELS.register
class Titled(torch.nn.Sequential):
    def __init__(self, width: int, num_classes: int, title=None, rates: list[float] | None = None):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, width), torch.nn.Linear(width, num_classes))


@pytest.fixture
def sized(small):
    """`small` with a model and a loss by the data."""
    DATA.clear()
    config = yaml.safe_load(small.read_text())
    config["dataset"] = "Counted"
    config["model"] = {"type": "Titled", "args": {
        "width": "${data:width}", "num_classes": "${data:num_classes}"}}
    config["loss"] = {"type": "CrossEntropyLoss", "args": {"weight": "${data:class_weights}"}}
    small.write_text(yaml.safe_dump(config))
    yield small
    DATA.clear()


def entered(file, *overrides):
    reading = read_config(file, overrides)
    return enter_data_values(resolve_config(reading, None, []), None, torch.device("cpu"))[0]


def test_a_model_and_a_loss_get_the_sizes_and_weights_of_the_data(sized, tmp_path):
    Counted.built = 0
    run = train("-c", sized, out=tmp_path)
    config = load(run)["config"]
    assert Counted.built == 1
    assert config["model"]["args"] == {"width": 16, "num_classes": 4, "title": None, "rates": None}
    weights = load(run)["state"]["loss"]["weight"]
    assert weights.dtype == torch.float32 and weights.mean().item() == pytest.approx(1)
    assert config["data_values"] == {
        "model.args.width": "${data:width}", "model.args.num_classes": "${data:num_classes}",
        "loss.args.weight": "${data:class_weights}"}
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["args"]["width"] == 16


def test_classes_are_counted_over_what_is_left_to_train_on(sized):
    DATA["labels"] = torch.tensor([0] * 60 + [1] * 40 + [3] * 20)
    resolved = entered(sized, "data_loader.validation_split=20", "model.args.rates=${data:class_counts}")
    counts = torch.tensor(resolved.config["model"]["args"]["rates"])
    assert counts.sum() == 100 and counts[2] == 0 and len(counts) == 4
    weights = torch.tensor(resolved.config["loss"]["args"]["weight"])
    shares = (weights * counts)[[0, 1, 3]]
    torch.testing.assert_close(shares, shares[0].expand(3), rtol=1e-5, atol=0)
    assert weights[2] == 1 and weights.mean().item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("data, reference, value", [
    ({}, "${data:class_counts}", [30, 30, 30, 30]), ({"num_classes": 7}, "${data:num_classes}", 7),
    ({"classes": list("abcdef")}, "${data:num_classes}", 6), ({"classes": ["a"]}, "${data:num_classes}", 4),
    ({"a": torch.tensor(0.5)}, "${data:a}", 0.5), ({"a": torch.arange(3)}, "${data: a }", [0, 1, 2]),
    ({"a": (1, torch.tensor(2))}, ["${data:a}", "$${data:a}"], [[1, 2], "${data:a}"]),
    ({"a": True}, "${data:a}", True), ({}, "${data:title}", "x ${seed}"),
    ({"a": "b"}, "${data:a} $${data:a} ${seed} ${env:ODD}", "b ${data:a} 7 ${data:a}"),
    ({}, "${model.args.width}", 16), ({}, "w${model.args.width}", "w16"),
    ({}, "$${data:width}", "${data:width}"),
])
def test_a_value_is_plain_and_stands_where_any_reference_may(sized, data, reference, value, monkeypatch):
    monkeypatch.setenv("ODD", "${data:a}")
    DATA.update(data)
    config = yaml.safe_load(sized.read_text())
    config["model"]["args"]["title"] = reference
    config["data_loader"]["validation_split"] = 0
    sized.write_text(yaml.safe_dump(config))
    got = entered(sized).config["model"]["args"]["title"]
    assert got == value and type(got) is type(value)


def test_a_value_that_reads_like_a_reference_stays_text(sized, tmp_path):
    run = train("-c", sized, "model.args.title=${data:title}", "trainer.args.epochs=1", out=tmp_path)
    again = train("-c", run / "config.yaml", out=tmp_path / "again")
    assert [load(run)["config"]["model"]["args"]["title"] for run in (run, again)] == ["x ${seed}"] * 2
    assert "data_values" not in load(again)["config"]


@pytest.mark.parametrize("with_config", [False, True])
def test_a_stopped_run_goes_on_to_the_same_bits_and_scoring_reads_no_train_data(sized, tmp_path, with_config):
    straight = train("-c", sized, out=tmp_path / "straight")
    with pytest.raises(Interrupted):
        train("-c", sized, "--steps", 3, out=tmp_path / "stopped")
    run = next((tmp_path / "stopped").glob("*/*"))
    train("-r", run, *(["-c", sized] if with_config else []), out=tmp_path / "stopped")
    assert_same_run(straight, run)
    assert load(run)["config"]["data_values"] == load(straight)["config"]["data_values"]
    DATA["labels"], Counted.built = LABELS[:30], 0
    assert score("-r", run) and Counted.built == 1  # test


@pytest.mark.parametrize("with_config", [False, True])
def test_a_run_is_not_resumed_with_other_values(sized, tmp_path, with_config):
    with pytest.raises(Interrupted):
        train("-c", sized, "--steps", 1, out=tmp_path)
    run = next(tmp_path.glob("*/*"))
    DATA["labels"] = torch.arange(120).remainder(5)
    with pytest.raises(ConfigError, match=r"model.args.num_classes: .*\$\{data:num_classes\} was 4, is 5"):
        train("-r", run, *(["-c", sized] if with_config else []), out=tmp_path)
    with pytest.raises(ConfigError) as raised:  # a value of one's own is compared with nothing
        train("-r", run, "model.args.num_classes=5", "loss.args.weight=null", out=tmp_path)
    assert "data:" not in str(raised.value)


def test_a_kept_value_cannot_become_another_by_a_reference(sized, tmp_path):
    with pytest.raises(Interrupted):
        train("-c", sized, "--steps", 1, out=tmp_path)
    words = r"optimizer.args.lr: was 0.01 when the run began, .* 16"
    with pytest.raises(ConfigError, match=words):
        train("-r", next(tmp_path.glob("*/*")), "optimizer.args.lr=${data:width}", out=tmp_path)


def test_mistakes_that_do_not_hang_on_the_data_come_before_it_is_built(sized, tmp_path):
    Counted.built = 0
    with pytest.raises(ConfigError, match="optimizer.args.lr: 'fast' is text"):
        train("-c", sized, "optimizer.args.lr=fast", out=tmp_path)
    assert not Counted.built


@pytest.mark.parametrize("override, words", [
    ("model.args.width=${data:wide}",
     "model.args.width: the train dataset, Counted, has no 'wide'. Did you mean 'width'?"),
    ("model.args.width=${data:_width}", "has no '_width'"),
    ("model.args.width=${data:arrays}", "'arrays' of Counted is neither"),
    ("model.args.width=${data:row_bytes}", "model.args.width: [256, 8] is a list; a whole number is needed"),
    ("model.args.rates=[0.1, '${data:title}']", "item 1: 'x ${seed}' is text"),
    ("model.args.title=a ${data:class_counts}", "is a list: it cannot stand within text"),
    ("name=n_${data:num_classes}", "name: '${data:num_classes}' cannot stand in name: the train dataset is"),
    ("seed=${data:width}", "seed: '${data:width}' cannot stand in seed"),
    ("data_loader.batch_size=${model.args.width}",
     "data_loader.batch_size: '${data:width}' cannot stand in data_loader"),
    ("dataset={type: Untargeted}",
     "loss.args.weight: Untargeted has no targets to count: whole numbers, one per sample. "
     "Give it an attribute 'class_weights', or write the value."),
])
def test_a_value_that_is_not_there_or_does_not_fit_is_a_message_at_its_place(sized, tmp_path, override,
                                                                             words):
    with pytest.raises(ConfigError) as raised:
        train("-c", sized, override, out=tmp_path)
    assert words in str(raised.value)


def test_questions_show_the_reference_and_say_that_the_data_gives_the_value(tmp_path):
    needs("tools/print_config.py", "tools/explain.py")
    file = tmp_path / "c.yaml"
    file.write_text("name: x\nmodel: {type: MLP, args: {sizes: [64, '${data:num_classes}']}}\n")
    assert "${data:num_classes}" in program("train.py", "-c", file, "--print-config").stdout
    shown = program("train.py", "-c", file, "--explain", "model.args.sizes").stdout
    assert "${data:num_classes}" in shown and "from the train dataset" in shown
