"""Generative adversarial training: two networks, two optimizers, one batch of real images."""
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from base import TRAINERS, BaseTrainer
from utils.random import derive


@TRAINERS.register
class GANTrainer(BaseTrainer):
    """The non-saturating game of Goodfellow et al. 2014, section 3.

    Assumes a model with a `latent_size` Z and the submodules `generator` (noise `[B, Z]` to images in
    [-1, 1]) and `discriminator` (images to logits `[B]`). The config has one optimizer under each name.

    Args:
        grid: how many generated images to log after each epoch, always from the same noise.
    """

    def __init__(self, *, grid: int = 32, **kwargs):
        super().__init__(**kwargs)
        noise = torch.Generator().manual_seed(derive(self.seed, "grid"))
        self.grid_noise = torch.randn(grid, self.model.latent_size, generator=noise).to(self.device)

    def train_step(self, batch):
        images, fakes = self.real_and_fake(batch)
        # detach: this step trains the discriminator; no gradient flows back into the generator
        discriminator_loss = self.judge(images, real=True) + self.judge(fakes.detach(), real=False)
        self.update(discriminator_loss, "discriminator")
        # no detach: gradients reach the generator through the discriminator, but leave none in it
        # (with several optimizers, each backward pass fills only the parameters of its own optimizer)
        generator_loss = self.judge(fakes, real=True)
        self.update(generator_loss, "generator")
        return {"generator_loss": generator_loss, "discriminator_loss": discriminator_loss}

    def eval_step(self, batch):
        images, fakes = self.real_and_fake(batch)
        with self.autocast():
            mistaken = self.model.discriminator(fakes) > 0  # [B]
            noticed = self.model.discriminator(images) > 0  # [B]
        # how much the first two moments of the pixels differ: little if the images look alike overall
        moments = [(batch.mean(0), batch.std(0, correction=0)) for batch in (images, fakes)]
        gap = sum((real - fake).abs().mean() for real, fake in zip(*moments, strict=True))
        return {"fakes_taken_for_real": mistaken, "reals_taken_for_real": noticed, "pixel_gap": gap}

    def on_epoch_end(self):
        with self.evaluating(), self.autocast():
            images = self.model.generator(self.grid_noise)
        self.run.images("generated", images, self.position.step)

    def real_and_fake(self, batch):
        images = batch[0]  # [B, C, H, W] in [-1, 1]
        noise = torch.randn(len(images), self.model.latent_size, device=self.device)  # [B, Z]
        with self.autocast():
            return images, self.model.generator(noise).float()

    def judge(self, images, real: bool):
        with self.autocast():
            logits = self.model.discriminator(images)  # [B]
            return binary_cross_entropy_with_logits(
                logits, torch.full_like(logits, float(real)))  # 1 for real, 0 for fake
