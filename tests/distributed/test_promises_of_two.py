"""Two processes that train one model: which samples each gets, what it draws, what they learn together."""
import json
from pathlib import Path

import group
import pytest
import torch
from conftest import epochs, in_group, load
from torch import nn

CONFIG = """
name: points
seed: 3
dataset: {type: Points, args: {num_samples: 65}}
data_loader: {batch_size: 12}
model: {type: Net}
loss: CrossEntropyLoss
optimizer: {type: SGD, args: {lr: 0.5}}
trainer: {type: Recorded, args: {epochs: 2, accumulate: 2}}
writers: []
"""
SIZES = [12, 12, 12, 12, 12, 5]  # of the last batch a process gets two samples and the other three


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> tuple[Path, dict]:
    """The folder of the run of two processes, and by (number of processes, process) what it wrote down."""
    folder = tmp_path_factory.mktemp("two")
    config = folder / "points.yaml"
    config.write_text(CONFIG)

    def job(name: str) -> list:
        return ["-q", "-c", config, f"trainer.args.folder={folder}", "--out", folder, "--run-name", name]

    group.run([*map(str, job("one"))])
    in_group(2, [job("two")], folder)
    records = {(number, rank): json.loads((folder / f"process{rank}_of_{number}.json").read_text())
               for number, rank in ((1, 0), (2, 0), (2, 1))}
    return folder / "points" / "two", records


def test_two_processes_share_the_batches_that_one_has(recorded):
    _, records = recorded
    alone, first, second = (records[key]["points"] for key in ((1, 0), (2, 0), (2, 1)))
    assert [len(batch) for batch in alone] == SIZES * 2
    assert alone[:6] != alone[6:]
    for whole, one, other in zip(alone, first, second, strict=True):
        assert one + other == whole and len(one) == len(whole) // 2


def test_dropout_differs_between_processes_and_from_step_to_step(recorded):
    _, records = recorded
    masks = [tuple(mask) for rank in (0, 1) for mask in records[2, rank]["masks"]]
    assert len(set(masks)) == len(masks) == 2 * len(SIZES) * 2


def test_two_processes_follow_the_gradient_over_all_samples_of_a_window(recorded):
    """A plain loop with the samples of one process: the same weights and losses come out."""
    (run, records), val = recorded, group.Points("val")
    before = {name: torch.tensor(weight) for name, weight in records[1, 0]["weights"].items()}
    assert all(record["weights"] == records[1, 0]["weights"] for record in records.values())
    body, head = nn.Sequential(nn.Linear(2, 16), nn.Identity(), nn.Tanh()), nn.Linear(16, 2)
    model = nn.ModuleDict({"body": body, "head": head})
    model.load_state_dict(before)
    optimizer, batches, means = torch.optim.SGD(model.parameters(), lr=0.5), records[1, 0]["points"], []
    for epoch in (batches[:6], batches[6:]):
        total = 0.0
        for window in (epoch[:2], epoch[2:4], epoch[4:]):
            points = torch.tensor([point for batch in window for point in batch])
            loss = nn.functional.cross_entropy(head(body(points)), (points.sum(1) > 0).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(points)
        means.append(total / sum(SIZES))
    for name, weight in load(run)["state"]["model"].items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=0, atol=1e-6)
    assert [line["train/loss"] for line in epochs(run)] == pytest.approx(means, rel=1e-5)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(head(body(val.points)), val.labels)
    assert epochs(run)[-1]["val/loss"] == pytest.approx(loss.item(), rel=1e-5)
