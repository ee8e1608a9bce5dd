"""The command line. Help answers at once: what trains is imported by the command that needs it."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

from loopwright.errors import ConfigurationError, MissingExtraError, RunFolderError
from loopwright.extras import require_installed

if TYPE_CHECKING:
    import typer

    from loopwright.experiment import Experiment

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command that the arguments name; the entry point of `loopwright`."""
    try:
        app = make_app()
    except MissingExtraError as error:
        _tell(str(error))
        sys.exit(EXIT_USAGE)
    app(prog_name="loopwright")


def make_app() -> "typer.Typer":
    """Return the command line as a typer application.

    Raises:
        MissingExtraError: a package of the extra `cli` is not installed.
    """
    require_installed(("typer", "rich", "yaml", "pydantic"), "cli")
    import typer

    # Plain help: drawing it with rich would take longer than everything else together.
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Trains PyTorch models that are declared in a file.",
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"loopwright {_version()}")
            raise typer.Exit

    @app.callback()
    def top(
        version: Annotated[
            bool,
            typer.Option(
                "--version", callback=show_version, is_eager=True, help="Print the version."
            ),
        ] = False,
    ) -> None:
        """Train PyTorch models that are declared in a file."""

    @app.command()
    def train(
        config: Annotated[str, typer.Argument(help="The YAML file that declares the run.")],
        overrides: Annotated[
            list[str] | None,
            typer.Option(
                "--set",
                metavar="KEY=VALUE",
                help="Set a value, such as model.training.epochs=3; can be given again.",
            ),
        ] = None,
        device: Annotated[
            str | None, typer.Option(help="Where to train: cpu, cuda, cuda:1, mps.")
        ] = None,
        seed: Annotated[int | None, typer.Option(help="The seed of the run.")] = None,
        folder: Annotated[
            str | None, typer.Option(help="The run's own folder, empty or new.")
        ] = None,
        debug: Annotated[
            bool, typer.Option("--debug", help="Show the traceback of errors.")
        ] = False,
    ) -> None:
        """Train the model that CONFIG declares, and test it.

        Exit codes: 0 finished, 1 failed, 2 mistake in usage or configuration, 130 interrupted.
        """
        with _exit_codes(debug=debug):
            given = {"device": device, "seed": seed, "folder": folder}
            _train(config, overrides or [], {k: v for k, v in given.items() if v is not None})

    return app


def _train(config: str, overrides: list[str], options: dict[str, Any]) -> None:
    # A part written package.module:Name is looked for where the command was given, as by python -m.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    from loopwright.console import ConsoleProgressCallback, print_summary

    experiment = _read_experiment(config, overrides, options)
    progress = ConsoleProgressCallback()
    try:
        results = experiment.train(callbacks=[progress])
    finally:
        progress.close()
    print_summary(results)


def _read_experiment(config: str, overrides: list[str], options: dict[str, Any]) -> "Experiment":
    from loopwright.config_file import apply_overrides, read_config_file, set_value
    from loopwright.experiment import Experiment

    source = read_config_file(config)
    apply_overrides(source, overrides)
    for name, value in options.items():
        set_value(source, ("run", name), value, place=f"--{name}")
    return Experiment.from_source(source)


@contextmanager
def _exit_codes(*, debug: bool) -> Iterator[None]:
    """Turn what goes wrong into one message and an exit code."""
    import typer

    code = 0
    try:
        yield
    except KeyboardInterrupt:
        _tell("Interrupted.")
        code = EXIT_INTERRUPTED
    except (ConfigurationError, MissingExtraError, RunFolderError) as error:
        _tell(traceback.format_exc() if debug else str(error))
        code = EXIT_USAGE
    except Exception as error:
        message = f"The run failed: {type(error).__name__}: {error}\n(--debug shows where)"
        _tell(traceback.format_exc() if debug else message)
        code = EXIT_FAILED
    if code:
        raise typer.Exit(code)


def _tell(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def _version() -> str:
    try:
        return metadata.version("loopwright")
    except metadata.PackageNotFoundError:
        return "(not installed)"
