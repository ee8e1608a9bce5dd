"""Reporting a run to Comet."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from loopwright.extras import require
from loopwright.trackers.base import Tracker, trackers

_QUIET: Mapping[str, Any] = {
    # What it would collect by itself can hold secrets: arguments of the program, what it prints.
    "auto_output_logging": False,
    "display_summary_level": 0,
    "log_code": False,
    "log_env_details": False,
    "log_git_metadata": False,
    "log_git_patch": False,
    "log_graph": False,
    "parse_args": False,
}


@trackers.register("comet_ml")
class Comet(Tracker):
    """Sends the run to Comet, or writes it to a zip in the run's folder to be sent later.

    Args:
        api_key: of the user; as Comet is set up where it is left out.
        project_name: where the run is listed.
        workspace: of the project; the user's default where it is left out.
        offline: writes to disk alone; `comet upload` sends it.
    """

    extra: ClassVar[str | None] = "comet"

    def __init__(
        self,
        api_key: str | None = None,
        project_name: str | None = None,
        workspace: str | None = None,
        offline: bool = False,
    ) -> None:
        os.environ.setdefault("COMET_DISABLE_AUTO_LOGGING", "1")  # else it rewrites parts of torch
        self._comet = require("comet_ml", "comet")
        self._options = {"api_key": api_key, "project_name": project_name, "workspace": workspace}
        self._offline = offline
        self._experiment: Any = None

    def start(self, run_id: str, logdir: str) -> None:
        config = self._comet.ExperimentConfig(offline_directory=logdir, **_QUIET)
        self._experiment = self._comet.start(
            experiment_key=_key_of(run_id),
            mode="get_or_create",
            online=not self._offline,
            experiment_config=config,
            **self._options,
        )
        self._experiment.log_other("run_id", run_id)

    def log_tag(self, name: str, value: Any) -> None:
        self._experiment.log_other(name, value)

    def log_param(self, name: str, value: Any, step: int | None = None) -> None:
        self._experiment.log_parameter(name, value, step)

    def log_metric(self, name: str, value: float, step: int | None = None) -> None:
        self._experiment.log_metric(name, value, step=step)

    def log_asset(self, name: str, path: str) -> None:
        self._experiment.log_asset(path, name, overwrite=True)

    def log_image(self, name: str, path: str) -> None:
        self._experiment.log_image(path, name)

    def log_figure(self, name: str, figure: Any) -> None:
        self._experiment.log_figure(name, figure)

    def end(self) -> None:
        self._experiment.end()


def _key_of(run_id: str) -> str:
    """Return the run's id where Comet takes it as a key, else a digest of it."""
    if run_id.isalnum() and 32 <= len(run_id) <= 50:
        return run_id
    return hashlib.sha256(run_id.encode()).hexdigest()[:40]
