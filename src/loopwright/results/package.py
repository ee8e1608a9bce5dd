"""Result packages: labels and predictions of a whole data set, evaluated into a dict of results."""

from __future__ import annotations

import copy
import shutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from loopwright.plain_values import to_plain
from loopwright.results import plots
from loopwright.results.arrays import to_array

Results: TypeAlias = "AbstractResultPackage | dict[str, Any]"
"""What a package can be added to."""


class AbstractResultPackage(ABC):
    """Evaluates predictions; subclasses say how in `prepare_results_dict`.

    Args:
        pkg_name: What the package is called where several are combined.
        strict_content_check: Whether missing content raises rather than warns.
        np_array: True makes `y_true` and `y_predicted` arrays, False leaves them as they are, and
            "auto" leaves those whose rows have different lengths.
        **kwargs: Kept in `package_metadata`.
    """

    def __init__(
        self,
        pkg_name: str | None = None,
        strict_content_check: bool = False,
        np_array: bool | str = True,
        **kwargs: Any,
    ) -> None:
        if np_array not in (True, False, "auto"):
            raise ValueError(f"np_array is {np_array!r}; expected True, False or 'auto'.")
        self.pkg_name = pkg_name
        self.strict_content_check = strict_content_check
        self.np_array = np_array
        self.package_metadata = kwargs
        self.requires_loss = False
        """Whether `additional_results` has to hold the `loss` of the data set."""
        self.y_true: Any = None
        self.y_predicted: Any = None
        self.hyperparameters: dict[str, Any] | None = None
        self.additional_results: dict[str, Any] | None = None
        self.additional_results_dump_paths: list[list[str]] | None = None
        self.results_dict: dict[str, Any] | None = None

    @abstractmethod
    def prepare_results_dict(self) -> dict[str, Any]:
        """Return the results by name, from `self.y_true` and `self.y_predicted`."""

    def prepare_result_package(
        self,
        y_true: Any,
        y_predicted: Any,
        hyperparameters: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the labels and predictions of N samples and evaluate them.

        Args:
            y_true: The labels.
            y_predicted: The predictions, in the same order.
            hyperparameters: Those that the model was trained with.
            **kwargs: Kept in `additional_results`; a train loop gives `additional_results`, the
                joined metadata of the batches.
        """
        self.y_true, self.y_predicted = self._taken(y_true), self._taken(y_predicted)
        self.hyperparameters = hyperparameters
        self.additional_results = kwargs
        self.results_dict = None
        self.results_dict = self.prepare_results_dict()

    def _taken(self, values: Any) -> Any:
        if self.np_array is False:
            return values
        try:
            return to_array(values)
        except ValueError:
            if self.np_array == "auto":
                return values
            raise

    def get_results(self) -> dict[str, Any] | None:
        """Return the results; warns, or raises when strict, before there are any."""
        if self.results_dict is None:
            self.warn_about_result_data_problem("There are no results yet")
        return self.results_dict

    def get_hyperparameters(self) -> dict[str, Any] | None:
        """Return the hyperparameters; warns, or raises when strict, if none were given."""
        self.qa_check_hyperparameters_dict()
        return self.hyperparameters

    def qa_check_hyperparameters_dict(self) -> None:
        """Warn, or raise when strict, if no hyperparameters were given."""
        if self.hyperparameters is None:
            self.warn_about_result_data_problem("No hyperparameters were given")

    def warn_about_result_data_problem(self, msg: str) -> None:
        """Warn, or raise a `ValueError` when the package is strict."""
        message = (
            f"{type(self).__name__}: {msg}. Call prepare_result_package(y_true, y_predicted, "
            "hyperparameters) first."
        )
        if self.strict_content_check:
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)

    # ------------------------------------------------------------------ files beside the results

    def report_dict(self) -> dict[str, Any]:
        """Return what a package knows beyond its results, in plain values, for saved results."""
        return {}

    def plots(self) -> dict[str, Callable[[Any], Any]]:
        """Return functions by name that draw on a matplotlib axes and return it."""
        numbers = _numbers_in(self._require_results())
        return {"metrics": lambda ax: plots.plot_metrics(numbers, ax=ax)} if numbers else {}

    def save_plots(self, folder: str | Path, file_format: str = "png") -> list[Path]:
        """Draw every plot into a file of its own and return the files.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for name, draw in self.plots().items():
            files.append(folder / f"{name}.{file_format}")
            plots.save_figure(draw(None), files[-1])
        return files

    def list_additional_results_dump_paths(self) -> list[list[str]] | None:
        """Return further files to keep with the experiment, as [name, path] pairs, or None."""
        return None

    def get_additional_results_dump_paths(self) -> list[list[str]] | None:
        """Return what `list_additional_results_dump_paths` does, checked."""
        self.additional_results_dump_paths = self.list_additional_results_dump_paths()
        self.qa_check_additional_results_dump_paths()
        return self.additional_results_dump_paths

    def qa_check_additional_results_dump_paths(self) -> None:
        """Raise a `ValueError` unless the paths are None or a list of [name, path] strings."""
        paths = self.additional_results_dump_paths
        if paths is None:
            return
        if not isinstance(paths, list) or not all(_is_name_and_path(pair) for pair in paths):
            raise ValueError(
                f"{type(self).__name__}.list_additional_results_dump_paths returned {paths!r}; "
                "expected None or a list of [name, path] pairs of strings."
            )

    def set_experiment_dir_path_for_additional_results(  # noqa: B027 - most write no files
        self,
        project_name: str,
        experiment_name: str,
        experiment_timestamp: str,
        local_model_result_folder_path: str,
    ) -> None:
        """Learn the experiment's folder, before training; packages that write files use it."""

    @staticmethod
    def zip_additional_results_dump(source_dir_path: str, zip_path: str) -> str:
        """Zip a folder and return the path of the file, `zip_path` with .zip."""
        return shutil.make_archive(str(zip_path), "zip", source_dir_path)

    # ------------------------------------------------------------------ behaving like the results

    def __str__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self._require_results().items())

    def __len__(self) -> int:
        return len(self._require_results())

    def __contains__(self, name: object) -> bool:
        return name in self._require_results()

    def __getitem__(self, name: str) -> Any:
        results = self._require_results()
        if name not in results:
            raise KeyError(f"There is no result {name!r}. There are: {', '.join(results)}.")
        return results[name]

    def __add__(self, other: Results) -> MultipleResultPackageWrapper:
        """Return a wrapper of both, which stays as it is when they are evaluated again."""
        combined = MultipleResultPackageWrapper()
        combined.prepare_result_package(
            [*_packages_in(self), *_packages_in(other)], self.hyperparameters
        )
        return combined

    __radd__ = __add__

    def __iadd__(self, other: Results) -> AbstractResultPackage:
        """Add the results of another package to those of this one."""
        present, added = self._require_results(), _results_of(other)
        if repeated := sorted(present.keys() & added.keys()):
            raise ValueError(
                f"Both have {', '.join(repeated)}, and one would be lost. Rename it, or keep both "
                "with package + package."
            )
        self.results_dict = {**present, **added}
        return self

    def _require_results(self) -> dict[str, Any]:
        if self.results_dict is None:
            raise ValueError(
                f"{type(self).__name__} has no results yet. Call prepare_result_package(y_true, "
                "y_predicted) first."
            )
        return self.results_dict


