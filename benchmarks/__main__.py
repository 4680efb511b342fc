"""All comparisons that need one machine, no GPU and no other framework, one after the other.

    python -m benchmarks --data DIR --json results.json     (DIR holds MNIST as torchvision keeps it; an hour on two cores)
    python -m benchmarks --quick                             (tiny sizes, to see that all of it runs; two minutes)

Without --data the images are the bundled digits. The JSON is a list with what each comparison writes by itself.
"""
import argparse
import json
import os
from pathlib import Path

from benchmarks import jobs, memory, mnist_epoch, saving, startup, step_overhead
from benchmarks.harness import table

COMPARISONS = (mnist_epoch, step_overhead, startup, saving, memory)
QUICK = {"mnist_epoch": ["--epochs", "1"], "step_overhead": ["--steps", "200"], "memory": ["--steps", "200"],
         "saving": ["--millions", "1", "--saves", "1", "--steps", "2"]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs.data_option(parser)
    parser.add_argument("--rounds", type=int, help="of each comparison, instead of its own number")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process (one for every core)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every round there, too")
    parser.add_argument("--pytorch-template", metavar="DIR", help="a checkout of victoresque/pytorch-template")
    parser.add_argument("--quick", action="store_true", help="one round of tiny sizes")
    args = parser.parse_args()
    documents = []
    for module in COMPARISONS:
        argv = arguments(module.COMPARISON.name, args)
        documents.append(module.COMPARISON.measure(module.COMPARISON.parse(argv), argv))
        if args.json:  # after each, so that nothing is lost
            args.json.write_text(json.dumps(documents, indent=1) + "\n")
    print("".join(map(table, documents)))


def arguments(name: str, args: argparse.Namespace) -> list[str]:
    """The command line of the comparison called `name`."""
    rounds = args.rounds or (1 if args.quick else None)
    argv = ["--threads", str(args.threads), *(["--rounds", str(rounds)] if rounds else [])]
    if name == "mnist_epoch":
        argv += ["--data", args.data] if args.data else []
        argv += ["--pytorch-template", args.pytorch_template] if args.pytorch_template else []
    return argv + (QUICK.get(name, []) if args.quick else [])


if __name__ == "__main__":
    main()
