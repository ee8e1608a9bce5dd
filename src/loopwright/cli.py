"""The command line. Help answers at once: what trains is imported by the command that needs it."""

import sys
from importlib import metadata
from typing import TYPE_CHECKING, Annotated

from loopwright.cli_artifacts import add_artifact_commands
from loopwright.cli_data import add_data_commands
from loopwright.cli_exits import EXIT_USAGE, tell
from loopwright.cli_projects import add_project_commands
from loopwright.cli_storage import add_storage_commands
from loopwright.cli_training import add_training_commands
from loopwright.errors import MissingExtraError
from loopwright.extras import require_installed

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Run the command that the arguments name; the entry point of `loopwright`."""
    try:
        app = make_app()
    except MissingExtraError as error:
        tell(str(error))
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

    add_training_commands(app)
    add_artifact_commands(app)
    add_data_commands(app)
    add_storage_commands(app)
    add_project_commands(app)
    return app


def _version() -> str:
    try:
        return metadata.version("loopwright")
    except metadata.PackageNotFoundError:
        return "(not installed)"
