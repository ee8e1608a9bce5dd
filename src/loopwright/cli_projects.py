"""The commands for generated projects: new and install-trainer-packages."""

import os
from typing import TYPE_CHECKING, Annotated

from loopwright.cli_exits import exit_codes
from loopwright.errors import ConfigurationError
from loopwright.scaffold import (
    SUMMARIES,
    add_trainer,
    install_trainer_packages,
    write_project,
)

if TYPE_CHECKING:
    import typer

PARTS = ("trainer",)
"""What `--add` can add."""


def add_project_commands(app: "typer.Typer") -> None:
    """Add the commands to the command line."""
    import typer

    debug_option = typer.Option("--debug", help="Show the traceback of errors.")

    @app.command()
    def new(
        name: Annotated[
            str | None, typer.Argument(help="The project's folder, new or empty.")
        ] = None,
        template: Annotated[
            str, typer.Option(help=f"What it starts from: {', '.join(SUMMARIES)}.")
        ] = "classification",
        add: Annotated[
            str | None,
            typer.Option(
                help="Add files to the project in this folder instead: trainer. Files that are "
                "there are left alone."
            ),
        ] = None,
        debug: Annotated[bool, debug_option] = False,
    ) -> None:
        """Write a project that trains on data it carries with it: NAME, or --add to this one."""
        with exit_codes(debug=debug):
            typer.echo(_new(name, template, add))

    @app.command("install-trainer-packages")
    def install(debug: Annotated[bool, debug_option] = False) -> None:
        """Install what trainer/requirements_trainer.txt of the project in this folder lists."""
        code = 0
        with exit_codes(debug=debug):
            code = install_trainer_packages(os.getcwd())
        raise typer.Exit(code)


def _new(name: str | None, template: str, add: str | None) -> str:
    if (name is None) == (add is None):
        raise ConfigurationError(
            "Expected either the NAME of a new project or --add trainer, to add files to the "
            "project in this folder."
        )
    if add is not None:
        if add not in PARTS:
            raise ConfigurationError(f"--add {add}: expected {', '.join(PARTS)}.")
        return str(add_trainer(os.getcwd(), template))
    assert name is not None
    written = write_project(name, template)
    return f"{written}\nGo on with: cd {name} && python -m trainer.main"
