"""What the loop costs on a GPU, where the device must never wait for Python: two models in bf16, and a check for syncs.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --contestants template_syncs
    python benchmarks/gpu.py --device cpu --tiny --rounds 1      (only to try the code)

    resnet_template        ResNet-18 on random images [3, 32, 32]: the program with metric, log points, TensorBoard and bar
    resnet_bare            by hand: all images on the device, a batch gathered there
    resnet_bare_host       by hand as the program does it: gathered in main memory, pinned, copied
    transformer_template   eight blocks, 512 wide, on random tokens: the program
    transformer_bare       by hand, all tokens on the device
    template_syncs         steps of the program under torch's sync debug mode "error": one that waits for the device between two
                           log points ends it with the line that did

All use bf16 autocast and a fused optimizer. Speeds are over the last four fifths of the steps. `template_syncs` runs without
the bar, which looks at the loss twice a second. Without CUDA the exit code is 2.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import jobs  # noqa: E402
from benchmarks.gpu_jobs import (  # noqa: E402
    LOG_EVERY,
    NORMAL,
    DeviceClock,
    on_cuda,
    random_images,
    random_tokens,
    register_plug_ins,
    resnet,
    token_loss,
    transformer,
)
from benchmarks.harness import Comparison  # noqa: E402


def run_resnet(args, *options: str) -> None:
    run_job(args, {"dataset": "RandomImages", "model": "BenchmarkResNet", "loss": "CrossEntropyLoss", "metrics": ["accuracy"],
                   "transforms": {"batch": [{"type": "Normalize", "args": NORMAL}]},
                   "optimizer": {"type": "SGD", "args": {"lr": 0.1, "momentum": 0.9}}}, args.images, True, *options)


def run_transformer(args, *options: str) -> None:
    run_job(args, {"dataset": "RandomTokens", "model": "BenchmarkTransformer", "loss": "token_loss",
                   "optimizer": {"type": "AdamW", "args": {"lr": 1e-3}}}, args.sequences, False, *options)


def run_job(args, job: dict, batch_size: int, channels_last: bool, *options: str) -> None:
    trainer = {"epochs": 1, "monitor": None, "precision": "bf16", "channels_last": channels_last, "log_every": LOG_EVERY}
    jobs.run_program({"name": "gpu", "data_loader": {"batch_size": batch_size, "validation_split": 0}, **job,
                      "trainer": {"type": "BenchmarkTrainer", "args": trainer}}, "--device", args.device, *options)


def timed_template(args, run, clock: DeviceClock) -> dict:
    def on_step_end(self):
        clock(self.position.step)

    register_plug_ins(args, on_step_end=on_step_end)
    run(args)
    return clock.numbers()


def resnet_template(args) -> dict:
    return timed_template(args, run_resnet, DeviceClock(args, "images_per_s", args.images))


def transformer_template(args) -> dict:
    return timed_template(args, run_transformer, DeviceClock(args, "tokens_per_s", args.sequences * args.length))


def template_syncs(args) -> dict:
    """From the step after a log point to the next log point nothing may wait for the device."""
    import torch

    from trainer.trainer import Trainer

    def watch(mode: str) -> None:
        if on_cuda(args):
            torch.cuda.set_sync_debug_mode(mode)

    checked = []

    def on_step_end(self):
        checked.append(self.position.step)
        if self.position.step % LOG_EVERY == 0 or self.position.step == args.steps:
            watch("default")  # what follows is a log point or the end of the epoch

    def train_step(self, batch):
        if not self.in_preflight:
            watch("error")
        return Trainer.train_step(self, batch)

    if on_cuda(args):
        assert syncs_are_seen(args.device), "the debug mode sees no sync"
    register_plug_ins(args, on_step_end=on_step_end, train_step=train_step)
    run_resnet(args, "-q", "-v")  # no bar; a traceback, should it come to that
    return {"steps_without_sync": len(checked)}


def syncs_are_seen(device: str) -> bool:
    """Whether the debug mode notices a value that is read."""
    import torch

    value = torch.ones(1, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        value.item()
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def bare_loop(args, clock: DeviceClock, network, optimizer, batches, loss_of, *metrics) -> dict:
    """Steps by hand; losses and metrics stay on the device and are read where the program has its log points."""
    import torch

    values = []
    for step, (inputs, targets) in enumerate(batches, 1):
        with torch.autocast(args.device.split(":")[0], torch.bfloat16):
            outputs = network(inputs)
            loss = loss_of(outputs, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(torch.stack([loss.detach(), *(metric(outputs.detach(), targets) for metric in metrics)]))
        clock(step)
        if step % LOG_EVERY == 0:
            torch.stack(values).mean(0).tolist()
            values.clear()
    return clock.numbers()


def resnet_by_hand(args, gathered) -> dict:
    """`gathered(images, classes)` gives the batches, uint8 on the device."""
    import torch
    from torch.nn.functional import cross_entropy

    images, classes = random_images(args)
    network = resnet().to(args.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, fused=True)
    mean, std = (torch.tensor(value, device=args.device)[:, None, None] for value in NORMAL.values())

    def accuracy(outputs, targets):
        return (outputs.argmax(1) == targets).float().mean()

    def normalised():
        for inputs, targets in gathered(images, classes):
            inputs = inputs.float().div_(255).sub_(mean).div_(std)
            yield inputs.contiguous(memory_format=torch.channels_last), targets

    clock = DeviceClock(args, "images_per_s", args.images)
    return bare_loop(args, clock, network, optimizer, normalised(), cross_entropy, accuracy)


def gathered_on_device(args, batch_size: int):
    import torch

    def batches(inputs, targets):
        inputs, targets = inputs.to(args.device), targets.to(args.device)
        for chosen in torch.randperm(len(inputs), device=args.device).split(batch_size):
            yield inputs[chosen], targets[chosen]
    return batches


def resnet_bare(args) -> dict:
    return resnet_by_hand(args, gathered_on_device(args, args.images))


def resnet_bare_host(args) -> dict:
    import torch

    def batches(images, classes):
        for chosen in torch.randperm(len(images)).split(args.images):
            batch = images[chosen], classes[chosen]
            yield [part.pin_memory().to(args.device, non_blocking=True) if on_cuda(args) else part for part in batch]

    return resnet_by_hand(args, batches)


def transformer_bare(args) -> dict:
    import torch

    network = transformer(args).to(args.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    batches = gathered_on_device(args, args.sequences)(*random_tokens(args))
    clock = DeviceClock(args, "tokens_per_s", args.sequences * args.length)
    return bare_loop(args, clock, network, optimizer, batches, token_loss)


def options(parser) -> None:
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the code (cuda)")
    parser.add_argument("--steps", type=int, default=300, help="of each process (300)")
    parser.add_argument("--images", type=int, default=512, help="in a batch (512)")
    parser.add_argument("--sequences", type=int, default=64, help="in a batch (64)")
    parser.add_argument("--length", type=int, default=512, help="tokens in a sequence (512)")
    parser.add_argument("--width", type=int, default=512, help="of the transformer, a multiple of 64 (512)")
    parser.add_argument("--blocks", type=int, default=8, help="of the transformer (8)")
    parser.add_argument("--vocabulary", type=int, default=8192, help="(8192)")
    tiny = {"steps": 6, "images": 4, "sequences": 2, "length": 16, "width": 64, "blocks": 1, "vocabulary": 50}
    parser.add_argument("--tiny", action="store_const", const=tiny, help="sizes that a CPU manages in seconds")


class GPUComparison(Comparison):
    """Applies --tiny, and asks for the device before anything is started."""

    def parse(self, argv):
        args = super().parse(argv)
        vars(args).update(args.tiny or {})
        if on_cuda(args) and not args.contestant:
            import torch

            if not torch.cuda.is_available():
                print("gpu: torch finds no CUDA device here; --device cpu --tiny tries the code without one", file=sys.stderr)
                sys.exit(2)
        return args


COMPARISON = GPUComparison(
    "gpu", __doc__,
    {"resnet_template": resnet_template, "resnet_bare": resnet_bare, "resnet_bare_host": resnet_bare_host,
     "transformer_template": transformer_template, "transformer_bare": transformer_bare, "template_syncs": template_syncs},
    {"images_per_s": "images/s", "tokens_per_s": "tokens/s", "peak_mib": "peak memory [MiB]",
     "steps_without_sync": "steps checked, no sync"},
    ratios=[("images_per_s", "resnet_template", "resnet_bare"), ("images_per_s", "resnet_template", "resnet_bare_host"),
            ("tokens_per_s", "transformer_template", "transformer_bare")],
    options=options)

if __name__ == "__main__":
    COMPARISON.main()
