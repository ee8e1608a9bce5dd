"""The commands that copy runs to URLs and back: push and fetch."""

from typing import TYPE_CHECKING, Annotated

from loopwright.cli_exits import exit_codes
from loopwright.errors import StorageError

if TYPE_CHECKING:
    import typer


def add_storage_commands(app: "typer.Typer") -> None:
    """Add the commands to the command line."""
    import typer

    debug_option = typer.Option("--debug", help="Show the traceback of errors.")

    @app.command()
    def push(
        folder: Annotated[str, typer.Argument(help="The folder of a run.")],
        url: Annotated[
            str | None, typer.Option("--to", help="Where the copy is to be, if it has none yet.")
        ] = None,
        seconds: Annotated[float, typer.Option(help="Give up after this time.")] = 300.0,
        debug: Annotated[bool, debug_option] = False,
    ) -> None:
        """Send what is left of FOLDER to its copy at a URL, or make the copy."""
        with exit_codes(debug=debug):
            _push(folder, url, seconds)

    @app.command()
    def fetch(
        url: Annotated[str, typer.Argument(help="Where the copy of a run is.")],
        folder: Annotated[str, typer.Argument(help="A folder that is empty or new.")],
        debug: Annotated[bool, debug_option] = False,
    ) -> None:
        """Fetch the copy of a run from a URL to FOLDER, every file verified."""
        with exit_codes(debug=debug):
            from loopwright.storage import fetch, mask_url

            print(f"{mask_url(url)} is in {fetch(url, folder)}")


def _push(folder: str, url: str | None, seconds: float) -> None:
    from loopwright.run_record import read_run
    from loopwright.storage import Mirror

    path = read_run(folder).path
    mirror = Mirror(url, path) if url else Mirror.of(path)
    if mirror is None:
        raise StorageError(f"{folder} has no copy yet. Say where it is to be, with --to URL.")
    mirror.push(seconds=seconds)
    print(f"{mirror.url} is complete")
