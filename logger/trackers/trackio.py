"""Trackio: https://github.com/gradio-app/trackio"""
from functools import cached_property

from logger.trackers.shared import PointsOnce, points_before, require_package
from logger.writer import RunInfo, Writer


class Trackio(PointsOnce, Writer):
    """Sends a run to Trackio on this machine (`trackio show`), as one run in all its starts.

    Trackio takes no point back: a resumed run continues where what was sent has ended.

    Args:
        project: by default the config's name.
        space_id: a Space of Hugging Face to send to instead.
        upload: whether to copy best.pt to the artifacts at the end of each start.
    """

    outside = True

    def __init__(self, run: RunInfo, project: str | None = None, space_id: str | None = None,
                 upload: bool = True):
        require_package("trackio", "Trackio")
        super().__init__(run.folder, run.start_step, run)
        self._project, self._space, self._upload = project or run.name, space_id, upload
        self._sent = -1  # the last step that Trackio has from earlier starts
        self._name = f"{run.run_name}-{run.id[:6]}"  # by which Trackio finds it again

    def _library(self):
        import trackio  # takes seconds, so not in the constructor

        return trackio

    @cached_property
    def _run(self):
        trackio = self._library()
        if self.run.resumed:
            last = trackio.SQLiteStorage.get_last_step(self._project, self._name)
            self._sent = -1 if last is None else last
        about = {"command": " ".join(self.run.command), "commit": self.run.commit, "run_id": self.run.id}
        run = trackio.init(project=self._project, name=self._name, space_id=self._space, embed=False,
                           config={**self.run.config, **about}, resume="allow")
        for step, values in points_before(self.run, self._sent):
            run.log(values, step=step)
        return run

    def text(self, name: str, text: str, step: int) -> None:
        from trackio import Markdown

        self._log({name: Markdown(text)}, step)

    def event(self, kind: str, text: str) -> None:
        self._run.alert(title=kind, text=text)

    def close(self, outcome: str, reason: str | None) -> None:
        best = self.folder / "checkpoints" / "best.pt"
        if "_run" in vars(self):
            if self._upload and best.exists():
                self._run.log_artifact(str(best), name=f"{self._name}-best", type="model")
            self._run.finish()
