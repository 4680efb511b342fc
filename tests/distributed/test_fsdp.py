"""Strategy fsdp: the numbers of ddp with a part of the weights to a process; its checkpoints in all directions, and damaged."""
import errno
import os
import shutil
from pathlib import Path

import group  # noqa: F401 (its loss)
import pytest
import torch
from conftest import PROJECT, assert_same_state, in_group, load, metrics, program, score, train

from base.config.validate import validate_config
from base.run.setup import open_checkpoint
from utils.checkpoint.archive import read_archive, write_archive
from utils.checkpoint.loading import is_valid_checkpoint, load_checkpoint
from utils.config.loading import load_config
from tools.consolidate import consolidate
from utils.errors import ConfigError, Interrupted
from utils.checkpoint.state import flatten_state
from utils.distributed.strategy import ShardedGradients, parse_strategy

PATTERNS = ("optimizer={w: {type: SGD, match: '*.weight', args: {lr: 0.1}}, rest: {type: AdamW, args: {lr: 0.01}}}")
PHASES = ("optimizer.groups=[{match: 'layers.1.*', frozen: {until_epoch: 1}}]", "trainer.args.epochs=2")
WRAPPED = "trainer.args.strategy={type: fsdp, args: {wrap: [Linear]}}"
CONFIG = """
name: parts
seed: 7
dataset: {type: Digits}
data_loader: {batch_size: 30, validation_split: 40, batches_per_epoch: 5}
model: {type: MLP, args: {sizes: [64, 16, 16, 10]}}
loss: WithTemperature
metrics: [accuracy]
optimizer: {type: AdamW, args: {lr: 0.01}}
trainer: {type: Trainer, args: {epochs: 2, log_every: 1, clip_norm: 1.0, accumulate: 2, ema: 0.9}}
writers: []
"""


def start() -> None:
    """train.py as it is, with the loss of above; where REFUSED is set, the disk of process 1 is full at that save."""
    from train import main
    from utils.checkpoint import sharded as shards
    from utils.cli import train_arguments
    from utils.distributed import collectives as dist
    from utils.errors import exit_codes

    write, num_saves = shards.ShardSave._write, []

    def refuse_once(self, *args):
        num_saves.append(1)
        if dist.rank() == 1 and len(num_saves) == int(os.environ.get("REFUSED", 0)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, *args)

    shards.ShardSave._write = refuse_once
    arguments = train_arguments()
    with exit_codes(arguments.verbose):
        main(arguments)


