"""Projects of other people, ported: plug-ins and a config alone, on data that is made up here.

Their files lie in tests/core/ports/ as they would in a fork, whose folders have the same names.
"""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_same_run, copy_project, epochs, load, program

PORTS, MAX_LINES = Path(__file__).parent / "ports", 160


def speech_data(folder: Path) -> None:
    """Each of five characters is a pattern, for a few frames, and a gap; `other` has more noise."""
    random, alphabet = np.random.default_rng(0), "abcde"
    patterns = random.normal(size=(len(alphabet), 8))
    folder.mkdir(parents=True)
    (folder / "alphabet.txt").write_text(alphabet + "\n")
    for subset, number in (("train-clean", 131), ("dev-clean", 21), ("dev-other", 30), ("test-clean", 19)):
        texts, frames, lengths = [], [], []
        for _ in range(number):
            characters = random.integers(len(alphabet), size=random.integers(2, 9))
            parts = [np.repeat([patterns[c], 0 * patterns[c]], [random.integers(2, 5), 1], 0)
                     for c in characters]
            texts.append("".join(alphabet[c] for c in characters))
            frames.append(np.concatenate(parts))
            lengths.append(len(frames[-1]))
        frames = np.concatenate(frames)
        frames += (0.8 if "other" in subset else 0.2) * random.normal(size=frames.shape)
        np.savez(folder / f"{subset}.npz", frames=frames.astype(np.float32), lengths=lengths, texts=texts)


def sleep_data(folder: Path) -> None:
    """25 patients; a stage is a frequency, and a patient a loudness of all stages. Stages are unbalanced."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for patient in range(25):
        stages = random.choice(5, size=random.integers(20, 45), p=[0.15, 0.07, 0.45, 0.2, 0.13])
        phases = 2 * np.pi * (stages[:, None] * 3 + 2) * np.arange(100) / 100
        phases += random.uniform(0, 6, (len(stages), 1))
        signals = random.uniform(0.5, 2) * np.sin(phases) + 1.5 * random.normal(size=phases.shape)
        np.savez(folder / f"patient{patient:02}.npz", signals=signals.astype(np.float32), stages=stages)


def ported(name: str, make_data, folder: Path) -> Path:
    """A copy of the project with the files of a port, and its data. The port is no longer than MAX_LINES."""
    copy_project(folder)
    files = [file for file in (PORTS / name).rglob("*") if file.is_file() and file.suffix in (".py", ".yaml")]
    assert sum(len(file.read_text().splitlines()) for file in files) < MAX_LINES
    assert {file.relative_to(PORTS / name).parts[0] for file in files} == {"configs", "data_loader", "model"}
    for file in files:
        shutil.copy(file, folder / file.relative_to(PORTS / name))
    make_data(folder / "data" / name)
    return folder


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return ported("speech", speech_data, tmp_path_factory.mktemp("speech") / "project")


@pytest.fixture(scope="module")
def sleep(tmp_path_factory):
    return ported("sleep", sleep_data, tmp_path_factory.mktemp("sleep") / "project")


# Programs one after the other in one process: most of a start is imports.
IN_TURN = """
import json, os, runpy, sys
for words in json.loads(sys.argv[1]):
    while "=" in words[0]:
        name, value = words.pop(0).split("=")
        os.environ[name] = value
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


def in_turn(project: Path, *commands: str) -> None:
    """`[NAME=VALUE] PROGRAM ARGS` each, in a copy of the project."""
    program("-c", IN_TURN, json.dumps([command.split() for command in commands]), cwd=project)


def trained_in_two_ways(project: Path, name: str, config: str, steps: int) -> tuple[Path, Path]:
    """A run that was left alone and scored on all sets, and the same one stopped and resumed."""
    run, begin = f"saved/{name}", f"train.py -q -c {config} writers=[]"  # TensorBoard is slow to import
    in_turn(project, f"FOLD=3 {begin} --run-name halves --steps {steps}", f"{begin} --run-name whole",
            f"FOLD=4 train.py -q -r {run}/halves", f"test.py -q -r {run}/whole --split all")
    return project / run / "whole", project / run / "halves"


def test_a_speech_course_with_ctc_resumes_to_the_same_bits_and_is_scored_on_all_sets(speech):
    whole, halves = trained_in_two_ways(speech, "speech", "configs/speech.yaml", 40)  # 17 steps an epoch
    assert_same_run(whole, halves)
    assert "Resumed at epoch 3 of 6, batch 6 of 17" in (halves / "run.log").read_text()
    assert "left out" not in (whole / "run.log").read_text()
    best = min(epochs(whole), key=lambda line: line["val/dev-clean/cer"])
    assert best["val/dev-clean/cer"] < 0.15 < epochs(whole)[0]["val/dev-clean/cer"]
    assert best["val/dev-clean/cer"] <= best["val/dev-other/cer"]
    scores = json.loads((whole / "test.json").read_text())
    assert {name for name in scores if "/" in name} == {
        f"{split}/{name}" for split in ("val/dev-clean", "val/dev-other", "test")
        for name in ("loss", "cer", "exact_match", "length_error")}
    assert scores["val/dev-clean/cer"] == best["val/dev-clean/cer"]
    assert scores["test/cer"] < 0.2 and scores["test/exact_match"] > 0.4
    weights = load(whole, "best.pt")["state"]["model"]
    assert len(weights["output.weight"]) == 6  # five characters and the blank


def test_a_sleep_classifier_of_twenty_folds_resumes_to_the_same_bits_and_is_scored(sleep):
    whole, halves = trained_in_two_ways(sleep, "sleep_fold3", "configs/sleep.yaml", 40)  # 26 steps an epoch
    assert_same_run(whole, halves)
    assert "Resumed at epoch 2 of 4, batch 14 of 26" in (halves / "run.log").read_text()
    first, *_, last = epochs(whole)
    assert last["val/f1"] > 0.8 and last["val/loss"] < first["val/loss"]
    scores = json.loads((whole / "test.json").read_text())
    assert scores["val/f1"] == max(line["val/f1"] for line in epochs(whole))
    assert "test.py -r saved/sleep_fold3/whole --split val" in (whole / "run.log").read_text()


def test_a_fold_on_the_command_line_and_the_weights_of_its_classes(sleep):
    run, begin = "saved/sleep_fold7/run", "train.py -q -c configs/sleep.yaml writers=[]"
    in_turn(sleep, f"{begin} --run-name run --steps 1 data_loader.fold=7", f"train.py -q -r {run} --steps 2")
    config = load(sleep / run)["config"]
    assert config["data_loader"]["fold"] == 7 and config["model"]["args"]["num_classes"] == 5
    weights = config["loss"]["args"]["weight"]
    stages = [np.load(file)["stages"] for file in sleep.glob("data/sleep/*.npz")]
    counts = np.bincount(np.concatenate(stages), minlength=5)
    assert np.argsort(weights).tolist() == np.argsort(-counts).tolist() and max(weights) > 3 * min(weights)
