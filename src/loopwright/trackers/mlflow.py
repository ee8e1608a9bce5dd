"""Reporting a run to MLflow."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from loopwright.extras import require
from loopwright.trackers.base import Tracker, trackers

_RUN_ID = "loopwright.run_id"
_STATUSES = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_CALM: Mapping[str, str] = {
    # The jitter comes from Python's random generator, which the data of the run may be drawing from
    # at that moment, in another thread.
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    # Seven, over four minutes, would keep the reason of a failure to themselves for so long.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


@trackers.register("mlflow")
class MLflow(Tracker):
    """Sends the run to an MLflow server, or writes it to a database.

    A run that goes on is found there again by its id, and keeps the parameters it began with, as
    MLflow changes none.

    Args:
        experiment_name: the experiment in MLflow, made where there is none.
        tracking_uri: the server or store; as MLflow is set up where it is left out.
        run_name: shown for the run; the name of its folder where it is left out.
    """

    extra: ClassVar[str | None] = "mlflow"

    def __init__(
        self,
        experiment_name: str = "Default",
        tracking_uri: str | None = None,
        run_name: str | None = None,
    ) -> None:
        for name, value in _CALM.items():
            os.environ.setdefault(name, value)
        self._make_client = require("mlflow", "mlflow").MlflowClient
        self._experiment_name = experiment_name
        self._tracking_uri = tracking_uri
        self._run_name = run_name
        self._client: Any = None
        self._run = ""
        self._known_params: Collection[str] = ()
        self._status = "FINISHED"

    def start(self, run_id: str, logdir: str) -> None:
        self._status = "FINISHED"
        self._client = self._make_client(self._tracking_uri)
        experiment = self._client.get_experiment_by_name(self._experiment_name)
        place = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(self._experiment_name)
        )
        found = self._client.search_runs([place], f"tags.`{_RUN_ID}` = '{run_id}'", max_results=1)
        self._known_params = found[0].data.params if found else ()
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        name = self._run_name or Path(logdir).name
        run = self._client.create_run(place, run_name=name, tags={_RUN_ID: run_id})
        self._run = run.info.run_id

    def log_tag(self, name: str, value: Any) -> None:
        if name == "status":
            self._status = _STATUSES[value]
        else:
            self._client.set_tag(self._run, name, value)

    def log_param(self, name: str, value: Any, step: int | None = None) -> None:
        if name not in self._known_params:
            self._client.log_param(self._run, name, value)

    def log_metric(self, name: str, value: float, step: int | None = None) -> None:
        self._client.log_metric(self._run, name, value, step=step)

    def log_asset(self, name: str, path: str) -> None:
        folder = str(PurePosixPath(name).parent)
        self._client.log_artifact(self._run, path, None if folder == "." else folder)

    def log_image(self, name: str, path: str) -> None:
        self._client.log_artifact(self._run, path, "images")

    def log_figure(self, name: str, figure: Any) -> None:
        self._client.log_figure(self._run, figure, f"images/{name}.png")

    def end(self) -> None:
        self._client.set_terminated(self._run, self._status)