class Runs:
    """Runs in two processes, by their names."""

    def __init__(self, folder: Path):
        self.folder, self.config = folder, folder / "parts.yaml"
        self.config.write_text(CONFIG)

    def new(self, name: str, *args) -> list:
        return ["-q", "-c", self.config, "--out", self.folder, "--run-name", name, *args]

    def __getitem__(self, name: str) -> Path:
        return self.folder / "parts" / name

    def copy(self, name: str, to: str) -> Path:
        return Path(shutil.copytree(self[name], self[to]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Whole ones, one that is broken off two steps into the second epoch's three, of batches 2, 2 and 1, and some resumed."""
    runs, broken_off = Runs(tmp_path_factory.mktemp("runs")), (WRAPPED, "--steps", 5)
    with pytest.raises(Interrupted):
        train(*runs.new("of_one", *broken_off), out=runs.folder)
    in_group(2, [runs.new("ddp"), runs.new("fsdp", WRAPPED), runs.new("broken_off", *broken_off),
                 runs.new("ddp_phases", *PHASES), runs.new("fsdp_phases", WRAPPED, *PHASES),
                 runs.new("ddp_patterns", PATTERNS), runs.new("fsdp_patterns", WRAPPED, PATTERNS),
                 runs.new("of_two", *broken_off), ["-q", "-r", runs["of_two"]], ["-q", "-r", runs["of_one"]]], runs.folder)
    return runs


def assert_close(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    """Equal last states and logged numbers, but for rounding."""
    states = [flatten_state(load_checkpoint(run / "checkpoints" / "last.pt")["state"]) for run in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        if isinstance(value, torch.Tensor):
            assert value.shape == states[1][name].shape and (value - states[1][name]).abs().max() <= tolerance, name
    lines = [metrics(run) for run in (one, other)]
    assert len(lines[0]) == len(lines[1])
    for line, same in zip(*lines, strict=True):
        assert line == pytest.approx(same, abs=tolerance)


def files_of(run: Path) -> set[str]:
    return {file.name.split("_")[0] for file in (run / "checkpoints").iterdir()}


def test_fsdp_trains_as_ddp_does(runs):
    in_parts = runs["fsdp"]
    assert_close(runs["ddp"], in_parts)
    assert files_of(in_parts) == {"best.pt", "last.pt", "previous.pt", "shards"}
    named = {load(in_parts, f"{name}.pt")["state"]["shards"]["folder"] for name in ("best", "last", "previous")}
    assert named == {folder.name for folder in (in_parts / "checkpoints").glob("shards*")}  # and no others
    model = load(in_parts)["state"]["model"]
    assert set(model) == set(load(runs["ddp"])["state"]["model"]) and set(model.values()) == {None}


def test_a_part_is_frozen_in_the_first_epoch_with_fsdp_as_with_ddp(runs):
    assert_close(runs["ddp_phases"], runs["fsdp_phases"])


def test_optimizers_by_pattern_step_with_fsdp_as_with_ddp(runs):
    assert_close(runs["ddp_patterns"], runs["fsdp_patterns"])


def test_a_run_in_parts_goes_on_in_as_many_processes_bit_for_bit(runs):
    run, straight = runs["of_two"], runs["fsdp"]
    assert_same_state(*(load_checkpoint(one / "checkpoints" / "last.pt")["state"] for one in (straight, run)))
    assert (straight / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()


def test_a_run_in_parts_goes_on_in_one_process(runs):
    run = runs.copy("broken_off", "in_one")
    train("-r", run, out=runs.folder)
    assert_close(runs["fsdp"], run)
    assert files_of(run) >= {"last.pt", "best.pt"}


def test_a_run_of_one_process_goes_on_in_parts(runs):
    assert_close(runs["fsdp"], runs["of_one"])
    assert "shards" in files_of(runs["of_one"])


def test_one_file_put_together_scores_as_the_parts_do_and_is_an_ordinary_checkpoint(runs, tmp_path):
    run = runs.copy("fsdp", "consolidated")
    in_parts = score("-r", run)
    whole = consolidate(run / "checkpoints" / "best.pt")
    (tmp_path / "checkpoints").mkdir()
    carried = Path(shutil.move(whole, tmp_path / "checkpoints"))
    content = torch.load(carried, weights_only=True)
    assert content.keys() == {"format", "version", "config", "state"}
    assert all(isinstance(tensor, torch.Tensor) for tensor in content["state"]["model"].values())
    assert_same_state(load_checkpoint(carried)["state"], load_checkpoint(run / "checkpoints" / "best.pt")["state"])
    alone = score("-r", carried)
    assert {k: v for k, v in alone.items() if k != "checkpoint"} == {k: v for k, v in in_parts.items() if k != "checkpoint"}
    for arguments, message in (([carried], "is whole already"), ([tmp_path / "nowhere"], "there is no such file")):
        done = program("-m", "tools.consolidate", *arguments, code=2)
        assert message in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_process_costs_no_run_and_the_save_is_made_up_for(runs, monkeypatch):
    monkeypatch.setenv("REFUSED", "2")
    starter = runs.folder / "train.py"
    starter.write_text(f"import sys\nsys.path[:0] = [{str(PROJECT)!r}, {str(PROJECT / 'tests')!r}, {str(Path(__file__).parent)!r}]\n"
                       "import test_fsdp\ntest_fsdp.start()\n")
    program(starter, *runs.new("refused", WRAPPED, "trainer.args.save_every=1"), "--distributed", "--nproc", 2)
    run = runs["refused"]
    log = (run / "run.log").read_text()
    assert log.count("not saved: no space left on the disk") == 1 and "failure 1 in a row, 3 end the run" in log
    epochs = [load_checkpoint(run / "checkpoints" / f"epoch_000{epoch}.pt")["state"] for epoch in (1, 2)]
    assert [state["progress"]["epoch"] for state in epochs] == [1, 2]
    assert_same_state(epochs[1], load_checkpoint(runs["fsdp"] / "checkpoints" / "last.pt")["state"] | {
        "metrics_file": epochs[1]["metrics_file"]})
    assert len(list((run / "checkpoints").glob("shards*"))) == 3  # of previous, epoch_0001 and what came last


def damage(run: Path, how) -> Path:
    """Does `how(shard)` to the first part of a run's last.pt; returns that file."""
    folder = run / "checkpoints" / load(run)["state"]["shards"]["folder"]
    how(folder / "0.pt")
    return folder / "0.pt"


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def of_another_save(file: Path) -> None:
    shutil.copy(next(other for other in file.parent.parent.glob("shards*/0.pt") if other != file), file)


def not_finite(file: Path) -> None:
    content = read_archive(file)
    for tensor in content["tensors"]:
        tensor.mul_(float("nan"))
    write_archive(content, file)


@pytest.mark.parametrize("how", [cut_off, flip_a_bit, of_another_save, not_finite, Path.unlink], ids=lambda how: how.__name__)
def test_damage_to_a_part_is_found_and_the_checkpoint_before_is_taken(runs, tmp_path, how):
    run = Path(shutil.copytree(runs["broken_off"], tmp_path / "run"))
    part = damage(run, how)
    last = run / "checkpoints" / "last.pt"
    assert not is_valid_checkpoint(last)
    with pytest.raises(ConfigError, match="last.pt: .*(0.pt|not finite)"):
        load_checkpoint(last)
    before = open_checkpoint(run, ("last.pt",))
    assert before.file.name in ("previous.pt", "best.pt") and before.state["progress"]["step"] == 3
    assert part.parent.is_dir()


def hostile(index: dict, what: str) -> None:
    first = index["tensors"][0]
    changes = {
        "outside": lambda: index.update(folder="../" + index["folder"]),
        "no folder": lambda: index.update(folder=None),
        "huge": lambda: (first["size"].__setitem__(0, 1 << 50), first["chunks"][-1][1].__setitem__(0, (1 << 50) - 8)),
        "overlap": lambda: first["chunks"][-1][0].__setitem__(0, 0),
        "gap": lambda: first["chunks"].pop(),
        "dtype": lambda: first.update(dtype=torch.float16),
        "file": lambda: first["chunks"][0].__setitem__(2, 7),
        "number": lambda: first["chunks"][0].__setitem__(3, 10 ** 9),
        "path": lambda: first.update(path=["progress", "step"]),
        "nowhere": lambda: first.update(path=["nowhere"]),
        "files": lambda: index.update(num_files=10 ** 12),
        "text": lambda: first.update(size="12"),
        "list": lambda: index.update(tensors=7)}
    changes[what]()


@pytest.mark.parametrize("what", ["outside", "no folder", "huge", "overlap", "gap", "dtype", "file", "number", "path",
                                  "nowhere", "files", "text", "list"])
def test_an_index_that_makes_no_sense_is_refused(runs, tmp_path, what):
    run = Path(shutil.copytree(runs["broken_off"], tmp_path / "run"))
    last = run / "checkpoints" / "last.pt"
    content = read_archive(last)
    hostile(content["state"]["shards"], what)
    write_archive(content, last)
    with pytest.raises(ConfigError, match="last.pt"):
        load_checkpoint(last)
    assert not is_valid_checkpoint(last)


def faults_of(tmp_path: Path, *overrides: str) -> str:
    (tmp_path / "parts.yaml").write_text(CONFIG)
    with pytest.raises(ConfigError) as raised:
        validate_config(*load_config(tmp_path / "parts.yaml", list(overrides)), 2)
    return str(raised.value)


def test_faults_of_the_config_are_named_before_anything_is_built(tmp_path):
    assert "There are: ddp, fsdp" in faults_of(tmp_path, "trainer.args.strategy=fsdb")
    assert "'bf61'" in faults_of(tmp_path, "trainer.args.strategy={type: fsdp, args: {mixed_precision: bf61}}")
    assert "wrapp" in faults_of(tmp_path, "trainer.args.strategy={type: fsdp, args: {wrapp: [Linear]}}")
    both = faults_of(tmp_path, "trainer.args.strategy=fsdp", "trainer.args.channels_last=true",
                     "optimizer={type: SGD, args: {lr: 0.1, fused: true}}")
    assert "trainer.args.channels_last" in both and "optimizer.args.fused" in both


def test_options_that_do_not_fit_the_model_or_the_device_are_named():
    model, cpu = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()), torch.device("cpu")
    for args, message in (({"wrap": ["Linaer"]}, "Did you mean 'Linear'"), ({"cpu_offload": True}, "on the CPU already"),
                          ({"activation_checkpointing": True}, "no part of the model is a unit")):
        with pytest.raises(ConfigError, match=message):
            parse_strategy({"type": "fsdp", "args": args}).validate(model, cpu)
    with pytest.raises(ValueError, match="item 0: 3 is a whole number; text is needed"):
        parse_strategy({"type": "fsdp", "args": {"wrap": [3]}})


def test_units_are_the_classes_that_are_named_or_what_is_large_but_nothing_inside_an_attention():
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ModuleList([layer, torch.nn.Linear(32, 32)]), torch.nn.ReLU())

    def units(**args):
        return parse_strategy({"type": "fsdp", "args": args})._units(model)

    assert units(wrap=["TransformerEncoderLayer"]) == [layer] and units() == []
    assert units(min_num_params=1_000) == [layer.linear1, layer.linear2, layer, model[1][1]]
    assert units(min_num_params=8_000) == [layer]  # what is left of it to the model is too little for another


class Told(torch.nn.Linear):
    """Takes note of what FSDP2's modules are told."""

    def set_requires_gradient_sync(self, wanted: bool) -> None:
        self.syncs = [*getattr(self, "syncs", []), wanted]


def test_backward_of_one_optimizer_leaves_the_gradients_of_another_as_they_are():
    generator, discriminator = Told(2, 2), Told(2, 1)
    gradients = ShardedGradients([generator], list(discriminator.parameters()))
    discriminator.weight.grad = torch.ones(1, 2)
    for final in (False, True):
        gradients.backward(discriminator(generator(torch.ones(3, 2))).sum(), final, False, None)
    assert torch.equal(discriminator.weight.grad, torch.ones(1, 2)) and discriminator.bias.grad is None
    assert generator.weight.grad is not None and generator.syncs == [True, True] and gradients.any_skipped() == 0
    alone = ShardedGradients([generator], [])
    for final, lost in ((False, False), (True, True)):
        alone.backward(generator(torch.ones(3, 2)).sum(), final, lost, None)
    assert generator.syncs[2:] == [False, True] and alone.any_skipped() == 1
