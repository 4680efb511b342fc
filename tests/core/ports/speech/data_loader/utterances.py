"""Utterances of a course on speech recognition: sequences of features, and what was said."""
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from base import DATASETS


@DATASETS.register
class Utterances(Dataset):
    """Samples (features float32 `[T, D]`, characters int64 `[L]`) of `root/<subset>.npz`; 0 is CTC's blank.

    Args:
        subset: such as train-clean or dev-other.
    """

    def __init__(self, subset: str, root: str = "data/speech"):
        self.alphabet = (Path(root) / "alphabet.txt").read_text().strip()
        self.vocab_size = len(self.alphabet) + 1
        with np.load(Path(root) / f"{subset}.npz") as file:
            self.lengths, frames, self.texts = file["lengths"], file["frames"], file["texts"].tolist()
        self.features = torch.from_numpy(frames).split(self.lengths.tolist())

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        characters = [self.alphabet.index(character) + 1 for character in self.texts[index]]
        return self.features[index], torch.tensor(characters)

    @staticmethod
    def collate_fn(samples):
        """((features `[B, T, D]`, lengths `[B]`), (characters `[B, L]`, lengths `[B]`)), padded."""
        return tuple((pad_sequence(parts, batch_first=True), torch.tensor([len(part) for part in parts]))
                     for parts in zip(*samples, strict=True))
