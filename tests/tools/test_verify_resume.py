"""`train.py --verify-resume` passes for an exact experiment, and names what differs in one that is not."""
import pytest
from conftest import copy_project, program

PRIVATE = '''
import torch
from torch.utils.data import Dataset
from base import DATASETS


@DATASETS.register
class Private(Dataset):
    """Digits at random from a generator of its own, which is in no checkpoint."""

    def __init__(self, split: str):
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return torch.randn(1, 8, 8, generator=self.generator), index % 10
'''


@pytest.mark.slow
def test_verify_resume_passes_for_what_is_exact(small, tmp_path):
    done = program("train.py", "--verify-resume", "-c", small, "--steps", 8, "--device", "cpu", "data_loader.num_workers=2")
    assert "killed by SIGKILL after step 5" in done.stdout and "resumed from step" in done.stdout
    assert "PASS: after 8 steps" in done.stdout


@pytest.mark.faults  # nine runs of the whole program
def test_verify_resume_names_what_differs_first_and_why_it_may(small, tmp_path):
    project = tmp_path / "project"
    copy_project(project)
    (project / "data_loader" / "private.py").write_text(PRIVATE)
    done = program("train.py", "--verify-resume", "-c", small, "dataset.type=Private", "data_loader.batch_size=10",
                   "--steps", 6, cwd=project, code=1)
    assert "FAIL: metrics.jsonl" in done.stderr and "step/loss is" in done.stderr and "generator of its own" in done.stderr
    assert "nobody killed" not in done.stderr
    wrong = program("train.py", "--verify-resume", "-c", small, "model.type=MPL", cwd=project, code=2)
    assert "Did you mean 'MLP'?" in wrong.stderr
