"""The experiment example can be trained and evaluated."""
from conftest import PROJECT, epochs, score, train


def test_the_experiment_example_learns(tmp_path):
    config = PROJECT / "configs" / "example.yaml"
    run = train("-c", config, "trainer.args.epochs=2", "writers=[]", out=tmp_path)
    first, last = epochs(run)
    assert last["train/loss"] < first["train/loss"]
    assert 0 < score("-r", run)["test/loss"] < first["train/loss"]
