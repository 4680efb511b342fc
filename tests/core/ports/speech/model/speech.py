"""A small acoustic model with CTC (Graves et al. 2006), and what it is measured by."""
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from base import LOSSES, METRICS, MODELS


@MODELS.register
class AcousticModel(nn.Module):
    """A convolution over time and a recurrent layer in both directions."""

    def __init__(self, num_features: int, vocab_size: int, width: int = 32):
        super().__init__()
        self.convolution = nn.Conv1d(num_features, width, 3, padding=1)
        self.recurrent = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.output = nn.Linear(2 * width, vocab_size)

    def forward(self, inputs):
        """(features `[B, T, D]`, lengths `[B]`) -> (log-probabilities `[B, T, V]`, lengths `[B]`)."""
        features, lengths = inputs
        x = self.convolution(features.transpose(1, 2)).relu().transpose(1, 2)  # [B, T, W]
        x = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        x, _ = pad_packed_sequence(self.recurrent(x)[0], batch_first=True)  # [B, T, 2W]
        return self.output(x).log_softmax(2), lengths


@LOSSES.register
def ctc(outputs, targets):
    (log_probs, lengths), (characters, num_characters) = outputs, targets
    return nn.functional.ctc_loss(log_probs.transpose(0, 1), characters, lengths, num_characters,
                                  zero_infinity=True)


def decode(outputs) -> list[list[int]]:
    """The most likely character of each frame; repetitions and blanks are left out."""
    log_probs, lengths = outputs
    best = [row[:length].unique_consecutive()
            for row, length in zip(log_probs.argmax(2), lengths, strict=True)]
    return [row[row > 0].tolist() for row in best]


def pairs(outputs, targets) -> list[tuple[list[int], list[int]]]:
    """What was recognised and what was said, of each sample."""
    said = [row[:length].tolist() for row, length in zip(*targets, strict=True)]
    return list(zip(decode(outputs), said, strict=True))


def edit_distance(one: list, other: list) -> int:
    """Levenshtein's distance: insertions, deletions and substitutions."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


@METRICS.register
def cer(outputs, targets):
    """The character error rate of each sample, float `[B]`."""
    return torch.tensor([edit_distance(*pair) / len(pair[1]) for pair in pairs(outputs, targets)])


@METRICS.register
def exact_match(outputs, targets):
    return torch.tensor([float(found == said) for found, said in pairs(outputs, targets)])


@METRICS.register
def length_error(outputs, targets):
    return torch.tensor([float(abs(len(found) - len(said))) for found, said in pairs(outputs, targets)])
