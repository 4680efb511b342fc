"""The reference of the config is up to date and leaves nothing out."""
import pytest

from conftest import PROJECT, needs
from tools import config_docs as reference
from tools.config_docs import config_reference
from tools.reference.docstrings import argument_text, summary
from tools.reference.settable import config_sources, own_things, settable_arguments
from utils.config.signature import Signature

REGISTRIES, LOADER, LOADER_PARTS = config_sources()
# Whoever adds others may leave them without a text.
SHIPPED = {
    "ArrayFiles", "Digits", "ImageFolder", "NoisyLine", "BatchColorJitter", "BatchCutMix", "BatchMixUp",
    "BatchRandomAffine", "BatchRandomCrop", "BatchRandomErasing", "BatchRandomHorizontalFlip", "BatchRandomResizedCrop",
    "BatchRandomVerticalFlip", "BatchTrivialAugment", "CIFARResNet", "DigitsGAN", "LeNet", "Line",
    "MLP", "absolute_error", "accuracy", "top_k_accuracy", "GANTrainer", "Trainer", "TensorBoard", "Weighted", "Balanced",
    "GroupedByLength",
}


def shipped_things(section: str, registry) -> dict:
    """`own_things`, of those that come with the template."""
    return {name: thing for name, thing in own_things(section, registry).items() if name in SHIPPED}


def test_the_page_is_up_to_date(monkeypatch):
    needs("docs/config.md")
    monkeypatch.setattr(reference, "own_things", shipped_things)  # a fork's own may wait for it
    written = (PROJECT / "docs" / "config.md").read_text()
    assert written == config_reference(*config_sources()), "run python -m tools.config_docs > docs/config.md"


@pytest.mark.parametrize("section", REGISTRIES)
def test_all_that_comes_with_the_project_says_what_it_is_and_so_do_its_arguments(section):
    shipped = {name: thing for name, thing in own_things(section, REGISTRIES[section]).items() if name in SHIPPED}
    for name, thing in shipped.items():
        arguments = settable_arguments(section, REGISTRIES[section], thing).parameters
        assert summary(thing), f"{name} has no docstring"
        assert [argument for argument in arguments if not argument_text(thing, argument)] == [], f"{name}: no text in Args:"


def test_so_do_the_options_of_the_loader():
    assert [name for name in Signature(LOADER, LOADER_PARTS).free() if not argument_text(LOADER, name)] == []
