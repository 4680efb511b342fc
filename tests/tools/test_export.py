"""Exported models: what other programs read gives the numbers of the run, or is not kept."""
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from base import DATASETS, MODELS, ArrayDataset, fit, load
from conftest import PROJECT, needs, program
from data_loader.digits import Digits
from tools.export.__main__ import main
from tools.export.export import export
from tools.export.formats import output_names
from utils.errors import ConfigError, TrainingError

CONFIG = {"name": "exported", "dataset": "Digits", "data_loader": {"validation_split": 0.1},
          "transforms": {"batch": [{"type": "Normalize", "args": {"mean": [0.3], "std": [0.4]}}]},
          "model": {"type": "MLP", "args": {"sizes": [64, 10]}}, "loss": "CrossEntropyLoss",
          "optimizer": "SGD", "trainer": {"args": {"epochs": 1}}}
# Fixed before any of them was tried. The longer tests export the first five, the tests of a release all.
CLASSIFIERS = ("resnet18", "mobilenet_v3_small", "efficientnet_b0", "densenet121", "shufflenet_v2_x0_5",
               "alexnet", "convnext_tiny", "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5",
               "mobilenet_v2", "regnet_y_400mf", "resnext50_32x4d", "squeezenet1_1", "swin_t", "swin_v2_t",
               "vgg11_bn", "vit_b_16", "wide_resnet50_2")


@DATASETS.register
class NoiseForExport(ArrayDataset):
    """Random images uint8 `[N, *shape]`."""

    def __init__(self, split: str, shape: list[int], num_samples: int = 8):
        generator = torch.Generator().manual_seed(len(split))
        super().__init__(torch.randint(256, (num_samples, *shape), generator=generator).byte(),
                         torch.arange(num_samples) % 5)


@DATASETS.register
class FloatsForExport(ArrayDataset):
    """Images in float32."""

    def __init__(self, split: str):
        super().__init__(torch.rand(20, 1, 8, 8), torch.arange(20) % 10)


