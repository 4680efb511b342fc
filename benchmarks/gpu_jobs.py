"""What gpu.py trains: ResNet-18 on random images and a transformer on random tokens, as plug-ins and by themselves."""
import time

from benchmarks.harness import peak_rss_mib

NORMAL = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
LOG_EVERY = 50


class DeviceClock:
    """Called after every step; takes the time when the device is done with a fifth of the steps, and with all."""

    def __init__(self, args, field: str, units_per_step: int):
        self.args, self.field, self.units, self.elapsed_s = args, field, units_per_step, 0.0
        self.first, self.last = max(args.steps // 5, 1), args.steps

    def __call__(self, step: int) -> None:
        if step in (self.first, self.last):
            if on_cuda(self.args):
                import torch

                torch.cuda.synchronize(self.args.device)
            self.elapsed_s = time.perf_counter() - self.elapsed_s  # from a moment to a stretch

    def numbers(self) -> dict:
        import torch

        speed = self.units * (self.last - self.first) / self.elapsed_s
        if not on_cuda(self.args):
            return {self.field: speed, "peak_mib": peak_rss_mib()}
        return {self.field: speed, "peak_mib": torch.cuda.max_memory_allocated(self.args.device) / 2**20,
                "device": torch.cuda.get_device_name(self.args.device)}


def on_cuda(args) -> bool:
    return args.device.startswith("cuda")


def random_images(args):
    """uint8 `[N, 3, 32, 32]` and classes `[N]`, for an epoch of all steps."""
    import torch

    num_samples = args.steps * args.images
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (num_samples, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images, torch.randint(10, (num_samples,), generator=generator)


def random_tokens(args):
    """Tokens `[N, T]`, and the token that follows each, for an epoch of all steps."""
    import torch

    tokens = torch.randint(args.vocabulary, (args.steps * args.sequences, args.length + 1),
                           generator=torch.Generator().manual_seed(1))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def resnet(num_classes: int = 10):
    """torchvision's ResNet-18 with the stem for small images."""
    from torch import nn
    from torchvision.models import resnet18

    network = resnet18(num_classes=num_classes)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return network


def transformer(args):
    """A causal transformer: tokens `[B, T]` to logits `[B, T, V]`."""
    import torch
    from torch import nn
    from torch.nn.functional import scaled_dot_product_attention

    class Block(nn.Module):
        def __init__(self, width: int, num_heads: int):
            super().__init__()
            self.num_heads = num_heads
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x):
            q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # [B, H, T, D]
                       for part in self.qkv(self.norm1(x)).chunk(3, dim=2))
            attended = scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(attended.transpose(1, 2).flatten(2))  # [B, T, C]
            return x + self.mlp(self.norm2(x))

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.places = nn.Embedding(args.vocabulary, args.width), nn.Embedding(args.length, args.width)
            self.blocks = nn.Sequential(*[Block(args.width, args.width // 64) for _ in range(args.blocks)])
            self.norm, self.head = nn.LayerNorm(args.width), nn.Linear(args.width, args.vocabulary, bias=False)
            self.register_buffer("order", torch.arange(args.length))

        def forward(self, tokens):
            return self.head(self.norm(self.blocks(self.tokens(tokens) + self.places(self.order))))

    return Transformer()


def token_loss(outputs, targets):
    from torch.nn.functional import cross_entropy

    return cross_entropy(outputs.flatten(0, 1), targets.flatten())


def register_plug_ins(args, **methods) -> None:
    """Datasets, models, a loss and a trainer with these methods, for a config to name."""
    from torch.utils.data import TensorDataset

    from base import DATASETS, LOSSES, MODELS, TRAINERS
    from trainer.trainer import Trainer

    class RandomImages(TensorDataset):
        def __init__(self, split: str):
            super().__init__(*random_images(args))

    class RandomTokens(TensorDataset):
        def __init__(self, split: str):
            super().__init__(*random_tokens(args))

    def BenchmarkTransformer():
        return transformer(args)

    def BenchmarkResNet():
        return resnet()

    for registry, thing in ((DATASETS, RandomImages), (DATASETS, RandomTokens), (LOSSES, token_loss), (MODELS, BenchmarkResNet),
                            (MODELS, BenchmarkTransformer), (TRAINERS, type("BenchmarkTrainer", (Trainer,), methods))):
        registry.register(thing)
