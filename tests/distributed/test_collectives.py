"""The helpers of utils/distributed/collectives.py and the page that teaches them: in two real processes, and in one without any group."""
import re
import subprocess
import sys

import pytest
from in_two_processes import PAGE, cases, examples

from conftest import PROJECT
from utils.distributed import collectives as dist

HELPERS = ("rank", "world_size", "is_main", "main_first", "barrier", "all_reduce", "all_gather", "all_gather_object",
           "broadcast_object", "broadcast_", "agree", "Ballot", "send", "receive")


@pytest.fixture(scope="module")
def two_processes() -> subprocess.CompletedProcess:
    """All examples and checks, run in one pair of processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run([*command, "-m", "tests.distributed.in_two_processes"], cwd=PROJECT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", cases())
def test_in_two_processes(two_processes, name):
    assert all(f"passed: {name} on {rank}" in two_processes.stdout for rank in (0, 1)), two_processes.stderr


def test_two_processes_end_together_without_a_word(two_processes):
    assert two_processes.returncode == 0 and "Traceback" not in two_processes.stderr


@pytest.mark.parametrize("name", cases())
def test_in_one_process(name):
    cases()[name]()


@pytest.mark.parametrize("helper", HELPERS)
def test_the_page_tells_of_every_helper_by_an_example_that_asserts_something(helper):
    assert any(f"dist.{helper}(" in code and "assert " in code for code in examples().values())
    assert re.search(rf"^\| `{helper}\b", PAGE.read_text(), flags=re.MULTILINE)
    assert getattr(dist, helper).__doc__
