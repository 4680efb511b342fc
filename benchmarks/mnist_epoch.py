"""An epoch of LeNet on MNIST, 54,000 images to train on and 6,000 to evaluate: the program against loops written by hand.

    python benchmarks/mnist_epoch.py --data DIR         (DIR holds MNIST as torchvision keeps it)
    python benchmarks/mnist_epoch.py                    (the bundled digits, in a network ten times as wide)
    python benchmarks/mnist_epoch.py --data DIR --pytorch-template DIR

    template             the program as it comes: TensorBoard, metrics, progress bar, checkpoints in the background
    template_loader      the same with a dataset that gives one normalised sample after the other
    bare_loader          a DataLoader over torchvision's dataset with its transforms, AdamW as people write it
    bare_loader_fused    the same with AdamW's fused kernel: the same model, loader and optimizer as template_loader
    bare_resident        all images in one uint8 tensor, a batch gathered at once, metrics read once an epoch, the heap kept
    pytorch_template     victoresque/pytorch-template, see benchmarks/pytorch_template.py

All use batches of 128 and AdamW; the time of an epoch goes from the end of one evaluation to the end of the next.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import jobs, pytorch_template  # noqa: E402
from benchmarks.harness import Clock, Comparison  # noqa: E402


def template(args) -> dict:
    return jobs.template_epochs(jobs.image_job(args.data), args.data, args.epochs)


def template_loader(args) -> dict:
    from torch.utils.data import Dataset

    from base import DATASETS

    @DATASETS.register
    class PerSample(Dataset):
        def __init__(self, split: str):
            self.samples = jobs.samples(args.data)

        def __len__(self):
            return len(self.samples)

        def __getitem__(self, index):
            return self.samples[index]

    job = {**jobs.image_job(args.data), "dataset": "PerSample", "transforms": {}}
    return jobs.template_epochs(job, args.data, args.epochs)


def bare_loader(args, **optimizer_options) -> dict:
    import torch
    from torch.nn.functional import cross_entropy

    torch.manual_seed(1)
    train, val = jobs.loaders(args.data)
    model = jobs.build_lenet(args.data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **optimizer_options)
    clock = Clock()
    for _ in range(args.epochs):
        total_loss = hits = 0.0
        model.train()
        for images, labels in train:
            optimizer.zero_grad()
            outputs = model(images)
            loss = cross_entropy(outputs, labels)
            loss.backward()
            optimizer.step()
            total_loss += loss.item() * len(labels)
            hits += (outputs.argmax(1) == labels).sum().item()
        model.eval()
        total_loss = hits = 0.0
        with torch.no_grad():
            for images, labels in val:
                outputs = model(images)
                total_loss += cross_entropy(outputs, labels).item() * len(labels)
                hits += (outputs.argmax(1) == labels).sum().item()
        clock.mark()
    return {**clock.numbers(len(train)), "accuracy": hits / len(val.dataset)}


def bare_loader_fused(args) -> dict:
    return bare_loader(args, fused=True)


def bare_resident(args) -> dict:
    import torch
    from torch.nn.functional import cross_entropy

    keep_heap()
    torch.manual_seed(1)
    images, labels = jobs.arrays(args.data)
    order = torch.randperm(len(images))
    num_val = round(len(images) / 10)
    mean, std = (value[0] for value in jobs.scale(args.data).values())
    model = jobs.build_lenet(args.data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def outputs_and_values(chosen):
        outputs = model(images[chosen].float().div_(255).sub_(mean).div_(std))
        targets = labels[chosen]
        loss = cross_entropy(outputs, targets)
        hits = (outputs.detach().topk(3).indices == targets[:, None]).float().sum(0)  # [3]
        return loss, torch.stack([loss.detach() * len(chosen), hits[0], hits.sum()])

    clock = Clock()
    for _ in range(args.epochs):
        model.train()
        train = order[num_val:][torch.randperm(len(images) - num_val)].split(jobs.BATCH_SIZE)
        totals = torch.zeros(3)
        for chosen in train:
            loss, values = outputs_and_values(chosen)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            totals += values
        totals.tolist()
        model.eval()
        with torch.no_grad():
            totals = sum(outputs_and_values(chosen)[1] for chosen in order[:num_val].split(jobs.BATCH_SIZE))
        accuracy = totals.tolist()[1] / num_val
        clock.mark()
    return {**clock.numbers(len(train)), "accuracy": accuracy}


def keep_heap() -> None:
    """Asks glibc not to hand freed memory back to the system, which would have to clear every page again. Elsewhere nothing."""
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # glibc's numbers of the two, from malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if sys.platform == "linux" and mallopt:
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, 2**31 - 1)


def pytorch_template_epochs(args) -> dict:
    if not args.pytorch_template:
        return {"note": "not given (--pytorch-template DIR)"}
    return pytorch_template.epochs(args.pytorch_template, args.data, args.epochs)


def options(parser) -> None:
    jobs.data_option(parser)
    parser.add_argument("--epochs", type=int, default=3, help="of each process (3): the first, and the median of the others")
    parser.add_argument("--pytorch-template", metavar="DIR", type=Path, help="a checkout of victoresque/pytorch-template")


COMPARISON = Comparison(
    "mnist_epoch", __doc__,
    {"template": template, "template_loader": template_loader, "bare_loader": bare_loader,
     "bare_loader_fused": bare_loader_fused, "bare_resident": bare_resident, "pytorch_template": pytorch_template_epochs},
    jobs.EPOCH_FIELDS,
    ratios=[("epoch_s", "template", "bare_loader"), ("epoch_s", "template", "bare_resident"),
            ("epoch_s", "template_loader", "bare_loader_fused"), ("epoch_s", "template", "pytorch_template")],
    options=options)

if __name__ == "__main__":
    COMPARISON.main()
