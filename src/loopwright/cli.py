"""The command line. Help answers at once: what trains is imported by the command that needs it."""

import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from importlib import metadata
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

from loopwright.cli_artifacts import add_commands
from loopwright.cli_data import add_commands as add_data_commands
from loopwright.cli_projects import add_project_commands
from loopwright.cli_storage import add_storage_commands
from loopwright.errors import (
    ArtifactError,
    ConfigurationError,
    MissingExtraError,
    RunFolderError,
    RunInterrupted,
    SealedTestSetError,
    StorageError,
)
from loopwright.extras import require_installed

if TYPE_CHECKING:
    import typer

    from loopwright.experiment import Experiment
    from loopwright.json_events import JsonEvents

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_RESUMABLE = 75
EXIT_INTERRUPTED = 130

_USAGE_ERRORS = (
    ArtifactError,
    ConfigurationError,
    MissingExtraError,
    RunFolderError,
    SealedTestSetError,
    StorageError,
)
_SIGNALS = ("SIGTERM", "SIGHUP", "SIGUSR1")


class _Signalled(KeyboardInterrupt):
    """Leaves the program when a signal comes outside of training, where nothing is to be saved."""


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
            str | None,
            typer.Option(help="The run's own folder, empty or new; or a URL to keep a copy at."),
        ] = None,
        resume: Annotated[
            bool,
            typer.Option(
                "--resume",
                help="Go on with the run in --folder, or with the newest unfinished one of this "
                "name; without one, start anew.",
            ),
        ] = False,
        allow_changes: Annotated[
            bool,
            typer.Option(
                "--allow-changes",
                help="With --resume: go on although the configuration is another one.",
            ),
        ] = False,
        save: Annotated[
            str | None,
            typer.Option(
                metavar="FILE", help="Save what was trained, for predict, evaluate and serve."
            ),
        ] = None,
        as_json: Annotated[
            bool, typer.Option("--json", help="Write a JSON object per line to standard output.")
        ] = False,
        debug: Annotated[
            bool, typer.Option("--debug", help="Show the traceback of errors.")
        ] = False,
    ) -> None:
        """Train the model that CONFIG declares, and test it.

        Exit codes: 0 finished, 1 failed, 2 mistake in usage or configuration, 75 stopped by
        SIGTERM, SIGHUP or SIGUSR1 and resumable, 130 stopped by SIGINT (Ctrl-C).
        """
        events = _open_events() if as_json else None
        with _exit_codes(debug=debug, events=events), _leaving_on_signals():
            if allow_changes and not resume:
                raise ConfigurationError("--allow-changes belongs to --resume; add it.")
            given = {"device": device, "seed": seed, "folder": folder}
            _train(
                config,
                overrides or [],
                {k: v for k, v in given.items() if v is not None},
                resume=resume,
                allow_changes=allow_changes,
                save=save,
                events=events,
            )

    @app.command("lr-find")
    def lr_find(
        config: Annotated[str, typer.Argument(help="The YAML file that declares the run.")],
        overrides: Annotated[
            list[str] | None,
            typer.Option("--set", metavar="KEY=VALUE", help="Set a value; can be given again."),
        ] = None,
        plot: Annotated[
            str, typer.Option(help="Where the plot is written; its ending decides the format.")
        ] = "lr-find.svg",
        method: Annotated[
            str | None,
            typer.Option(help="max_acc, min_loss, max_range, laplace or sobel."),
        ] = None,
        lr_min: Annotated[float, typer.Option(help="The first rate.")] = 1e-6,
        lr_max: Annotated[float, typer.Option(help="The last rate.")] = 1.0,
        batches: Annotated[int, typer.Option(help="Batches that the search takes.")] = 100,
        debug: Annotated[
            bool, typer.Option("--debug", help="Show the traceback of errors.")
        ] = False,
    ) -> None:
        """Search for a learning rate for the run that CONFIG declares.

        Exit codes: 0 found, 1 failed, 2 mistake in usage or configuration.
        """
        with _exit_codes(debug=debug), _leaving_on_signals():
            options: dict[str, Any] = {"lr_min": lr_min, "lr_max": lr_max, "max_batches": batches}
            if method is not None:
                options["lr_select_method"] = method
            _lr_find(config, overrides or [], plot, options)

    @app.command()
    def replay(
        folder: Annotated[str, typer.Argument(help="The folder of the run.")],
        config: Annotated[
            str | None,
            typer.Option(help="The YAML file that declares the run, where it names your code."),
        ] = None,
        device: Annotated[
            str | None, typer.Option(help="Where to run: cpu, cuda, cuda:1, mps.")
        ] = None,
        debug: Annotated[
            bool, typer.Option("--debug", help="Show the traceback of errors.")
        ] = False,
    ) -> None:
        """Run the step again at which the loss of a run was not finite, and tell where it began.

        Exit codes: 0 found, 1 failed or finite this time, 2 mistake in usage.
        """
        found = False
        with _exit_codes(debug=debug):
            found = _replay(folder, config, device)
        if not found:
            raise typer.Exit(EXIT_FAILED)

    add_commands(app, _exit_codes)
    add_data_commands(app, _exit_codes, _read_experiment)
    add_storage_commands(app, _exit_codes)
    add_project_commands(app, _exit_codes)
    return app


