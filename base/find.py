"""`train.py --find-lr` and `--find-batch-size`: tests in place of a run, of which nothing stays but what they say."""
from base.find_batch_size import find_batch_size, needs_cuda
from base.find_lr import find_lr
from base.fit import check_fit
from base.rehearsal import rehearse


def find(what: str, trainer, config: dict, checkpoint=None, bars: bool = True) -> None:
    """Finds "lr" or "batch_size" with a trainer that has its optimizers, and prints the overrides that it comes to.

    These go to stdout even where the log is quiet, for `$(python train.py -q --find-lr -c CONFIG)`.
    """
    if what == "batch_size":
        needs_cuda(trainer.device)
        print(find_batch_size(trainer))
        return
    check_fit(config, trainer.data)
    rehearse(trainer)
    if checkpoint:
        trainer.resume(checkpoint.state)
    print(find_lr(trainer, config, checkpoint and checkpoint.file, bars))
