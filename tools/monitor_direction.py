"""Monitors whose best value is most probably the worst one: against their name, or against a scheduler."""
import logging
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from utils.training.monitor import parse_monitor

if TYPE_CHECKING:
    from utils.training.schedule import Schedule

log = logging.getLogger(__name__)
_LOWER_IS_BETTER = {"loss", "error", "mse", "rmse", "mae", "perplexity", "wer", "cer", "fid"}
_HIGHER_IS_BETTER = {"accuracy", "acc", "f1", "auc", "auroc", "precision", "recall", "iou", "miou", "dice",
                     "psnr", "ssim", "bleu", "map", "r2"}


def warn_of_direction(monitor: str) -> None:
    """Logs a warning for a loss or error that should rise, and for a score that should fall, by its name."""
    mode, name = parse_monitor(monitor)
    wanted = usual_mode(name) or mode
    if mode != wanted:
        log.warning("trainer.args.monitor: '%s' takes the %s value of %s for the best. Usual is '%s %s'.",
                    monitor, "lowest" if mode == "min" else "highest", name, wanted, name)


def usual_mode(name: str) -> str | None:
    """"min" or "max", by the words in the name of a score such as val/loss; None if they do not tell."""
    words = {*re.split(r"[^a-z0-9]+", name.partition("/")[2].lower())}
    return "min" if words & _LOWER_IS_BETTER else "max" if words & _HIGHER_IS_BETTER else None


def warn_of_plateau_mode(schedules: "Iterable[Schedule]", monitor_mode: str) -> None:
    """Logs a warning for a ReduceLROnPlateau that waits for the other direction than the monitor."""
    from torch.optim.lr_scheduler import ReduceLROnPlateau  # here: directions are read without torch

    for schedule in schedules:
        for scheduler, _ in schedule.schedulers:
            if isinstance(scheduler, ReduceLROnPlateau) and scheduler.mode != monitor_mode:
                log.warning("scheduler: ReduceLROnPlateau has mode: %s, and the monitor is '%s ...': it "
                            "lowers the rate while the value gets better. Leave 'mode' out.",
                            scheduler.mode, monitor_mode)
