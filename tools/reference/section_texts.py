"""What the sections of a config and the keys of their blocks are for, as texts."""
from utils.config.sections import EXTENDS

SECTION_TEXTS = {
    "extends": EXTENDS,
    "name": "What the experiment is called: its runs are kept in saved/<name>/.",
    "seed": "The source of all randomness, a whole number.",
    "dataset": "What to train and evaluate on.",
    "transforms": "What happens to samples on their way, and to batches.",
    "data_loader": "How samples become batches, and which of them validate.",
    "model": "The network.",
    "init": "The weights that a new run begins with, from files: [{from: PATH}, ...].",
    "loss": "What training minimises: a loss, or the sum of several, each by its name.",
    "metrics": "What else is measured, in training and in evaluation.",
    "optimizer": "What steps the weights; several by the names of submodules that they step, or by `match`.",
    "scheduler": "How the learning rate moves; all of a list are stepped; several optimizers by their names.",
    "trainer": "What happens to a batch, and how a run goes.",
    "writers": "Where numbers and images go, besides metrics.jsonl.",
}
# Keys of a section's blocks besides `type` and `args`; of `init` and `transforms` all keys but `joint`.
KEY_TEXTS = {
    "init": {
        "from": "A checkpoint, a run, or a file of tensors: a state_dict, or one in it, or .safetensors.",
        "into": "The submodule that takes them; by default the model.",
        "rename": "Prefixes of names in the file, and what stands in their place: {'backbone.': ''}.",
        "skip": "Patterns of names, after renaming, that keep their first values: ['head.*']."},
    "loss": {
        "scale": "What a loss of several is multiplied by in their sum (1); its value is logged without."},
    "metrics": {
        "name": "What the metric is called in the logs; by default its type."},
    "optimizer": {
        "match": "Patterns of names of parameters that one of several steps; one without takes the rest.",
        "groups": "Parameters with options of their own: "
                  "[{match: 'backbone.*', lr: 1e-4}, {match: 'embed*', frozen: true}]; "
                  "frozen: {until_epoch: 3} is for the first three epochs.",
        "decay_bias_and_norm": "Whether weight decay also shrinks biases and the weights of "
                               "normalisation layers (true).",
        "keep_frozen": "Whether the optimizer has the frozen parameters, too, so that they are trained "
                       "once they are unfrozen (true); without, rules that freeze come first."},
    "scheduler": {
        "per": "Stepped after each epoch or step (step for OneCycleLR and CyclicLR, else epoch)."},
    "transforms": {
        "train": "Sample by sample, of the train split, in training.",
        "eval": "Sample by sample, of val and test.",
        "batch": "Whole batches on their device; those called Batch... augment, in training only."},
}
JOINT = ("Whether transforms of samples get all of a sample, (image, target), not the image alone. null: "
         "those of torchvision do if a target is a tv_tensor; batch augmentations move masks [B, H, W]. "
         "false: neither.")
