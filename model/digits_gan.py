"""A generator and a discriminator of 8x8 grey images."""
import torch
from torch import nn

from base import MODELS, BaseModel


@MODELS.register
class DigitsGAN(BaseModel):
    """Two small convolutional networks, after DCGAN (Radford et al. 2016, arXiv 1511.06434).

    Args:
        latent_size: length of the noise vectors.
        width: channels at 4x4 pixels.
    """

    def __init__(self, latent_size: int = 16, width: int = 64):
        super().__init__()
        self.latent_size = latent_size
        self.generator = nn.Sequential(  # [B, Z]
            nn.Linear(latent_size, 2 * width * 4), nn.Unflatten(1, (2 * width, 2, 2)),  # [B, 2W, 2, 2]
            nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, padding=1, bias=False),  # [B, W, 4, 4]
            nn.BatchNorm2d(width), nn.ReLU(),
            nn.ConvTranspose2d(width, 1, 4, 2, padding=1), nn.Tanh())  # [B, 1, 8, 8]
        self.discriminator = nn.Sequential(  # [B, 1, 8, 8]
            nn.Conv2d(1, width, 4, 2, padding=1), nn.LeakyReLU(0.2),  # [B, W, 4, 4]
            nn.Conv2d(width, 2 * width, 4, 2, padding=1), nn.LeakyReLU(0.2),  # [B, 2W, 2, 2]
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(2 * width * 4, 1), nn.Flatten(0))  # [B]
        self.apply(_small_weights)

    def forward(self, noise):
        return self.generator(noise)


@torch.no_grad()
def _small_weights(layer: nn.Module) -> None:
    """DCGAN's initialisation: normal with a standard deviation of 0.02."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        layer.weight.normal_(0, 0.02)
