"""Every mistake in the table of mutations makes a test fail that passes without it."""
import pytest
from mutations import FAILED, MUTATIONS, PASSED, all_tests, copy_project, mutate, run_tests

pytestmark = pytest.mark.release


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory) -> str:
    """What pytest says of all the named tests in a copy without a mistake, where they have to pass."""
    project = tmp_path_factory.mktemp("unharmed")
    copy_project(project)
    code, said = run_tests(all_tests(), project)
    assert code == PASSED, said
    return said


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mistake_in_the_core_is_noticed(mutation, unharmed, tmp_path):
    copy_project(tmp_path)
    mutate(mutation, tmp_path)
    code, said = run_tests(mutation.tests, tmp_path)
    assert code == FAILED, f"exit code {code} of pytest, not {FAILED}:\n{said}"
