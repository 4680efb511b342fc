"""MLflow: https://mlflow.org"""
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch

from logger.pictures import draw_grid
from logger.trackers.shared import picture_of, points_before, require_package
from logger.writer import RunInfo, Writer

_MEASURED = ("speed/", "time/", "memory/")  # names of values that vary by start
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class MLflow(Writer):
    """Sends a run to MLflow, as one run in all its starts, with best.pt as an artifact at the end of each.

    MLflow takes no point back. A resumed run leaves out points that are there already with the same value;
    where a resume changes values, MLflow has both.

    Args:
        tracking_uri: of a server or a database; by default $MLFLOW_TRACKING_URI, or else `mlflow.db` in the
            folder of all runs: `mlflow ui --backend-store-uri sqlite:///saved/mlflow.db`.
        experiment: its name in MLflow; by default that of the config.
        upload: whether to copy best.pt to the artifacts.
    """

    outside = True

    def __init__(self, run: RunInfo, tracking_uri: str | None = None, experiment: str | None = None,
                 upload: bool = True):
        require_package("mlflow", "MLflow")
        super().__init__(run.folder, run.start_step, run)
        self._out, self._upload = run.folder.absolute().parent.parent, upload
        self._uri = (tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
                     or f"sqlite:///{self._out / 'mlflow.db'}")
        self._experiment, self._known = experiment or run.name, {}

    @cached_property
    def _client(self):
        from mlflow import MlflowClient  # takes seconds, so not in the constructor

        return MlflowClient(self._uri)

    @cached_property
    def _id(self) -> str:
        """MLflow's id of the run, which is found by the run's own id, or else begun."""
        name, info = self._experiment, self.run
        known = self._client.get_experiment_by_name(name)
        artifacts = (self._out / "mlflow_artifacts").as_uri() if self._uri.startswith("sqlite:") else None
        experiment = known.experiment_id if known else self._client.create_experiment(name, artifacts)
        found = self._client.search_runs([experiment], f"tags.run_id = '{info.id}'")
        if found:
            return found[0].info.run_id
        tags = {"run_id": info.id, "command": " ".join(info.command), "folder": str(info.folder.absolute()),
                "mlflow.source.git.commit": info.commit or ""}
        return self._client.create_run(experiment, run_name=info.run_name, tags=tags).info.run_id

    def hparams(self, config: Mapping, changed: Mapping | None) -> None:
        from mlflow.entities import Param

        self._client.update_run(self._id, status="RUNNING")
        if changed is None:
            # 6000 characters are the most that MLflow takes
            params = [Param(_allowed(key), str(value)[:6000]) for key, value in config.items()]
            for first in range(0, len(params), 100):
                self._client.log_batch(self._id, params=params[first:first + 100])
        self._client.log_dict(self._id, dict(self.run.config), "config.yaml")
        for key, value in (changed or {}).items():  # a param of MLflow cannot change
            self._client.set_tag(self._id, _allowed(f"resumed.{key}"), str(value)[:5000])
        for step, values in points_before(self.run):
            self.scalars(values, step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        named = {_allowed(name): value for name, value in values.items()}
        new = [Metric(name, value, now, step) for name, value in named.items()
               if not self._is_there(name, value, step)]
        if new:
            self._client.log_batch(self._id, metrics=new)

    def _is_there(self, name: str, value: float, step: int) -> bool:
        """Whether a point of an earlier start is in MLflow; what was measured is of no two starts alike."""
        if self.run.start_step is None:
            return False
        if name not in self._known:
            self._known[name] = {point.step: point.value
                                 for point in self._client.get_metric_history(self._id, name)}
        there = self._known[name]
        return step in there and (name.startswith(_MEASURED) or there[step] == value or value != value)

    def images(self, name: str, images: torch.Tensor, step: int,
               captions: Sequence[str] | None = None) -> None:
        self._client.log_image(self._id, draw_grid(images, captions), f"images/{name}_{step:08d}.png")

    def figure(self, name: str, png: bytes, step: int) -> None:
        self._client.log_image(self._id, picture_of(png), f"figures/{name}_{step:08d}.png")

    def text(self, name: str, text: str, step: int) -> None:
        self._client.log_text(self._id, text, f"texts/{name}_{step:08d}.txt")

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence], step: int) -> None:
        content = json.dumps({"columns": columns, "data": rows}, indent=1)
        self._client.log_text(self._id, content, f"tables/{name}_{step:08d}.json")

    def event(self, kind: str, text: str) -> None:
        self._client.set_tag(self._id, f"event.{kind}", text[:5000])

    def scores(self, split: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, _allowed(f"score/{name}"), value)

    def close(self, outcome: str, reason: str | None) -> None:
        if outcome not in _STATUS:
            return
        best = self.folder / "checkpoints" / "best.pt"
        if self._upload and best.exists():
            self._client.log_artifact(self._id, str(best), "checkpoints")
        self._client.set_tag(self._id, "reason", reason or outcome)
        self._client.set_terminated(self._id, _STATUS[outcome])


def _allowed(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w./ :-]", "_", name)[:250]
