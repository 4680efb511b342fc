"""A multilayer perceptron."""
from itertools import pairwise

from torch import nn

from base import MODELS, BaseModel


@MODELS.register
class MLP(BaseModel):
    """Linear layers with ReLU between them, over the flattened input.

    Args:
        sizes: sizes of input, hidden layers and output: `[784, 128, 10]`.
        dropout: dropout probability after each hidden layer.
    """

    def __init__(self, sizes: list[int], dropout: float = 0.0):
        super().__init__()
        if len(sizes) < 2:
            raise ValueError(f"sizes: {sizes} is too short. Those of input and output are needed: [784, 10]")
        layers = []
        for wide, narrow in pairwise(sizes):
            layers += [nn.Linear(wide, narrow), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(nn.Flatten(), *layers[:-2])

    def forward(self, inputs):
        return self.layers(inputs)  # [B, sizes[-1]]
