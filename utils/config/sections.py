"""The sections of a config: the purpose of each, and its default."""
import copy
from collections.abc import Mapping
from typing import Any, NamedTuple


class Section(NamedTuple):
    """A top-level key of a config. `keys`: keys of its blocks besides `type` and `args`, with meaning."""

    default: Any
    text: str
    keys: dict[str, str] = {}


SECTIONS = {
    "name": Section(None, "What the experiment is called: its runs are kept in saved/<name>/."),
    "seed": Section(0, "The source of all randomness, a whole number."),
    "dataset": Section(None, "What to train and evaluate on."),
    "transforms": Section({}, "What happens to samples on their way, and to batches."),
    "data_loader": Section({}, "How samples become batches, and which of them validate."),
    "model": Section(None, "The network."),
    "init": Section(None, "The weights that a new run begins with, from files: [{from: PATH}, ...].", {
        "from": "A checkpoint, a run, or a file of tensors: a state_dict, or one in it, or .safetensors.",
        "into": "The submodule that takes them; by default the model.",
        "rename": "Prefixes of names in the file, and what stands in their place: {'backbone.': ''}.",
        "skip": "Patterns of names, after renaming, that keep their first values: ['head.*']."}),
    "loss": Section(None, "What training minimises: a loss, or the sum of several, each by its name.", {
        "scale": "What a loss of several is multiplied by in their sum (1); its value is logged without."}),
    "metrics": Section([], "What else is measured, in training and in evaluation.", {
        "name": "What the metric is called in the logs; by default its type."}),
    "optimizer": Section(
        None, "What steps the weights; several by the names of submodules that they step, or by `match`.", {
            "match": "Patterns of names of parameters that one of several steps; one without takes the rest.",
            "groups": "Parameters with options of their own: "
                      "[{match: 'backbone.*', lr: 1e-4}, {match: 'embed*', frozen: true}]; "
                      "frozen: {until_epoch: 3} is for the first three epochs.",
            "decay_bias_and_norm": "Whether weight decay also shrinks biases and the weights of "
                                   "normalisation layers (true).",
            "keep_frozen": "Whether the optimizer has the frozen parameters, too, so that they are trained "
                           "once they are unfrozen (true); without, rules that freeze come first."}),
    "scheduler": Section(
        None, "How the learning rate moves; all of a list are stepped; several optimizers by their names.", {
            "per": "Stepped after each epoch or step (step for OneCycleLR and CyclicLR, else epoch)."}),
    "trainer": Section({"type": "Trainer"}, "What happens to a batch, and how a run goes."),
    "writers": Section(["TensorBoard"], "Where numbers and images go, besides metrics.jsonl."),
}
REQUIRED = ("name", "dataset", "model", "optimizer")
TRANSFORM_KEYS = {
    "train": "Sample by sample, of the train split, in training.",
    "eval": "Sample by sample, of val and test.",
    "batch": "Whole batches on their device; those called Batch... augment, in training only.",
}
JOINT = ("Whether transforms of samples get all of a sample, (image, target), not the image alone. null: "
         "those of torchvision do if a target is a tv_tensor; batch augmentations move masks [B, H, W]. "
         "false: neither.")
EXTENDS = "Another config, or a list of them, to inherit from; the file names are relative to this file."


def with_defaults(config: Mapping) -> dict:
    """Returns a config with all sections: missing ones get their default; other keys are kept."""
    defaults = {key: copy.deepcopy(section.default) for key, section in SECTIONS.items()}
    full = {key: default if config.get(key) is None else config[key] for key, default in defaults.items()}
    if isinstance(full["trainer"], dict):
        full["trainer"] = {**SECTIONS["trainer"].default, **full["trainer"]}
    return {**full, **{key: value for key, value in config.items() if key not in SECTIONS}}
