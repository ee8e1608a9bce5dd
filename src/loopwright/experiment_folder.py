"""Where the files of an experiment lie, and when it began."""

from dataclasses import dataclass
from datetime import datetime
from os import PathLike
from pathlib import Path

TIMESTAMP_FORMAT = "%Y-%m-%d_%H-%M-%S"


def new_timestamp() -> str:
    """Return the local time as YYYY-MM-DD_HH-MM-SS."""
    return datetime.now().strftime(TIMESTAMP_FORMAT)


@dataclass(frozen=True)
class ExperimentFolder:
    """Names the folders of an experiment, ROOT/project_name/experiment_name_TIMESTAMP.

    Nothing is made before something is saved. A leading `~` of the root is expanded.

    Raises:
        ValueError: A name is empty or would lead out of the root.
    """

    project_name: str
    experiment_name: str
    experiment_timestamp: str
    local_model_result_folder_path: str | PathLike[str]

    def __post_init__(self) -> None:
        for field in ("project_name", "experiment_name", "experiment_timestamp"):
            name = getattr(self, field)
            if not name or "/" in name or "\\" in name or name in (".", ".."):
                raise ValueError(
                    f"{field} is {name!r}, which names no folder. Give a name without slashes."
                )

    @property
    def project(self) -> Path:
        """The folder of all experiments of the project."""
        return Path(self.local_model_result_folder_path).expanduser() / self.project_name

    @property
    def path(self) -> Path:
        """The folder of the experiment."""
        return self.project / f"{self.experiment_name}_{self.experiment_timestamp}"

    @property
    def model(self) -> Path:
        """Where the final model is saved."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """Where the models of epochs and iterations are saved."""
        return self.path / "checkpoint_model"

    @property
    def results(self) -> Path:
        """Where results, plots and histories are saved."""
        return self.path / "results"

    def relative(self, path: str | PathLike[str]) -> str:
        """Return a path below the root, as uploads name it."""
        return Path(path).relative_to(self.project.parent).as_posix()

    @staticmethod
    def get_base_folder_paths(
        project_name: str,
        experiment_name: str,
        experiment_timestamp: str,
        local_model_result_folder_path: str | PathLike[str],
    ) -> tuple[str, str]:
        """Return the paths of the project and of the experiment, making neither."""
        folder = ExperimentFolder(
            project_name, experiment_name, experiment_timestamp, local_model_result_folder_path
        )
        return str(folder.project), str(folder.path)

    @staticmethod
    def create_base_folder(
        project_name: str,
        experiment_name: str,
        experiment_timestamp: str,
        local_model_result_folder_path: str | PathLike[str],
    ) -> str:
        """Make the folder of the experiment, if need be, and return its path."""
        folder = ExperimentFolder(
            project_name, experiment_name, experiment_timestamp, local_model_result_folder_path
        )
        folder.path.mkdir(parents=True, exist_ok=True)
        return str(folder.path)
