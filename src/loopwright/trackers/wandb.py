"""Reporting a run to Weights & Biases."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from loopwright.extras import require
from loopwright.trackers.base import Tracker, trackers

_STEP = "loopwright/step"
"""What metrics are drawn over: a name that no metric has."""
_SETTINGS: Mapping[str, Any] = {
    # What it would collect by itself can hold secrets: arguments of the program, what it prints.
    "console": "off",
    "disable_git": True,
    "save_code": False,
    "x_disable_meta": True,
    "silent": True,
}


@trackers.register("wandb")
class WandB(Tracker):
    """Sends the run to Weights & Biases, or writes it below the run's folder to be sent later.

    Args:
        project: where the run is listed.
        entity: the user or team; the user's default where it is left out.
        name: shown for the run; drawn by wandb where it is left out.
        mode: "offline" writes to disk alone; `wandb sync` sends it.
    """

    extra: ClassVar[str | None] = "wandb"

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        name: str | None = None,
        mode: Literal["online", "offline"] = "online",
    ) -> None:
        self._wandb = require("wandb", "wandb")
        self._options = {"project": project, "entity": entity, "name": name, "mode": mode}
        self._run: Any = None
        self._is_failed = False

    def start(self, run_id: str, logdir: str) -> None:
        self._is_failed = False
        self._run = self._wandb.init(
            id=run_id,
            resume="allow",
            dir=logdir,
            settings=self._wandb.Settings(**_SETTINGS),
            **self._options,
        )
        # wandb's own step only grows, and what comes with a lower one is dropped
        self._run.define_metric("*", step_metric=_STEP)

    def log_tag(self, name: str, value: Any) -> None:
        if name == "status":
            self._is_failed = value != "finished"
        self._run.summary[f"tags/{name}"] = value

    def log_param(self, name: str, value: Any, step: int | None = None) -> None:
        self._run.config.update({name: value}, allow_val_change=True)

    def log_metric(self, name: str, value: float, step: int | None = None) -> None:
        self._run.log({name: value} if step is None else {name: value, _STEP: step})

    def log_asset(self, name: str, path: str) -> None:
        own = re.sub(r"[^\w.-]", "-", name)  # in one artifact a file would replace the one before
        artifact = self._wandb.Artifact(f"run-{self._run.id}-{own}", type="run")
        artifact.add_file(path, name)
        self._run.log_artifact(artifact)

    def log_image(self, name: str, path: str) -> None:
        self._run.log({name: self._wandb.Image(path)})

    def log_figure(self, name: str, figure: Any) -> None:
        self._run.log({name: self._wandb.Image(figure)})

    def end(self) -> None:
        self._run.finish(exit_code=int(self._is_failed))
