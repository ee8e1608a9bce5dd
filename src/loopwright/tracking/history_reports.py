"""The training history, and gradients, as files a person can read: plots, text and tables."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from loopwright.checkpoint import write_aside, write_text_aside
from loopwright.extras import require
from loopwright.plain_values import to_plain
from loopwright.results import plots

PLOT_FORMATS = ("png", "pdf")
TEXT_FORMATS = ("txt", "tsv", "csv")


def check_format(file_format: str, known: Sequence[str]) -> None:
    """Raise a `ValueError` that names the known formats."""
    if file_format not in known:
        raise ValueError(f"file_format is {file_format!r}; expected one of {', '.join(known)}.")


class TrainingHistoryPlotter:
    """Draws every metric that has two values or more.

    Args:
        experiment_results_local_path: The folder of the experiment's results.
    """

    def __init__(self, experiment_results_local_path: str | Path) -> None:
        self.folder = Path(experiment_results_local_path)

    def generate_report(
        self, training_history: Any, plots_folder_name: str = "plots", file_format: str = "png"
    ) -> list[list[str]]:
        """Write one file per metric ("png") or one for all ("pdf"), and return [name, path] pairs.

        Names are paths below the folder of results.
        """
        metrics = training_history.get_train_history_dict(flatten_dict=True)
        drawn = {
            name: _drawing(plots.plot_series, values, name)
            for name, values in metrics.items()
            if len(values) > 1 and all(_is_number(value) for value in values)
        }
        return _write_plots(self.folder, plots_folder_name, drawn, file_format)


class GradientPlotter:
    """Draws how the gradients of layers are distributed.

    Args:
        experiment_grad_results_local_path: The folder for the plots.
    """

    def __init__(self, experiment_grad_results_local_path: str | Path) -> None:
        self.folder = Path(experiment_grad_results_local_path)

    def generate_report(
        self,
        model_layer_gradients: Sequence[Any],
        grad_plots_folder_name: str = "grad_plots",
        file_format: str = "png",
    ) -> list[list[str]]:
        """Write one file per layer ("png") or one for all ("pdf"), and return [name, path] pairs.

        Args:
            model_layer_gradients: The gradients of each layer as one array, or None.
            grad_plots_folder_name: The folder, or the file, below the plotter's.
            file_format: "png" or "pdf".
        """
        drawn = {
            f"layer_{index}": _drawing(plots.plot_histogram, gradients, f"Gradient, layer {index}")
            for index, gradients in enumerate(model_layer_gradients)
            if gradients is not None
        }
        return _write_plots(self.folder, grad_plots_folder_name, drawn, file_format)


class TrainingHistoryWriter:
    """Writes what each epoch added to the history, to one file or several.

    Args:
        experiment_results_local_path: The folder of the experiment's results; it may be set later.
    """

    def __init__(self, experiment_results_local_path: str | Path | None = None) -> None:
        self.experiment_results_local_path = experiment_results_local_path
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._lengths: dict[str, dict[str, int]] = {}

    def generate_report(
        self,
        training_history: Any,
        epoch: int,
        file_name: str,
        results_folder_name: str = "",
        file_format: str = "txt",
    ) -> tuple[str, str]:
        """Add a row for an epoch and write the file anew; return its name and path.

        A metric without a new value is left out of the row, so no value stands twice.

        Args:
            training_history: The history.
            epoch: The epoch that ended, from 0.
            file_name: The name of the file.
            results_folder_name: A folder for it below that of results.
            file_format: "txt", "tsv" or "csv".
        """
        check_format(file_format, TEXT_FORMATS)
        if self.experiment_results_local_path is None:
            raise ValueError("experiment_results_local_path is not set; set it to a folder.")
        name = (Path(results_folder_name) / file_name).as_posix()
        path = Path(self.experiment_results_local_path) / name
        rows = self._rows.setdefault(name, [])
        rows.append({"Epoch": epoch, **self._news(name, training_history)})
        text = _as_text(rows) if file_format == "txt" else _as_table(rows, file_format)
        write_text_aside(path, text)
        return name, str(path)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows of each file so far, for checkpoints."""
        return {"rows": to_plain(self._rows), "lengths": to_plain(self._lengths)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the rows that `state_dict` returned."""
        self._rows, self._lengths = to_plain(state["rows"]), to_plain(state["lengths"])

    def _news(self, name: str, training_history: Any) -> dict[str, Any]:
        """Return the metrics that have a new value since the file was written last."""
        metrics = training_history.get_train_history_dict(flatten_dict=True)
        seen = self._lengths.get(name, {})
        self._lengths[name] = {metric: len(values) for metric, values in metrics.items()}
        return {
            metric: to_plain(values[-1])
            for metric, values in metrics.items()
            if len(values) > seen.get(metric, 0)
        }


def _as_text(rows: Sequence[dict[str, Any]]) -> str:
    line, lines = "=" * 28, []
    for row in rows:
        values = [f"{name}:\t{value}" for name, value in row.items() if name != "Epoch"]
        lines += [line, f"Epoch: {row['Epoch']}", line, *values, "", ""]
    return "\n".join(lines) + "\n"


def _as_table(rows: Sequence[dict[str, Any]], file_format: str) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    delimiter = "\t" if file_format == "tsv" else ","
    writer = csv.DictWriter(file, columns, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _drawing(draw: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    return lambda: draw(*args)


def _write_plots(
    folder: Path, name: str, drawn: dict[str, Callable[[], Any]], file_format: str
) -> list[list[str]]:
    check_format(file_format, PLOT_FORMATS)
    if file_format == "pdf":
        path = folder / f"{name}.pdf"
        return [[path.name, str(_save_pdf(path, drawn.values()))]] if drawn else []
    return [[f"{name}/{path.name}", str(path)] for path in _save_each(folder / name, drawn)]


def _save_each(folder: Path, drawn: dict[str, Callable[[], Any]]) -> Iterator[Path]:
    for name, draw in drawn.items():
        folder.mkdir(parents=True, exist_ok=True)
        file_name = re.sub(r"[^\w.=+-]+", "_", name)
        yield plots.save_figure(draw(), folder / f"{file_name}.png")


def _save_pdf(path: Path, drawings: Iterable[Callable[[], Any]]) -> Path:
    pages = require("matplotlib.backends.backend_pdf", extra="plots").PdfPages

    def write(aside: Path) -> None:
        with pages(aside) as file:
            for draw in drawings:
                file.savefig(draw().figure)

    write_aside(path, write)
    return path


def _is_number(value: Any) -> bool:
    plain = to_plain(value)
    is_named = plain in ("NaN", "Infinity", "-Infinity")
    return is_named or (isinstance(plain, int | float) and not isinstance(plain, bool))
