"""--until-epoch: a start ends when an epoch is evaluated and saved; its run is as one never stopped."""
import pytest
from conftest import assert_same_run, assert_same_state, epochs, load, program, train

from utils.errors import Interrupted
from utils.run_record import records_of

# a checkpoint is due after epoch 3 alone, so that an end before it has to save
OPTIONS = ["trainer.args.epochs=4", "trainer.args.ema=0.9", "trainer.args.early_stop=9",
           "trainer.args.checkpoint_every={epochs: 3}", "trainer.args.eval_every=2",
           "scheduler={type: ReduceLROnPlateau, args: {patience: 0, threshold: 9}}"]


def test_a_run_that_stops_at_epochs_goes_on_with_the_same_bits(small, tmp_path):
    straight = train("-c", small, *OPTIONS, out=tmp_path / "straight")
    command = ["-c", small, *OPTIONS, "-r", "auto", "--run-name", "r"]
    for epoch in (1, 2):
        with pytest.raises(Interrupted, match=f"epoch {epoch} is done: saved at epoch {epoch + 1}") as stop:
            train(*command, "--until-epoch", epoch, out=tmp_path / "parts")
        run = tmp_path / "parts/small/r"
        assert stop.value.signal_number is None
        assert [line["epoch"] for line in epochs(run)] == [*range(1, epoch + 1)]
        assert load(run)["state"]["progress"]["epoch"] == epoch
        end = records_of(run)[-1]
        assert (end["outcome"], end["reason"], end["epoch"]) == ("stopped", f"epoch {epoch} is done", epoch)
    assert "val/loss" in epochs(run)[-1]
    train(*command, out=tmp_path / "parts")
    assert_same_run(straight, run)
    assert_same_state(load(straight, "best.pt")["state"], load(run, "best.pt")["state"])


def test_an_epoch_at_or_after_the_last_one_has_no_effect(small, tmp_path):
    for epoch in (2, 9):
        run = train("-c", small, "trainer.args.epochs=2", "--until-epoch", epoch, out=tmp_path / str(epoch))
        assert records_of(run)[-1]["outcome"] == "finished"


def test_a_run_that_is_further_already_says_so_and_is_not_touched(small, tmp_path):
    command = ["-c", small, "--run-name", "r", "trainer.args.epochs=3"]
    with pytest.raises(Interrupted):
        train(*command, "--steps", 12, out=tmp_path)  # of 5 an epoch: within the third
    run = tmp_path / "small/r"
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    for epoch in (1, 2):
        train("-r", run, "--until-epoch", epoch, out=tmp_path)
    train("-c", small, "trainer.args.epochs=3", "-r", "auto", "--until-epoch", 2, out=tmp_path)
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert [*(tmp_path / "small").iterdir()] == [run]


@pytest.mark.slow
def test_the_program_ends_with_0_on_two_processes_too_and_says_what_is_left(small, tmp_path):
    straight = train("-c", small, *OPTIONS, out=tmp_path / "straight")
    command = ["train.py", "-c", small, *OPTIONS, "--out", tmp_path / "parts", "--run-name", "r"]
    two = ["--until-epoch", 2, "--distributed", "--nproc", 2, "--device", "cpu"]
    program(*command, *two)
    run = tmp_path / "parts/small/r"
    assert load(run)["state"]["progress"]["epoch"] == 2 and records_of(run)[-1]["outcome"] == "stopped"
    said = program("train.py", "-r", run, *two)
    assert "Nothing to do: 2 of 4 epochs; best val/loss" in said.stderr + said.stdout
    train("-r", run, out=tmp_path / "parts")
    assert [line["step"] for line in epochs(run)] == [line["step"] for line in epochs(straight)]
