"""What is promised here: of several processes any may be killed at any moment, and nobody has to do anything.

The launcher ends the others and starts all of them again; they go on from the newest checkpoint, in the same folder, and
end with the bits of a run that nobody disturbed.
"""
import os
import random
import signal
import statistics
import time
from pathlib import Path

import pytest

from conftest import assert_same_run
from harness import GROUP, Started, finish, gone, half_written, workers, write_config

TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", 2, "--max-restarts", 20, "train.py")
OURS = ("train.py", "--nproc", 2, "--max-restarts", 20)


def look(folder: Path) -> tuple[int, int]:
    """How many starts there were, and how large metrics.jsonl is."""
    starts = sum(file.read_text().count('"started"') for file in folder.glob("group/*/environment.jsonl"))
    return starts, sum(file.stat().st_size for file in folder.glob("group/*/metrics.jsonl"))


def killed_run(command: list, out: Path, generator: random.Random, kills: int, took_s: float) -> tuple[int, list[float]]:
    """A run of which up to `kills` processes are killed. How many it were, and the seconds from each to the next step."""
    waits, seen, done = [], set(), 0
    with Started(*command, "--out", out) as program:
        while done < kills:
            program.wait_for(lambda: program.process.poll() == 0 or len(set(workers(program)) - seen) == 2)
            if program.process.poll() == 0:  # the last one was killed when all was done
                break
            group = sorted(set(workers(program)) - seen)
            seen |= set(group)
            time.sleep(generator.uniform(0, took_s))
            starts, _ = look(out)
            if program.process.poll() == 0 or len(set(workers(program)) & set(group)) < 2:  # at its end
                break
            os.kill(generator.choice(group), signal.SIGKILL)
            done, killed = done + 1, time.monotonic()
            if generator.random() < 0.5:  # else the next kill may come before a step
                program.wait_for(lambda: look(out)[0] > starts or program.process.poll() == 0)
                size = look(out)[1]
                program.wait_for(lambda: look(out)[1] != size or program.process.poll() == 0)
                if look(out)[1] != size:  # not where it had been killed after its last step
                    waits.append(time.monotonic() - killed)
        assert program.end() == 0, program.said
    assert gone(list(seen), within_s=20)
    return done, waits


@pytest.mark.faults
@pytest.mark.parametrize("launcher, kills, seed, options", [
    (OURS, 10, 1, ()), (OURS, 5, 2, ("data_loader.num_workers=2",)), (TORCHRUN, 5, 3, ())])
def test_random_processes_killed_at_random_moments_end_with_the_same_bits(tmp_path, launcher, kills, seed, options):
    straight = tmp_path / "straight" / "group" / "run"
    options = ["-q", "-c", write_config(tmp_path, GROUP), "--distributed", "trainer.args.epochs=10", *options]
    took_s = finish("train.py", *options, "--nproc", 2, "--out", tmp_path / "straight", "--run-name", "run")
    generator, waits, done, number = random.Random(seed), [], 0, 0
    while done < kills:
        number += 1
        killed, waited = killed_run([*launcher, *options], tmp_path / f"run{number}", generator, kills - done, took_s)
        done, waits = done + killed, waits + waited
        ended, = (tmp_path / f"run{number}" / "group").iterdir()
        assert_same_run(straight, ended)
        assert not half_written(ended)
    print(f"\n{done} of {done} kills (seed {seed}, {number} runs, undisturbed {took_s:.1f} s) ended bit-identical, each run in "
          f"one folder; from a kill to the next step {statistics.median(waits):.1f} s (median of {len(waits)}, at most "
          f"{max(waits):.1f})")