def _replay(folder: str, config: str | None, device: str | None) -> bool:
    """Print what was found, and return whether anything was."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    from loopwright.replaying import replay_declared

    found = replay_declared(folder, config=config, device=device)
    sys.stdout.write(f"{found}\n")
    return found.place is not None


def _train(
    config: str,
    overrides: list[str],
    options: dict[str, Any],
    *,
    resume: bool,
    allow_changes: bool,
    save: str | None,
    events: "JsonEvents | None",
) -> None:
    # A part written package.module:Name is looked for where the command was given, as by python -m.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    from loopwright.console import ConsoleProgressCallback, print_summary
    from loopwright.json_events import JsonEventsCallback

    experiment = _read_experiment(config, overrides, options)
    if save is not None and not os.access(os.path.dirname(save) or ".", os.W_OK):
        raise ConfigurationError(f"--save {save}: its folder is not there or cannot be written to.")
    progress = ConsoleProgressCallback()
    told = [progress] if events is None else [JsonEventsCallback(events)]
    try:
        with nullcontext() if events is None else redirect_stdout(sys.stderr):
            results = experiment.train(
                callbacks=told, verbose=False, resume=resume, allow_changes=allow_changes
            )
    except (RunInterrupted, KeyboardInterrupt) as error:
        if experiment.run_folder is not None:
            options = options | {"folder": experiment.run_folder}
            error.add_note(f"Go on with: {_resuming_command(config, overrides, options)}")
        raise
    finally:
        progress.close()
    if save is not None:
        experiment.save(save)
    if events is None:
        print_summary(results)
    else:
        events.write_end(results)


def _open_events() -> "JsonEvents":
    from loopwright.json_events import JsonEvents

    return JsonEvents(sys.stdout)


def _resuming_command(config: str, overrides: list[str], options: dict[str, Any]) -> str:
    from loopwright.config_file import mask_override

    words = ["loopwright", "train", config, "--resume"]
    words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += [word for override in overrides for word in ("--set", mask_override(override))]
    return shlex.join(words)


def _lr_find(config: str, overrides: list[str], plot: str, options: dict[str, Any]) -> None:
    require_installed(("matplotlib",), "plots")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    experiment = _read_experiment(config, overrides, {})
    try:
        finder = experiment.find_rate(num_epochs=options["max_batches"], **options)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    low, high = finder.get_lr_range()
    finder.save_plot(plot)
    print(f"learning rate from {low:.3g} to {high:.3g} ({finder.lr_select_method}); see {plot}")


def _read_experiment(config: str, overrides: list[str], options: dict[str, Any]) -> "Experiment":
    from loopwright.config_file import apply_overrides, read_config_file, set_value
    from loopwright.experiment import Experiment

    source = read_config_file(config)
    apply_overrides(source, overrides)
    for name, value in options.items():
        set_value(source, ("run", name), value, place=f"--{name}")
    return Experiment.from_source(source)


@contextmanager
def _exit_codes(*, debug: bool, events: "JsonEvents | None" = None) -> Iterator[None]:
    """Turn what goes wrong into one message, an exit code, and an event where those are written."""
    import typer

    code = 0
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        code = _tell_error(error, debug=debug)
        if events is not None:
            events.write_error(error, code)
    if code:
        raise typer.Exit(code)


def _tell_error(error: BaseException, *, debug: bool) -> int:
    """Say what ended the command, and return its exit code."""
    if isinstance(error, _Signalled):
        _tell_end(f"{error} ended the program.", error)
        return EXIT_RESUMABLE
    if isinstance(error, RunInterrupted):
        _tell_end(f"{error.signal} ended the run. It saved {error.checkpoint}.", error)
        return EXIT_RESUMABLE
    if isinstance(error, KeyboardInterrupt):
        _tell_end(f"Interrupted: {error}.".replace(": .", "."), error)
        return EXIT_INTERRUPTED
    if isinstance(error, _USAGE_ERRORS):
        _tell(traceback.format_exc() if debug else str(error))
        return EXIT_USAGE
    notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    message = f"The run failed: {type(error).__name__}: {error}{notes}\n(--debug shows where)"
    _tell(traceback.format_exc() if debug else message)
    return EXIT_FAILED


@contextmanager
def _leaving_on_signals() -> Iterator[None]:
    """Turn signals into an exit with a code; while it trains, the trainer answers them itself.

    A signal that the program was started to ignore, as by nohup, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    heard = {n: handler for n, handler in before.items() if handler == signal.SIG_DFL}
    for number in heard:
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    raise _Signalled(signal.Signals(number).name)


def _tell_end(message: str, error: BaseException) -> None:
    _tell("\n".join([message, *getattr(error, "__notes__", ())]))


def _tell(message: str) -> None:
    from loopwright.plain_values import mask_secrets

    sys.stderr.write(f"{mask_secrets(message)}\n")


def _version() -> str:
    try:
        return metadata.version("loopwright")
    except metadata.PackageNotFoundError:
        return "(not installed)"
