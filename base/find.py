"""`train.py --check`, `--find-lr` and `--find-batch-size`: in place of a run; nothing stays of them but what they say."""
import logging

from base.checkup import check_up
from base.find_batch_size import find_batch_size, needs_cuda
from base.find_lr import find_lr
from base.recovery import explained
from base.rehearsal import rehearse
from base.summary import describe_parts

log = logging.getLogger(__name__)


def find(what: str, trainer, config: dict, checkpoint=None, bars: bool = True) -> None:
    """Finds "faults", "lr" or "batch_size" with a trainer that has its optimizers, and prints OK or the overrides.

    These go to stdout even where the log is quiet, for `$(python train.py -q --find-lr -c CONFIG)`.
    """
    if what == "batch_size":
        needs_cuda(trainer.device)
        print(find_batch_size(trainer))
        return
    rehearsed = rehearse(trainer, config)
    if checkpoint:
        trainer.resume(checkpoint.state)
    if what == "faults":
        with explained(trainer):
            log.info("%s\n%s", describe_parts(trainer), check_up(trainer, config, rehearsed))
        print("OK")
    else:
        print(find_lr(trainer, config, checkpoint and checkpoint.file, bars))