class PreCalculatedResultPackage(AbstractResultPackage):
    """Holds results that were computed elsewhere.

    Args:
        results_dict: The results.
        strict_content_check: Whether missing content raises rather than warns.
        **kwargs: Kept in `package_metadata`.
    """

    def __init__(
        self, results_dict: dict[str, Any], strict_content_check: bool = False, **kwargs: Any
    ) -> None:
        super().__init__("PreCalculatedResult", strict_content_check, **kwargs)
        self.results_dict = results_dict
        self.hyperparameters = {}

    def prepare_results_dict(self) -> dict[str, Any]:
        return self._require_results()

    def prepare_result_package(
        self,
        y_true: Any,
        y_predicted: Any,
        hyperparameters: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the labels and predictions beside the results, which stay as they are."""
        self.y_true, self.y_predicted = self._taken(y_true), self._taken(y_predicted)
        self.hyperparameters = hyperparameters
        self.additional_results = kwargs


class MultipleResultPackageWrapper(AbstractResultPackage):
    """Combines evaluated packages; its results have one entry for each, by its name.

    Args:
        strict_content_check: Whether missing content raises rather than warns.
        **kwargs: Kept in `package_metadata`.
    """

    def __init__(self, strict_content_check: bool = False, **kwargs: Any) -> None:
        super().__init__("MultipleResultWrapper", strict_content_check, **kwargs)
        self.result_packages: list[AbstractResultPackage] = []

    def prepare_result_package(  # type: ignore[override]  # packages in place of labels, as documented
        self,
        result_packages: Sequence[AbstractResultPackage],
        hyperparameters: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take evaluated packages.

        Args:
            result_packages: The packages, in order.
            hyperparameters: Of all of them.
            **kwargs: Kept in `additional_results`.
        """
        self.result_packages = list(result_packages)
        self.hyperparameters = hyperparameters
        self.additional_results = {self.pkg_name or "": kwargs} if kwargs else {}
        self.results_dict = self.prepare_results_dict()

    def prepare_results_dict(self) -> dict[str, Any]:
        named = self.named_packages()
        self.y_true = {name: package.y_true for name, package in named.items()}
        self.y_predicted = {name: package.y_predicted for name, package in named.items()}
        self.additional_results = (self.additional_results or {}) | {
            name: package.additional_results for name, package in named.items()
        }
        return {name: package.get_results() for name, package in named.items()}

    def named_packages(self) -> dict[str, AbstractResultPackage]:
        """Return the packages by name; a repeated name gets its position as a suffix."""
        named: dict[str, AbstractResultPackage] = {}
        for index, package in enumerate(self.result_packages):
            name = package.pkg_name or f"ResultPackage{index}"
            named[f"{name}{index}" if name in named else name] = package
        return named

    def report_dict(self) -> dict[str, Any]:
        reports = {name: package.report_dict() for name, package in self.named_packages().items()}
        return {name: report for name, report in reports.items() if report}

    def plots(self) -> dict[str, Callable[[Any], Any]]:
        return {
            f"{name}_{plot}": draw
            for name, package in self.named_packages().items()
            for plot, draw in package.plots().items()
        }

    def get_additional_results_dump_paths(self) -> list[list[str]] | None:
        paths = list(self.list_additional_results_dump_paths() or [])
        for package in self.result_packages:
            paths += package.get_additional_results_dump_paths() or []
        self.additional_results_dump_paths = paths or None
        self.qa_check_additional_results_dump_paths()
        return self.additional_results_dump_paths

    def __str__(self) -> str:
        named = self.named_packages().items()
        return "\n".join(f"--> {package.pkg_name or name}:\n{package}" for name, package in named)

    def __len__(self) -> int:
        return len(self.result_packages)

    def __iadd__(self, other: Results) -> MultipleResultPackageWrapper:
        """Add a package to those that are combined here."""
        self.prepare_result_package(
            [*self.result_packages, *_packages_in(other)], self.hyperparameters
        )
        return self


def _packages_in(item: Results) -> list[AbstractResultPackage]:
    """Return copies of the packages that an item of a sum stands for."""
    if isinstance(item, MultipleResultPackageWrapper):
        return [copy.copy(package) for package in item.result_packages]
    _results_of(item)
    return [PreCalculatedResultPackage(dict(item)) if isinstance(item, dict) else copy.copy(item)]


def _results_of(item: Results) -> dict[str, Any]:
    if isinstance(item, dict):
        return item
    if isinstance(item, AbstractResultPackage):
        return item._require_results()
    raise ValueError(
        f"A result package adds to a result package or a dict, not to {type(item).__name__}."
    )


def _is_name_and_path(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) for p in pair)


def _numbers_in(results: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the single numbers of nested results, by their joined names."""
    found: dict[str, float] = {}
    for name, value in results.items():
        if isinstance(value, dict):
            found |= _numbers_in(value, f"{prefix}{name}_")
            continue
        number = to_plain(value)
        if isinstance(number, int | float) and not isinstance(number, bool):
            found[f"{prefix}{name}"] = number
    return found
