"""Weights & Biases: https://wandb.ai"""
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import torch

from logger.trackers.shared import PointsOnce, points_before, require_package
from logger.trackers.wandb_files import last_step
from logger.writer import RunInfo, Writer


class WandB(PointsOnce, Writer):
    """Sends a run to Weights & Biases, as one run in all its starts, with best.pt as an artifact.

    W&B takes no point back: a resumed run continues where what was sent has ended.

    Args:
        project: by default the config's name.
        entity: the user or team; by default that of the login.
        mode: "offline" keeps all in `wandb/` in the run's folder, for `wandb sync`; by default $WANDB_MODE,
            or else online.
        group: of several runs, in W&B.
        tags: of the run, in W&B.
        upload: whether to copy best.pt to the artifacts at the end of each start.
    """

    outside = True

    def __init__(self, run: RunInfo, project: str | None = None, entity: str | None = None,
                 mode: Literal["online", "offline"] | None = None, group: str | None = None,
                 tags: Sequence[str] = (), upload: bool = True):
        require_package("wandb", "WandB")
        super().__init__(run.folder, run.start_step, run)
        self._options = {"project": project or run.name, "entity": entity, "mode": mode, "group": group,
                         "tags": list(tags)}
        self._upload = upload
        self._is_offline = (mode or os.environ.get("WANDB_MODE")) == "offline"
        self._sent = -1  # the last step that W&B has from earlier starts

    def _library(self):
        import wandb  # takes seconds, so not in the constructor

        return wandb

    @cached_property
    def _run(self):
        wandb = self._library()
        info = self.run
        often = "x_transaction_log_flush_interval"  # seconds that a kill may cost; 15 by default
        settings = wandb.Settings(console="off", silent=True,
                                  **{often: 1.0} if often in wandb.Settings.model_fields else {})
        about = {"command": " ".join(info.command), "commit": info.commit}
        sent = last_step(info.folder / "wandb", info.id) if self._is_offline else None
        run = wandb.init(id=info.id, name=info.run_name, dir=str(info.folder), **self._options,
                         resume=None if self._is_offline else "allow",  # each offline start has its own file
                         settings=settings, config={**info.config, **about})
        self._sent = run.starting_step - 1 if sent is None else sent
        for step, values in points_before(info, self._sent):
            run.log(values, step=step)
        return run

    def hparams(self, config: Mapping, changed: Mapping | None) -> None:
        if changed:
            self._run.config.update({**self.run.config}, allow_val_change=True)

    def text(self, name: str, text: str, step: int) -> None:
        self.table(name, ["text"], [[text]], step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence], step: int) -> None:
        from wandb import Table

        self._log({name: Table(columns=[*columns], data=[*rows])}, step)

    def audio(self, name: str, samples: torch.Tensor, rate_hz: int, step: int) -> None:
        from wandb import Audio

        self._log({name: Audio(samples.T.numpy(), rate_hz)}, step)

    def matrix(self, name: str, values: torch.Tensor, labels: Sequence[str] | None, step: int) -> None:
        names = [str(label) for label in (labels or range(len(values)))]
        self.table(name, ["", *names], [[row, *line] for row, line in zip(names, values.tolist())], step)

    def event(self, kind: str, text: str) -> None:
        self._run.summary[f"event/{kind}"] = text

    def scores(self, split: str, values: Mapping[str, float]) -> None:
        self._run.summary.update({f"score/{name}": value for name, value in values.items()})

    def close(self, outcome: str, reason: str | None) -> None:
        if "_run" not in vars(self):
            return
        best = self.folder / "checkpoints" / "best.pt"
        if outcome in ("finished", "stopped", "failed"):
            self._run.summary.update({"outcome": outcome, "reason": reason})
            if self._upload and best.exists():
                self._run.log_artifact(str(best), name=f"{self.run.run_name}-best", type="model")
        self._run.finish(exit_code=1 if outcome == "failed" else 0)