@MODELS.register
class OtherwiseWhenTraced(torch.nn.Module):
    """A model that is exported as another one."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    def forward(self, images):
        return self.layers(images) * (2 if torch.compiler.is_exporting() else 1)


@MODELS.register
class CannotBeTraced(OtherwiseWhenTraced):
    """A model whose path hangs on its values."""

    def forward(self, images):
        return self.layers(images) if images.sum() > 0 else self.layers(-images)


@DATASETS.register
class PairsForExport(torch.utils.data.Dataset):
    """Samples in mappings, of two inputs and a label."""

    def __init__(self, split: str):
        self.tokens = torch.arange(60).reshape(20, 3) % 7

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return {"mask": torch.ones(3), "tokens": self.tokens[index], "label": index % 2}


@MODELS.register
class PairsModelForExport(torch.nn.Module):
    """A model of two tensors; `whole`: of the whole batch."""

    def __init__(self, whole: bool = False):
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 2)
        if whole:
            self.forward = lambda batch: PairsModelForExport.forward(self, batch["tokens"], batch["mask"])

    def forward(self, tokens, mask):
        return (self.embedding(tokens) * mask[..., None]).mean(1)


def test_weights_of_a_model_of_any_inputs_are_exported(tmp_path):
    pairs = {**CONFIG, "dataset": "PairsForExport", "transforms": {},
             "model": {"type": "PairsModelForExport", "args": {"whole": True}}}
    run = fit(pairs, out=tmp_path).run
    file, difference = export(run, "weights")
    assert difference == 0 and torch.load(file)["embedding.weight"].shape == (7, 2)
    assert json.loads(file.with_suffix(".json").read_text())["input"] is None
    with pytest.raises(ConfigError, match="Write --format weights, or call torch.export.export with load"):
        export(run, "pt2")


@pytest.mark.slow
def test_a_program_of_several_tensors_takes_them_by_name(tmp_path):
    run = fit({**CONFIG, "dataset": "PairsForExport", "transforms": {}, "model": "PairsModelForExport"},
              out=tmp_path).run
    file, difference = export(run, "pt2")
    tokens, mask = torch.ones(5, 3).long(), torch.ones(5, 3)
    expected = load(run).model(tokens, mask)
    assert torch.equal(torch.export.load(file).module()(tokens=tokens, mask=mask), expected)
    assert [*json.loads(file.with_suffix(".json").read_text())["input"]] == ["tokens", "mask"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(CONFIG, out=tmp_path_factory.mktemp("exported")).run


def test_weights_are_plain_tensors_with_what_describes_them_beside(run):
    file, difference = export(run, "weights")
    assert difference == 0 and file == run / "export" / "model_weights.pt"
    weights = torch.load(file, weights_only=True)
    assert weights.keys() == load(run).model.state_dict().keys()
    about = json.loads(file.with_suffix(".json").read_text())
    assert about["input"] == {"dtype": "float32", "shape": ["batch", 1, 8, 8]}
    assert about["transforms"]["batch"][0]["type"] == "Normalize" and about["transforms"]["uint8_to_float"]
    assert about["config"]["model.type"] == "MLP" and about["classes"] is None


def test_a_program_of_torch_takes_any_batch_and_uint8_images_with_the_transforms(run, tmp_path):
    file, difference = export(run, "pt2", with_transforms=True, folder=tmp_path)
    assert difference < 1e-5
    images = Digits("test").images[:23]
    logits = torch.export.load(file).module()(images)
    expected = load(run)(images)
    assert torch.allclose(logits.softmax(1), expected["probabilities"], atol=1e-6)
    about = json.loads(file.with_suffix(".json").read_text())
    assert about["input"]["dtype"] == "uint8" and about["transforms"]["batch"] == []


def test_the_command_prints_what_the_file_takes_and_that_it_was_checked(run, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "export")
    floats = "dataset={type: FloatsForExport}"
    for args, taken in (([], "uint8 [batch, 1, 8, 8]"), ([floats], "float32 [batch, 1, 8, 8]")):
        monkeypatch.setattr("sys.argv", ["export", "-r", str(run), "--format", "pt2", "--with-transforms",
                                         "--to", str(tmp_path), *args])
        main()
        assert (f"written: {tmp_path / 'model.pt2'}, whose input is {taken}. Checked: its outputs are the "
                "run's, up to ") in caplog.text


def test_a_model_that_is_traced_as_another_is_refused_and_nothing_is_kept(tmp_path):
    run = fit({**CONFIG, "model": "OtherwiseWhenTraced"}, out=tmp_path / "runs").run
    with pytest.raises(TrainingError, match=r"model.pt2 is not kept: its outputs differ.*by 1.0e\+00 of"):
        export(run, "pt2", folder=tmp_path / "exported")
    assert [*(tmp_path / "exported").iterdir()] == []
    other = "dataset={type: NoiseForExport, args: {shape: [1, 5, 5]}}"
    with pytest.raises(ConfigError, match="this model cannot be exported as model.pt2: RuntimeError: mat1"):
        export(run, "pt2", folder=tmp_path / "exported", overrides=[other])
    odd = fit({**CONFIG, "model": "CannotBeTraced"}, out=tmp_path / "runs").run
    with pytest.raises(ConfigError, match="this model cannot be exported as model.pt2"):
        export(odd, "pt2", folder=tmp_path / "exported")
    assert [*(tmp_path / "exported").iterdir()] == []


def test_outputs_have_names():
    value = torch.zeros(2, 3)
    assert output_names({"value": value, "vector": value}) == ["value", "vector"]
    assert output_names(value) == ["output"] and output_names((value, value)) == ["output_0", "output_1"]


def test_mistakes_of_the_command_line(run):
    done = program("-m", "tools.export", "-r", run, "--format", "weights", "--with-transforms", code=2)
    assert "--format weights holds weights alone" in done.stderr
    with pytest.raises(ConfigError, match="no such file or folder|does not exist"):
        export(run.parent / "nothing", "weights")


def test_a_missing_library_is_one_line(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="--format safetensors needs safetensors: pip install safetensors"):
        export(run, "safetensors")


@pytest.mark.slow
def test_another_program_gives_the_classes_of_predict(run, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    needs("docs/predict.md")
    files = []
    for number, image in enumerate(Digits("test").images[:12]):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(image[0].numpy()).save(files[-1])
    file, difference = export(run, "onnx", with_transforms=True, folder=tmp_path / "exported")
    assert difference < 1e-4
    page = (PROJECT / "docs" / "predict.md").read_text()
    server = page.partition("```text\n")[2].partition("```")[0]
    (tmp_path / "server.py").write_text(server)
    assert 5 < len([line for line in server.splitlines() if line]) <= 15
    served = subprocess.run([sys.executable, tmp_path / "server.py", file, *files], capture_output=True,
                            text=True, cwd=tmp_path, check=True)
    program("predict.py", "-r", run, *files, "--out", tmp_path / "p.npz")
    assert served.stdout.split() == [str(number) for number in np.load(tmp_path / "p.npz")["class"]]
    weights, _ = export(run, "safetensors", folder=tmp_path / "exported")
    from safetensors.torch import load_file
    assert load_file(weights).keys() == load(run).model.state_dict().keys()


def exported_classifier(name: str, folder) -> dict[str, float]:
    """Trains a classifier of torchvision for a step, so that its norms have statistics; exports it."""
    sizes = {"inception_v3": 299, "vit_b_16": 224, "maxvit_t": 224, "swin_t": 224, "swin_v2_t": 224}
    args, size = {"num_classes": 5}, sizes.get(name, 64)
    if name in ("googlenet", "inception_v3"):
        args |= {"aux_logits": False, "init_weights": False}
    config = {"name": name, "dataset": {"type": "NoiseForExport", "args": {"shape": [3, size, size]}},
              "data_loader": {"batch_size": 4, "validation_split": 4, "batches_per_epoch": 1},
              "model": {"type": name, "args": args}, "loss": "CrossEntropyLoss", "optimizer": "SGD",
              "trainer": {"args": {"epochs": 1}}}
    run = fit(config, out=folder).run
    return {form: export(run, form, with_transforms=True, folder=folder / name)[1]
            for form in ("pt2", "onnx")}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS[:5])
def test_classifiers_of_torchvision_are_exported_with_equal_outputs(name, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert max(exported_classifier(name, tmp_path).values()) < 1e-4


@pytest.mark.release
@pytest.mark.parametrize("name", CLASSIFIERS[5:])
def test_more_classifiers_of_torchvision_are_exported_with_equal_outputs(name, tmp_path):
    test_classifiers_of_torchvision_are_exported_with_equal_outputs(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10_resnet", "linear_regression"])
def test_shipped_models_are_exported_with_equal_outputs(name, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    needs(f"configs/{name}.yaml")
    sizes = {"mnist": [1, 28, 28], "cifar10_resnet": [3, 32, 32]}
    noise = f"dataset={{type: NoiseForExport, args: {{shape: {sizes.get(name)}, num_samples: 40}}}}"
    data = [noise, "transforms.train=[]", "data_loader.batch_size=16"] if name in sizes else []
    run = fit(PROJECT / "configs" / f"{name}.yaml", [*data, "trainer.args.epochs=1", "scheduler=null",
                                                     "data_loader.validation_split=0.2"], out=tmp_path).run
    for form in ("pt2", "onnx"):
        assert export(run, form, with_transforms=name != "linear_regression", folder=tmp_path)[1] < 1e-4
