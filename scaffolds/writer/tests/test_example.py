"""Example gets what a run logs, and a resumed run leaves no row twice."""
from conftest import PROJECT, epochs, train
from logger.example import Example


def test_example_has_the_numbers_of_a_run(tmp_path):
    config = PROJECT / "configs" / "example.yaml"
    run = train("-c", config, "trainer.args.epochs=1", "writers=[Example]", out=tmp_path)
    rows = [line.split(",") for line in (run / "example.csv").read_text().splitlines()]
    last = epochs(run)[-1]
    assert [float(value) for step, name, value in rows if name == "val/loss"] == [last["val/loss"]]


def test_points_after_the_checkpoint_are_dropped_when_a_run_is_resumed(tmp_path):
    writer = Example(tmp_path)
    for step in (1, 2, 3):
        writer.scalars({"train/loss": 0.5}, step)
    Example(tmp_path, start_step=2).scalars({"train/loss": 0.25}, 3)
    assert (tmp_path / "example.csv").read_text() == "1,train/loss,0.5\n2,train/loss,0.5\n3,train/loss,0.25\n"
