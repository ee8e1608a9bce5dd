"""How a declared run shows its progress: a line per epoch, and a live bar on a terminal."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from loopwright.events import TrainerCallback
from loopwright.plain_values import read_number
from loopwright.report import format_count, format_duration, format_number, reading_order
from loopwright.run_record import REPORT_FILE
from loopwright.trainer import Trainer

_SECONDS_BETWEEN_DRAWS = 0.1


class ConsoleProgressCallback(TrainerCallback):
    """Prints one line per epoch; on a terminal a bar below them shows where the run is.

    The bar is drawn from the loop on a clock, so that no thread takes time from training.

    Args:
        console: where to print; standard error by default, which leaves standard output to results.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._task: Any = None
        self._next_draw = 0.0
        self._began = 0.0
        self._samples_before = 0

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        """Put up the bar."""
        self._began = time.perf_counter()
        self._samples_before = trainer.progress.samples  # of a run that goes on
        if not self._console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rate]}", style="dim"),
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._progress.add_task(
            "training", total=trainer.progress.total_steps, rate=""
        )
        self._progress.start()

    def on_train_step_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Draw the bar when it is time to."""
        if self._progress is not None and time.perf_counter() >= self._next_draw:
            self._draw(trainer)

    def on_eval_step_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Draw the bar when it is time to."""
        if self._progress is not None and time.perf_counter() >= self._next_draw:
            self._draw(trainer)

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Print the line of the epoch."""
        where = trainer.progress
        history = trainer.run_history
        figures = "  ".join(
            f"{name.removesuffix('_epoch').replace('_', ' ')} "
            f"{format_number(history.get_latest_metric(name))}"
            for name in sorted(history.get_metric_names(), key=reading_order)
        )
        total = f"/{where.epochs}" if where.epochs else ""
        self._console.print(
            f"epoch {where.epoch}{total}  {figures}", highlight=False, markup=False, soft_wrap=True
        )

    def on_training_run_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Take the bar down."""
        self.close()

    def on_stop_training_error(self, trainer: Trainer, **kwargs: Any) -> None:
        """Take the bar down."""
        self.close()

    def close(self) -> None:
        """Take the bar down, also after an error; a second call does nothing."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _draw(self, trainer: Trainer) -> None:
        now = time.perf_counter()
        self._next_draw = now + _SECONDS_BETWEEN_DRAWS
        assert self._progress is not None
        where = trainer.progress
        samples = where.samples - self._samples_before
        rate = samples / (now - self._began) if now > self._began else 0.0
        self._progress.update(
            self._task,
            completed=where.step,
            description=f"epoch {where.epoch}/{where.epochs} {where.phase:<5}",
            rate=f"{rate:,.0f} samples/s",
        )
        self._progress.refresh()


def print_summary(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what a run found and where it lies.

    Args:
        results: what `Experiment.train` returns.
        console: where to print; standard output by default.
    """
    console = console or Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right", style="bold")
    for words, value in _summary_rows(results):
        table.add_row(words, value)
    console.print(table)
    folder = Path(results["run_folder"])
    # Paths stand on lines of their own and are never cut or folded, so that they can be copied.
    for words, path in (("run folder", folder), ("report", folder / REPORT_FILE)):
        console.print(Text(f"{words:<12}", "dim"), Text(str(path)), soft_wrap=True)


def _summary_rows(results: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    read = {name: read_number(value) for name, value in results.get("metrics", {}).items()}
    metrics = {name: value for name, value in read.items() if isinstance(value, int | float)}
    tested = {name: value for name, value in metrics.items() if name.startswith("test_")}
    for name in sorted(tested or metrics, key=reading_order):
        value = metrics[name]
        shown = f"{value:.2%}" if name.endswith("accuracy") else format_number(value)
        yield name.removesuffix("_epoch").replace("_", " "), shown
    for key, words, show in (
        ("samples_per_second", "samples/s", format_count),
        ("seconds", "duration", format_duration),
        ("steps", "steps", format_count),
        ("parameters", "parameters", format_count),
    ):
        if isinstance(results.get(key), int | float):
            yield words, show(results[key])
    if results.get("fingerprint"):
        yield "weights", results["fingerprint"]
