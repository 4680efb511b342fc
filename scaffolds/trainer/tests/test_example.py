"""Example does to a batch what it says."""
from conftest import PROJECT, epochs, train


def test_a_larger_penalty_keeps_the_weights_smaller(tmp_path):
    options = ["-c", PROJECT / "configs" / "example.yaml", "trainer.args.epochs=2", "writers=[]"]
    free = train(*options, "trainer.args.penalty=0", out=tmp_path / "free")
    held = train(*options, "trainer.args.penalty=0.1", out=tmp_path / "held")
    assert epochs(held)[-1]["train/size"] < epochs(free)[-1]["train/size"]
    assert epochs(free)[-1]["train/loss"] < epochs(free)[0]["train/loss"]
