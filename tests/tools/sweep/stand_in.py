"""In place of train.py, without torch: writes the rows of a run, resumes behind them, ends at --until-epoch.

The value of an epoch is a function of `optimizer.args.lr`, `seed` and the epoch. `model.args.fault` makes it
fail: "raise", "refuse", "nan", "stop" (with exit code 0, as at max_time) or "die" (by SIGKILL). STAND_IN_S is
the time of an epoch.
"""
import argparse
import fcntl
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import yaml


def value_of(lr: float, epoch: int, seed: int = 0) -> float:
    """A loss. Small rates are slow and end better."""
    return abs(math.log10(lr) + 3) / 3 + math.exp(-epoch * (0.2 + lr)) + seed / 100


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for option in ("-c", "-r", "--run-name", "--out"):
        parser.add_argument(option)
    parser.add_argument("--until-epoch", type=int)
    parser.add_argument("-q", action="store_true")
    parser.add_argument("overrides", nargs="*")
    return parser.parse_intermixed_args()


def main() -> None:
    args = arguments()
    values = dict(text.split("=", 1) for text in args.overrides if "=" in text)
    config = yaml.safe_load(Path(args.c).read_text())
    epochs = int(values.get("trainer.args.epochs", config["trainer"]["args"]["epochs"]))
    run = Path(args.out) / config["name"] / args.run_name
    run.mkdir(parents=True, exist_ok=True)
    lock = os.open(run / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.lockf(lock, fcntl.LOCK_EX)  # of a killed start, which may still be ending
    file, record, fault = run / "metrics.jsonl", run / "environment.jsonl", values.get("model.args.fault")
    with record.open("a") as opened:
        opened.write(json.dumps({"started_s": time.time(), "threads": os.environ["OMP_NUM_THREADS"]}) + "\n")
    if fault == "refuse":
        sys.exit(print("model.args.fault: is no argument of MLP.", file=sys.stderr) or 2)
    if fault == "raise":
        with record.open("a") as opened:
            opened.write(json.dumps({"outcome": "failed", "reason": "ValueError: too wide"}) + "\n")
        sys.exit(1)
    (run / "config.yaml").write_text(yaml.safe_dump({key: config[key] for key in config if key != "sweep"}))
    there = file.read_bytes() if file.exists() else b""
    file.write_bytes(there[:there.rfind(b"\n") + 1])  # as train.py, which cuts a torn line off
    for epoch in range(there.count(b"\n") + 1, min(args.until_epoch or epochs, epochs) + 1):
        time.sleep(float(os.environ.get("STAND_IN_S", 0)))
        if fault == "stop":
            sys.exit()
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        lr, seed = float(values.get("optimizer.args.lr", 0.1)), int(values.get("seed", 0))
        value = None if fault == "nan" else value_of(lr, epoch, seed)
        with file.open("a") as opened:
            opened.write(json.dumps({"step": epoch, "epoch": epoch, "val/loss": value}) + "\n")
        with (run / "trained.txt").open("a") as opened:
            opened.write(f"{epoch}\n")
    if (args.until_epoch or epochs) >= epochs:
        with record.open("a") as opened:
            opened.write(json.dumps({"outcome": "finished"}) + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(143))
    main()
