"""The helpers of utils/distributed/collectives.py and the page that teaches them: in two real processes, and in one without any group."""
import re

import pytest
from in_two_processes import PAGE, cases, examples

from conftest import in_processes
from utils.distributed import collectives as dist

HELPERS = ("rank", "world_size", "is_main", "main_first", "barrier", "all_reduce", "all_gather", "all_gather_object",
           "broadcast_object", "broadcast_", "agree", "Ballot", "send", "receive")


@pytest.fixture(scope="module")
def two_processes() -> str:
    """What all examples and checks print, run in one pair of processes, which must end without an error."""
    return in_processes(2, "-m", "tests.distributed.in_two_processes")


@pytest.mark.parametrize("name", cases())
def test_in_two_processes(two_processes, name):
    assert all(f"passed: {name} on {rank}\n" in two_processes for rank in (0, 1)), two_processes


def test_two_processes_end_together_without_a_word(two_processes):
    assert [line for line in two_processes.splitlines() if not line.startswith("passed: ")] == []


@pytest.mark.parametrize("name", cases())
def test_in_one_process(name):
    cases()[name]()


@pytest.mark.parametrize("helper", HELPERS)
def test_the_page_tells_of_every_helper_by_an_example_that_asserts_something(helper):
    assert any(f"dist.{helper}(" in code and "assert " in code for code in examples().values())
    assert re.search(rf"^\| `{helper}\b", PAGE.read_text(), flags=re.MULTILINE)
    assert getattr(dist, helper).__doc__
