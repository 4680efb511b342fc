"""The curves of a result in a notebook."""
from tools.curves import Curves


def test_the_curves_of_a_result_are_drawn():
    history = {"epoch": [1, 2], "train/loss": [0.9, 0.5], "val/loss": [0.8, 0.6], "lr/optimizer": [0.1, 0.1]}
    drawn = Curves(history)._repr_html_()
    assert drawn.count("<svg") == 1 and drawn.count("<polyline") == 2 and "val" in drawn
    history["val/loss"] = [None, float("nan")]
    assert Curves(history)._repr_html_().count("<polyline") == 2  # nothing to draw is no error
