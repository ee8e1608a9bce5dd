"""What an experiment was started with: its hyperparameters and its source code."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loopwright.checkpoint import write_aside, write_text_aside
from loopwright.experiment_folder import ExperimentFolder
from loopwright.plain_values import mask_secrets, to_plain

_READABLE = (bool, int, float, str, type(None), list, tuple)


def with_source_paths(
    hyperparams: Mapping[str, Any], source_dirs: Sequence[str | os.PathLike[str]] = ()
) -> dict[str, Any]:
    """Return a copy with `experiment_file_path` and `source_dirs_paths`.

    A path that is there already stays. In a notebook the file is None.
    """
    script = getattr(sys.modules["__main__"], "__file__", None)
    return {
        "experiment_file_path": None if script is None else os.path.abspath(script),
        "source_dirs_paths": tuple(os.fspath(folder) for folder in source_dirs),
        **hyperparams,
    }


class HyperParamSourceReporter:
    """Writes hyperparameters and copies source code into the folder of an experiment.

    Args:
        project_name: The name of the project.
        experiment_name: The name of the experiment.
        experiment_timestamp: When it began.
        local_model_result_folder_path: The root of all projects.
    """

    file_name = "hyperparams_list.txt"

    def __init__(
        self,
        project_name: str,
        experiment_name: str,
        experiment_timestamp: str,
        local_model_result_folder_path: str | os.PathLike[str],
    ) -> None:
        self.folder = ExperimentFolder(
            project_name, experiment_name, experiment_timestamp, local_model_result_folder_path
        )

    @property
    def experiment_dir_path(self) -> str:
        """The folder of the experiment."""
        return str(self.folder.path)

    def save_hyperparams_to_text_file(
        self, hyperparams: Mapping[str, Any], sort_names: bool = False
    ) -> str:
        """Write one `name:<tab>value` line each and return the file; secrets are masked."""
        names = sorted(hyperparams) if sort_names else list(hyperparams)
        lines = [f"{name}:\t{_readable(name, hyperparams[name])}\n" for name in names]
        path = self.folder.path / self.file_name
        write_text_aside(path, "".join(lines))
        return str(path)

    def save_experiment_python_file(self, hyperparams: Mapping[str, Any]) -> str | None:
        """Copy the file at `experiment_file_path`; prints why there is none."""
        given = hyperparams.get("experiment_file_path")
        if given is None or not Path(given).expanduser().is_file():
            print(
                f"The experiment's file is not copied: experiment_file_path is {given!r}. Set it "
                "in hyperparams, which a notebook has to."
            )
            return None
        source = Path(given).expanduser()
        path = self.folder.path / source.name

        def write(aside: Path) -> None:
            shutil.copyfile(source, aside)

        write_aside(path, write)
        return str(path)

    def save_experiment_source_files(self, hyperparams: Mapping[str, Any]) -> str | None:
        """Zip the folders at `source_dirs_paths` into `source_code.zip` and return it.

        Hidden files and caches are left out.

        Raises:
            FileNotFoundError: A folder is not there.
            ValueError: Two folders have one name.
        """
        folders = [Path(p).expanduser() for p in hyperparams.get("source_dirs_paths") or ()]
        if not folders:
            return None
        for folder in folders:
            if not folder.is_dir():
                raise FileNotFoundError(f"source_dirs names {folder}, which is no folder.")
        names = [folder.resolve().name for folder in folders]
        if len(set(names)) < len(names):
            raise ValueError(f"source_dirs names folders of one name: {', '.join(names)}.")
        path = self.folder.path / "source_code.zip"

        def write(aside: Path) -> None:
            with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
                for folder, name in zip(folders, names, strict=True):
                    for file in _files_below(folder):
                        archive.write(file, Path(name, file.relative_to(folder)))

        write_aside(path, write)
        return str(path)


def _readable(name: str, value: Any) -> str:
    """Return a value as one line of text, without secrets and without addresses in memory."""
    plain = to_plain(value)
    masked = mask_secrets({name: plain})[name]
    shown = value if isinstance(value, _READABLE) and masked == plain else masked
    return str(shown).replace("\n", "\\n")


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__pycache__")
        yield from (Path(parent, file) for file in sorted(files) if not file.startswith("."))
