"""What a declared run tells its trackers: settings, tags, metrics, pictures and files."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from loopwright.errors import MissingExtraError, RunInterrupted
from loopwright.events import TrainerCallback
from loopwright.experiment_config import ComponentSpec, ExperimentSpec
from loopwright.history import history_state
from loopwright.plain_values import looks_secret, mask_secrets, read_number, to_plain
from loopwright.problems import Problem
from loopwright.run_log import count_logged
from loopwright.run_record import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    PICTURES_FOLDER,
    REPORT_FILE,
    RESULTS_FILE,
)
from loopwright.trackers import Tracker, TrackerList, trackers
from loopwright.trackers.delivery import STOPPING_SECONDS
from loopwright.trainer import Trainer

_FILES_AT_END = (ENVIRONMENT_FILE, METRICS_FILE, RESULTS_FILE, REPORT_FILE)


class TrackingCallback(TrainerCallback):
    """Tells trackers what each epoch recorded, and the pictures that came with it."""

    def __init__(self, trackers: TrackerList, folder: Path, *, log_metrics: bool) -> None:
        self._trackers = trackers
        self._folder = folder
        self._pictures = folder / PICTURES_FOLDER
        self._log_metrics = log_metrics
        self._counts: dict[str, int] = {}
        self._seen: dict[Path, int] = {}

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        """Leave out what an earlier part of the run has told."""
        self._counts = count_logged(self._folder)
        self._seen = self._find_pictures()

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Tell what is new."""
        values = history_state(trainer.run_history)
        counts = {name: len(listed) for name, listed in values.items()}
        is_fresh = {name: count > self._counts.get(name, 0) for name, count in counts.items()}
        fresh = {name: listed[-1] for name, listed in values.items() if is_fresh[name]}
        self._counts = counts
        self.log_metrics(fresh, trainer.progress.epoch)
        self.log_pictures()
        self._trackers.check()

    def log_metrics(self, metrics: Mapping[str, Any], epoch: int) -> None:
        """Tell those metrics of an epoch that are numbers."""
        numbers = {name: read_number(to_plain(value)) for name, value in metrics.items()}
        for name, value in sorted(numbers.items()) if self._log_metrics else ():
            if isinstance(value, int | float):
                self._trackers.log_metric(name, value, epoch)

    def log_pictures(self) -> None:
        """Tell pictures that are new or were drawn again."""
        found = self._find_pictures()
        for path, changed in sorted(found.items()):
            if changed in (self._seen.get(path), self._trackers.drawn.get(path.name)):
                continue
            if path.suffix == ".png":
                self._trackers.log_image(path.stem, str(path))
            else:
                self._trackers.log_asset(f"{PICTURES_FOLDER}/{path.name}", str(path))
        self._seen = found

    def _find_pictures(self) -> dict[Path, int]:
        """Return when each picture was written, in nanoseconds."""
        found = {}
        for path in self._pictures.glob("[!.]*"):
            with suppress(FileNotFoundError):  # removed meanwhile
                found[path] = path.stat().st_mtime_ns
        return found


def make_trackers(components: Iterable[ComponentSpec]) -> tuple[TrackerList, list[Problem]]:
    """Make the declared trackers; where one cannot be made, a problem says why."""
    made: dict[str, Tracker] = {}
    problems = []
    secrets: set[str] = set()
    for index, component in enumerate(components):
        name = component.type if component.type not in made else f"{component.type} {index + 1}"
        secrets |= {
            value
            for key, value in component.arguments.items()
            if looks_secret(key) and isinstance(value, str) and value
        }
        try:
            made[name] = trackers.get(component.type)(**component.arguments)
        except (ValueError, TypeError, OSError, MissingExtraError) as error:
            path = ("tracking", "trackers", index)
            problems.append(Problem(path=path, message=str(error).partition("\n")[0].rstrip(".")))
    return TrackerList(made, secrets), problems


@contextmanager
def reporting(
    told: TrackerList, spec: ExperimentSpec, folder: Path
) -> Iterator[TrackingCallback | None]:
    """Report a run while the body trains and tests it; with no tracker do nothing.

    Args:
        told: the trackers.
        spec: the run as declared.
        folder: of the run.
    """
    if not len(told):
        yield None
        return
    tracking = spec.tracking
    assert tracking.run_id is not None, "an experiment fills it in"
    told.start(tracking.run_id, str(folder.absolute()))
    callback = TrackingCallback(told, folder, log_metrics=tracking.log_metrics)
    status = "failed"
    try:
        for name, tag in mask_secrets(tracking.tags).items():
            told.log_tag(name, tag)
        for name, value in _params(spec).items():
            told.log_param(name, value)
        told.log_asset(CONFIG_FILE, str(folder / CONFIG_FILE))
        yield callback
        status = "finished"
    except (RunInterrupted, KeyboardInterrupt):
        status = "stopped"
        raise
    finally:
        callback.log_pictures()
        for name in _FILES_AT_END:
            if (folder / name).exists():
                told.log_asset(name, str(folder / name))
        told.log_tag("status", status)
        told.end(STOPPING_SECONDS if status == "stopped" else None)


def _params(spec: ExperimentSpec) -> dict[str, Any]:
    """Return the settings to tell, by names such as `training.optimizer.lr`, secrets masked."""
    values = mask_secrets(to_plain(spec.model.model_dump(mode="json", exclude_none=True)))
    params: dict[str, Any] = {}
    if spec.tracking.log_params:
        params |= _flat("model", values["model"])
    if spec.tracking.log_training_params:
        params |= _flat("training", values["training"])
    return params


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: json.dumps(value) if isinstance(value, list) else value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(f"{name}.{key}", item)
    return flat
